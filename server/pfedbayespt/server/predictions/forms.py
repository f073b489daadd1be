"""The three forms of a prediction request, read into one.

    image/jpeg, image/png, image/webp   the body is the file; options are query parameters
    multipart/form-data                 one file part, `image`; options are query parameters
    application/json                    a `PredictionRequest`; options are its fields

A batch has the last two forms: several file parts `image`, or a `BatchRequest`.

What the image really is, its bytes decide when they are decoded, not its media type.
"""

from collections.abc import Sequence
from typing import Final, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from pfedbayespt.protocol import BatchRequest, PredictionOptions, PredictionRequest
from pfedbayespt.server.errors import BodyTooLarge, InvalidRequest, UnsupportedMediaType

IMAGE_TYPES: Final = ("image/jpeg", "image/png", "image/webp")
JSON_TYPE: Final = "application/json"
FORM_TYPE: Final = "multipart/form-data"
IMAGE_PART: Final = "image"
_ENVELOPE_BYTES: Final = 64 * 1024
_CUT_OFF: Final = "the client went away before the end of the body"
Options = TypeVar("Options", bound=PredictionOptions)


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
        raise InvalidRequest(_CUT_OFF) from error
    if len(asked.image) > max_image_bytes:
        raise BodyTooLarge(f"the image has {len(asked.image)} bytes; allowed: {max_image_bytes}")
    return asked


async def read_batch(
    request: Request, options: PredictionOptions, max_images: int
) -> list[PredictionRequest]:
    """Return what a request for several predictions asks for, one by one, however large each image is.

    Raises:
        UnsupportedMediaType: the body has neither of the two forms.
        InvalidRequest, RequestValidationError: it has one, but is malformed or holds too many images.
    """
    try:
        images, options = await _read_batch(request, options, max_images)
    except ClientDisconnect as error:
        raise InvalidRequest(_CUT_OFF) from error
    if len(images) > max_images:
        raise InvalidRequest(f"the batch has {len(images)} images; allowed: {max_images}")
    return [_with_image(options, image) for image in images]


async def _read_batch(
    request: Request, options: PredictionOptions, max_images: int
) -> tuple[Sequence[bytes], PredictionOptions]:
    media_type = _media_type(request)
    if media_type == FORM_TYPE:
        return await _image_parts(request, max_images), options
    if media_type == JSON_TYPE:
        asked = _parsed(request, await request.body(), BatchRequest)
        return asked.images, PredictionOptions(**asked.model_dump(exclude={"images"}))
    raise UnsupportedMediaType(f"the body's media type is {media_type!r}; allowed: {JSON_TYPE}, {FORM_TYPE}")


async def _read(request: Request, options: PredictionOptions) -> PredictionRequest:
    media_type = _media_type(request)
    if media_type in IMAGE_TYPES:
        return _with_image(options, await request.body())
    if media_type == FORM_TYPE:
        (image,) = await _image_parts(request, 1)
        return _with_image(options, image)
    if media_type == JSON_TYPE:
        return _parsed(request, await request.body(), PredictionRequest)
    allowed = ", ".join((*IMAGE_TYPES, JSON_TYPE, FORM_TYPE))
    raise UnsupportedMediaType(f"the body's media type is {media_type!r}; allowed: {allowed}")


def _with_image(options: PredictionOptions, image: bytes) -> PredictionRequest:
    return PredictionRequest(image=image, **options.model_dump())


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _parsed(request: Request, body: bytes, kind: type[Options]) -> Options:
    if request.query_params:
        raise InvalidRequest("a JSON body holds the options itself; send no query parameters with it")
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        raise RequestValidationError(
            [{**fault, "loc": ("body", *fault["loc"])} for fault in faults]
        ) from error


async def _image_parts(request: Request, max_images: int) -> list[bytes]:
    """Return the content of the file parts, of which there is at least one."""
    try:
        async with request.form(max_files=max_images, max_fields=0) as form:
            parts = [part for name, part in form.multi_items() if name == IMAGE_PART]
            images = [await part.read() for part in parts if isinstance(part, UploadFile)]
            if images and len(images) == len(form.multi_items()):
                return images
    except HTTPException as error:
        raise InvalidRequest(
            f"send file parts named {IMAGE_PART!r}, at most {max_images}, and no other: {error.detail}"
        ) from error
    raise InvalidRequest(f"send file parts named {IMAGE_PART!r}, at most {max_images}, and no other")
