"""Taking an update in: what is checked with the database, and what is written.

Rules, checked before the body is read and again in the transaction that records the update:
1. A site writes its own update and nobody else's; it is active, and the round is its federation's.
2. It has submitted nothing for the round: the same digest again is answered with the same receipt, also after the
   round has closed; another digest is a conflict.
3. The cohort includes it. The update counts in the round, if that collects and its deadline has not passed, or in
   another one (`rounds.lateness`) in which the site has no update yet.

A refused file leaves a quarantined row, so that an admin sees what was wrong, and nothing else. At most
`MAX_QUARANTINED` rows are kept for a site and round, so that no site can fill the table.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import select

from pfedbayespt.protocol import (
    Page,
    Receipt,
    SigningKey,
    SiteStatus,
    TensorSchema,
    TensorSpec,
    Update,
    UpdateManifest,
    UpdateStatement,
    UpdateStatus,
)
from pfedbayespt.server.auth import Caller, SiteCaller
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.errors import (
    NotFound,
    NotInCohort,
    PermissionDenied,
    UpdateConflict,
    UpdateRejected,
)
from pfedbayespt.server.identifiers import new_id
from pfedbayespt.server.pages import Order, PageRequest, fetch_page, matching
from pfedbayespt.server.rounds import repository as rounds
from pfedbayespt.server.rounds import service as round_service
from pfedbayespt.server.rounds.lateness import Place, place_of
from pfedbayespt.server.rounds.models import RoundRecord
from pfedbayespt.server.sites.models import SiteRecord
from pfedbayespt.server.updates import lifecycle, repository, statements
from pfedbayespt.server.updates.ingest import ExpectedUpdate, ReceivedUpdate
from pfedbayespt.server.updates.models import UpdateRecord

MAX_QUARANTINED: Final = 20
_ORDER = Order((UpdateRecord.received_at, UpdateRecord.id))


@dataclass(frozen=True)
class RefusedUpdate:
    """A file that arrived whole and failed a check, and what it says about itself."""

    digest: str
    size_bytes: int
    manifest: UpdateManifest | None
    schema: TensorSchema | None
    error: UpdateRejected


@dataclass(frozen=True)
class Acknowledgement:
    """The receipt, and whether it is a new one."""

    receipt: Receipt
    is_new: bool


def expect(tx: Transaction, caller: SiteCaller, round_id: str, site_id: str, digest: str) -> ExpectedUpdate:
    """Return what the update must be, if the caller may submit it now or has submitted it before.

    Raises:
        PermissionDenied, NotFound, NotInCohort, UpdateConflict: the rules of this module.
        RoundClosed, NoOpenRound, UpdateTooStale: see `rounds.lateness`.
    """
    _check_own(caller, site_id)
    round_ = round_service.find(tx, caller, round_id)
    if _replayed(tx, caller, round_, digest) is None:
        _open_place(tx, caller, round_)
    return ExpectedUpdate(
        federation=round_.federation.name,
        round_id=round_.id,
        task=round_.task,
        base_digest=round_.base_version.digest,
        schema=round_.federation.schema,
    )


def accept(
    tx: Transaction,
    caller: SiteCaller,
    received: ReceivedUpdate,
    statement: UpdateStatement,
    signer: SigningKey,
) -> Acknowledgement:
    """Record the update, whose file is durable by now; the commit is what makes it acknowledged (promise P1).

    Raises:
        As `expect`: the round may have closed, or the site been shut out, while the body arrived.
    """
    round_ = round_service.find(tx, caller, received.manifest.round_id, lock=True)
    _check_active(tx, caller)
    replayed = _replayed(tx, caller, round_, received.digest)
    if replayed is not None:
        return Acknowledgement(statements.receipt(tx, replayed, round_.federation, signer), is_new=False)
    place = _open_place(tx, caller, round_)
    update = _insert(
        tx,
        round_,
        caller,
        round_id=place.round.id,
        staleness=place.staleness,
        digest=received.digest,
        size_bytes=received.size_bytes,
        manifest=received.manifest.model_dump(mode="json"),
        tensors=_plain(received.schema),
        statement=statement.model_dump(mode="json"),
        num_examples=received.manifest.num_examples,
        delta_norm=received.delta_norm,
    )
    lifecycle.accept(tx, update, round_.federation_id)
    return Acknowledgement(statements.receipt(tx, update, round_.federation, signer), is_new=True)


def quarantine(tx: Transaction, caller: SiteCaller, round_id: str, refused: RefusedUpdate) -> None:
    """Record that a file was refused, once per digest."""
    round_ = round_service.find(tx, caller, round_id, lock=True)
    known = repository.quarantined_digests(tx, round_.id, caller.site_id)
    if refused.digest in known or len(known) >= MAX_QUARANTINED:
        return
    update = _insert(
        tx,
        round_,
        caller,
        digest=refused.digest,
        size_bytes=refused.size_bytes,
        manifest=refused.manifest.model_dump(mode="json") if refused.manifest else None,
        tensors=_plain(refused.schema) if refused.schema is not None else None,
    )
    verdict = f"{refused.error.reason}: {refused.error.detail}"
    lifecycle.quarantine(tx, update, round_.federation_id, verdict)


def find(tx: Transaction, caller: Caller, update_id: str) -> UpdateRecord:
    """Return an update.

    Raises:
        NotFound: there is none of that id, or not for this caller.
    """
    update = repository.by_id(tx, update_id)
    if update is None or not caller.belongs_to(repository.federation_id(tx, update)):
        raise NotFound(f"there is no update {update_id!r}")
    return update


def list_page(
    tx: Transaction, round_: RoundRecord, request: PageRequest, status: UpdateStatus | None = None
) -> Page[Update]:
    """Return a page of the round's updates, of one status if it is given, oldest first."""

    def to_messages(rows: Sequence[UpdateRecord]) -> list[Update]:
        return describe_all(tx, rows)

    query = select(UpdateRecord).where(UpdateRecord.round_id == round_.id)
    return fetch_page(tx, matching(query, status=status), _ORDER, request, to_messages)


