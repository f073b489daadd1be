"""Rounds without a network, a database or Ray: for work on a method, where the coordinator's rules matter alone.

Rules:
1. Cohorts, weights, server optimisers and the gate are the coordinator's own functions, so that a specification
   does here what it does there. Sums are in the order of the sites: results agree but for rounding.
2. Nothing fails and nobody is late: quorums and deadlines have nothing to do. A federation whose latest rounds were
   all held is paused, as there.
3. Memory holds one site's update at a time.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pfedbayespt.protocol import FederationSpecification, RoundStatus, RoundTask, WeightedMean
from pfedbayespt.server.rounds.gate import reason_to_hold
from pfedbayespt.server.rounds.schedule import MAX_HELD_IN_A_ROW
from pfedbayespt.server.rounds.service import choose_cohort
from pfedbayespt.server.rounds.weights import update_weights
from pfedbayespt.server.worker.optimisers import optimiser_of
from pfedbayespt.simulation.outcome import Outcome, RoundRow
from pfedbayespt.simulation.population import Population

Parameters = dict[str, "np.ndarray[Any, Any]"]


@dataclass
class _Coordinator:
    """The federation's state between two rounds."""

    specification: FederationSpecification
    parameters: Parameters
    accuracies: Mapping[str, float] = field(default_factory=dict)
    moments: dict[str, "np.ndarray[Any, Any]"] = field(default_factory=dict)
    cpu_seconds: float = 0.0

    def moved(self, mean: Mapping[str, "np.ndarray[Any, Any]"], task: RoundTask) -> Parameters:
        """Return the parameters after a round whose mean change is `mean`; the optimiser remembers it."""
        rule = self.specification.rounds.aggregation if task is RoundTask.TRAINING else WeightedMean()
        optimiser = optimiser_of(rule)
        moved: Parameters = {}
        for name, before in self.parameters.items():
            change = mean[name].ravel()
            if optimiser is not None and task.touches(name):
                remembered = self.moments.get(name, optimiser.start(change.size))
                self.moments[name] = optimiser.remember(remembered, change)
                change = optimiser.step(self.moments[name])
            moved[name] = (before + change.reshape(before.shape)).astype(before.dtype)
        return moved


def simulate(
    specification: FederationSpecification,
    initial: Mapping[str, "np.ndarray[Any, Any]"],
    population: Population,
    num_sites: int,
) -> Outcome:
    """Run a federation's rounds, after one of statistics, and return how they went."""
    coordinator, rows = _Coordinator(specification, dict(initial)), []
    for number in range(1, (specification.rounds.num_rounds or 0) + 2):
        task = RoundTask.STATISTICS if number == 1 else RoundTask.TRAINING
        rows.append(_round(coordinator, population, num_sites, number, task))
        if [row.status for row in rows[-MAX_HELD_IN_A_ROW:]] == [RoundStatus.HELD] * MAX_HELD_IN_A_ROW:
            break
    return Outcome("in_process", num_sites, tuple(rows), coordinator.parameters)


def _round(
    coordinator: _Coordinator, population: Population, num_sites: int, number: int, task: RoundTask
) -> RoundRow:
    begun, policy = time.perf_counter(), coordinator.specification.rounds
    names = {f"sit_{site:08}": site for site in range(num_sites)}
    cohort = [names[name] for name in choose_cohort(f"rnd_{number}", list(names), policy)]
    cohort = cohort[: policy.cohort_size]  # who was asked beyond that only stands in for those who fail
    mean, used = _mean_change(coordinator, population, cohort, task)
    began = time.process_time()
    before = coordinator.moments.copy()
    candidate = coordinator.moved(mean, task)
    used += time.process_time() - began
    asked = cohort if task is RoundTask.TRAINING and policy.evaluate else []
    reports = {str(site): population.evaluation(site, candidate).metrics for site in asked}
    accuracies = {site: report["accuracy"] for site, report in reports.items()}
    held = asked and reason_to_hold(policy, accuracies, coordinator.accuracies)
    if held:
        coordinator.moments = before
    else:
        coordinator.parameters, coordinator.accuracies = candidate, accuracies
    return RoundRow(
        round_number=number,
        task=task,
        status=RoundStatus.HELD if held else RoundStatus.PUBLISHED,
        updates=len(cohort),
        seconds=time.perf_counter() - begun,
        coordinator_cpu_seconds=used,
        loss=float(np.mean([report["loss"] for report in reports.values()])) if reports else None,
    )


def _mean_change(
    coordinator: _Coordinator, population: Population, cohort: list[int], task: RoundTask
) -> tuple[Parameters, float]:
    """Return sum_i w_i delta_i in float64, and the CPU seconds that adding up took."""
    ratio = coordinator.specification.rounds.max_weight_ratio
    counts = [population.num_examples(site) for site in cohort]
    weights = update_weights(counts) if task is RoundTask.STATISTICS else update_weights(counts, ratio)
    total = {name: np.zeros(array.shape) for name, array in coordinator.parameters.items()}
    used = 0.0
    for site, weight in zip(cohort, weights, strict=True):
        delta = population.delta(site, coordinator.parameters, task)
        began = time.process_time()
        for name, change in delta.items():
            total[name] += np.multiply(change, weight, dtype=np.float64)
        used += time.process_time() - began
    return total, used
