"""Limits on bodies: too much or too slow is refused as such, whatever the application makes of it."""

import asyncio
import json
import re
import socket
import threading
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request, UploadFile
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pfedbayespt.server.errors import BodyTooLarge, CoordinatorError
from pfedbayespt.server.limits import BodyLimit, BodyLimits, BodyRule

DEFAULT = BodyLimit(max_bytes=100, deadline_seconds=60.0)
LARGE = BodyLimit(max_bytes=1000, deadline_seconds=60.0)
NEVER = BodyLimit(max_bytes=100, deadline_seconds=0.05)


class Text(BaseModel):
    text: str


def render(scope: Scope, error: CoordinatorError) -> Response:
    body = {"type": error.problem.urn, "detail": error.detail, "path": scope["path"]}
    return JSONResponse(body, status_code=error.problem.status)


def make_app(seen: list[str] | None = None) -> FastAPI:
    app = FastAPI()
    seen = [] if seen is None else seen

    @app.post("/json")
    def take_json(text: Text) -> int:
        seen.append("json")
        return len(text.text)

    @app.post("/form")
    def take_form(image: UploadFile) -> int:
        seen.append("form")
        return image.size or 0

    @app.post("/stream")
    @app.put("/large/{name}")
    async def take_stream(request: Request) -> int:
        return sum([len(chunk) async for chunk in request.stream()])

    @app.post("/careless")
    async def take_carelessly(request: Request) -> str:
        try:
            await request.body()
        except CoordinatorError:
            return "never mind"
        return "fine"

    return app


def guarded(app: ASGIApp, default: BodyLimit = DEFAULT) -> BodyLimits:
    rules = [BodyRule(re.compile(r"/large/[a-z]+"), LARGE)]
    return BodyLimits(app, render=render, default=default, rules=rules)


async def chunked(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def post(path: str, method: str = "POST", **options: object) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(guarded(make_app()))
        async with httpx.AsyncClient(transport=transport, base_url="http://coordinator") as client:
            return await client.request(method, path, **options)  # type: ignore[arg-type]

    return asyncio.run(ask())


def is_too_large(response: httpx.Response) -> bool:
    problem = response.json()
    return response.status_code == 413 and problem["type"] == "urn:pfedbayespt:problem:body_too_large"


# Size


@pytest.mark.parametrize("size", [0, 1, 99, 100])
def test_a_body_up_to_the_limit_passes(size: int) -> None:
    assert post("/stream", content=b"x" * size).json() == size
    assert post("/stream", content=chunked(*[b"x"] * size)).json() == size


@pytest.mark.parametrize("size", [101, 10_000])
def test_a_larger_body_is_refused_announced_or_not(size: int) -> None:
    for content in (b"x" * size, chunked(*[b"x"] * size), chunked(b"x" * size)):
        response = post("/stream", content=content)
        assert is_too_large(response)
        assert response.json()["detail"] == "the body is too large; allowed: 100 bytes"
        assert response.headers["connection"] == "close"


def test_a_large_json_body_is_refused_as_large_not_as_malformed() -> None:
    body = json.dumps({"text": "x" * 100}).encode()
    assert is_too_large(post("/json", content=body))
    assert is_too_large(post("/json", content=chunked(body), headers={"content-type": "application/json"}))
    assert post("/json", json={"text": "x" * 80}).json() == 80


def test_a_large_form_is_refused_before_it_is_spooled() -> None:
    assert is_too_large(post("/form", files={"image": b"x" * 100}))
    boundary = {"content-type": "multipart/form-data; boundary=b"}
    form = b'--b\r\nContent-Disposition: form-data; name="image"; filename="i"\r\n\r\n' + b"x" * 100
    assert is_too_large(post("/form", content=chunked(form), headers=boundary))


def test_the_answer_of_an_application_that_hides_the_refusal_is_replaced() -> None:
    assert is_too_large(post("/careless", content=chunked(b"x" * 101)))
    assert post("/careless", content=b"x").json() == "fine"


def test_a_route_of_its_own_limit_is_matched_by_its_whole_path() -> None:
    assert post("/large/one", "PUT", content=b"x" * 1000).json() == 1000
    assert is_too_large(post("/large/one", "PUT", content=b"x" * 1001))
    assert is_too_large(post("/large/one/", "PUT", content=b"x" * 101))


def test_requests_without_a_body_pass() -> None:
    assert post("/stream", "GET").status_code == 405
    assert post("/nowhere").status_code == 404


def test_a_malformed_length_is_left_to_the_count() -> None:
    headers = {"content-length": "many"}
    assert post("/stream", content=chunked(b"x"), headers=headers).json() == 1
    assert is_too_large(post("/stream", content=chunked(b"x" * 101), headers=headers))
    assert is_too_large(post("/stream", content=b"", headers={"content-length": "9" * 5000}))


def test_the_application_is_not_asked_about_a_body_announced_too_large() -> None:
    seen: list[str] = []

    async def ask() -> None:
        transport = httpx.ASGITransport(guarded(make_app(seen)))
        async with httpx.AsyncClient(transport=transport, base_url="http://coordinator") as client:
            await client.post("/json", json={"text": "x" * 100})

    asyncio.run(ask())
    assert seen == []


# Time


def exchange(
    app: ASGIApp, path: str, incoming: list[Message], limit: BodyLimit, sent: list[Message] | None = None
) -> list[Message]:
    """Call the application with messages of which the last is never followed by another one."""
    sent = [] if sent is None else sent

    async def receive() -> Message:
        if incoming:
            return incoming.pop(0)
        return await asyncio.get_running_loop().create_future()

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}
    asyncio.run(guarded(app, limit)(scope, receive, send))
    return sent


