"""A tiny real ASGI app that gives scripted answers and remembers what it was asked."""

import json
from dataclasses import dataclass, field
from typing import Any

from pfedbayespt.protocol import PROBLEM_MEDIA_TYPE, ProblemType


@dataclass(frozen=True)
class Scripted:
    """One answer."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """One request, as it arrived."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


def problem(kind: ProblemType, detail: str = "because", **headers: str) -> Scripted:
    """An answer with a problem document."""
    document = {"type": kind.urn, "title": kind.title, "status": kind.status, "detail": detail}
    return Scripted(
        kind.status, json.dumps(document).encode(), {"content-type": PROBLEM_MEDIA_TYPE, **headers}
    )


class ScriptedApp:
    """Gives the answers in order, the last one for ever."""

    def __init__(self, *answers: Scripted) -> None:
        self.answers = list(answers)
        self.asked: list[Asked] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        path = scope["raw_path"].decode()
        self.asked.append(Asked(scope["method"], path, scope["query_string"].decode(), headers, body))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in answer.headers.items()]
        raw.append((b"content-length", str(len(answer.body)).encode()))
        await send({"type": "http.response.start", "status": answer.status, "headers": raw})
        await send({"type": "http.response.body", "body": answer.body})

    async def _live(self, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
