"""A small OpenID provider on this machine: it tells of itself and its keys over HTTP, and signs with joserfc."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey

Key = RSAKey | ECKey


def rsa_key(name: str) -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": name, "use": "sig", "alg": "RS256"})


def ec_key(name: str) -> ECKey:
    return ECKey.generate_key("P-256", {"kid": name, "use": "sig", "alg": "ES256"})


@dataclass
class Provider:
    """A running provider; `keys` are those that it publishes, the first signs."""

    url: str
    keys: list[Key]
    asked: list[str] = field(default_factory=list)
    claimed_issuer: str | None = None
    is_down: bool = False

    def token(self, claims: dict[str, Any], key: Key | None = None, **header: Any) -> str:
        """Return a token with exactly these claims."""
        key = key or self.keys[0]
        facts = {"alg": key.alg, "kid": key.kid} | header
        return jwt.encode(facts, claims, key, algorithms=[facts["alg"]])

    def answer(self, path: str) -> dict[str, Any] | None:
        self.asked.append(path)
        if self.is_down:
            return None
        if path == "/.well-known/openid-configuration":
            return {"issuer": self.claimed_issuer or self.url, "jwks_uri": f"{self.url}/keys"}
        return dict(KeySet(self.keys).as_dict(private=False)) if path == "/keys" else None


@contextmanager
def providing(*keys: Key) -> Iterator[Provider]:
    """Run a provider with these keys."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = provider.answer(self.path)
            self.send_response(200 if content is not None else 503)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider = Provider(f"http://127.0.0.1:{server.server_port}", list(keys))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
