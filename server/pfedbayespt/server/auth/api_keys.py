"""API keys: what they look like, and who holds one.

    fp_live_<id: 16 hexadecimal digits>_<secret: 256 random bits, 43 characters><CRC-32 of the rest: 8 digits>

The checksum lets scanners of leaked secrets, and us, tell a mistyped key without asking the database. The secret is
kept as SHA-256, which is enough for random bits, and compared in constant time.
"""

import re
import secrets
import zlib
from typing import Final

from pfedbayespt.server.api_keys.models import ApiKeyRecord
from pfedbayespt.server.auth.principals import KeyCaller, Role
from pfedbayespt.server.auth.tokens import not_valid
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.identifiers import new_secret, same_secret

PREFIX: Final = "fp_live_"
_FORM: Final = re.compile(r"fp_live_([0-9a-f]{16})_([A-Za-z0-9_-]{43})([0-9a-f]{8})")


def is_one(credential: str) -> bool:
    """Whether a credential claims to be an API key."""
    return credential.startswith(PREFIX)


def make() -> tuple[str, str, str]:
    """Return a new key, the id in it, and the secret in it."""
    key_id, secret = secrets.token_hex(8), new_secret()
    rest = f"{PREFIX}{key_id}_{secret}"
    return f"{rest}{_checksum(rest)}", key_id, secret


def identify(tx: Transaction, credential: str) -> KeyCaller:
    """Return who holds an API key.

    Raises:
        AuthenticationRequired: it is mistyped, unknown or revoked.
    """
    match = _FORM.fullmatch(credential)
    if match is None or _checksum(credential[:-8]) != match[3]:
        raise not_valid()
    record = tx.session.get(ApiKeyRecord, f"api_{match[1]}")
    if record is None or not same_secret(match[2], record.secret_sha256) or record.revoked_at is not None:
        raise not_valid()
    federation = record.federation
    return KeyCaller(record.id, Role(record.role), record.organisation, federation.id, federation.name)


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
