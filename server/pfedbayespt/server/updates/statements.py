"""What a site signs about an update, and what the coordinator signs in return.

An update needs two things of its site: an access token, which may be stolen, and a statement signed with the site's
own key over exactly this update for exactly this round. The statement comes in a header, so that it is checked
before the body is read; what only the body can tell is compared afterwards.
"""

import base64
from typing import Final

from pydantic import ValidationError
from starlette.datastructures import Headers

from pfedbayespt.protocol import STATEMENT_HEADER, Receipt, SigningKey, UpdateManifest, UpdateStatement
from pfedbayespt.server.auth import SiteCaller
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.errors import InvalidRequest, SignatureRejected
from pfedbayespt.server.events import repository as events
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.sites import keys
from pfedbayespt.server.updates.models import UpdateRecord

MAX_STATEMENT_CHARACTERS: Final = 4096


def statement_in(headers: Headers) -> UpdateStatement:
    """Return the statement that came with an update.

    Raises:
        InvalidRequest: there is none, or it cannot be read.
    """
    text = headers.get(STATEMENT_HEADER)
    if text is None or len(text) > MAX_STATEMENT_CHARACTERS:
        raise InvalidRequest(
            f"the header {STATEMENT_HEADER} is required: base64url of a signed UpdateStatement in JSON, "
            f"at most {MAX_STATEMENT_CHARACTERS} characters"
        )
    try:
        content = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return UpdateStatement.model_validate_json(content)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, fault["loc"])) or "the statement"
        raise InvalidRequest(f"{STATEMENT_HEADER}: {where}: {fault['msg']}") from error
    except ValueError as error:
        raise InvalidRequest(f"{STATEMENT_HEADER} is not base64url") from error


def check(
    tx: Transaction, caller: SiteCaller, statement: UpdateStatement, round_id: str, update_digest: str
) -> None:
    """Return if the caller has signed that it submits these bytes in this round.

    Raises:
        SignatureRejected: it has not.
    """
    keys.check_signed(tx, caller, statement)
    _compare(
        statement,
        federation=caller.federation,
        site_id=caller.site_id,
        round_id=round_id,
        update_digest=update_digest,
    )


def check_manifest(statement: UpdateStatement, manifest: UpdateManifest) -> None:
    """Return if the update's own manifest says what its site has signed.

    Raises:
        SignatureRejected: it does not.
    """
    _compare(statement, base_digest=manifest.base_digest, num_examples=manifest.num_examples)


def receipt(
    tx: Transaction, update: UpdateRecord, federation: FederationRecord, signer: SigningKey
) -> Receipt:
    """Return the signed receipt of an accepted update, the same one whenever it is asked for."""
    return Receipt.signed(
        signer,
        federation=federation.name,
        update_id=update.id,
        round_id=update.origin_round_id,
        site_id=update.site_id,
        digest=update.digest,
        size_bytes=update.size_bytes,
        staleness=update.staleness,
        received_at=update.received_at,
        audit_head=events.hash_of(tx, federation.id, "update.accepted", update.id),
    )


def _compare(statement: UpdateStatement, **facts: object) -> None:
    for name, value in facts.items():
        if (signed := getattr(statement, name)) != value:
            raise SignatureRejected(
                f"the statement is for {name} {signed!r}, but the update is for {value!r}"
            )
