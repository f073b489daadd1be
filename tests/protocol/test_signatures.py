"""Signed messages: what a signature is over, and every way in which it must not hold."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pfedbayespt.protocol import (
    KeyPossession,
    SignatureError,
    SigningKey,
    SiteKeyRetire,
    UpdateStatement,
    digest_of_bytes,
    key_id_of,
    public_key_of,
)

KEY, OTHER = SigningKey.generate(), SigningKey.generate()
# RFC 8032, section 7.1, test 1.
SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")


def statement(**changes: object) -> UpdateStatement:
    facts = {
        "federation": "shapes",
        "round_id": "rnd_1",
        "site_id": "sit_1",
        "base_digest": digest_of_bytes(b"base"),
        "update_digest": digest_of_bytes(b"update"),
        "num_examples": 10,
        "nonce": "0" * 32,
    }
    return UpdateStatement.signed(KEY, **(facts | changes))


def test_keys_and_signatures_are_those_of_rfc_8032() -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = SigningKey(Ed25519PrivateKey.from_private_bytes(SEED))
    assert public_key_of(key.public_key).public_bytes_raw() == PUBLIC
    assert key.key_id == f"key_{hashlib.sha256(PUBLIC).hexdigest()[:32]}" == key_id_of(key.public_key)
    assert key.sign(b"").startswith("5VZDAMNgrHKQhuLMgG6CioSHfx64")


def test_what_is_signed_is_the_purpose_and_the_canonical_rest() -> None:
    signed = statement()
    purpose, _, content = signed.signed_bytes().partition(b"\n")
    assert purpose == b"pfedbayespt.update-statement/1"
    assert json.loads(content) == signed.model_dump(mode="json", exclude={"signature"})


def test_a_signature_survives_the_wire() -> None:
    again = UpdateStatement.model_validate_json(statement().model_dump_json())
    again.check_signature(KEY.public_key)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("federation", "shapez"),
        ("round_id", "rnd_2"),
        ("site_id", "sit_2"),
        ("base_digest", digest_of_bytes(b"other")),
        ("update_digest", digest_of_bytes(b"other")),
        ("num_examples", 11),
        ("nonce", "1" * 32),
        pytest.param("key_id", OTHER.key_id, id="key_id-of another"),  # drawn anew in every process
    ],
)
def test_no_field_can_be_changed(field: str, value: object) -> None:
    changed = statement().model_copy(update={field: value})
    with pytest.raises(SignatureError):
        changed.check_signature(KEY.public_key)


@given(bit=st.integers(0, 511))
def test_no_bit_of_the_signature_can_be_changed(bit: int) -> None:
    import base64

    signed = statement()
    raw = bytearray(base64.urlsafe_b64decode(signed.signature + "=="))
    raw[bit // 8] ^= 1 << bit % 8
    text = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    with pytest.raises(SignatureError):
        signed.model_copy(update={"signature": text}).check_signature(KEY.public_key)


def test_a_signature_of_one_kind_is_none_of_another() -> None:
    retire = SiteKeyRetire.signed(KEY, site_id="sit_1", retired_key_id=OTHER.key_id)
    possession = KeyPossession.signed(KEY, site_id="sit_1", public_key=KEY.public_key)
    with pytest.raises(SignatureError):
        retire.model_copy(update={"signature": possession.signature}).check_signature(KEY.public_key)


def test_another_key_is_refused() -> None:
    with pytest.raises(SignatureError, match="expected"):
        statement().check_signature(OTHER.public_key)


@pytest.mark.parametrize("text", ["A" * 85 + "B", "A" * 85, "A" * 87, "A" * 85 + "=", "A" * 85 + "+"])
def test_a_signature_has_one_spelling(text: str) -> None:
    document = statement().model_dump(mode="json") | {"signature": text}
    with pytest.raises(ValidationError, match="signature"):
        UpdateStatement.model_validate(document)


@pytest.mark.parametrize("text", ["A" * 42 + "B", "A" * 42, "A" * 44, "é" * 43])
def test_a_public_key_has_one_spelling(text: str) -> None:
    possession = KeyPossession.signed(KEY, site_id="sit_1", public_key=KEY.public_key)
    with pytest.raises(ValidationError, match="public_key"):
        KeyPossession.model_validate(possession.model_dump(mode="json") | {"public_key": text})


def test_a_private_key_is_read_back_and_nothing_else_is_one() -> None:
    assert SigningKey.from_pem(KEY.to_pem()).key_id == KEY.key_id
    for content in (b"", b"hello", KEY.to_pem()[:-40]):
        with pytest.raises(SignatureError, match="allowed: Ed25519"):
            SigningKey.from_pem(content)


def test_a_key_of_another_kind_is_refused() -> None:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem = X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(SignatureError, match="not an Ed25519 key"):
        SigningKey.from_pem(pem)
