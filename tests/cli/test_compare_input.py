"""``pytest-mechanism compare``: bad input is one line, and nothing is loaded or written."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from pytest_mechanism.checkpoints.reference import ZOO
from pytest_mechanism.checkpoints.shape import read_positions
from pytest_mechanism.cli import main
from pytest_mechanism.commands.compare_text import conclusion, no_better
from pytest_mechanism.comparison.text import Result
from pytest_mechanism.report.pictures import MARK
from pytest_mechanism.statistics.estimates import Estimate
from pytest_mechanism.tasks.text.passages import MOST_NUMBERS, Text, tokens_of

SPEC = """mechanism: 1
circuit: x
task: {family: entity_tracking, boxes: 7, fillers: 3, rows: 70}
groups:
  fetcher: {heads: {3: [0]}, at: last}
claims:
  solves: {kind: accuracy, at_least: 0.5}
"""
PAIR = ("--model-pair", "zoo:ft,zoo:ft_rerouted")


def line(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """What the command says about bad input: one line, with exit code 2."""
    assert main(["compare", *map(str, arguments), "-q"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


def written(folder: Path, text: str = SPEC) -> Path:
    path = folder / "x.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name what to compare on: SPEC, --task FAMILY, or --text FILE"),
        (("x.yaml", "--task", "ioi"), "and not two of them"),
        (("--task", "nothing"), "no family 'nothing'; "),
        (("--task", "ioi", "--set", "rows"), "--set rows: write KEY=VALUE"),
        (("--task", "entity_tracking", "--set", "boxes=99"), "mechanism: --task entity_tracking: "),
        (("--text", "x.txt", "--set", "rows=3"), "--set is a setting of --task"),
        (("--text", "x.txt", "--out", "x.yaml"), "--out needs a task"),
        (("--text", "x.txt"), "--text x.txt: no such file"),
        (("x.yaml", "--margin", "2"), "--margin 2: must be more than 0 and less than 1"),
        (("x.yaml", "--margin", "0"), "--margin 0: must be more than 0 and less than 1"),
        (("x.yaml", "--rows", "3"), "--rows 3: must lie between 10 and 100,000"),
        (("x.yaml", "--seed", "-1"), "--seed -1: must lie between 0 and "),
        (("x.yaml", "--out", "x.txt"), "a spec's name ends with .yaml"),
        (("x.yaml", "--picture", "x.pdf"), "valid endings: .svg, .png"),
        (("x.yaml", "--json", "no/folder/x.json"), "--json no/folder/x.json cannot be written"),
    ],
)
def test_wrong_use_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    """The line says what is wrong and what would be right."""
    monkeypatch.chdir(tmp_path)
    assert said in line(capsys, *arguments, *PAIR)
    assert [*tmp_path.iterdir()] == []


def test_models_of_other_sizes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """It names the sizes in which they differ."""
    said = line(capsys, written(tmp_path), "--model-pair", "zoo:ft,zoo:planted_ft")
    assert "ft and planted_ft differ in n_heads 4 and 8, d_head 32 and 16" in said


def test_one_model_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert "compare needs two checkpoints" in line(capsys, written(tmp_path), "--model", "zoo:ft")


def test_too_few_rows_name_the_option_that_sets_them(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Not a key of the spec, which this comparison does not read."""
    said = line(capsys, written(tmp_path), *PAIR, "--rows", "42")
    assert "42 rows come from 6 contexts, but a confidence interval needs 10; raise --rows" in said


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no folder that nobody can write")
def test_a_task_needs_no_working_folder_that_can_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Its spec is nowhere on disk, and the error is about the task."""
    monkeypatch.chdir("/proc")
    said = line(capsys, "--task", "entity_tracking", "--set", "boxes=99", *PAIR)
    assert said.startswith("pytest-mechanism: --task entity_tracking: ")


def test_a_spec_without_groups_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """It says what compares instead."""
    text = SPEC.replace("groups:\n  fetcher: {heads: {3: [0]}, at: last}\n", "")
    said = line(capsys, written(tmp_path, text), *PAIR)
    assert "has no groups" in said
    assert "--task entity_tracking" in said


def test_a_head_that_the_models_lack_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    said = line(capsys, written(tmp_path, SPEC.replace("3: [0]", "3: [7]")), *PAIR)
    assert "group fetcher names head 7 of layer 3" in said


def test_a_spec_that_exists_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Without --force, no file is overwritten."""
    path = written(tmp_path)
    assert "exists already" in line(capsys, path, *PAIR, "--out", path)
    assert path.read_text() == SPEC


