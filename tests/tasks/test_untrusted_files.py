"""Templates, tokenizers, files and specs of strangers: an error of one line, never a hang or
gigabytes."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.spec.load import SpecErrors, load
from pytest_mechanism.tasks.text import chat as chats
from pytest_mechanism.tasks.text import pattern_check
from pytest_mechanism.tasks.text.chat import render_chat
from pytest_mechanism.tasks.text.encoding import Encoder
from pytest_mechanism.tasks.writing import json_lines

HEAD = "mechanism: 1\ncircuit: x\n"
CLAIMS = "claims: {k: {kind: accuracy, at_least: 0.5}}\n"


def template(folder: Path, text: str) -> Path:
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": text}))
    return folder


# -- chat templates


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "does not end within 1 seconds",
        ),
        ("{{ 'a' * 10**10 }}", "takes more memory than a template may"),
        ("{{ 'a' * 3000000 }}", "gives 3,000,000 characters; at most 1,000,000"),
    ],
    ids=["loop", "memory", "length"],
)
def test_an_endless_template_is_an_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, says: str
) -> None:
    """It runs in a process of its own, with limits of time, memory and length."""
    monkeypatch.setattr(chats, "SECONDS", 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(MechanismError) as problem:
        render_chat(template(tmp_path, text), "hello")
    assert f"the chat template of {tmp_path} cannot be rendered: {says}" in str(problem.value)
    assert "\n" not in str(problem.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "{{ 10**(10**9) }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{% set n = namespace(x='aaaaaaaa') %}" + "{% set n.x = n.x + n.x %}" * 40 + "{{ n.x }}",
        "{{ 'a'|center(10**10) }}",
        "{{ '%0999999999d' % 5 }}",
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ (range(99999)|list) * 100000 }}",
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    ],
)
def test_other_ways_to_take_time_or_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """Powers, doubling, padding, recursion."""
    monkeypatch.setattr(chats, "SECONDS", 1)
    with pytest.raises(MechanismError, match="cannot be rendered: ") as problem:
        render_chat(template(tmp_path, text), "hello")
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("text", "harmless"),
    [
        (
            "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m.content }}{% endfor %}",
            True,
        ),
        ("{% if add_generation_prompt and messages[0] is defined %}x{% endif %}", True),
        ("{{ raise_exception('no') }}", True),
        ("{% for m in messages %}{% for n in messages %}{% endfor %}{% endfor %}", False),
        ("{% for i in range(9) %}{% endfor %}", False),
        ("{{ 'a' * 9 }}", False),
        ("{{ 2 ** 9 }}", False),
        ("{{ 'a' ~ 'a' }}", False),
        ("{{ 'a'|center(9) }}", False),
        ("{% set x = 'a' %}", False),
        ("{% macro f() %}{% endmacro %}", False),
        ("{{ ''.join(messages) }}", False),
        ("{% for %}", False),
        ("x" * 30_000, False),
    ],
)
def test_harmless_templates_need_no_process_of_their_own(text: str, harmless: bool) -> None:
    """They write messages and fixed texts in one loop, and nothing else."""
    assert chats.is_harmless(text) == harmless


# -- tokenizers


def tokenizer(folder: Path, pattern: str = "", normalizer: object = None) -> Path:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    if pattern:
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("pattern", [r"(a+)+$", r"(x+x+)+y", r"(?:\p{L}+\s?)*#"])
def test_a_pattern_that_backtracks_without_end_is_an_error_of_one_line(
    tmp_path: Path, pattern: str
) -> None:
    """The error comes before any text of the run is tokenised."""
    start = time.monotonic()
    with pytest.raises(MechanismError) as problem:
        Encoder.load(tokenizer(tmp_path, pattern))
    message = str(problem.value)
    assert message.startswith(f"{tmp_path / 'tokenizer.json'}: ")
    assert "pattern" in message
    assert "\n" not in message
    assert time.monotonic() - start < 60


def test_a_replacement_that_makes_gigabytes_is_an_error_of_one_line(tmp_path: Path) -> None:
    """A letter becomes a million."""
    with pytest.raises(MechanismError, match="take more memory than they may"):
        Encoder.load(tokenizer(tmp_path, normalizer=normalizers.Replace("a", "a" * 10**6)))


@pytest.mark.parametrize(
    "pattern",
    [
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"\d{1,3}(?=(?:\d{3})*\b)",
    ],
)
def test_published_patterns_pass(tmp_path: Path, pattern: str) -> None:
    """GPT-2's, Llama 3's, and digits in threes."""
    assert Encoder.load(tokenizer(tmp_path, pattern)).tokenize("a", special=False).ids == [1]


def test_a_tokenizer_without_patterns_is_not_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedded tokenizers start no process."""
    monkeypatch.setattr(pattern_check, "run_child", lambda *_, **__: pytest.fail("it was tried"))
    Encoder.load(tokenizer(tmp_path))


