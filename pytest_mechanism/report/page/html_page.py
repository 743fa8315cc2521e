"""The page of ``--mechanism-report``: one file that explains a run and needs no network.

The page allows nothing but its own style and script, named by their hashes, and pictures inside it (Content
Security Policy). Every text is escaped by the template engine.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_mechanism import __version__
from pytest_mechanism.files import write_text
from pytest_mechanism.report.page.sparks import sparks
from pytest_mechanism.report.page.view import SpecView, page_of
from pytest_mechanism.report.run_report import RunReport
from pytest_mechanism.runner.keys import versions

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

FOLDER = Path(__file__).parent
Pictures = Callable[[RunReport], Sequence[SpecView]]
"""Draws what a run measured."""


def no_pictures(report: RunReport) -> Sequence[SpecView]:
    """Of a run whose measurements are not at hand."""
    return ()


class HtmlPage:
    """Writes the page.

    Attributes:
        path: of the page.
        pictures: draws what the run measured.
        history: the folder of earlier runs, or None.
    """

    required = True

    def __init__(self, path: Path, pictures: Pictures, history: Path | None = None) -> None:
        self.path, self.pictures, self.history = path, pictures, history
        self.destination = f"--mechanism-report: {path}"

    def write(self, report: RunReport) -> None:
        specs = self.pictures(report)
        write_text(self.path, rendered(report, versions(), specs, history=self.history))


def rendered(
    report: RunReport,
    library_versions: Mapping[str, str],
    specs: Sequence[SpecView] = (),
    made: str | None = None,
    history: Path | None = None,
) -> str:
    """The page's HTML.

    Args:
        report: of the run.
        library_versions: library -> version, of the run.
        specs: pictures of the run's specs.
        made: when the page was written; now by default.
        history: the folder of earlier runs, or None.
    """
    from markupsafe import Markup

    style, script = (
        (FOLDER / name).read_text("utf-8").replace("</", "<\\/") for name in ("page.css", "page.js")
    )
    made = made or datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return template("page.html").render(
        page=page_of(report, library_versions, specs, made, *sparks(report, history)),
        version=__version__,
        style=Markup(style),  # noqa: S704 - our own files
        script=Markup(script),  # noqa: S704
        style_hash=source_hash(style),
        script_hash=source_hash(script),
    )


def template(name: str) -> Template:
    """A template of this package: ``page.html``, or ``history/page.html``. Every text in it is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([FOLDER, FOLDER.parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["breakable"] = breakable
    return environment.get_template(name)


def breakable(text: str) -> Markup:
    """A name, escaped, that may break after a dot or an underscore."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"([._])", r"\1<wbr>", str(escape(text))))  # noqa: S704 - escaped


def source_hash(text: str) -> str:
    """A source in a Content Security Policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