@pytest.mark.parametrize(
    "wrong", [("--rows", "3"), ("--model", "zoo:nothing"), ("--model", "zoo:ft")]
)
def test_no_output_of_an_earlier_comparison_stands_for_one_that_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture, wrong: tuple[str, str]
) -> None:
    """A later step would read its numbers and show its picture."""
    outputs = {"--json": '{\n  "mechanism_compare": 1,', "--picture": f"<svg><!-- {MARK} --></svg>"}
    typed: list[object] = [written(tmp_path)]
    for flag, text in outputs.items():
        (tmp_path / f"old{flag}.svg").write_text(text)
        typed += [flag, tmp_path / f"old{flag}.svg"]
    line(capsys, *typed, *wrong)
    assert [path.name for path in tmp_path.glob("*.*") if path.is_file()] == ["x.yaml"]


@pytest.mark.parametrize("flag", ["--json", "--picture"])
def test_a_file_that_no_comparison_wrote_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture, flag: str
) -> None:
    """Neither removed nor replaced; the line names the option."""
    (path := tmp_path / "mine.svg").write_text("{}")
    said = line(capsys, written(tmp_path), *PAIR, flag, path)
    assert f"{flag} {path} exists and is no such output of pytest-mechanism" in said
    assert path.read_text() == "{}"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b" \n\t\n", "is empty"),
        (b"caf\xe9\n" * 20, "is not UTF-8"),
        ("text\n".encode("utf-16"), "is UTF-16; save it as UTF-8"),
        (b"a\0b\n" * 20, "has null characters"),
        (
            b"the apple\n" * 30,
            "has 1 different lines of two tokens or more (up to token 256), and an interval needs 10",
        ),
    ],
)
def test_a_text_that_cannot_be_read_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture, content: bytes, said: str
) -> None:
    """Whatever is in the file."""
    path = tmp_path / "x.txt"
    path.write_bytes(content)
    assert said in line(capsys, "--text", path, *PAIR)


def test_a_folder_as_text_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert "is a folder" in line(capsys, "--text", tmp_path, *PAIR)


