"""The coordinator's signing key: receipts, terms, manifests and access tokens bear its signature.

It is the file `settings.effective_signing_key_file`, which every process of one coordinator must share. A missing
one is made, once: it is written whole beside and linked into place, so that two processes that start together end
up with the same key.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from pfedbayespt.protocol import SignatureError, SigningKey


class SigningKeyError(RuntimeError):
    """The key file cannot be used; the message says why and what is allowed."""


def load_or_make(file: Path) -> SigningKey:
    """Return the key in `file`, after making it if there is none.

    Raises:
        SigningKeyError: others may read it, or it holds no key.
    """
    if not file.exists():
        make(file)
    if stat.S_IMODE(file.stat().st_mode) & 0o077:
        raise SigningKeyError(f"{file} may be read by others; allowed: its owner alone (chmod 600)")
    try:
        return SigningKey.from_pem(file.read_bytes())
    except SignatureError as error:
        raise SigningKeyError(f"{file}: {error}") from error


def make(file: Path) -> None:
    """Write a new key into `file`, unless another process is faster."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.{uuid4().hex}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(SigningKey.generate().to_pem())
            stream.flush()
            os.fsync(stream.fileno())
        with suppress(FileExistsError):
            file.hardlink_to(beside)
    finally:
        beside.unlink()
