"""What can be done with a federation."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from pfedbayespt.protocol import (
    Federation,
    FederationCreate,
    FederationStatus,
    FederationTerms,
    Page,
    SigningKey,
    digest_of_message,
)
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.errors import AlreadyExists, TransitionNotAllowed
from pfedbayespt.server.events import service as events
from pfedbayespt.server.federations import lifecycle, repository
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.identifiers import new_id
from pfedbayespt.server.pages import Order, PageRequest, fetch_page, matching
from pfedbayespt.server.rounds import service as rounds

_ORDER = Order((FederationRecord.created_at, FederationRecord.id))


def create(tx: Transaction, request: FederationCreate, signer: SigningKey) -> FederationRecord:
    """Create a draft and sign its terms.

    Raises:
        AlreadyExists: the name is taken.
    """
    taken = AlreadyExists(f"there is a federation {request.name!r} already; choose another name")
    if repository.exists(tx, request.name):
        raise taken
    federation = FederationRecord(
        id=new_id("fed"),
        name=request.name,
        status=lifecycle.LIFECYCLE.initial,
        specification=request.specification.model_dump(mode="json"),
        specification_digest=digest_of_message(request.specification),
        created_at=tx.now,
    )
    sign(federation, signer)
    tx.session.add(federation)
    try:
        tx.session.flush()
    except IntegrityError as error:  # somebody else's transaction was faster
        raise taken from error
    events.record(
        tx,
        federation.id,
        "federation.created",
        federation.name,
        specification_digest=federation.specification_digest,
    )
    return federation


def sign(federation: FederationRecord, signer: SigningKey) -> None:
    """Give the coordinator's word for the specification. It is stored, so that a later edit of either shows."""
    terms = FederationTerms.signed(
        signer,
        federation=federation.name,
        specification_digest=federation.specification_digest,
        backbone_digest=federation.agreed.backbone.weights_digest,
        issued_at=federation.created_at,
    )
    federation.terms = terms.model_dump(mode="json")


def sign_unsigned(tx: Transaction, signer: SigningKey) -> None:
    """Sign the terms of federations that were made by a release that did not sign yet."""
    for federation in tx.session.scalars(repository.unsigned().with_for_update()).all():
        sign(federation, signer)
        events.record(tx, federation.id, "federation.terms_signed", federation.name, key_id=signer.key_id)


def activate(tx: Transaction, federation: FederationRecord) -> None:
    """Open a draft that has its initial parameters.

    Raises:
        TransitionNotAllowed: it is no draft, or has no initial parameters.
    """
    lifecycle.LIFECYCLE.target("activate", federation.status, federation.name)
    if federation.tensor_schema is None:
        raise TransitionNotAllowed(
            f"federation {federation.name!r} has no initial parameters; "
            "put them first: PUT /v1/federations/{name}/initial-parameters"
        )
    lifecycle.activate(tx, federation)


def archive(tx: Transaction, federation: FederationRecord) -> None:
    """End a federation for good; an active one is paused first, and a live round is abandoned."""
    if federation.status == FederationStatus.ACTIVE:
        lifecycle.pause(tx, federation, "to be archived")
    lifecycle.archive(tx, federation)
    rounds.abandon_live(tx, federation, "the federation was archived")


def list_page(
    tx: Transaction, request: PageRequest, status: FederationStatus | None = None
) -> Page[Federation]:
    """Return a page of all federations, or of those of a status, oldest first."""

    def to_messages(rows: Sequence[FederationRecord]) -> list[Federation]:
        return describe_all(tx, rows)

    query = matching(select(FederationRecord), status=status)
    return fetch_page(tx, query, _ORDER, request, to_messages)


def describe(tx: Transaction, federation: FederationRecord) -> Federation:
    """Return the federation's message."""
    return describe_all(tx, [federation])[0]


def describe_all(tx: Transaction, federations: Sequence[FederationRecord]) -> list[Federation]:
    """Return the messages of several federations, with two queries."""
    ids = [federation.id for federation in federations]
    serving = repository.serving_numbers(tx, ids)
    published = repository.published_counts(tx, ids)
    return [
        Federation(
            name=federation.name,
            status=federation.status,
            specification=federation.agreed,
            specification_digest=federation.specification_digest,
            terms=federation.signed_terms,
            serving_version=serving.get(federation.id),
            rounds_published=published.get(federation.id, 0),
            created_at=federation.created_at,
        )
        for federation in federations
    ]
