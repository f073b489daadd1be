"""How a tensor file in a request's body becomes a temporary blob.

Rules:
1. Size and digest are announced before the body, in `Content-Length` and `Content-Digest` (RFC 9530), and checked.
2. A body that is announced too large is refused before its first byte is read; one that is longer or shorter than
   announced, or has other bytes, leaves nothing behind.
3. The event loop never waits for the disk: bytes are written by a worker thread, some at a time.
4. Uploads have a few threads of their own (`in_upload_thread`), so that however many come at once, other requests
   find a free thread, and little memory is in use: those that wait hold one batch each.
"""

import base64
import re
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar
from starlette.requests import ClientDisconnect

from pfedbayespt.protocol import Digest
from pfedbayespt.server.blobs import TemporaryBlob
from pfedbayespt.server.errors import BodyTooLarge, DigestMismatch, InvalidRequest
from pfedbayespt.server.failpoints import failpoint

_BATCH_BYTES: Final = 2**18  # what every upload under way may hold: memory grows with the sites by this
_UPLOAD_THREADS: Final = 8
_SHA256_BYTES: Final = 32
_FORM: Final = "`Content-Digest: sha-256=:<base64 of the body's SHA-256>:` (RFC 9530)"
# One member of a dictionary (RFC 9651) whose value is a byte sequence; parameters are allowed and mean nothing.
_MEMBER: Final = re.compile(r"\s*([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/=]*):(?:;[^,]*)?\s*")


_limiter: RunVar[CapacityLimiter] = RunVar("upload_threads")  # one for each event loop
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


async def in_upload_thread(
    function: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs
) -> _Result:
    """Call the function in one of the threads for uploads, when one is free."""
    try:
        limiter = _limiter.get()
    except LookupError:
        limiter = CapacityLimiter(_UPLOAD_THREADS)
        _limiter.set(limiter)
    return await to_thread.run_sync(partial(function, *args, **kwargs), limiter=limiter)


@dataclass(frozen=True)
class AnnouncedBody:
    """What the headers promise of the body."""

    size_bytes: int
    digest: Digest


def announced_body(headers: Mapping[str, str], max_bytes: int) -> AnnouncedBody:
    """Return what `headers` (lower-case names) announce.

    Raises:
        InvalidRequest: a header is missing or malformed.
        BodyTooLarge: more than `max_bytes` are announced.
    """
    length = headers.get("content-length", "")
    if not re.fullmatch(r"[0-9]{1,18}", length):
        raise InvalidRequest("send the header `Content-Length` with the body's size in bytes")
    if int(length) > max_bytes:
        raise BodyTooLarge(f"the body is announced with {length} bytes; allowed: {max_bytes}")
    return AnnouncedBody(int(length), parse_content_digest(headers.get("content-digest")))


def parse_content_digest(header: str | None) -> Digest:
    """Return the SHA-256 that a `Content-Digest` header announces; digests of other kinds are passed over.

    Raises:
        InvalidRequest: there is no header, it is malformed, or it holds no SHA-256.
    """
    if header is None:
        raise InvalidRequest(f"send the header {_FORM}")
    members = [_MEMBER.fullmatch(member) for member in header.split(",")]
    digests = {member[1]: member[2] for member in members if member is not None}
    if None in members or "sha-256" not in digests:
        raise InvalidRequest(f"the header `Content-Digest` is {header[:200]!r}; allowed: {_FORM}")
    return f"sha256:{_decoded(digests['sha-256']).hex()}"


async def receive_body(chunks: AsyncIterable[bytes], blob: TemporaryBlob, announced: AnnouncedBody) -> None:
    """Write the body into `blob` and compare it with what was announced.

    Raises:
        InvalidRequest: the body is longer or shorter than announced, or the client went away.
        DigestMismatch: its bytes are not those announced.
        StorageExhausted: the disk is full.
    """
    try:
        async for batch in _batches(chunks):
            if blob.size_bytes + len(batch) > announced.size_bytes:
                raise InvalidRequest(f"the body is longer than the announced {announced.size_bytes} bytes")
            await in_upload_thread(blob.write, batch)
    except ClientDisconnect as error:
        raise InvalidRequest("the client went away before the end of the body") from error
    if blob.size_bytes < announced.size_bytes:
        raise InvalidRequest(f"the body ended after {blob.size_bytes} of {announced.size_bytes} bytes")
    if blob.digest != announced.digest:
        raise DigestMismatch(f"the body has {blob.digest}, announced was {announced.digest}; send it again")


async def _batches(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytearray]:
    """Join small chunks, so that a thread is asked seldom."""
    batch = bytearray()
    async for chunk in chunks:
        batch += chunk
        failpoint("ingest.mid_body")
        if len(batch) >= _BATCH_BYTES:
            yield batch
            batch = bytearray()  # not cleared: a cleared one and a copy would be twice the memory
    if batch:
        yield batch


def _decoded(text: str) -> bytes:
    try:
        digest = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise InvalidRequest(f"the sha-256 in `Content-Digest` is not base64: {error}") from error
    if len(digest) != _SHA256_BYTES:
        raise InvalidRequest(f"the sha-256 in `Content-Digest` has {len(digest)} bytes; it must have 32")
    return digest
