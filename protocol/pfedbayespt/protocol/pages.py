"""Lists come in pages: pass `next_cursor` back as `cursor` until it is null."""

from typing import Annotated, Generic, TypeVar

from pydantic import Field

from pfedbayespt.protocol._base import Message

Item = TypeVar("Item", bound=Message)
PageSize = Annotated[int, Field(ge=1, le=200)]


class Page(Message, Generic[Item]):
    """One page of a list, oldest first unless the operation says otherwise."""

    items: tuple[Item, ...]
    next_cursor: str | None
