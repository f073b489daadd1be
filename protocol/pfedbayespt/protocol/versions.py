"""Which wire contract a side speaks, so that two releases that would misunderstand each other say so instead.

Rules:
1. `PROTOCOL_VERSION` grows when a side that knows only the old contract could misunderstand the new one. New fields
   in answers and new operations do not count: they are ignored or not used.
2. The SDK sends the header with every request and the coordinator with every answer. Whoever meets another version
   than its own refuses with `protocol_mismatch`. Callers without the header, such as curl, are served.
"""

PROTOCOL_HEADER = "Pfedbayespt-Protocol"
PROTOCOL_VERSION = "1"


def mismatch(mine: str, theirs: str, me: str, them: str) -> str | None:
    """Return what to tell about two different versions; None if they are the same.

    Args:
        mine: the version that this side speaks.
        theirs: what the other side's header says.
        me: this side's name.
        them: the other side's.
    """
    if mine == theirs:
        return None
    advice = "use releases of the same protocol version"
    if mine.isdigit() and theirs.isdigit():
        older = me if int(mine) < int(theirs) else them
        advice = f"upgrade {older}: pip install --upgrade pfedbayespt"
    return f"{me} speaks protocol {mine}, {them} protocol {theirs[:20]!r}; {advice}"
