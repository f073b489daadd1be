"""What a site does in one training round: E local epochs of AdamW on the bound (METHOD.md sections 2 and 4).

    loss = mean_i [ -log p(y_i | x_i, p_i) + beta_t KL_sivi,i / L ] + beta_t pull(m)       (objective.py)
    beta_t = beta min(1, t / warm-up),  t the federation's training round, not the site's epoch

Rules:
1. Everything random (order, noise, dropout) comes from (the federation's seed, the round, the site's seed), so a
   site that was killed redoes the same round to the same bytes, or goes on after its last epoch to these very
   bytes (`checkpoint.py`). The optimiser starts afresh each round.
2. The personal residual has its own loss, plain cross-entropy on top of the fixed shared logits, and its own
   gradient clip: it never changes what is shared.
3. A head that is cross-fitted takes no step: it is fitted at the end of the round (`cross_fitting.py`). In the last
   `head_rounds`, and wherever there are no prompts, nothing but heads moves: an epoch only measures, and their mean
   over sites, round by round, nears the head of all sites' images, which it can't while prompts move what it reads.
4. A step never waits for the accelerator; measures add up on the device and are read once per epoch.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pfedbayespt.model.checkpoint import CheckpointError, capture, restore
from pfedbayespt.model.classifier import PromptedClassifier
from pfedbayespt.model.config import TrainingConfig
from pfedbayespt.model.cross_fitting import fit_heads, folds_of
from pfedbayespt.model.generator import dropout_mask
from pfedbayespt.model.insertion import Context
from pfedbayespt.model.objective import Divergence, beta_at, divergence, pull
from pfedbayespt.model.posterior import PromptDraw
from pfedbayespt.model.readout import cross_entropy, log_class_prior
from pfedbayespt.model.sources import ContextSource


class TrainingDivergedError(ArithmeticError):
    """The loss is no longer a finite number."""

    def __init__(self, epoch: int, measures: dict[str, float]) -> None:
        super().__init__(f"training diverged in epoch {epoch}: {measures}; lower the learning rates")


@dataclass(frozen=True)
class RoundMetrics:
    """Means over the images of one local epoch, as trained on; entropies and divergences in nats.

    Attributes:
        loss: the whole objective, residual excluded.
        nll: -log p(y|x,p), with the class prior's shift where the federation trains with one.
        kl: KL_sivi per image.
        kl_per_dimension: KL_sivi / L, what beta weighs.
        gain: G_K. Near zero: the generator ignores eps.
        bound_gap: U_K - L_K. Large: a larger K would tighten the bound.
        pull: how far m is from the round's start.
        accuracy: share of samples classified right.
        gradient_norm: of the shared parameters, before clipping.
        implicit_spread: mean over dimensions of Var_eps(psi) / s^2. Near zero: the generator ignores eps.
        instance_spread: mean over dimensions of Var_x(E psi). Near zero: the generator ignores the image.
        scale: mean of s.
        beta: the KL's weight in this round.
        num_examples: images of the site.
    """

    loss: float
    nll: float
    kl: float
    kl_per_dimension: float
    gain: float
    bound_gap: float
    pull: float
    accuracy: float
    gradient_norm: float
    implicit_spread: float
    instance_spread: float
    scale: float
    beta: float
    num_examples: int

    def to_metrics(self) -> dict[str, float]:
        """Return finite numbers by name, as an update's manifest carries them."""
        measures: dict[str, float] = asdict(self)
        del measures["num_examples"]  # the manifest has its own field for it
        return measures


@dataclass(frozen=True)
class State:
    """What lives for one round beside the model: optimiser, noise, and the constants of the loss.

    `rests`: there are no prompts, or they stay what they are in this round, and heads alone are fitted.
    """

    config: TrainingConfig
    rests: bool
    optimizer: torch.optim.Optimizer
    noise: torch.Generator
    order: torch.Generator
    beta: float
    prior_mean: Tensor
    log_prior: Tensor | None

    @property
    def generators(self) -> dict[str, torch.Generator]:
        """All that is random, by name."""
        return {"noise": self.noise, "order": self.order}


