"""The page in a real browser: Chromium, driven by playwright. Without a browser these tests are skipped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import HOSTILE, claim, write

sync_api = pytest.importorskip("playwright.sync_api", reason="needs pip install -e '.[browser]'")

pytestmark = pytest.mark.slow

SIZES = [(390, "light"), (1024, "dark"), (1600, "light")]
SERIOUS = {"serious", "critical"}


def installed() -> str | None:
    """The path of a browser on this machine; None for playwright's own."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return os.environ.get("MECHANISM_BROWSER") or next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        try:
            # root, as in containers, may not start the sandbox; the pages are our own files
            opened = playwright.chromium.launch(executable_path=installed(), args=["--no-sandbox"])
        except sync_api.Error as problem:
            pytest.skip(f"no browser: {str(problem).splitlines()[0]}; apt-get install chromium")
        yield opened
        opened.close()


class Opened:
    """A page with everything that the browser complained about and asked for."""

    def __init__(self, browser: Any, address: str, width: int, scheme: str, **more: Any) -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 1000}, color_scheme=scheme, **more
        )
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)


Open = Callable[..., Opened]


@pytest.fixture
def opened(browser: Any) -> Iterator[Open]:
    made: list[Opened] = []

    def open_page(address: str, width: int = 1024, scheme: str = "light", **more: Any) -> Opened:
        made.append(Opened(browser, address, width, scheme, **more))
        return made[-1]

    yield open_page
    for each in made:
        each.context.close()


CLAIMS = [claim("first"), claim("second", "inconclusive"), claim("third", "pass")]


def shown(page: Any) -> list[str]:
    """The claims of the table's visible lines."""
    names: list[str] = page.eval_on_selector_all(
        "#table tbody tr", "lines => lines.filter(l => !l.hidden).map(l => l.cells[1].textContent)"
    )
    return [name.rpartition(".")[2] for name in names]


@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_a_page_opens_without_a_complaint(
    opened: Open, tmp_path: Path, width: int, scheme: str
) -> None:
    """No error on the console, no request beside the file's own, nothing wider than the window, and nothing
    serious for axe-core, with every claim unfolded."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    address = write(tmp_path / "page.html", *CLAIMS)
    page = opened(address, width, scheme)
    page.page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    found = axe.Axe().run(page.page).response["violations"]
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith("data:")] == [address]
    assert page.page.evaluate("document.documentElement.scrollWidth") == width
    assert [v["id"] for v in found if v["impact"] in SERIOUS] == []


def test_hostile_names_stay_text(opened: Open, tmp_path: Path) -> None:
    """No script of a name runs, no element comes of it, and the name is read as it is."""
    page = opened(write(tmp_path / "page.html", claim(text=HOSTILE), label=HOSTILE))
    assert page.complaints == []
    assert page.page.locator("img").count() == 0
    assert page.page.locator("script").count() == 1
    assert HOSTILE in page.page.locator(".reason").first.inner_text()
    assert HOSTILE in page.page.title()


def test_the_policy_stops_a_script_that_got_in(opened: Open, tmp_path: Path) -> None:
    """A page into which somebody wrote a script and a handler runs neither."""
    address = write(tmp_path / "page.html", claim())
    html = (tmp_path / "page.html").read_text("utf-8")
    html = html.replace("</main>", "<script>document.title = 'mine'</script></main>")
    (tmp_path / "page.html").write_text(html, "utf-8")
    page = opened(address)
    assert page.page.title() == "Red: candidate against released - pytest-mechanism"
    assert len(page.complaints) == 1  # the browser says that it refused


def test_the_table_is_filtered(opened: Open, tmp_path: Path) -> None:
    """By verdict, by words, and by both; the number of lines is said."""
    page = opened(write(tmp_path / "page.html", *CLAIMS)).page
    assert shown(page) == ["first", "second", "third"]
    page.select_option("#verdict", "red")
    assert shown(page) == ["first", "second"]
    page.fill("#search", "SECOND")
    assert shown(page) == ["second"]
    assert page.locator("#shown").inner_text() == "1 of 3 lines"
    page.select_option("#verdict", "pass")
    assert shown(page) == []


def test_the_table_is_sorted_with_the_keyboard(opened: Open, tmp_path: Path) -> None:
    """A heading sorts up, then down, then as the run had it; numbers by their size."""
    scores = {"a": -0.5, "b": 0.25, "c": 10.0}
    claims = [
        claim(name, score=value, rows=(_row(value),)) for name, value in reversed(scores.items())
    ]
    page = opened(write(tmp_path / "page.html", *claims)).page
    heading = page.locator("#table th", has_text="score").first
    orders = []
    for _ in range(3):
        heading.locator("button").focus()
        page.keyboard.press("Enter")
        orders.append((heading.get_attribute("aria-sort"), "".join(shown(page))))
    assert orders == [("ascending", "abc"), ("descending", "cba"), (None, "cba")]


def _row(value: float) -> Any:
    from dataclasses import replace

    return replace(CLAIMS[0].rows[0], score=value, interval=(value - 0.1, value + 0.1))


def test_a_link_unfolds_its_claim(opened: Open, tmp_path: Path) -> None:
    """A claim that passes is folded until its line of the table is followed."""
    page = opened(write(tmp_path / "page.html", *CLAIMS)).page
    details = page.locator("#claim-3")
    assert details.get_attribute("open") is None
    page.locator("#table a", has_text="third").click()
    assert details.get_attribute("open") is not None


def test_the_page_works_without_its_script(opened: Open, tmp_path: Path) -> None:
    """Everything is there; only the form of the filter, which would do nothing, is not."""
    page = opened(write(tmp_path / "page.html", *CLAIMS), java_script_enabled=False).page
    assert page.locator("#table tbody tr").count() == 3
    assert not page.locator("#filter").is_visible()
    assert page.locator("#claim-1 .reason").is_visible()


def test_everything_is_printed(opened: Open, tmp_path: Path) -> None:
    """Folded claims are unfolded for the printer and folded again."""
    page = opened(write(tmp_path / "page.html", *CLAIMS)).page
    states = page.evaluate(
        "['beforeprint', 'afterprint'].map(name => { dispatchEvent(new Event(name)); "
        "return document.querySelectorAll('details:not([open])').length; })"
    )
    assert states[0] == 0 < states[1]


def test_500_claims_stay_light(opened: Open, tmp_path: Path) -> None:
    """Their elements, and one layout for a filter that hides 499 of them."""
    claims = [claim(f"claim_{i}", "pass" if i % 2 else "fail") for i in range(500)]
    page = opened(write(tmp_path / "page.html", *claims)).page
    assert page.evaluate("document.querySelectorAll('*').length") < 60_000
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")

    def layouts() -> int:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return int(next(m["value"] for m in metrics if m["name"] == "LayoutCount"))

    page.evaluate("document.body.offsetHeight")
    before = layouts()
    page.evaluate(
        "() => { const search = document.getElementById('search'); search.value = 'claim_17'; "
        "search.dispatchEvent(new Event('input')); document.body.offsetHeight; }"
    )
    assert layouts() - before <= 3
    assert len(shown(page)) == 11
