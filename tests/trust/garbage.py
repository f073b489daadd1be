"""Requests that no honest client sends, to every operation of the live document."""
# ruff: noqa: E501

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

HOSTILE = (
    "", ".", "..", "../../etc/passwd", "%00", "\0", "a\0b", "é", "\U0001f600", "a" * 300, "'; DROP TABLE events; --",
    "-1", "0", "1e9", "99999999999999999999", "null", "true", "[]", "{}", "rnd_", "rnd_0", "sit_zz", "upd_" + "f" * 32,
    "key_" + "0" * 32, "alpha", "ALPHA", "<script>", "${jndi:ldap://x}", "{{7*7}}", "\r\nX: y", " ", "a b", "%", "%2e%2e",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    *HOSTILE, None, True, 0, -1, 1.5, 2**31, 2**63, 2**64, 10**400, -(10**400), 1e308, float("nan"), float("inf"),
    [], {}, [[]], {"a": None}, [None] * 100, {"": ""}, "x" * 100_000,
)  # fmt: skip
RAW = (
    b"", b"{", b"}", b"[", b"null", b"nul", b"{}{}", b"\xff\xfe", b"\0" * 100, b'{"a":1,"a":2}', b"[" * 100_000,
    b'{"a":' * 20_000, b"1" * 100_000, b'"\\ud800"', b"1e999999", b"NaN", b"-Infinity", b'{"name":"\\u0000"}',
)  # fmt: skip
MEDIA_TYPES = (
    "application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data",
    "multipart/form-data; boundary=x", "application/vnd.safetensors", "image/png", "", "x" * 200, "application/json; charset=x",
)  # fmt: skip
FIELDS = (
    "name", "specification", "organisation", "valid_seconds", "token", "site_name", "public_key", "key_id", "signature",
    "grant_type", "client_assertion", "client_assertion_type", "num_examples", "metrics", "image", "num_samples", "seed",
    "possession", "site_id", "retired_key_id", "coordinator_key_id", "extra", "__proto__", "role",
)  # fmt: skip
QUERIES = ("limit", "cursor", "num_samples", "top_k", "seed", "model_version", "status", "class_prior", "x")


@dataclass(frozen=True)
class Request:
    """One request."""

    method: str
    path: str
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def requests(
    operations: list[str], credentials: list[str | None], number: int, seed: int = 0
) -> Iterator[Request]:
    """Yield requests to random operations, with one of these credentials or a spoilt one."""
    draw = random.Random(seed)
    for _ in range(number):
        method, _, template = draw.choice(operations).partition(" ")
        path = re.sub(r"\{[^}]+\}", lambda _: quote(draw.choice(HOSTILE), safe=""), template)
        if draw.random() < 0.5:
            path += f"?{draw.choice(QUERIES)}={quote(str(draw.choice(VALUES))[:2000], safe='')}"
        if draw.random() < 0.05:
            method = draw.choice(["PATCH", "DELETE", "OPTIONS", "TRACE", "HEAD", "BREW"])
        headers = _headers(draw, draw.choice(credentials))
        yield Request(method, path, _body(draw), headers)


def _headers(draw: random.Random, credential: str | None) -> dict[str, str]:
    headers = {"Content-Type": draw.choice(MEDIA_TYPES)}
    if credential is not None:
        headers["Authorization"] = f"Bearer {credential}"
    match draw.randrange(6):
        case 0:
            schemes = ("", "Bearer", "Bearer ", "Basic YTpi", "bearer x y", "Bearer " + "x" * 9000)
            headers["Authorization"] = draw.choice(schemes)
        case 1 if credential:
            place = draw.randrange(len(credential))
            headers["Authorization"] = (
                f"Bearer {credential[:place]}{draw.choice('!.x0')}{credential[place + 1 :]}"
            )
        case 2:
            headers[draw.choice(["X-Request-Id", "Content-Digest", "If-None-Match", "Range"])] = (
                "x" * draw.randint(0, 500)
            )
    return headers


def _body(draw: random.Random) -> bytes:
    if draw.random() < 0.4:
        return draw.choice(RAW)
    content = {draw.choice(FIELDS): draw.choice(VALUES) for _ in range(draw.randint(0, 6))}
    return json.dumps(content).encode()
