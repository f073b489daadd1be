"""Identifiers and secrets: what they look like and how a secret is kept.

Ids are `<prefix>_<32 hex digits>` of a random UUID and say nothing. Secrets hold 256 random bits; the
database keeps their SHA-256 only (a slow hash would buy nothing for random 256-bit strings).
"""

import hashlib
import secrets
from uuid import uuid4


def new_id(prefix: str) -> str:
    """Return a fresh id, such as `rnd_0b5c...`."""
    return f"{prefix}_{uuid4().hex}"


def new_secret() -> str:
    """Return 256 random bits as 43 URL-safe characters."""
    return secrets.token_urlsafe(32)


def sha256_hex(secret: str) -> str:
    """Return what the database keeps of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def same_secret(secret: str, kept_sha256: str) -> bool:
    """Whether `secret` is the one whose hash is kept, in constant time."""
    return secrets.compare_digest(sha256_hex(secret), kept_sha256)
