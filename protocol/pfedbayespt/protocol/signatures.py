"""Signed messages: a detached Ed25519 signature over the canonical JSON of everything else in the message.

Rules:
1. What is signed is `<purpose> LF <canonical JSON without the signature>`. The purpose names kind and release of
   the message, so that a signature is never good for a message of another kind; another field is another purpose.
2. Keys and signatures are base64url without padding, in their one canonical spelling: 43 and 86 characters.
3. The id of a key is `key_` and 32 hexadecimal digits of the SHA-256 of its public half: whoever knows the
   id can check the key.
4. A private key stays where it was made; only its owner may read its file (PKCS #8, PEM).
"""

import base64
import hashlib
from typing import Annotated, Any, ClassVar, Final, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from pydantic import Field

from pfedbayespt.protocol._base import Message, canonical_json

PublicKey = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$", description="Ed25519, 32 bytes, base64url.")
]
Signature = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_-]{85}[AQgw]$", description="Ed25519, 64 bytes, base64url.")
]
KeyId = Annotated[
    str, Field(pattern=r"^key_[0-9a-f]{32}$", description="First 16 bytes of the public key's SHA-256.")
]
NO_SIGNATURE: Final = "A" * 86
"""Stands for the signature of a message that is about to be signed."""


class SignatureError(ValueError):
    """A key cannot be read, or a signature is not that key's over that message."""


class SigningKey:
    """A private Ed25519 key."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self.private = private
        self.public_key = _to_text(private.public_key().public_bytes_raw())
        self.key_id = key_id_of(self.public_key)

    @classmethod
    def generate(cls) -> Self:
        """Make a new key from the operating system's random numbers."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, content: bytes) -> Self:
        """Read a key that `to_pem` wrote.

        Raises:
            SignatureError: it is none.
        """
        try:
            private = load_pem_private_key(content, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise SignatureError(
                "not a private key; allowed: Ed25519, PKCS #8, PEM, not encrypted"
            ) from error
        if not isinstance(private, Ed25519PrivateKey):
            raise SignatureError("not an Ed25519 key; allowed: Ed25519, PKCS #8, PEM, not encrypted")
        return cls(private)

    def to_pem(self) -> bytes:
        """Return the private key as PKCS #8, PEM: for a file that only its owner may read."""
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def sign(self, content: bytes) -> str:
        """Return the signature of `content`."""
        return _to_text(self.private.sign(content))


class SignedMessage(Message):
    """A message that names the key it was signed with. Subclasses set `purpose`."""

    purpose: ClassVar[str]

    key_id: KeyId = Field(description="The key that signed this message.")
    signature: Signature = Field(description="Over the purpose and the canonical JSON of all other fields.")

    @classmethod
    def signed(cls, key: SigningKey, **fields: Any) -> Self:
        """Return the message with these fields, signed."""
        draft = cls(key_id=key.key_id, signature=NO_SIGNATURE, **fields)
        return draft.model_copy(update={"signature": key.sign(draft.signed_bytes())})

    def signed_bytes(self) -> bytes:
        """Return what the signature is over."""
        content = self.model_dump(mode="json", exclude={"signature"})
        return self.purpose.encode() + b"\n" + canonical_json(content)

    def check_signature(self, public_key: str) -> None:
        """Return if the message was signed with that key.

        Raises:
            SignatureError: it was not, or something in it is not what was signed.
        """
        actual = key_id_of(public_key)
        if self.key_id != actual:
            raise SignatureError(f"{self.purpose}: signed with {self.key_id}, expected {actual}")
        try:
            public_key_of(public_key).verify(_to_bytes(self.signature), self.signed_bytes())
        except InvalidSignature as error:
            raise SignatureError(
                f"{self.purpose}: the signature is not that of {actual} over this"
            ) from error


def key_id_of(public_key: str) -> str:
    """Return the id of a public key."""
    return f"key_{hashlib.sha256(_to_bytes(public_key)).hexdigest()[:32]}"


def public_key_of(public_key: str) -> Ed25519PublicKey:
    """Return the key that the text stands for.

    Raises:
        SignatureError: it stands for none.
    """
    try:
        return Ed25519PublicKey.from_public_bytes(_to_bytes(public_key))
    except ValueError as error:
        raise SignatureError("not an Ed25519 public key; allowed: 32 bytes, base64url") from error


def _to_text(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _to_bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError as error:
        raise SignatureError("not base64url") from error
