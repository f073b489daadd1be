"""A coordinator with something to see in it, really listening, and a real Chromium to see it with."""

import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Browser, Page, expect, sync_playwright
from tests.server.harness import ADMIN_TOKEN, Coordinator, running, settings_for
from tests.ui.scenery import furnish

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 60_000
"""How long a page may take to do what it must; a busy machine takes long over the API's own pages."""
expect.set_options(timeout=PATIENCE_MS)
EXPECTED = ("[object Event]", "status of 422 (Unprocessable Entity)")
"""htmx logs the bare event when a page is left and its event stream cut off; 422 is a form to be mended."""


@dataclass(frozen=True)
class Place:
    """A coordinator, driven from the test, and where a browser finds it."""

    coordinator: Coordinator
    url: str


@pytest.fixture
def furnished(tmp_path: Path) -> Iterator[Coordinator]:
    with running(settings_for(tmp_path / "data")) as coordinator:
        furnish(coordinator)
        yield coordinator


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with running(settings_for(tmp_path_factory.mktemp("ui"))) as coordinator:
        furnish(coordinator)
        with listening(coordinator.http.app) as url:  # type: ignore[arg-type]
            yield Place(coordinator, url)


def find_chromium() -> str | None:
    """Return where the browser is."""
    return os.environ.get("TEST_CHROMIUM") or shutil.which("chromium")


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """Serve an application whose lifespan runs already, and yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    config = uvicorn.Config(app, port=port, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(20)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium; where CI has none, that is a failure and no reason to skip.

    Playwright keeps an event loop running in this thread as long as it lives, which no other module can do with.
    """
    executable = find_chromium()
    if executable is None:
        message = "no Chromium: install the Debian package `chromium` or set TEST_CHROMIUM"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(params=[(1280, 900), (390, 844)], ids=["wide", "narrow"])
def page(request: pytest.FixtureRequest, browser: Browser, place: Place) -> Iterator[Page]:
    """A signed-in page; whatever it complains about fails the test."""
    yield from signed_in(browser, place, request.param)


@pytest.fixture
def wide_page(browser: Browser, place: Place) -> Iterator[Page]:
    yield from signed_in(browser, place, (1280, 900))


def signed_in(browser: Browser, place: Place, size: tuple[int, int]) -> Iterator[Page]:
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, base_url=place.url, bypass_csp=False
    )
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    complaints: list[str] = []
    page.on(
        "console",
        lambda message: (
            complaints.append(message.text)
            if message.type == "error" and not message.text.endswith(EXPECTED)
            else None
        ),
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda sent: None if sent.url.startswith((place.url, "data:")) else complaints.append(sent.url),
    )
    sign_in(page)
    yield page
    context.close()
    assert not complaints, complaints


def sign_in(page: Page) -> None:
    page.goto("/ui")
    page.get_by_label("Admin token").fill(ADMIN_TOKEN)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/ui/federations")
