"""Writes the last section of ARCHITECTURE.md: every file with the first sentence of its docstring.

python docs/file_map.py
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "ARCHITECTURE.md"
HEADING = "## Every file\n"


def first_sentence(path: Path) -> str:
    """Of a module's docstring, in one line."""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    paragraph = " ".join(text.split("\n\n", 1)[0].split())
    return re.split(r"(?<=[^.][.?]) ", paragraph, maxsplit=1)[0]


def section() -> str:
    """The section, heading included."""
    lines = [HEADING, "`python docs/file_map.py` writes this section from the docstrings.\n"]
    package = ROOT / "pytest_mechanism"
    folders = sorted({path.parent for path in package.rglob("*.py")})
    for folder in folders:
        files = [path for path in sorted(folder.glob("*.py")) if path.read_text("utf-8").strip()]
        if files:
            lines.append(f"**{folder.relative_to(ROOT).as_posix()}/**\n")
            lines += [f"- `{path.name}`: {first_sentence(path)}" for path in files]
            lines.append("")
    return "\n".join(lines)


def page() -> str:
    """ARCHITECTURE.md as it should be."""
    return PAGE.read_text("utf-8").split(HEADING)[0] + section()


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
