"""What a task costs whoever does it: the keystroke-level model over the actions that a story really plays.

Source of the model and its seconds: Card, Moran and Newell, "The keystroke-level model for user performance time
with interactive systems", Communications of the ACM 23 (7), 1980, pages 396-410.

Rules:
1. While a task is on, Playwright's own methods count: nothing is counted by hand, and no action escapes.
2. In doubt it costs more: a thought before every click, before every text that does not follow its click, after
   every answer and on every screen that is scrolled over; a hand moves whenever mouse and keys take turns; an
   answer takes a whole second.
3. What nobody types, for it comes from elsewhere (a token, a digest, an identifier), is copied and pasted.
4. Text that is there already is edited: each stretch of words that changes is marked with the mouse and typed over.
"""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any, Final

import pytest
from playwright.sync_api import Keyboard, Locator, Mouse, Page, Response

KEY: Final = 0.28
"""Seconds a key, of somebody who types 40 words a minute."""
POINT: Final = 1.1
BUTTON: Final = 0.2
"""To press the mouse's button and to let it go, 0.1 s each."""
HOME: Final = 0.4
"""To move a hand between the keys and the mouse."""
THINK: Final = 1.35
ANSWER: Final = 1.0
"""A page or an answer of the API; the model leaves it to the system, and these take far less on one machine."""
PASTED: Final = 30
"""A word as long as this is pasted."""
COPY_AND_PASTE: Final = 4
"""Keys: two of them twice."""
SHIFTED: Final = re.compile(r'[A-Z_:"{}()<>+*?!]')


@dataclass
class Effort:
    """What one task took, counted."""

    clicks: int = 0
    keys: int = 0
    answers: int = 0
    screens: int = 0
    """Scrolled over."""
    thoughts: int = 0
    moves: int = 0
    """Of a hand, between the keys and the mouse, where it is at first."""
    is_typing: bool = False

    @property
    def seconds(self) -> float:
        """What the model says."""
        hands = self.clicks * (POINT + BUTTON) + (self.keys + self.screens) * KEY + self.moves * HOME
        return hands + self.answers * ANSWER + (self.thoughts + self.answers + self.screens) * THINK

    def click(self, times: int = 1) -> None:
        """Think, point and press."""
        self._reach(is_typing=False)
        self.thoughts += 1
        self.clicks += times

    def press(self, keys: int) -> None:
        """Press keys that were thought of already."""
        self._reach(is_typing=True)
        self.keys += keys

    def type(self, text: str) -> None:
        """Type, or copy it from where it is and paste it; where no click was for this, think first."""
        is_pasted = any(len(word) >= PASTED for word in text.split())
        if is_pasted:
            self.click(2)
        self.thoughts += self.is_typing
        self.press(COPY_AND_PASTE if is_pasted else max(1, len(text) + len(SHIFTED.findall(text))))

    def write(self, old: str, new: str) -> None:
        """Make one text of another."""
        for stretch in _edits(old, new):
            self.click(2 if old else 1)
            self.type(stretch)

    def _reach(self, *, is_typing: bool) -> None:
        self.moves += is_typing != self.is_typing
        self.is_typing = is_typing


def _edits(old: str, new: str) -> list[str]:
    before, after = (re.findall(r"[\w:./-]+|[^\w:./-]+", text) for text in (old, new))
    changes = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    return ["".join(after[start:end]) for kind, _, _, start, end in changes if kind != "equal"]


@dataclass
class Meter:
    """Counts what is done on a page while a task is on."""

    page: Page
    tasks: dict[str, Effort] = field(default_factory=dict)
    """By name; of a task that was done several times, the costliest."""

    @contextmanager
    def task(self, name: str) -> Iterator[None]:
        """Count what is done in this block as the task's."""
        effort = Effort()

        def answered(response: Response) -> None:
            is_waited_for = response.request.resource_type in {"document", "fetch"}
            effort.answers += is_waited_for and not 300 <= response.status < 400

        self.page.on("response", answered)
        with pytest.MonkeyPatch.context() as patch:
            for owner, method, cost in COSTS:
                patch.setattr(owner, method, _told(effort, cost, getattr(owner, method)))
            yield
        self.page.remove_listener("response", answered)
        self.tasks[name] = max(effort, self.tasks.get(name, effort), key=lambda each: each.seconds)


def _clicking(effort: Effort, element: Locator, *, click_count: int = 1) -> None:
    effort.screens += _screens_away(element)
    effort.click(click_count)


def _filling(effort: Effort, element: Locator, text: str) -> None:
    effort.screens += _screens_away(element) + _screens_inside(element)
    effort.write(element.input_value(), text)


def _pressing(effort: Effort, _: Keyboard, key: str) -> None:
    effort.press(len(key.split("+")))


def _typing(effort: Effort, _: Keyboard, text: str) -> None:
    effort.type(text)


def _selecting(effort: Effort, element: Locator, _: str) -> None:
    effort.screens += _screens_away(element)
    effort.click(2)  # the list, and what is wanted of it


def _choosing(effort: Effort, element: Locator, _: object) -> None:
    effort.screens += _screens_away(element)
    for _ in ("the field", "the file", "the dialogue's button"):
        effort.click()


def _refusing(_: Effort, __: object, *words: object, **___: object) -> None:
    raise AssertionError(f"within a task nothing counts this action: {words}")


COSTS: Final[tuple[tuple[type, str, Callable[..., None]], ...]] = (
    (Locator, "click", _clicking),
    (Locator, "fill", _filling),
    (Locator, "select_option", _selecting),
    (Locator, "set_input_files", _choosing),
    (Keyboard, "press", _pressing),
    (Keyboard, "type", _typing),
    (Page, "goto", _refusing),
    *(
        (Locator, name, _refusing)
        for name in ("check", "dblclick", "drag_to", "press", "press_sequentially", "type")
    ),
    *((Keyboard, name, _refusing) for name in ("down", "insert_text")),
    *((Mouse, name, _refusing) for name in ("click", "dblclick", "down")),
)
"""What counts, and how; whatever else acts on a page has no price yet."""


def _told(effort: Effort, cost: Callable[..., None], act: Callable[..., Any]) -> Callable[..., Any]:
    def telling(self: Any, *words: Any, **options: Any) -> Any:
        cost(effort, self, *words, **options)
        return act(self, *words, **options)

    return telling


def _screens_away(element: Locator) -> int:
    """Have an element in the middle of the screen, unless it is in sight, and return how far away it was."""
    box, size = element.bounding_box(), element.page.viewport_size
    assert box
    assert size
    height = size["height"]
    above, below = -box["y"], box["y"] + min(box["height"], height) - height
    if max(above, below) > 0:
        element.evaluate("it => it.scrollIntoView({block: 'center', behavior: 'instant'})")
    return max(0, math.ceil(above / height), math.ceil(below / height))


def _screens_inside(element: Locator) -> int:
    """Return how far a field can be scrolled."""
    hidden: float = element.evaluate(
        "it => it.tagName === 'TEXTAREA' ? it.scrollHeight / it.clientHeight : 1"
    )
    return math.ceil(hidden) - 1
