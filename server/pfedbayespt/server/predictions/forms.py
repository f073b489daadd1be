"""The three forms of a prediction request, read into one.

    image/jpeg, image/png, image/webp   the body is the file; options are query parameters
    multipart/form-data                 one file part, `image`; options are query parameters
    application/json                    a `PredictionRequest`; options are its fields

What the image really is, its bytes decide when they are decoded, not its media type.
"""

from typing import Final

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from pfedbayespt.protocol import PredictionOptions, PredictionRequest
from pfedbayespt.server.errors import BodyTooLarge, InvalidRequest, UnsupportedMediaType

IMAGE_TYPES: Final = ("image/jpeg", "image/png", "image/webp")
JSON_TYPE: Final = "application/json"
FORM_TYPE: Final = "multipart/form-data"
IMAGE_PART: Final = "image"
_ENVELOPE_BYTES: Final = 64 * 1024


def max_body_bytes(max_image_bytes: int) -> int:
    """Return how large a body may be that holds an image in any of the forms; base64 takes a third more."""
    return max_image_bytes * 4 // 3 + _ENVELOPE_BYTES


async def read_request(
    request: Request, options: PredictionOptions, max_image_bytes: int
) -> PredictionRequest:
    """Return what the request asks for.

    Raises:
        UnsupportedMediaType: the body has none of the three forms.
        InvalidRequest, RequestValidationError: it has one, but is malformed.
        BodyTooLarge: the image is larger than `max_image_bytes`.
    """
    try:
        asked = await _read(request, options)
    except ClientDisconnect as error:
        raise InvalidRequest("the client went away before the end of the body") from error
    if len(asked.image) > max_image_bytes:
        raise BodyTooLarge(f"the image has {len(asked.image)} bytes; allowed: {max_image_bytes}")
    return asked


async def _read(request: Request, options: PredictionOptions) -> PredictionRequest:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type in IMAGE_TYPES:
        return _with_image(options, await request.body())
    if media_type == FORM_TYPE:
        return _with_image(options, await _image_part(request))
    if media_type == JSON_TYPE:
        return _parsed(request, await request.body())
    allowed = ", ".join((*IMAGE_TYPES, JSON_TYPE, FORM_TYPE))
    raise UnsupportedMediaType(f"the body's media type is {media_type!r}; allowed: {allowed}")


def _with_image(options: PredictionOptions, image: bytes) -> PredictionRequest:
    return PredictionRequest(image=image, **options.model_dump())


def _parsed(request: Request, body: bytes) -> PredictionRequest:
    if request.query_params:
        raise InvalidRequest("a JSON body holds the options itself; send no query parameters with it")
    try:
        return PredictionRequest.model_validate_json(body)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        raise RequestValidationError(
            [{**fault, "loc": ("body", *fault["loc"])} for fault in faults]
        ) from error


async def _image_part(request: Request) -> bytes:
    try:
        async with request.form(max_files=1, max_fields=0) as form:
            part = form.get(IMAGE_PART)
            if isinstance(part, UploadFile):
                return await part.read()
    except HTTPException as error:
        raise InvalidRequest(
            f"send one file part named {IMAGE_PART!r} and no other: {error.detail}"
        ) from error
    raise InvalidRequest(f"the form has no file part named {IMAGE_PART!r}")
