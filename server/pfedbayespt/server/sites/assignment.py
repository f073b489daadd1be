"""What a site should do now.

train      the live round collects, asks this site, and has no update of it
evaluate   the live round's candidate awaits this site's evaluation (in asynchronous mode: and is also its work)
finished   all the rounds that the federation set out to run are published, or it is archived
wait       else
"""

from pfedbayespt.protocol import Assignment, Round, RoundStatus, SiteAction, UpdateStatus
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.model_versions import repository as versions
from pfedbayespt.server.model_versions.models import ModelVersionRecord
from pfedbayespt.server.rounds import lifecycle, progress
from pfedbayespt.server.rounds import repository as rounds
from pfedbayespt.server.rounds import service as round_service
from pfedbayespt.server.rounds.models import RoundRecord
from pfedbayespt.server.sites.models import SiteRecord
from pfedbayespt.server.updates import repository as updates


def assignment_of(tx: Transaction, site: SiteRecord, retry_after_seconds: float) -> Assignment:
    """Return the site's assignment."""
    federation = site.federation
    action, round_, version = _task(tx, site)
    message: Round | None = None if round_ is None else round_service.describe_for(tx, round_, site.id)
    return Assignment(
        action=action,
        federation=federation.name,
        federation_status=federation.status,
        specification=federation.agreed,
        specification_digest=federation.specification_digest,
        terms=federation.signed_terms,
        round=message,
        model_version=version.number if version else None,
        model_digest=version.digest if version else None,
        retry_after_seconds=retry_after_seconds,
    )


def _task(
    tx: Transaction, site: SiteRecord
) -> tuple[SiteAction, RoundRecord | None, ModelVersionRecord | None]:
    round_ = rounds.live(tx, site.federation_id)
    if round_ is not None and rounds.is_in_cohort(tx, round_.id, site.id):
        if _should_train(tx, site, round_):
            return SiteAction.TRAIN, round_, round_.base_version
        if _should_evaluate(tx, site, round_):
            return SiteAction.EVALUATE, round_, round_.result
    if round_ is None and round_service.is_finished(tx, site.federation):
        return SiteAction.FINISHED, None, versions.serving(tx, site.federation_id)
    return SiteAction.WAIT, None, None


def _should_train(tx: Transaction, site: SiteRecord, round_: RoundRecord) -> bool:
    if round_.status != RoundStatus.COLLECTING or lifecycle.is_late(round_, tx.now):
        return False
    submitted = updates.counted(tx, round_.id, site.id)
    return submitted is None or submitted.status == UpdateStatus.QUARANTINED


def _should_evaluate(tx: Transaction, site: SiteRecord, round_: RoundRecord) -> bool:
    if round_.status != RoundStatus.EVALUATING or round_.result is None or not progress.is_evaluated(round_):
        return False
    if progress.asks_contributors(round_) and not rounds.contributes(tx, round_.id, site.id):
        return False
    return versions.evaluation(tx, round_.result.id, site.id) is None