def describe(tx: Transaction, update: UpdateRecord) -> Update:
    """Return the update's message."""
    return describe_all(tx, [update])[0]


def describe_all(tx: Transaction, updates: Sequence[UpdateRecord]) -> list[Update]:
    """Return the messages of several updates."""
    weights = repository.weights(tx, [update.id for update in updates])
    return [
        Update(
            update_id=update.id,
            round_id=update.round_id,
            site_id=update.site_id,
            status=update.status,
            digest=update.digest,
            size_bytes=update.size_bytes,
            manifest=UpdateManifest.model_validate(update.manifest) if update.manifest else None,
            tensors=tuple(TensorSpec.model_validate(spec) for spec in update.tensors or ()),
            delta_norm=update.delta_norm,
            verdict=update.verdict,
            staleness=update.staleness,
            weight=weights.get(update.id) if update.status == UpdateStatus.AGGREGATED else None,
            statement=UpdateStatement.model_validate(update.statement) if update.statement else None,
            received_at=update.received_at,
            payload_retired_at=update.payload_retired_at,
        )
        for update in updates
    ]


def _check_own(caller: SiteCaller, site_id: str) -> None:
    if site_id != caller.site_id:
        raise PermissionDenied(f"a site submits its own updates only; yours is {caller.site_id}")


def _check_active(tx: Transaction, caller: SiteCaller) -> None:
    status = tx.session.scalars(select(SiteRecord.status).where(SiteRecord.id == caller.site_id)).one()
    if status != SiteStatus.ACTIVE:
        raise PermissionDenied(f"site {caller.site_name!r} is {status} since a moment ago")


def _replayed(tx: Transaction, caller: SiteCaller, origin: RoundRecord, digest: str) -> UpdateRecord | None:
    """Return the update that this digest repeats, None if nothing was submitted for the round."""
    there = repository.submitted(tx, origin.id, caller.site_id)
    if there is not None and there.digest != digest:
        raise UpdateConflict(f"site {caller.site_name!r} has submitted {there.digest} in round {origin.id}")
    return there


def _open_place(tx: Transaction, caller: SiteCaller, origin: RoundRecord) -> Place:
    """Return where a new update that was made for `origin` counts."""
    if not rounds.is_in_cohort(tx, origin.id, caller.site_id):
        raise NotInCohort(f"site {caller.site_name!r} is not asked in round {origin.id}")
    place = place_of(tx, origin)
    other = repository.counted(tx, place.round.id, caller.site_id)
    if other is not None:
        raise UpdateConflict(
            f"site {caller.site_name!r} has {other.digest} in round {place.round.id}, where this one would count"
        )
    return place


def _insert(tx: Transaction, origin: RoundRecord, caller: SiteCaller, **columns: object) -> UpdateRecord:
    facts: dict[str, object] = {"round_id": origin.id, "staleness": 0}
    update = UpdateRecord(
        id=new_id("upd"),
        origin_round_id=origin.id,
        site_id=caller.site_id,
        status=lifecycle.LIFECYCLE.initial,
        received_at=tx.now,
        **(facts | columns),
    )
    tx.session.add(update)
    tx.session.flush()
    return update


def _plain(schema: TensorSchema) -> list[dict[str, object]]:
    return [spec.model_dump(mode="json") for spec in schema]