def init(
    model: PromptedClassifier,
    labels: Int[Tensor, " N"],
    config: TrainingConfig,
    *,
    round_number: int,
    num_rounds: int | None,
    seed: int,
) -> State:
    """Return the state at the start of a round; `model` holds the round's base parameters."""
    sequence = np.random.SeedSequence([config.seed, round_number, seed])
    noise_seed, order_seed = (int(word) for word in sequence.generate_state(2, np.uint64))
    log_prior = None
    if model.config.head.label_shift:
        log_prior = log_class_prior(labels.cpu(), model.config.num_classes).to(model.posterior.mean)
    return State(
        config=config,
        rests=_nothing_learns(model) or fits_heads_alone(config, round_number, num_rounds),
        optimizer=_optimizer(model, config, learning_rate_share(config, round_number, num_rounds)),
        noise=torch.Generator(model.device).manual_seed(noise_seed),
        order=torch.Generator().manual_seed(order_seed),
        beta=beta_at(config.beta, config.beta_warmup_rounds, round_number),
        prior_mean=model.posterior.mean.detach().clone(),
        log_prior=log_prior,
    )


def update(
    model: PromptedClassifier,
    state: State,
    context: Context,
    labels: Int[Tensor, " B"],
    fold: Int[Tensor, " B"] | None = None,
) -> dict[str, Tensor]:
    """Take one step; return its measures by their names in RoundMetrics, means over images, on the device.

    Where prompts rest it measures and takes none. `fold`: of each image, where the head is cross-fitted.
    """
    with torch.set_grad_enabled(not state.rests):
        draw = _draw(model, state, context)
        readout = model.read_out(context, draw, mixed_precision=True)
        logits = model.readout.held_out_logits(readout, fold)
        nll = cross_entropy(logits, labels, state.log_prior)
        kl = divergence(draw, state.config.gradient_estimator)
        loss, drift = _loss(model, state, nll, kl)
    gradient_norm = loss.new_zeros(())
    if not state.rests:
        (loss + _residual_loss(model, readout, labels)).backward()  # type: ignore[no-untyped-call]
        gradient_norm = _clip(model, state.config.gradient_clip_norm)
        state.optimizer.step()
        state.optimizer.zero_grad()
    right = (logits.argmax(-1) == labels[:, None]).to(nll.dtype)
    return {
        "loss": loss.detach(),
        "nll": nll.detach().mean(),
        "kl": kl.kl.detach().mean(),
        "kl_per_dimension": kl.kl.detach().mean() / max(1, model.posterior.latent_size),
        "gain": kl.gain.mean(),
        "bound_gap": kl.bound_gap.mean(),
        "pull": drift.detach(),
        "accuracy": right.mean(),
        "gradient_norm": gradient_norm,
        **_spreads(draw),
    }


def train_round(
    model: PromptedClassifier,
    source: ContextSource,
    config: TrainingConfig,
    *,
    round_number: int,
    num_rounds: int | None,
    seed: int,
    on_epoch: Callable[[int, RoundMetrics], None] | None = None,
    checkpoint: bytes | None = None,
    on_checkpoint: Callable[[bytes], None] | None = None,
) -> RoundMetrics:
    """Train `model` in place for one round and return the measures of its last epoch.

    Args:
        model: holds the round's base parameters; also trained: the personal residual.
        source: the site's training images.
        config: the federation's training configuration.
        round_number: of the federation's training rounds, from 1.
        num_rounds: how many of them it runs; None: nobody knows, so learning rates stay constant.
        seed: the site's own, 0 or more.
        on_epoch: called after each epoch with its number, from 1, and its measures.
        checkpoint: of the same round on the same images, to go on from; None: start at the beginning.
        on_checkpoint: given a checkpoint after each epoch, before `on_epoch` is called.

    Raises:
        ValueError: there are no images, or a label is not a class.
        CheckpointError: `checkpoint` is of another training; the model is then of no use.
        TrainingDivergedError: the loss is no longer finite; the model is then of no use.
    """
    labels = _checked_labels(source, model.config.num_classes).to(model.device)
    state = init(model, labels, config, round_number=round_number, num_rounds=num_rounds, seed=seed)
    num_folds = model.config.head.cross_fit_folds
    folds = folds_of(labels, num_folds) if num_folds else None
    done = 0
    if checkpoint is not None:
        done, metrics = _resumed(model, state, checkpoint)
        if metrics.num_examples != len(labels):
            raise CheckpointError(f"it was trained on {metrics.num_examples} images, not on {len(labels)}")
    num_epochs = 1 if state.rests else config.local_epochs
    for epoch in range(done + 1, num_epochs + 1):
        metrics = _run_epoch(model, state, source, labels, folds)
        if not all(math.isfinite(value) for value in metrics.to_metrics().values()):
            raise TrainingDivergedError(epoch, metrics.to_metrics())
        if folds is not None and epoch == num_epochs:
            fit_heads(model, source, labels, folds)
        if on_checkpoint is not None:
            progress = {"epoch": epoch, **asdict(metrics)}
            on_checkpoint(capture(model, state.optimizer, state.generators, progress))
        if on_epoch is not None:
            on_epoch(epoch, metrics)
    return metrics


