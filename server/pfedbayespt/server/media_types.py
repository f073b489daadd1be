"""The media type of tensor files."""

from collections.abc import Mapping
from typing import Final

from pfedbayespt.server.errors import UnsupportedMediaType

TENSOR_MEDIA_TYPE: Final = "application/vnd.safetensors"


def require_tensor_file(headers: Mapping[str, str]) -> None:
    """Return if `headers` (lower-case names) announce a tensor file.

    Raises:
        UnsupportedMediaType: they announce something else, or nothing.
    """
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != TENSOR_MEDIA_TYPE:
        raise UnsupportedMediaType(f"the body's media type is {media_type!r}; allowed: {TENSOR_MEDIA_TYPE}")