def test_models_of_other_vocabularies_have_no_divergence(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Their sizes agree, their words do not."""
    path = tmp_path / "x.txt"
    path.write_text("".join(f"the apple is in box {i}\n" for i in range(12)))
    said = line(capsys, "--text", path, "--model-pair", "zoo:wrapper_safe,zoo:stories_base")
    assert "cannot be compared" in said


class Words:
    """A tokenizer with a token a word, of which ``odd`` is unknown."""

    tokenizer = SimpleNamespace(token_to_id=lambda word: 0 if word == "<unk>" else None)

    def tokens(self, text: str, special: bool) -> SimpleNamespace:
        words = text.split()
        return SimpleNamespace(ids=[0 if word == "odd" else 1 + hash(word) for word in words])


def passages(lines: list[str], most: int = 200, longest: int = 8, d_vocab: int = 10) -> Text:
    """The passages of a file with these lines."""
    numbered = [(line, "0") for line in lines]
    return tokens_of("x", numbered, Words(), most, longest=longest, d_vocab=d_vocab)


def different(line: str, many: int) -> list[str]:
    """Lines with another first word each."""
    return [f"{i} {line}" for i in range(many)]


def test_a_line_that_repeats_another_one_is_read_once_and_the_note_says_so() -> None:
    """Copies would make an interval narrower, also those that differ only where they are cut."""
    text = passages([*different("b", 10), *["0 b"] * 40, "0 " * 9, "0 " * 10])
    assert len(text.passages) == len(set(text.passages)) == 11
    assert text.places[-1] == 50
    assert text.notes == (
        "1 line cut to 8 tokens",
        "41 lines left out that repeat another one",
    )


def test_lines_longer_than_a_passage_are_cut_and_counted() -> None:
    """To as many tokens as both models can read."""
    text = passages([*different("b c", 10), *different("a " * 20, 2)])
    assert [len(ids) for ids in text.passages] == [3] * 10 + [8] * 2
    assert text.notes == ("2 lines cut to 8 tokens",)


def test_lines_for_which_there_is_no_memory_are_left_out_and_the_note_says_so() -> None:
    """No line is cut without a word, and no option is named that would not help."""
    text = passages(different("b c", 30), d_vocab=MOST_NUMBERS // 50)
    assert [len(ids) for ids in text.passages] == [3] * 16
    assert text.notes == ("read the first 16 of 30 lines (there is no memory for more)",)


def test_the_note_on_rows_names_the_option() -> None:
    """Where it is what ended the reading."""
    assert passages(different("b", 30), most=12).notes == (
        "read the first 12 of 30 lines (--rows reads more)",
    )


def test_lines_of_one_word_are_left_out_and_the_note_says_so() -> None:
    """They predict nothing."""
    text = passages(["a", "b", *different("b", 12)])
    assert len(text.passages) == 12
    assert text.notes == ("2 lines of fewer than two tokens left out",)


def test_a_text_in_unknown_words_says_so() -> None:
    """The unknown word may have the id 0."""
    assert passages(different("odd", 12)).notes == (
        "50% of the tokens are unknown to the tokenizer: this is no text for these models",
    )


def test_a_passage_has_no_more_tokens_than_the_models_have_positions() -> None:
    """64 in the planted models, which are GPT-2; the models of the embedded pair have 256."""
    assert read_positions(ZOO / "planted_ft") == 64
    assert read_positions(ZOO / "ft") == 256


def text_divergence(surprise: float) -> list[str]:
    """The conclusion about two models that differ nowhere, of which the first finds each token so surprising."""
    text, rows = passages(different("b", 12)), 12
    each = {"predictions": 1.0, "surprise_from": surprise, "free_surprise": 5.0, "uniform": 6.0}
    sums = {name: [value] * rows for name, value in each.items()}
    zero = Estimate(0.0, (0.0, 0.0), 0.0, rows, rows)
    labels = {"base": "old", "ft": "new"}
    guessing = no_better(text, sums, 0.95, labels)
    return [*conclusion(Result(zero, {"layer 0": zero}, (1.0, 1.0)), labels, text, guessing)]


def test_of_a_text_that_the_reference_model_only_guesses_the_conclusion_says_so() -> None:
    """Also where the models do not differ on it, which shows nothing then."""
    first, second = text_divergence(surprise=5.5)
    assert first.startswith("no difference above")
    assert second == (
        "old predicts this text no better than its own word frequencies do (perplexity 244.7 against 148.4): what the "
        "models say on it tells little about them"
    )
    assert len(text_divergence(surprise=4.0)) == 1


@pytest.mark.slow
def test_a_line_longer_than_the_models_positions_is_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """GPT-2 cannot read the 65th token."""
    path = tmp_path / "x.txt"
    lines = (
        f"{first} the {second} " * 40 for first in "ABC" for second in ("apple", "is", "box", "in")
    )
    path.write_text("\n".join(lines))
    pair = ("--model-pair", "zoo:planted_ft,zoo:planted_rerouted")
    assert main(["compare", "--text", str(path), *pair, "-q"]) == 0
    printed = capsys.readouterr().out
    assert "12 lines cut to 64 tokens" in printed
    assert "planted_ft predicts this text no better than guessing among all words does" in printed
