"""A real server and a real Chromium, one of each for the tests of a file, and a clean console after every test."""

import re
import shutil

import pytest

from models.repository import Repository
from tests.browser import hostile
from tests.server.conftest import PATIENT, START_S, Server, until
from tests.service import tiny

CHROMIUM = shutil.which("chromium")
PATIENCE_MS = 1000 * START_S  # what is waited for comes at once, where nobody else wants the processor


def pytest_collection_modifyitems(items):
    missing = pytest.mark.skip(reason="chromium comes with Debian's package of that name")
    for item in items:
        if "tests/browser" in item.path.as_posix():
            item.add_marker(pytest.mark.server)
            if CHROMIUM is None:
                item.add_marker(missing)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A server of line 1 to 3 (3 is refused; labels stable and canary), pair, flowers, coin and hostile."""
    root = tmp_path_factory.mktemp("published")
    for name in ("line", "line", "pair", "flowers", "coin"):
        tiny.publish(root, name)
    tiny.publish(root, "line", model=b"no graph")
    Repository(root).set_label("line", "stable", 1)
    Repository(root).set_label("line", "canary", 2)
    with pytest.MonkeyPatch.context() as monkeypatch:
        hostile.publish(root, monkeypatch)
    yield from serving(root, tmp_path_factory)


@pytest.fixture(scope="module")
def locked_site(tmp_path_factory):
    """A server of `line` that wants a key."""
    root = tmp_path_factory.mktemp("published")
    tiny.publish(root, "line")
    yield from serving(root, tmp_path_factory, api_key="correct horse")


def serving(root, tmp_path_factory, **settings):
    server = Server(root, tmp_path_factory.mktemp("log") / "server.log", **PATIENT, **settings)
    server.root = root
    until(server.is_ready, what="ready")
    yield server
    server.close()


@pytest.fixture(scope="module")
def browser():
    # imported here: its event loop lives as long as this fixture, and other tests have loops of their own
    from playwright.sync_api import expect, sync_playwright  # noqa: PLC0415

    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=PATIENCE_MS)
        yield browser
        browser.close()


class Tab:
    """A tab of its own: `page` is Playwright's; `expected` are console errors that the test causes on purpose."""

    def __init__(self, context, server) -> None:
        self.page = context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.server = server
        self.expected = []
        self.said = []
        self.asked, self.answered = [], []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(f"dialog: {dialog.message}"))
        context.on("request", lambda request: self.asked.append(request.url))
        context.on("response", lambda response: self.answered.append(response.url))

    def open(self, path="/"):
        self.page.goto(f"http://127.0.0.1:{self.server.port}{path}")
        return self.page

    def check(self):
        """Nothing went wrong, nothing was blocked, nobody else was asked, no name did anything."""
        unexpected = [said for said in self.said if not any(re.search(known, said) for known in self.expected)]
        assert unexpected == []
        here = f"http://127.0.0.1:{self.server.port}/"
        assert [url for url in self.asked if not url.startswith((here, "data:", "blob:", "about:"))] == []
        assert self.page.evaluate("window.hacked ?? null") is None


@pytest.fixture
def tab(browser, site):
    yield from tab_of(browser, site)


@pytest.fixture
def locked(browser, locked_site):
    yield from tab_of(browser, locked_site)


def tab_of(browser, server):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab = Tab(context, server)
    yield tab
    tab.check()
    context.close()
