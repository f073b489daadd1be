"""Pages: keyset pagination, so that a page costs the same wherever it is and nothing is skipped or repeated.

A cursor is the sort key of the last row, in URL-safe base64; it is opaque to callers.
"""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, TypeVar

from fastapi import Depends, Query
from sqlalchemy import Select, literal, tuple_
from sqlalchemy.orm import InstrumentedAttribute

from pfedbayespt.protocol import Message as WireMessage
from pfedbayespt.protocol import Page, PageSize
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.errors import InvalidRequest

Row = TypeVar("Row")
Item = TypeVar("Item", bound=WireMessage)
DEFAULT_PAGE_SIZE = 50
_LARGEST_INTEGER = 2**63 - 1


@dataclass(frozen=True)
class PageRequest:
    """Which page a caller asks for."""

    cursor: str | None = None
    limit: int = DEFAULT_PAGE_SIZE


async def _page_request(
    cursor: Annotated[
        str | None, Query(max_length=500, description="The `next_cursor` of the page before.")
    ] = None,
    limit: Annotated[PageSize, Query(description="Items per page.")] = DEFAULT_PAGE_SIZE,
) -> PageRequest:
    return PageRequest(cursor, limit)


PageDep = Annotated[PageRequest, Depends(_page_request)]
OfStatus: Final = Query(description="Those of this status alone.")


@dataclass(frozen=True)
class Order:
    """The columns that sort a list; together they are unique."""

    columns: tuple[InstrumentedAttribute[Any], ...]
    newest_first: bool = False


def matching(query: Select[Row], **wanted: Any) -> Select[Row]:
    """Return the query for those rows of its ORM class that have these values; None: any value."""
    return query.filter_by(**{name: value for name, value in wanted.items() if value is not None})


def fetch_page(
    tx: Transaction,
    query: Select[Row],
    order: Order,
    request: PageRequest,
    to_message: Callable[[Sequence[Row]], Sequence[Item]],
) -> Page[Item]:
    """Return the requested page of `query`, which must select one ORM class that has the order's columns.

    Raises:
        InvalidRequest: the cursor is not one that this list gave out.
    """
    if request.cursor is not None:
        query = query.where(_beyond(order, _decode(request.cursor, order)))
    direction = [column.desc() if order.newest_first else column.asc() for column in order.columns]
    rows = tx.session.scalars(query.order_by(*direction).limit(request.limit + 1)).all()
    page, more = rows[: request.limit], len(rows) > request.limit
    return Page(items=tuple(to_message(page)), next_cursor=_encode(page[-1], order) if more else None)


def _beyond(order: Order, key: list[Any]) -> Any:
    columns = tuple_(*order.columns)
    values = tuple_(*(literal(value, column.type) for value, column in zip(key, order.columns, strict=True)))
    return columns < values if order.newest_first else columns > values


def _encode(row: object, order: Order) -> str:
    values = [getattr(row, column.key) for column in order.columns]
    plain = [value.isoformat() if isinstance(value, datetime) else value for value in values]
    return base64.urlsafe_b64encode(json.dumps(plain).encode()).decode()


def _decode(cursor: str, order: Order) -> list[Any]:
    try:
        plain = json.loads(base64.b64decode(cursor, altchars=b"-_", validate=True))
        return [
            _parse(value, column.type.python_type) for value, column in zip(plain, order.columns, strict=True)
        ]
    except (binascii.Error, ValueError, TypeError, UnicodeDecodeError) as error:
        raise InvalidRequest("cursor is not one that this list gave out; pass back `next_cursor`") from error


def _parse(value: object, kind: type) -> object:
    """Return a part of a sort key; whatever a database would choke on is not one."""
    match value:
        case str() if kind is datetime and (moment := datetime.fromisoformat(value)).tzinfo is not None:
            return moment
        case str() if kind is str and value.isprintable():
            return value
        case int() if kind is int and 0 <= value <= _LARGEST_INTEGER:
            return value
    raise ValueError(value)
