"""Fixtures of the conformance kit; pytest finds them by the entry point `pfedbayespt`.

What they need is imported when a test asks for it, so that the plug-in costs other tests nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pfedbayespt.testing.coordinator import FakeCoordinator

pytest.register_assert_rewrite("pfedbayespt.testing.conformance")


@pytest.fixture
def fake_coordinator() -> Iterator["Callable[..., FakeCoordinator]"]:
    """A function that starts a `FakeCoordinator`, given what a `FakeFederation` is; it ends with the test."""
    from pfedbayespt.testing.coordinator import FakeCoordinator
    from pfedbayespt.testing.federation import FakeFederation

    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(
            FakeCoordinator(FakeFederation(*arguments, **options))
        )
