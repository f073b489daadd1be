"""How much each update weighs.

    w_i = min(n_i, c) / sum_j min(n_j, c),    c = max_weight_ratio * median(n)

n_i is an update's number of examples. The cap keeps one site from outweighing all others by claiming many examples.
Statistics pool exactly only without it: w_i = n_i / sum_j n_j.
"""

import math
from collections.abc import Sequence
from statistics import median


def update_weights(num_examples: Sequence[int], max_weight_ratio: float = math.inf) -> list[float]:
    """Return the shares, which sum to one, in the order of `num_examples` (each at least 1)."""
    cap = max_weight_ratio * median(num_examples)
    capped = [min(float(count), cap) for count in num_examples]
    total = math.fsum(capped)
    return [count / total for count in capped]