def test_a_pattern_that_fails_on_a_text_is_an_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A panic of the library is no traceback, even if the check missed the pattern."""
    monkeypatch.setattr(pattern_check, "_problem", lambda *_: None)
    encoder = Encoder.load(tokenizer(tmp_path, r"(a+)+$"))
    with pytest.raises(MechanismError, match=r"fails on 'aaaa.*retry-limit"):
        encoder.tokenize("a" * 40 + "!", special=False)
    capfd.readouterr()


# -- files and specs


def says(folder: Path, task: str) -> str:
    (folder / "x.yaml").write_text(f"{HEAD}task: {task}\n{CLAIMS}")
    with pytest.raises(SpecErrors) as problem:
        load(folder / "x.yaml", Path("x.yaml"))
    return str(problem.value)


def test_a_file_of_300_mb_is_not_read(tmp_path: Path) -> None:
    """Its size is checked first."""
    with (tmp_path / "f.jsonl").open("wb") as file:
        file.truncate(300 << 20)
    assert says(tmp_path, "{family: jsonl, file: f.jsonl}") == (
        "x.yaml:3: task.file: f.jsonl is larger than 64 MiB; take a sample of its lines"
    )


def test_one_endless_line_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_text('{"prompt": "' + "a" * (2 << 20))
    assert says(tmp_path, "{family: jsonl, file: f.jsonl}") == (
        "x.yaml:3: task: f.jsonl:1: has 2,097,164 bytes; a line has at most 1,048,576"
    )


def test_a_file_of_too_many_lines_is_an_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error comes before every line has become a prompt."""
    monkeypatch.setattr(json_lines, "MAX_LINES", 50)
    for count, where in (
        (60, "f.jsonl:51: has more than 50 lines"),
        (200, "f.jsonl: has 200 lines"),
    ):
        lines = (json.dumps({"prompt": f"{i} is", "answer": "a"}) + "\n" for i in range(count))
        (tmp_path / "f.jsonl").write_text("".join(lines))
        assert f"x.yaml:3: task: {where}; at most" in says(
            tmp_path, "{family: jsonl, file: f.jsonl}"
        )


def test_the_largest_file_fits_into_little_memory(tmp_path: Path) -> None:
    """60 MB in lines of a megabyte take at most four times as much, in a process of their own."""
    line = {"prompt": "p is", "answer": "b"}
    with (tmp_path / "f.jsonl").open("w") as file:
        file.writelines(
            json.dumps({**line, "cluster": f"{i}{'c' * 1_000_000}"}) + "\n" for i in range(60)
        )
    (tmp_path / "x.yaml").write_text(
        f"{HEAD}task: {{family: jsonl, file: f.jsonl, rows: 20}}\n{CLAIMS}"
    )
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30));"
        "from pathlib import Path; from pytest_mechanism.spec.load import load;"
        "load(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "x.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("task", "wanted"),
    [
        (
            "texts: [[" + ", ".join(f"'t{i} {{A}} and {{B}} so'" for i in range(1000)) + "]]",
            "task.texts: 1,000 of them; a template has at most 200",
        ),
        (
            "text: '" + "{A} " * 50_000 + "{B} so'",
            "task.text: has 50,001 slots and places; a text has at most 1,000",
        ),
        (
            "text: '{A} and {B} so', variables: {"
            + ", ".join(f"v{i}: {{source: {{redraw: [A]}}, target: '{{B}}'}}" for i in range(400))
            + "}",
            "task.variables: 400 of them; a template has at most 100",
        ),
    ],
    ids=["texts", "slots", "variables"],
)
def test_a_template_with_too_many_combinations_is_an_error_of_one_line(
    tmp_path: Path, task: str, wanted: str
) -> None:
    """Combinations are never computed."""
    start = time.monotonic()
    settings = (
        f"{{family: template, words: {{w: names}}, slots: {{A: w, B: w}}, answer: '{{B}}', {task}}}"
    )
    assert says(tmp_path, settings) == f"x.yaml:3: {wanted}"
    assert time.monotonic() - start < 30