def _resumed(model: PromptedClassifier, state: State, checkpoint: bytes) -> tuple[int, RoundMetrics]:
    progress = restore(checkpoint, model, state.optimizer, state.generators)
    try:
        return int(progress.pop("epoch")), RoundMetrics(**progress)  # type: ignore[arg-type] # as JSON kept them
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"the checkpoint does not say how far it is: {error}") from error


def _run_epoch(
    model: PromptedClassifier,
    state: State,
    source: ContextSource,
    labels: Int[Tensor, " N"],
    folds: Int[Tensor, " N"] | None,
) -> RoundMetrics:
    order = torch.randperm(len(labels), generator=state.order)
    num_batches = math.ceil(len(labels) / state.config.batch_size)
    on_device = order.to(labels.device).tensor_split(num_batches)
    totals: dict[str, Tensor] = {}
    for indices, there in zip(order.tensor_split(num_batches), on_device, strict=True):
        fold = None if folds is None else folds[there]
        measures = update(model, state, source.batch(indices), labels[there], fold)
        totals = {name: totals.get(name, 0) + len(indices) * value for name, value in measures.items()}
    means = (torch.stack(list(totals.values())).double() / len(labels)).tolist()
    return RoundMetrics(**dict(zip(totals, means, strict=True)), beta=state.beta, num_examples=len(labels))


def _draw(model: PromptedClassifier, state: State, context: Context) -> PromptDraw:
    posterior, batch_size = model.posterior, context.features.shape[0]
    num_mixing = state.config.num_mixing_samples if posterior.noise_dim else 0

    def normal(count: int, width: int) -> Tensor:
        shape = (batch_size, count, width)
        return torch.randn(shape, generator=state.noise, device=model.device, dtype=posterior.mean.dtype)

    noise = normal(state.config.num_train_samples, posterior.noise_width)
    mixing_noise = normal(num_mixing, posterior.noise_dim)
    mask = dropout_mask(
        (batch_size, posterior.config.hidden_dim),
        posterior.config.dropout,
        generator=state.noise,
        device=model.device,
    )
    return model.draw(context, noise, mixing_noise, mask)


def _loss(
    model: PromptedClassifier, state: State, nll: Float[Tensor, "B S"], kl: Divergence
) -> tuple[Tensor, Tensor]:
    """Return the loss and the pull within it; a shared prompt is plain federated prompt tuning, without prior."""
    posterior = model.posterior
    if posterior.latent_size == 0:
        return nll.mean(), nll.new_zeros(())
    scale = posterior.config.prompt_scale * posterior.prompt_scale
    drift = pull(posterior.mean, state.prior_mean, scale)
    return nll.mean() + state.beta * (kl.kl.mean() / posterior.latent_size + drift), drift


def _residual_loss(
    model: PromptedClassifier, readout: Float[Tensor, "B S R"], labels: Int[Tensor, " B"]
) -> Tensor:
    logits = model.readout.residual_logits(readout)
    return readout.new_zeros(()) if logits is None else cross_entropy(logits, labels).mean()


