"""Pages from templates, and the headers that keep them to this host.

The policy allows scripts, styles and connections of this host alone, and nothing inline: whatever text a site or a
caller managed to bring into a page, it cannot run there.
"""

import json
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final

from fastapi import Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response

_NONE: Final = "\N{EN DASH}"
_FOLDER: Final = Path(__file__).parent
STATIC: Final = _FOLDER / "static"
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def page(request: Request, template: str, status: int = 200, **facts: Any) -> HTMLResponse:
    """Return the page that `template` makes of `facts`; the signed-in admin's session is there as `session`."""
    session = getattr(request.state, "session", None)
    text = _templates().get_template(template).render(session=session, path=request.url.path, **facts)
    return HTMLResponse(text, status, headers=HEADERS)


def redirect(to: str) -> Response:
    """Send the browser to another page of ours, with GET."""
    return Response(status_code=303, headers={"Location": to, **HEADERS})


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "moment": moment,
        "span": span,
        "size": size,
        "short": short,
        "number": number,
        "json": to_json,
        "plain": plain,
    }
    return environment


def moment(time: datetime | None) -> str:
    """Return a time as people read it, UTC."""
    return "never" if time is None else f"{time:%Y-%m-%d %H:%M:%S}"


def span(duration: timedelta | None) -> str:
    """Return a duration in its two largest units."""
    if duration is None:
        return _NONE
    seconds = max(0.0, duration.total_seconds())
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def size(num_bytes: int) -> str:
    """Return a number of bytes in a unit that fits."""
    amount, units = float(num_bytes), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount /= 1024
        units.pop(0)
    return f"{amount:.0f} {units[0]}" if units[0] == "B" else f"{amount:.1f} {units[0]}"


def short(identifier: str, length: int = 10) -> str:
    """Return the beginning of a digest or id."""
    kind, _, rest = identifier.partition(":") if ":" in identifier else ("", "", identifier)
    return rest[:length] if kind else identifier[: length + 4]


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with as many decimals, a dash for none."""
    return _NONE if value is None else f"{value:.{digits}f}"


def plain(value: object) -> str:
    """Return a detail of an event as people read it: numbers rounded, digests short."""
    match value:
        case float():
            return f"{value:.4g}"
        case dict():
            return ", ".join(f"{key} {plain(part)}" for key, part in value.items())
        case list() | tuple():
            return ", ".join(map(plain, value))
        case str() if value.startswith("sha256:"):
            return f"{value[:19]}\N{HORIZONTAL ELLIPSIS}"
    return str(value)


def to_json(value: object) -> str:
    """Return JSON for a data attribute; the template escapes it."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"))
