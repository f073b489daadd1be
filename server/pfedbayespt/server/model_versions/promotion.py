"""What an admin may promote: a held version (release) or a retired one (rollback).

A live round starts from the version that served until now, so its result would undo a rollback: it is abandoned.
"""

from pfedbayespt.server.database import Transaction
from pfedbayespt.server.errors import TransitionNotAllowed
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.model_versions import lifecycle, service
from pfedbayespt.server.model_versions.models import ModelVersionRecord
from pfedbayespt.server.rounds import service as rounds


def promote_by_hand(tx: Transaction, federation: FederationRecord, version: ModelVersionRecord) -> None:
    """Make the version the one that serves.

    Raises:
        TransitionNotAllowed: it serves already, or its round has not judged it yet.
    """
    if service.is_candidate(version):
        raise TransitionNotAllowed(
            f"model version {version.number} is a candidate whose round is not over; wait or abandon the round"
        )
    lifecycle.LIFECYCLE.target("promote", version.status, str(version.number))
    service.promote(tx, federation, version)
    rounds.abandon_live(tx, federation, f"version {version.number} was promoted by an admin")
