"""The pictures of the web page that the documentation shows: `make screenshots`."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tests.server.conftest import CHECKOUT, Server, until

WIDTH, HEIGHT = 1200, 900


def surface(page: Page) -> None:
    page.wait_for_selector(".cells rect")


def curve(page: Page) -> None:
    page.get_by_label("Vary").select_option("bill_length_mm")
    page.wait_for_selector(".series")


PICTURES = [
    ("page-models", "/", "light", lambda page: page.wait_for_selector("table")),
    ("page-model", "/#/models/penguins", "light", curve),
    ("page-model-dark", "/#/models/rings", "dark", surface),
]


def take(server: Server, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, path, scheme, wait in PICTURES:
            context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme)
            page = context.new_page()
            page.goto(f"http://127.0.0.1:{server.port}{path}")
            wait(page)
            page.wait_for_timeout(2500)  # the traffic is looked at every two seconds
            picture = folder / f"{name}.png"
            page.screenshot(path=picture, full_page=True)
            colours = Image.open(picture).convert("RGB").quantize(128, dither=Image.Dither.NONE)
            colours.save(picture, optimize=True)
            context.close()
        browser.close()


if __name__ == "__main__":
    repository = Path(os.environ.get("ROWCAST_REPOSITORY") or CHECKOUT / "models/published")
    with tempfile.TemporaryDirectory() as scratch:
        server = Server(repository.absolute(), Path(scratch) / "server.log")
        try:
            until(server.is_ready, what="ready")
            take(server, Path(sys.argv[1]))
        finally:
            server.close()
