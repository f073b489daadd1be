"""Whether a candidate may serve: no site's accuracy falls by more than the members allow.

    a site fails if  accuracy(base) - accuracy(candidate) > max_accuracy_drop

Sites that have not evaluated both are not compared. With a limit set, a candidate that nobody evaluated is held:
silence is no evidence that it is good.
"""

from collections.abc import Mapping

from pfedbayespt.protocol import RoundPolicy

_ROUNDING = 1e-9  # a drop of exactly the limit passes, whatever the last bit of the difference says


def reason_to_hold(
    policy: RoundPolicy, candidate: Mapping[str, float], base: Mapping[str, float]
) -> str | None:
    """Return why the candidate is held, None if it may serve; both mappings are site id -> accuracy."""
    if policy.max_accuracy_drop is None or not policy.evaluate:
        return None
    if not candidate:
        return "no site reported an accuracy of the candidate before the deadline"
    drops = {site: base[site] - accuracy for site, accuracy in candidate.items() if site in base}
    worst = max(drops, key=lambda site: drops[site], default=None)
    if worst is None or drops[worst] <= policy.max_accuracy_drop + _ROUNDING:
        return None
    return f"at site {worst} accuracy falls by {drops[worst]:.4f}; allowed: {policy.max_accuracy_drop:.4f}"