@pytest.mark.parametrize("path", ["/stream", "/json", "/careless"])
@pytest.mark.parametrize("first", [[], [{"type": "http.request", "body": b"{", "more_body": True}]])
def test_a_body_that_stops_arriving_is_refused(path: str, first: list[Message]) -> None:
    start, body = exchange(make_app(), path, list(first), NEVER)
    assert start["status"] == 408
    problem = json.loads(body["body"])
    assert problem["type"] == "urn:pfedbayespt:problem:body_timeout"
    assert "within 0.05 seconds" in problem["detail"]


def test_an_answer_that_was_begun_is_not_replaced() -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await receive()

    too_much: list[Message] = [{"type": "http.request", "body": b"x" * 101, "more_body": True}]
    sent: list[Message] = []
    with pytest.raises(BodyTooLarge):
        exchange(echo, "/", too_much, DEFAULT, sent)
    assert [message["type"] for message in sent] == ["http.response.start"]


def test_a_slow_application_is_not_a_slow_body() -> None:
    app = FastAPI()

    @app.post("/")
    async def think(request: Request) -> str:
        await asyncio.sleep(2 * NEVER.deadline_seconds)
        body = await request.body()
        await asyncio.sleep(2 * NEVER.deadline_seconds)
        assert not await request.is_disconnected()
        return body.decode()

    complete: list[Message] = [{"type": "http.request", "body": b"thought", "more_body": False}]
    start, body = exchange(app, "/", complete, NEVER)
    assert (start["status"], body["body"]) == (200, b'"thought"')


def test_waiting_for_the_client_after_its_body_has_no_deadline() -> None:
    async def wait_for_the_end(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["body"] == b"all"
        kind = (await receive())["type"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": kind.encode()})

    incoming: list[Message] = [{"type": "http.request", "body": b"all", "more_body": False}]

    async def receive() -> Message:
        if incoming:
            return incoming.pop()
        await asyncio.sleep(2 * NEVER.deadline_seconds)
        return {"type": "http.disconnect"}

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b""}
    asyncio.run(guarded(wait_for_the_end, NEVER)(scope, receive, send))
    assert [message.get("status") or message["body"] for message in sent] == [200, b"http.disconnect"]


def test_an_error_of_the_application_itself_is_passed_on() -> None:
    app = FastAPI()

    @app.post("/")
    async def fail() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        exchange(app, "/", [], DEFAULT)


def test_other_protocols_pass_untouched() -> None:
    seen: list[str] = []

    async def app(scope, receive, send) -> None:
        seen.append(scope["type"])

    asyncio.run(BodyLimits(app, render=render, default=DEFAULT)({"type": "lifespan"}, None, None))
    assert seen == ["lifespan"]


# On a real server


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    limit = BodyLimit(max_bytes=100_000, deadline_seconds=0.2)
    server = uvicorn.Server(uvicorn.Config(guarded(make_app(), limit), port=0, log_level="error"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield listener.getsockname()
        server.should_exit = True
        thread.join()


def answer_to(address: tuple[str, int], *parts: bytes) -> bytes:
    """Send the parts, then read until the server closes the connection."""
    with socket.create_connection(address, timeout=30) as connection:
        for part in parts:
            connection.sendall(part)
        return b"".join(iter(lambda: connection.recv(65536), b""))


HEAD = b"POST /stream HTTP/1.1\r\nHost: coordinator\r\nContent-Length: "


def test_a_client_that_never_finishes_its_body_is_answered_and_cut_off(address: tuple[str, int]) -> None:
    answer = answer_to(address, HEAD + b"1000\r\n\r\n", b"slow")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"body_timeout" in answer


def test_a_client_that_announces_too_much_is_answered_and_cut_off(address: tuple[str, int]) -> None:
    answer = answer_to(address, HEAD + b"100001\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_client_that_sends_without_end_is_answered_and_cut_off(address: tuple[str, int]) -> None:
    head = b"POST /stream HTTP/1.1\r\nHost: coordinator\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    assert answer_to(address, head, *[chunk] * 4).startswith(b"HTTP/1.1 413 ")
