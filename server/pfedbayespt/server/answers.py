"""What became of a request, for whoever counts, logs or traces it."""

import time

from starlette.types import Message, Send


class Answer:
    """Sends an answer on, message by message, and notes its status and when its last byte was out.

    What is done after the last byte is not the caller's time.

    Attributes:
        status_code: 0 as long as there is none.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._begun = time.perf_counter()
        self._ended: float | None = None
        self.status_code = 0

    async def send(self, message: Message) -> None:
        """Send one message on."""
        if message["type"] == "http.response.start":
            self.status_code = message["status"]
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._ended = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Return the time from the request to the last byte, or until now if that is not out."""
        return (self._ended or time.perf_counter()) - self._begun
