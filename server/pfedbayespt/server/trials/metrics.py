"""The trials' share of `/metrics`: read from the database, so the same from every process; labels are few words.

Of the running trial of each federation:

    pfedbayespt_trial_requests{federation, outcome}   answered, failed, compared, flipped, skipped
    pfedbayespt_trial_mean_distance{federation}       mean total variation of what was compared
    pfedbayespt_trial_mean_seconds{federation, role}  for an image, on trial and serving
"""

from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily
from sqlalchemy import select

from pfedbayespt.protocol import TrialStatus
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.trials.models import TrialRecord


def families(tx: Transaction) -> Iterable[GaugeMetricFamily]:
    """Return the figures of every running trial."""
    requests = GaugeMetricFamily(
        "pfedbayespt_trial_requests", "Of the running trial", labels=("federation", "outcome")
    )
    distance = GaugeMetricFamily(
        "pfedbayespt_trial_mean_distance", "Total variation of two versions", labels=("federation",)
    )
    seconds = GaugeMetricFamily(
        "pfedbayespt_trial_mean_seconds", "For an image that both computed", labels=("federation", "role")
    )
    query = (
        select(FederationRecord.name, TrialRecord)
        .join(TrialRecord, TrialRecord.federation_id == FederationRecord.id)
        .where(TrialRecord.status == TrialStatus.RUNNING)
    )
    for federation, trial in tx.session.execute(query):
        for outcome, count in _outcomes(trial).items():
            requests.add_metric((federation, outcome), count)
        if trial.num_compared:
            distance.add_metric((federation,), trial.sum_distance / trial.num_compared)
            seconds.add_metric((federation, "trial"), trial.sum_trial_seconds / trial.num_compared)
            seconds.add_metric((federation, "serving"), trial.sum_serving_seconds / trial.num_compared)
    return requests, distance, seconds


def _outcomes(trial: TrialRecord) -> dict[str, int]:
    return {
        "answered": trial.num_answered,
        "failed": trial.num_errors,
        "compared": trial.num_compared,
        "flipped": trial.num_flips,
        "skipped": trial.num_skipped,
    }
