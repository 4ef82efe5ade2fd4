"""Open every page of the built book in headless Chromium, as wide as a desktop and as narrow as a phone.

A page passes if it opens, shows each of its numbered figures and every image, scrolls sideways nowhere, and writes no
error to the console. Requests that leave this machine are refused and listed. Screenshots go to ``_build/screenshots``,
and the last line counts the pages that passed and failed.
"""

from __future__ import annotations

import functools
import http.server
import re
import shutil
import sys
import threading
from pathlib import Path

import yaml
from playwright.sync_api import Browser, Error, Page, Route, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
SCREENSHOTS = ROOT / "_build" / "screenshots"
WIDTHS = {"desktop": 1280, "phone": 390}
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def main() -> int:
    if not HTML.is_dir():
        sys.exit("error: the book is not built; run make book first")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        sys.exit("error: no Chromium found; on Debian and Ubuntu: apt install chromium")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    passed = failed = 0
    refused: set[str] = set()
    with serve(HTML) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=FLAGS)
        for name in toc_files():
            for view, width in WIDTHS.items():
                problems = check(browser, address, name, view, width, refused)
                print(f"{'FAIL' if problems else 'ok':<5}{name} ({view}, {width} px)", flush=True)
                for problem in problems:
                    print(f"     {problem}")
                passed, failed = passed + (not problems), failed + bool(problems)
        browser.close()
    for url in sorted(refused):
        print(f"refused, because it leaves this machine: {url}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


def toc_files() -> list[str]:
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text(encoding="utf-8"))
    return [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]


class serve:  # noqa: N801 - used like a function
    """Serve a folder on a free port of this machine."""

    def __init__(self, folder: Path):
        handler = functools.partial(QuietHandler, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)

    def __enter__(self) -> str:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *exception) -> None:
        self.server.shutdown()
        self.server.server_close()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments) -> None:
        pass


def check(browser: Browser, address: str, name: str, view: str, width: int, refused: set[str]) -> list[str]:
    """What is wrong with a page at one width."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    problems: list[str] = []

    def only_this_machine(route: Route) -> None:
        if route.request.url.startswith((address, "data:", "blob:")):
            route.continue_()
        else:
            refused.add(route.request.url)
            route.abort()

    def hear(message) -> None:
        # The console also notes each request refused above; that is not the page's error.
        if message.type == "error" and message.location.get("url", "") not in refused:
            problems.append(f"console: {message.text}")

    page.route("**/*", only_this_machine)
    page.on("console", hear)
    page.on("pageerror", lambda error: problems.append(f"script: {error}"))
    try:
        response = page.goto(f"{address}/{name}.html", wait_until="load", timeout=30_000)
        if not response or response.status != 200:
            return [f"does not open (status {response.status if response else 'none'})"]
        settle(page)
        problems += broken_images(page) + missing_figures(page, name) + unset_equations(page) + sideways(page, width)
        page.screenshot(path=SCREENSHOTS / f"{name}-{view}.png", full_page=True)
    except Error as error:
        problems.append(f"browser: {error.message.splitlines()[0]}")
    finally:
        page.close()
    return problems


def settle(page: Page) -> None:
    """Wait for equations, and load the images that wait to be scrolled to."""
    page.evaluate("document.querySelectorAll('img').forEach(image => { image.loading = 'eager' })")
    page.evaluate(
        "Promise.race([new Promise(done => setTimeout(done, 10000)), Promise.all([window.MathJax?.startup?.promise,"
        " ...[...document.images].filter(i => !i.complete).map(i => new Promise(d => { i.onload = i.onerror = d }))])])"
    )


def broken_images(page: Page) -> list[str]:
    broken = page.evaluate("[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src)")
    return [f"image does not load: {source}" for source in broken]


def missing_figures(page: Page, name: str) -> list[str]:
    problems = []
    for figure in expected_figures(name):
        found = page.evaluate(
            "id => { const f = document.getElementById(id); return f && [!!f.querySelector('img, svg, video, table'),"
            " !!f.querySelector('.caption-number')] }",
            figure,
        )
        if not found:
            problems.append(f"figure {figure} is missing")
        elif not all(found):
            problems.append(f"figure {figure} has no {'number' if found[0] else 'image'}")
    return problems


def expected_figures(name: str) -> list[str]:
    """Ids of the numbered figures that the source of a page asks for."""
    for suffix in (".py", ".md"):
        path = ROOT / "book" / f"{name}{suffix}"
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            break
    names = re.findall(r'"figure"\s*:\s*\{[^{}\n]*"name"\s*:\s*"([^"]+)"', text)
    names += re.findall(r"\{figure\}[^\n]*\n(?:#? ?:[\w-]+:[^\n]*\n)*?#? ?:name:\s*(\S+)", text)
    return [re.sub(r"[^a-z0-9]+", "-", figure.lower()).strip("-") for figure in names]


def unset_equations(page: Page) -> list[str]:
    unset = "[...document.querySelectorAll('.math')].filter(m => !m.querySelector('mjx-container')).length"
    left = page.evaluate(unset)
    wrong = page.evaluate("[...document.querySelectorAll('mjx-merror')].map(m => m.title || m.textContent)")
    return [f"{left} equations are not set"] * bool(left) + [f"equation: {error}" for error in wrong]


def sideways(page: Page, width: int) -> list[str]:
    wide = page.evaluate("Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)")
    if wide <= width:
        return []
    culprits = page.evaluate(
        "w => [...document.querySelectorAll('.bd-article *')].filter(e => e.getBoundingClientRect().right > w + 1)"
        ".slice(0, 3).map(e => e.tagName.toLowerCase() + '.' + e.className)",
        width,
    )
    return [f"is {wide} px wide in a window of {width} px; reaching out: {culprits}"]


if __name__ == "__main__":
    sys.exit(main())
