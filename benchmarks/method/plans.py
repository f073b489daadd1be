"""The settings that are run, each with all that a run depends on besides method and seed.

Rules:
    1. Every method of a plan has the plan's data, sites, trunk, insertion, read-out, head options and epochs.
    2. What is tuned is tuned once for each data set, under F2, and not setting by setting; but anew for sites of
       another size.
"""

from dataclasses import dataclass, field, replace

from partition import Setting

from pfedbayespt.model.config import InsertionConfig, PosteriorConfig, TrainingConfig

MID_BLOCK = 8
IMAGE_SIZE = 84


@dataclass(frozen=True)
class Plan:
    """One setting, or a head option within it.

    Attributes:
        name: its row in the tables.
        data: `letters` or `ideograms`.
        setting: who holds what.
        insertion: where prompts act.
        num_samples: S at test.
        per_cell: training and test images kept of each domain and class; None: all there are.
        label_shift: balanced softmax with the site's class prior, in training and in its answers.
        personal_residual: a residual head of each site's own.
        tuned_on: the plan whose validation split chose learning rates and rounds; itself if empty.
    """

    name: str
    data: str
    setting: Setting
    insertion: InsertionConfig
    num_samples: int = 2
    per_cell: tuple[int, int] | None = None
    label_shift: bool = False
    personal_residual: bool = False
    tuned_on: str = ""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            local_epochs=1, batch_size=8, generator_learning_rate_ratio=0.1
        )
    )
    posterior: PosteriorConfig = field(
        default_factory=lambda: PosteriorConfig(latent_dim=16, hidden_dim=32, noise_dim=8, prompt_scale=0.1)
    )


_SITES = Setting("F2", 1.0, num_sites=6, num_train=96, num_test=208, num_unseen=2)
_LETTERS = Plan("letters-F2", "letters", _SITES, InsertionConfig("midway", 4, 16))
_IDEOGRAMS = replace(
    _LETTERS,
    name="ideograms-F2",
    data="ideograms",
    setting=replace(_SITES, num_test=168),
)


def _as(plan: Plan, name: str, *, label_shift: bool = False, **changes: object) -> Plan:
    setting = replace(plan.setting, **changes)
    return replace(plan, name=name, setting=setting, label_shift=label_shift, tuned_on=plan.name)


_SKEWED = _as(_IDEOGRAMS, "ideograms-label0.1", alpha_label=0.1, label_shift=True)

SETTINGS: dict[str, Plan] = {
    plan.name: plan
    for plan in (
        _LETTERS,
        _as(_LETTERS, "letters-F3", kind="F3"),
        _as(_LETTERS, "letters-label0.1", alpha_label=0.1, label_shift=True),
        _as(_LETTERS, "letters-label0.5", alpha_label=0.5, label_shift=True),
        _as(_LETTERS, "letters-F1", kind="F1"),
        _as(_LETTERS, "letters-F2-alpha0.1", alpha_domain=0.1),
        _as(_LETTERS, "letters-without-blackletter", held_out_domain=4),
        _as(_LETTERS, "letters-classes5", classes_per_site=5, label_shift=True),
        _IDEOGRAMS,
        _SKEWED,
        _as(_IDEOGRAMS, "ideograms-label0.5", alpha_label=0.5, label_shift=True),
    )
}
_RESIDUAL = replace(_SKEWED, name="ideograms-label0.1-residual", personal_residual=True)
PUBLISHED = SETTINGS | {_RESIDUAL.name: _RESIDUAL}
"""The settings, which methods are ranked over, and another head under one of them."""

SIZES: dict[str, Plan] = {
    plan.name: plan
    for plan in (
        replace(_LETTERS, name="letters-F2-of-24", setting=replace(_SITES, num_train=24)),
        _LETTERS,
        replace(_LETTERS, name="letters-F2-of-384", setting=replace(_SITES, num_train=384)),
    )
}
PLANS = PUBLISHED | SIZES
IN_FULL = _LETTERS.name
"""The one under which all rivals and controls are run."""

QUICK = replace(
    _LETTERS,
    name="quick-letters-F2",
    setting=replace(_SITES, num_sites=3, num_train=52, num_test=52, num_unseen=1),
    per_cell=(2, 1),
    num_samples=2,
)
