"""Who holds which images: heterogeneity of domains and of labels, with two knobs (METHOD.md section 6).

    rho_c ~ Dir(alpha_domain)    a site's mixture of domains;   F1: one domain each;   F2: any alpha
    pi_c  ~ Dir(alpha_label)     a site's mixture of labels;    None: all labels alike
    F3: a table of domain x label per site, Dir(alpha) over all its cells

Rules:
    1. A site's training and test images share proportions, and all sites have the same number of each.
    2. No training image is at two sites. Test images may be: a site's test set is a sample of its own world.
    3. What a setting is tuned on has other groups than what it trains on, as test images have.
    4. A cell (domain, label) gets what the site's probabilities say; one that is used up gives to the others.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from pools import Pool

Kind = Literal["F1", "F2", "F3"]


@dataclass(frozen=True)
class Setting:
    """A heterogeneity setting; its name is its row in the tables.

    `num_unseen` further sites hold test images alone: the federation never sees them. A domain that is held out is
    at no other site than these, and they hold nothing else.
    """

    kind: Kind = "F2"
    alpha_domain: float = 1.0
    alpha_label: float | None = None
    classes_per_site: int | None = None
    held_out_domain: int | None = None
    num_sites: int = 8
    num_train: int = 128
    num_test: int = 208
    num_unseen: int = 0

    @property
    def name(self) -> str:
        """Return a short name."""
        label = f"-label{self.alpha_label}" if self.alpha_label else ""
        pathological = f"-classes{self.classes_per_site}" if self.classes_per_site else ""
        held_out = "" if self.held_out_domain is None else f"-without{self.held_out_domain}"
        alpha = "" if self.kind == "F1" else f"({self.alpha_domain})"
        return f"{self.kind}{alpha}{label}{pathological}{held_out}"


@dataclass(frozen=True)
class Partition:
    """Indices into the pool, one row per site, and each site's mixture of domains; unseen sites only test."""

    train: np.ndarray
    test: np.ndarray
    unseen: np.ndarray
    domain_mixture: np.ndarray


def partition(pool: Pool, setting: Setting, seed: int, *, validate: bool = False) -> Partition:
    """Deal the pool's images to sites.

    Args:
        pool: the images.
        setting: who gets what.
        seed: of the deal.
        validate: for tuning; "test" images are then a third of the training groups, and no site trains on those.

    Raises:
        ValueError: the pool has too few images for the setting.
    """
    rng = np.random.default_rng([seed, 7])
    tables = [_cells(pool, setting, site, rng) for site in range(setting.num_sites)]
    spare = _spare(pool) if validate else np.zeros_like(pool.is_test)
    free = ~pool.is_test & ~spare
    train = []
    for table in tables:
        taken = _sample(pool, table, free, setting.num_train, rng)
        free = free & ~np.isin(np.arange(len(free)), taken)
        train.append(taken)
    measured_on = spare if validate else pool.is_test
    test = [_sample(pool, table, measured_on, setting.num_test, rng) for table in tables]
    strangers = [_stranger(pool, setting, setting.num_sites + i, rng) for i in range(setting.num_unseen)]
    unseen = [_sample(pool, table, measured_on, setting.num_test, rng) for table in strangers]
    return Partition(
        np.stack(train),
        np.stack(test),
        np.array(unseen, dtype=int).reshape(setting.num_unseen, setting.num_test),
        np.stack([table.sum(1) for table in tables]),
    )


def _spare(pool: Pool) -> np.ndarray:
    """Return which images are of every third training group, by domain and label."""
    training = np.flatnonzero(~pool.is_test)
    groups, positions = np.unique(pool.groups[training], return_index=True)
    first = training[positions]
    ordered = groups[np.lexsort((pool.labels[first], pool.domains[first]))]
    spare: np.ndarray = np.isin(pool.groups, ordered[::3]) & ~pool.is_test
    return spare


def _cells(pool: Pool, setting: Setting, site: int, rng: np.random.Generator) -> np.ndarray:
    """Return a site's probabilities over (domain, label)."""
    num_domains, num_classes = len(pool.domain_names), pool.num_classes
    if setting.kind == "F3":
        cells = rng.dirichlet(np.full(num_domains * num_classes, setting.alpha_domain))
        table = cells.reshape(num_domains, num_classes)
    else:
        domains = np.eye(num_domains)[site % num_domains]
        if setting.kind == "F2":
            domains = rng.dirichlet(np.full(num_domains, setting.alpha_domain))
        table = np.outer(domains, _labels(setting, num_classes, rng))
    if setting.held_out_domain is not None:
        table[setting.held_out_domain] = 0
    result: np.ndarray = table / table.sum()
    return result


def _stranger(pool: Pool, setting: Setting, site: int, rng: np.random.Generator) -> np.ndarray:
    """Return an unseen site's probabilities over (domain, label)."""
    if setting.held_out_domain is None:
        return _cells(pool, setting, site, rng)
    only = np.eye(len(pool.domain_names))[setting.held_out_domain]
    return np.outer(only, _labels(setting, pool.num_classes, rng))


def _labels(setting: Setting, num_classes: int, rng: np.random.Generator) -> np.ndarray:
    if setting.classes_per_site is not None:
        chosen = np.zeros(num_classes)
        chosen[rng.choice(num_classes, setting.classes_per_site, replace=False)] = (
            1 / setting.classes_per_site
        )
        return chosen
    if setting.alpha_label is not None:
        return rng.dirichlet(np.full(num_classes, setting.alpha_label))
    return np.full(num_classes, 1 / num_classes)


def _sample(
    pool: Pool, table: np.ndarray, allowed: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw `count` images without replacement, weighted so that cells get what `table` says."""
    indices = np.flatnonzero(allowed)
    cell = pool.domains[indices] * pool.num_classes + pool.labels[indices]
    sizes = np.bincount(cell, minlength=table.size)
    weights = (table.ravel() / np.maximum(sizes, 1))[cell]
    if len(indices) < count:
        raise ValueError(f"{len(indices)} images are left, a site needs {count}")
    weights = weights + 1e-9 * weights.max() + 1e-15
    return rng.choice(indices, count, replace=False, p=weights / weights.sum())
