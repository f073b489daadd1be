"""Sending a tensor file with its digest, so that the coordinator can tell a torn body (RFC 9530)."""

import base64
import hashlib
from collections.abc import Mapping

from pfedbayespt.client.connection import Connection
from pfedbayespt.client.transport import HttpAnswer

TENSOR_FILE_MEDIA_TYPE = "application/vnd.safetensors"


def send_tensor_file(
    connection: Connection, path: str, content: bytes, headers: Mapping[str, str] | None = None
) -> HttpAnswer:
    """PUT `content` to `path`, with further headers."""
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    return connection.send(
        "PUT",
        path,
        body=content,
        media_type=TENSOR_FILE_MEDIA_TYPE,
        headers={"Content-Digest": f"sha-256=:{digest}:", **(headers or {})},
    )
