"""Bodies: announced, counted, hashed; nothing is believed that was not checked."""

import asyncio
import base64
import hashlib
import threading
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect

from pfedbayespt.server.blobs import MemoryBlobStore, TemporaryBlob
from pfedbayespt.server.errors import BodyTooLarge, DigestMismatch, InvalidRequest
from pfedbayespt.server.uploads import AnnouncedBody, announced_body, parse_content_digest, receive_body

HELLO = "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="  # SHA-256 of `hello`, base64
HELLO_DIGEST = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def announce(content: bytes) -> AnnouncedBody:
    return AnnouncedBody(len(content), "sha256:" + hashlib.sha256(content).hexdigest())


def receive(announced: AnnouncedBody, *chunks: bytes) -> bytes:
    with MemoryBlobStore().create() as blob:
        asyncio.run(receive_body(stream(*chunks), blob, announced))
        blob.file.seek(0)
        return blob.file.read()


# What is announced


def test_a_digest_is_read_from_its_header() -> None:
    assert parse_content_digest(f"sha-256=:{HELLO}:") == HELLO_DIGEST


@pytest.mark.parametrize(
    "header",
    [
        f"sha-512=:AAAA:, sha-256=:{HELLO}:",
        f"sha-256=:{HELLO}:,unixsum=:AAAA:",
        f"  sha-256=:{HELLO}:  ",
        f"sha-256=:{HELLO}:;note=1",
        f"sha-256=:AAAA:, sha-256=:{HELLO}:",  # the last one counts (RFC 9651, section 4.2.2)
    ],
)
def test_other_members_and_parameters_are_passed_over(header: str) -> None:
    assert parse_content_digest(header) == HELLO_DIGEST


@given(st.binary(max_size=50))
def test_the_digest_of_any_body_is_understood(content: bytes) -> None:
    value = base64.b64encode(hashlib.sha256(content).digest()).decode()
    assert parse_content_digest(f"sha-256=:{value}:") == announce(content).digest


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        (None, "send the header"),
        ("", "allowed: `Content-Digest"),
        (HELLO, "allowed"),
        (f"sha-256={HELLO}", "allowed"),
        (f"SHA-256=:{HELLO}:", "allowed"),
        (f"sha256=:{HELLO}:", "allowed"),
        ("sha-512=:AAAA:", "allowed"),
        (f"sha-256=:{HELLO}", "allowed"),
        (f"sha-256=:{HELLO}:,", "allowed"),
        ("sha-256=::", "has 0 bytes; it must have 32"),
        ("sha-256=:AAAA:", "has 3 bytes; it must have 32"),
        ("sha-256=:A:", "not base64"),
        ("sha-256=:=AAA:", "not base64"),
        (f"sha-256=:{HELLO[:-1]}:", "not base64"),
        ("x" * 100_000, "allowed"),
    ],
)
def test_a_malformed_digest_is_refused_saying_what_is_allowed(header: str | None, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint) as refusal:
        parse_content_digest(header)
    assert len(refusal.value.detail) < 500


def test_size_and_digest_come_from_the_headers() -> None:
    headers = Headers({"Content-Length": "5", "Content-Digest": f"sha-256=:{HELLO}:"})
    assert announced_body(headers, max_bytes=5) == AnnouncedBody(5, HELLO_DIGEST)


def test_a_body_announced_too_large_is_refused_unread() -> None:
    headers = {"content-length": "6", "content-digest": f"sha-256=:{HELLO}:"}
    with pytest.raises(BodyTooLarge, match="6 bytes; allowed: 5"):
        announced_body(headers, max_bytes=5)


@pytest.mark.parametrize("length", [None, "", "-1", "5.0", "five", "5, 5", " 5", "\u0665", "1" * 5000])
def test_a_missing_or_malformed_length_is_refused(length: str | None) -> None:
    headers = {"content-digest": f"sha-256=:{HELLO}:"}
    if length is not None:
        headers["content-length"] = length
    with pytest.raises(InvalidRequest, match="Content-Length"):
        announced_body(headers, max_bytes=100)


# What arrives


@pytest.mark.parametrize(
    "chunks",
    [[b"hello"], [b"h", b"e", b"l", b"l", b"o"], [b"", b"hel", b"", b"lo", b""]],
    ids=["at once", "byte by byte", "with empty chunks"],
)
def test_the_body_is_received_however_it_is_cut(chunks: list[bytes]) -> None:
    assert receive(announce(b"hello"), *chunks) == b"hello"


def test_a_large_body_is_received_in_order() -> None:
    content = b"".join(number.to_bytes(4, "big") for number in range(700_000))
    chunks = [content[start : start + 65_521] for start in range(0, len(content), 65_521)]
    assert receive(announce(content), *chunks) == content


def test_an_empty_body_is_received_if_it_was_announced() -> None:
    assert receive(announce(b"")) == b""


@pytest.mark.parametrize("length", range(5))
def test_a_short_body_is_refused(length: int) -> None:
    with pytest.raises(InvalidRequest, match=f"ended after {length} of 5 bytes"):
        receive(announce(b"hello"), b"hello"[:length])


def test_a_long_body_is_refused_before_the_excess_is_written() -> None:
    with MemoryBlobStore().create() as blob:
        with pytest.raises(InvalidRequest, match="longer than the announced 5 bytes"):
            asyncio.run(receive_body(stream(b"hello world"), blob, announce(b"hello")))
        assert blob.size_bytes <= 5


def test_a_body_without_end_is_refused_after_what_was_announced() -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 2**16

    with (
        MemoryBlobStore().create() as blob,
        pytest.raises(InvalidRequest, match="longer than the announced"),
    ):
        asyncio.run(receive_body(endless(), blob, AnnouncedBody(3 * 2**20, HELLO_DIGEST)))


def test_other_bytes_than_announced_are_refused_naming_both_digests() -> None:
    with pytest.raises(DigestMismatch) as refusal:
        receive(announce(b"hello"), b"jello")
    assert announce(b"hello").digest in refusal.value.detail
    assert announce(b"jello").digest in refusal.value.detail


def test_a_client_that_goes_away_is_refused() -> None:
    async def cut_short() -> AsyncIterator[bytes]:
        yield b"hel"
        raise ClientDisconnect

    with MemoryBlobStore().create() as blob, pytest.raises(InvalidRequest, match="client went away"):
        asyncio.run(receive_body(cut_short(), blob, announce(b"hello")))


def test_the_event_loop_writes_nothing_itself() -> None:
    writers: set[int] = set()

    class Watched(TemporaryBlob):
        def write(self, chunk: bytes | bytearray | memoryview) -> None:
            writers.add(threading.get_ident())
            super().write(chunk)

    with MemoryBlobStore().create() as blob:
        asyncio.run(receive_body(stream(b"hello"), Watched(blob.file), announce(b"hello")))
    assert writers
    assert threading.get_ident() not in writers
