"""Content hashes of checkpoint folders, remembered where a file's state proves its bytes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pytest_mechanism.checkpoints import file_state
from pytest_mechanism.checkpoints import fingerprint as module
from pytest_mechanism.checkpoints.fingerprint import fingerprint
from pytest_mechanism.errors import MechanismError

FILES = {
    "config.json": "{}",
    "model.safetensors": "weights",
    "tokenizer.json": "tokens",
    "tokenizer_config.json": "more",
    "special_tokens_map.json": "special",
    "merges.txt": "merges",
    "spiece.model": "pieces",
    "chat.jinja": "chat",
    "a.tiktoken": "bytes",
}
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def fill(folder: Path) -> Path:
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path / "model")


@pytest.fixture(autouse=True)
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two minutes later, on a file system whose times can be relied on: states prove bytes."""
    clock = file_state.now
    monkeypatch.setattr(file_state, "now", lambda: clock() + 120 * 10**9)
    monkeypatch.setattr(file_state, "file_system", lambda *_: "ext4")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read to be hashed."""
    found: list[str] = []
    original = module._hash

    def noted(path: Path) -> str:
        found.append(path.name)
        return original(path)

    monkeypatch.setattr(module, "_hash", noted)
    return found


def test_equal_folders_have_equal_fingerprints(tmp_path: Path, folder: Path) -> None:
    """A copy under another name is the same checkpoint."""
    other = fill(tmp_path / "copy")
    os.utime(other / "config.json", (1, 1))
    assert fingerprint(folder) == fingerprint(other)


@pytest.mark.parametrize("name", FILES)
def test_every_counted_file_changes_the_fingerprint(folder: Path, name: str) -> None:
    """One other letter in any file that can change a result is another checkpoint."""
    before = fingerprint(folder)
    (folder / name).write_text(FILES[name][:-1] + "X")
    after = fingerprint(folder)
    assert (True, name in TOKENIZERS) == (
        before.model != after.model,
        before.tokenizer != after.tokenizer,
    )


@pytest.mark.parametrize("name", ["model-2.safetensors", "added_tokens.json"])
def test_a_file_more_changes_the_fingerprint(folder: Path, name: str) -> None:
    """A new file that counts is another checkpoint, and so is one that is gone."""
    before = fingerprint(folder)
    (folder / name).write_text("x")
    assert before != fingerprint(folder)
    (folder / name).unlink()
    assert before == fingerprint(folder)


def test_the_names_of_files_count(folder: Path) -> None:
    """Two files that swap their contents are another checkpoint."""
    before = fingerprint(folder)
    (folder / "config.json").write_text(FILES["merges.txt"])
    (folder / "merges.txt").write_text(FILES["config.json"])
    assert before.model != fingerprint(folder).model


@pytest.mark.parametrize("name", ["recipe.json", "README.md", "training.log", "x/config.json"])
def test_what_computes_nothing_does_not_count(folder: Path, name: str) -> None:
    """Recipes, notes and folders below change no result."""
    before = fingerprint(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("x")
    assert before == fingerprint(folder)


def test_the_short_form_begins_the_long_one(folder: Path) -> None:
    """Reports show twelve digits of the model's hash."""
    found = fingerprint(folder)
    assert (found.model[:12], 64, 64) == (found.short, len(found.model), len(found.tokenizer))


def test_a_file_is_read_once(folder: Path, tmp_path: Path, reads: list[str]) -> None:
    """With a memory the second fingerprint reads no file, and is the same."""
    memory = tmp_path / "deep" / "memory.json"
    first = fingerprint(folder, memory)
    assert sorted(FILES) == sorted(reads)
    reads.clear()
    assert (first, []) == (fingerprint(folder, memory), reads)


def test_without_a_memory_every_file_is_read(folder: Path, reads: list[str]) -> None:
    """A run that trusts nothing reads everything again."""
    fingerprint(folder)
    fingerprint(folder)
    assert sorted(2 * [*FILES]) == sorted(reads)


def touched(path: Path) -> None:
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


def lengthened(path: Path) -> None:
    stat = path.stat()
    path.write_text("weights and more")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def swapped(path: Path) -> None:
    stat = path.stat()
    other = path.with_name("new")
    other.write_text("WEIGHTS")
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize(
    ("change", "differs"), [(touched, False), (lengthened, True), (swapped, True)]
)
def test_a_changed_file_is_read_again(
    folder: Path, tmp_path: Path, reads: list[str], change, differs: bool
) -> None:
    """Another time, another size or another file in its place: that file alone is read again."""
    memory = tmp_path / "memory.json"
    before = fingerprint(folder, memory)
    reads.clear()
    change(folder / "model.safetensors")
    after = fingerprint(folder, memory)
    assert (["model.safetensors"], differs) == (reads, before != after)


def test_another_folder_is_remembered_beside_the_first(
    folder: Path, tmp_path: Path, reads: list[str]
) -> None:
    """One memory serves all checkpoints of a run."""
    memory = tmp_path / "memory.json"
    other = fill(tmp_path / "other")
    first = [fingerprint(each, memory) for each in (folder, other)]
    reads.clear()
    assert (first, []) == ([fingerprint(each, memory) for each in (folder, other)], reads)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1, 2]", b"3", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a": 1, "b": null}'],
    ids=["empty", "half", "list", "number", "null", "bytes", "deep", "other values"],
)
def test_a_damaged_memory_is_ignored_and_written_anew(
    folder: Path, tmp_path: Path, reads: list[str], content: bytes
) -> None:
    """A memory file that cannot be used costs time and nothing else."""
    memory = tmp_path / "memory.json"
    memory.write_bytes(content)
    assert fingerprint(folder) == fingerprint(folder, memory)
    reads.clear()
    fingerprint(folder, memory)
    assert ([], len(FILES)) == (reads, len(json.loads(memory.read_text())["files"]))


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace('"sha256": "', '"sha256": "0', 2),
        lambda text: text.replace('"format": 2', '"format": 3'),
        lambda text: text[:-20],
        lambda text: json.dumps(dict.fromkeys(json.loads(text), 7)),
    ],
    ids=["a digit", "the format", "the end", "other values"],
)
def test_a_memory_that_was_edited_is_not_taken(
    folder: Path, tmp_path: Path, reads: list[str], edit
) -> None:
    """Its checksum covers every hash: after any change all files are read again."""
    memory = tmp_path / "memory.json"
    before = fingerprint(folder, memory)
    reads.clear()
    memory.write_text(edit(memory.read_text()))
    assert (before, sorted(FILES)) == (fingerprint(folder, memory), reads)


def test_a_memory_that_cannot_be_written_is_done_without(folder: Path, tmp_path: Path) -> None:
    """Remembering saves time, nothing more."""
    (tmp_path / "file").write_text("in the way")
    assert fingerprint(folder) == fingerprint(folder, tmp_path / "file" / "memory.json")


def test_no_half_written_memory_is_left(folder: Path, tmp_path: Path) -> None:
    """The memory is written beside and put in place at once."""
    memory = tmp_path / "memory.json"
    fingerprint(folder, memory)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["memory.json", "model"]


def test_a_file_that_cannot_be_read_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A permission or disk error is named with the file."""

    def fails(path: Path) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module, "_hash", fails)
    with pytest.raises(MechanismError) as problem:
        fingerprint(folder)
    assert str(problem.value) == f"{folder / 'a.tiktoken'} cannot be read: Permission denied"
