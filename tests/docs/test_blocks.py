"""The runner of code blocks."""

from __future__ import annotations

from pathlib import Path

import pytest
from blocks import Block, blocks, commands, run_page

PAGE = """# A page

```yaml file=a/b.yaml
x: 1
```

Text with `code`.

```sh
cat a/b.yaml
python -c \\
  "print('two')"
# a comment
```

```text output
x: 1
two
```

~~~json
{"only": "read"}
~~~

```sh exit=3
exit 3
```
"""


def page(folder: Path, text: str) -> Path:
    path = folder / "page.md"
    path.write_text(text)
    return path


def test_blocks_are_found_with_their_options() -> None:
    """Each block has its language, options, text and line."""
    page_blocks = blocks(PAGE)
    assert page_blocks[0] == Block("yaml", {"file": "a/b.yaml"}, "x: 1\n", 3)
    assert [block.language for block in page_blocks] == ["yaml", "sh", "text", "json", "sh"]
    assert commands(page_blocks[1]) == ["cat a/b.yaml", "python -c    \"print('two')\""]
    assert blocks("````md\n```\nx\n```\n````\n")[0].text == "```\nx\n```\n"


def test_a_block_that_is_never_closed_is_an_error() -> None:
    """The error names the line of the opening fence."""
    with pytest.raises(ValueError, match="line 2: the block is never closed"):
        blocks("a\n```sh\nls\n")


def test_files_are_written_and_commands_run_in_their_folder(tmp_path: Path) -> None:
    """The commands run in the order of the page."""
    folder = tmp_path / "folder"
    folder.mkdir()
    ran = list(run_page(page(tmp_path, PAGE), folder))
    assert [(command.output, command.status) for command in ran] == [
        ("x: 1\n", 0),
        ("two\n", 0),
        ("", 3),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```sh\nfalse\n```\n", "page.md:1: false: exit 1"),
        ("```sh exit=1\nfalse\nfalse\n```\n", "page.md:1: false: exit 1"),
        ("```sh exit=1\ntrue\n```\n", "page.md:1: true: exit 0"),
        ("```sh\necho a\n```\n```text output\nb\n```\n", "page.md:4: not printed: b"),
    ],
)
def test_what_the_page_does_not_say_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    """A wrong status or a missing line of output fails the page."""
    with pytest.raises(AssertionError, match=message):
        list(run_page(page(tmp_path, text), tmp_path))
