"""Takes the screenshot of docs/the-report.md from a page: ``python -m docs.report_picture report.html``.

Needs ``pip install -e '.[browser]'`` and Chromium.
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright


def main() -> None:
    """Writes the first screen, in 64 colours."""
    parser = argparse.ArgumentParser(description="Take the screenshot of docs/the-report.md.")
    parser.add_argument("page", type=Path, help="written by --mechanism-report")
    page = parser.parse_args().page
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        tab = browser.new_page(viewport={"width": 1000, "height": 900})
        tab.goto(page.resolve().as_uri())
        picture = Image.open(io.BytesIO(tab.screenshot()))
    out = Path(__file__).parent / "the-report.png"
    picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=64).save(out, optimize=True)


if __name__ == "__main__":
    main()
