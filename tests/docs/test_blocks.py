"""The extractor of code blocks: what it writes, runs and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from blocks import Block, blocks, commands, play

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
    """Language, options, text and line."""
    found = blocks(PAGE)
    assert found[0] == Block("yaml", {"file": "a/b.yaml"}, "x: 1\n", 3)
    assert [each.language for each in found] == ["yaml", "sh", "text", "json", "sh"]
    assert commands(found[1]) == ["cat a/b.yaml", "python -c    \"print('two')\""]
    assert blocks("````md\n```\nx\n```\n````\n")[0].text == "```\nx\n```\n"


def test_a_block_that_is_never_closed_is_an_error() -> None:
    """With its line."""
    with pytest.raises(ValueError, match="line 2: the block is never closed"):
        blocks("a\n```sh\nls\n")


def test_files_are_written_and_commands_run_in_their_folder(tmp_path: Path) -> None:
    """In the order of the page, each with its status."""
    place = tmp_path / "place"
    place.mkdir()
    ran = list(play(page(tmp_path, PAGE), place))
    assert [(each.output, each.status) for each in ran] == [("x: 1\n", 0), ("two\n", 0), ("", 3)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("```sh\nfalse\n```\n", "page.md:1: false: exit 1"),
        ("```sh exit=1\nfalse\nfalse\n```\n", "page.md:1: false: exit 1"),
        ("```sh exit=1\ntrue\n```\n", "page.md:1: true: exit 0"),
        ("```sh\necho a\n```\n```text output\nb\n```\n", "page.md:4: not printed: b"),
    ],
)
def test_what_the_page_does_not_say_is_an_error(tmp_path: Path, text: str, says: str) -> None:
    """A wrong status, or an output that does not come."""
    with pytest.raises(AssertionError, match=says):
        list(play(page(tmp_path, text), tmp_path))
