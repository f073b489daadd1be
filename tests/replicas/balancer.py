"""What stands before replicas in production, as far as sites can tell: connections go to whichever takes them."""

import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from typing import Self

_CHUNK_BYTES = 2**16
_CONNECT_SECONDS = 1.0


class Balancer:
    """Passes connections on to the first port that takes them, beginning with another one each time."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = list(ports)
        self._turn = count()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                site, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(site,), daemon=True).start()

    def _serve(self, site: socket.socket) -> None:
        replica = self._connect()
        if replica is None:
            site.close()
            return
        back = threading.Thread(target=_pump, args=(replica, site), daemon=True)
        back.start()
        _pump(site, replica)
        back.join()
        site.close()
        replica.close()

    def _connect(self) -> socket.socket | None:
        first = next(self._turn)
        for offset in range(len(self._ports)):
            port = self._ports[(first + offset) % len(self._ports)]
            with suppress(OSError):
                connection = socket.create_connection(("127.0.0.1", port), timeout=_CONNECT_SECONDS)
                connection.settimeout(None)
                return connection
        return None


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while chunk := source.recv(_CHUNK_BYTES):
            target.sendall(chunk)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
