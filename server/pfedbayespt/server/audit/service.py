"""Putting lineage and receipts together.

Who may see what: an admin everything; a site the whole chain of versions and every digest and weight, so that it
can check them, but names of its own organisation's sites only.
"""

from collections.abc import Iterator

from pfedbayespt.protocol import Lineage, LineageInput, Receipt, SigningKey, UpdateStatus, VersionManifest
from pfedbayespt.protocol.lineage import Ancestor
from pfedbayespt.server.auth import Caller, may_see
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.errors import NotFound
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.model_versions import service as versions
from pfedbayespt.server.model_versions.models import ModelVersionRecord
from pfedbayespt.server.rounds.models import RoundInput, RoundRecord
from pfedbayespt.server.sites.models import SiteRecord
from pfedbayespt.server.updates import repository as updates
from pfedbayespt.server.updates import statements
from pfedbayespt.server.updates.models import UpdateRecord


def lineage(tx: Transaction, caller: Caller, federation: FederationRecord, number: int) -> Lineage:
    """Return where a version comes from, as far as the caller may know.

    Raises:
        NotFound: the federation has no such version.
    """
    version = versions.find(tx, federation, number, lineage=True)
    round_ = version.round
    return Lineage(
        federation=federation.name,
        version_number=version.number,
        digest=version.digest,
        manifest=VersionManifest.model_validate(version.manifest) if version.manifest else None,
        round_id=version.round_id,
        round_number=round_.number if round_ else None,
        task=round_.task if round_ else None,
        inputs=tuple(_input(tx, caller, part) for part in round_.inputs) if round_ else (),
        ancestors=tuple(_ancestors(version)),
    )


def find_accepted(tx: Transaction, caller: Caller, update_id: str) -> UpdateRecord:
    """Return an update that was accepted.

    Raises:
        NotFound: there is none of that id, or not for this caller.
    """
    update = updates.by_id(tx, update_id)
    if update is None or update.status == UpdateStatus.QUARANTINED or not _is_theirs(tx, caller, update):
        raise NotFound(f"there is no accepted update {update_id!r}")
    return update


def receipt(tx: Transaction, caller: Caller, update_id: str, signer: SigningKey) -> Receipt:
    """Return the signed receipt of an update: the same one that its site was given.

    Raises:
        NotFound: there is none of that id, or not for this caller.
    """
    update = find_accepted(tx, caller, update_id)
    federation = _round_of(tx, update).federation
    return statements.receipt(tx, update, federation, signer)


def _is_theirs(tx: Transaction, caller: Caller, update: UpdateRecord) -> bool:
    is_another_site = caller.site_id not in {None, update.site_id}
    return not is_another_site and caller.belongs_to(_round_of(tx, update).federation_id)


def _round_of(tx: Transaction, update: UpdateRecord) -> RoundRecord:
    return tx.session.get_one(RoundRecord, update.round_id)


def _ancestors(version: ModelVersionRecord) -> Iterator[Ancestor]:
    parent = version.parent
    while parent is not None:
        yield Ancestor(version_number=parent.number, digest=parent.digest)
        parent = parent.parent


def _input(tx: Transaction, caller: Caller, part: RoundInput) -> LineageInput:
    described = versions.describe_input(part)
    site = tx.session.get_one(SiteRecord, described.site_id)
    is_known = may_see(caller, site.federation_id, site.organisation)
    return LineageInput(
        update_id=described.update_id,
        digest=described.digest,
        num_examples=described.num_examples,
        weight=described.weight,
        site_id=site.id if is_known else None,
        site_name=site.name if is_known else None,
        organisation=site.organisation if is_known else None,
    )