@torch.no_grad()
def _spreads(draw: PromptDraw) -> dict[str, Tensor]:
    """Return Var_eps(psi) / s^2, Var_x(E psi) and s, each a mean over dimensions; zero where undefined."""
    psi = torch.cat([draw.psi_0, draw.psi_mixing], dim=1)
    num_images, num_draws, width = psi.shape
    spreads = dict.fromkeys(("implicit_spread", "instance_spread", "scale"), psi.new_zeros(()))
    if width and num_images > 1:
        spreads["instance_spread"] = psi.mean(1).var(0).mean()
    if draw.log_scale is not None:
        scale = draw.log_scale.exp()
        spreads["scale"] = scale.mean()
        if num_draws > 1:
            spreads["implicit_spread"] = (psi.var(1) / scale.square()).mean()
    return spreads


def _nothing_learns(model: PromptedClassifier) -> bool:
    """Say whether no parameter takes steps: there are no prompts, and the head is in closed form."""
    return model.insertion.num_tokens == 0 and model.config.head.cross_fit_folds > 0


def fits_heads_alone(config: TrainingConfig, round_number: int, num_rounds: int | None) -> bool:
    """Say whether prompts rest in this round: it is one of the last `head_rounds`, or comes after them."""
    return (
        config.head_rounds > 0 and num_rounds is not None and round_number > num_rounds - config.head_rounds
    )


def learning_rate_share(config: TrainingConfig, round_number: int, num_rounds: int | None) -> float:
    """Return the share of the learning rates in a round: half a cosine from 1 to `final_learning_rate_ratio`.

    It ends with the last round that trains prompts.
    """
    if num_rounds is None:
        return 1.0
    progress = min(1.0, (round_number - 1) / max(1, num_rounds - config.head_rounds - 1))
    fallen = 0.5 * (1 - math.cos(math.pi * progress))
    return 1 - (1 - config.final_learning_rate_ratio) * fallen


def parameter_groups(
    parameters: Mapping[str, Tensor], config: TrainingConfig, share: float
) -> list[dict[str, Any]]:
    """Return the optimiser's groups: the prompt and its scale are held by the prior, not by decay towards zero.

    Args:
        parameters: by their names in the classifier; the frozen trunk's are passed over.
        config: the federation's training configuration.
        share: of the learning rates, from `learning_rate_share`.
    """
    held = ("posterior.mean", "posterior.log_scale")
    rate = share * config.learning_rate
    generator_rate = rate * config.generator_learning_rate_ratio
    generator = [n for n in parameters if n.startswith("posterior.") and n not in held]
    head = [n for n in parameters if n.startswith("readout.")]

    def group(names: Iterable[str], rate: float, **options: float) -> dict[str, Any]:
        return {"params": [parameters[n] for n in names if n in parameters], "lr": rate, **options}

    groups = [
        group(head, share * config.head_learning_rate),
        group(generator, generator_rate),
        group(held[:1], rate, weight_decay=0.0),
        group(held[1:], generator_rate, weight_decay=0.0),
    ]
    return [group for group in groups if group["params"]]


def _optimizer(model: PromptedClassifier, config: TrainingConfig, share: float) -> torch.optim.Optimizer:
    groups = parameter_groups(dict(model.named_parameters()), config, share)
    return torch.optim.AdamW(groups, weight_decay=config.weight_decay)


def _clip(model: PromptedClassifier, max_norm: float) -> Tensor:
    shared = [*model.posterior.parameters(), *model.readout.head.parameters()]
    if model.readout.residual is not None:
        nn.utils.clip_grad_norm_(model.readout.residual.parameters(), max_norm)
    return nn.utils.clip_grad_norm_(shared, max_norm)


def _checked_labels(source: ContextSource, num_classes: int) -> Int[Tensor, " N"]:
    labels = source.labels
    if len(labels) == 0:
        raise ValueError("there are no images to train on")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(f"labels range from {low} to {high}; allowed: 0 to {num_classes - 1}")
    return labels
