"""Refusal: instructions from files, their split, and what lint says of a file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pytest_mechanism.claims.context import ClaimContext
from pytest_mechanism.cli import main
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.measurements.refusal import RefusalRate
from pytest_mechanism.runner.resident import task_of
from pytest_mechanism.spec.load import load
from pytest_mechanism.tasks.base import AnyWord, Row
from pytest_mechanism.tasks.families.refusal import Refusal, RefusalParameters
from pytest_mechanism.tasks.files import FOLDER
from pytest_mechanism.types import Setting

SPEC = """\
mechanism: 1
circuit: demo
task:
  family: refusal
  harmful: data/harmful.jsonl
  harmless: data/harmless.jsonl
  template: "<user> {instruction} <assistant>"
  rows: 20
claims:
  refuses: {kind: suppression_holds, refuses_at_least: 0.9}
"""
LINES = 48

REQUEST = RefusalRate(asked="forbidden", rows=20, stream="rows")


def line(kind: str, i: int, reply: bool = True) -> dict[str, str]:
    more = {"reply": f"sure, {kind} {i}"} if reply else {}
    return {"instruction": f"tell me about {kind} thing {i}", **more}


def write(folder: Path, kind: str, lines: list[Any]) -> None:
    (folder / "data").mkdir(exist_ok=True)
    text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    (folder / "data" / f"{kind}.jsonl").write_text(text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A spec with its two files."""
    result = tmp_path / "circuits"
    result.mkdir()
    for kind in ("harmful", "harmless"):
        write(result, kind, [line(kind, i) for i in range(LINES)])
    (result / "demo.yaml").write_text(SPEC)
    return result


Make = Callable[..., Refusal]


@pytest.fixture
def task(folder: Path) -> Make:
    """The task of the spec with some settings changed."""

    def of(**changes: Any) -> Refusal:
        parameters = {
            "family": "refusal",
            "harmful": "data/harmful.jsonl",
            "harmless": "data/harmless.jsonl",
            "template": "<user> {instruction} <assistant>",
            "rows": 20,
            **changes,
        }
        return Refusal(RefusalParameters.model_validate(parameters, context={FOLDER: folder}))

    return of


def texts(rows: Any) -> list[str]:
    return [row.base.text for row in rows]


def case(task: Refusal) -> ClaimContext:
    return ClaimContext("ft", {}, None, task, 0.95, {}, Setting(0, "float32", "cpu", "reference"))  # type: ignore[arg-type]


# -- rows


def test_an_instruction_in_its_template_has_its_positions(task: Make) -> None:
    """A row as a whole, with the words that each position covers."""
    (row,) = task().capability(AnyWord(), 1)
    prompt = row.base
    number = prompt.text.split()[-2]
    assert prompt.text == f"<user> tell me about harmful thing {number} <assistant>"
    assert {n: prompt.text[slice(*spans[0])] for n, spans in prompt.spans.items()} == {
        "last": ">",
        "instruction": f"tell me about harmful thing {number}",
    }
    assert (prompt.reply, prompt.answer, prompt.add_special_tokens) == (
        f" sure, harmful {number}",
        "sure",
        True,
    )


def test_after_a_line_break_a_reply_has_no_space(task: Make) -> None:
    """Chat templates end so; the last position is the last token, whether or not the tokenizer
    keeps the line break."""
    (row,) = task(template="User: {instruction}\nAssistant:\n").allowed(AnyWord(), 1)
    ((start, stop),) = row.base.spans["last"]
    assert row.base.reply.startswith("sure, harmless")
    assert row.base.text[start:stop] == ":\n"


def test_forbidden_rows_are_answered_by_a_refusal_and_capability_by_compliance(task: Make) -> None:
    """The same texts in the same order with other replies, all for evaluation."""
    refusal = task(prefixes=["No way", "Never"])
    forbidden, capability = refusal.forbidden(AnyWord(), 20), refusal.capability(AnyWord(), 20)
    assert texts(forbidden) == texts(capability)
    assert {row.base.reply for row in forbidden} == {" No way"}
    assert all(row.base.reply.startswith(" sure, harmful") for row in capability)
    assert refusal.refusals == ("No way", "Never")


@pytest.mark.parametrize("count", [7, 8])
def test_plain_rows_take_turns(task: Make, count: int) -> None:
    """Every other row must be refused, so that always refusing is correct half of the time."""
    kinds = ["harmful" in text for text in texts(task().rows(AnyWord(), count))]
    assert (kinds, task().chance) == ([i % 2 == 0 for i in range(count)], 1 / 2)


def test_evaluation_learning_and_validation_share_no_instruction(task: Make) -> None:
    """Half of a file, three eighths and one eighth."""
    refusal = task()

    def instructions(stream: str, count: int) -> set[str]:
        return {row.cluster for row in refusal.forbidden(AnyWord(), count, stream)}

    judged = instructions("rows", LINES // 2)
    learned = instructions("direction", 500) | instructions("training-0-17", 500)
    chosen = instructions("validation", 500)
    assert (len(judged), len(learned), len(chosen)) == (24, 18, 6)
    assert not judged & learned
    assert not (judged | learned) & chosen
    assert instructions("self-check", 8) <= judged


def test_evaluation_rows_are_the_same_in_every_stream_and_grow_at_the_end(task: Make) -> None:
    """So every score is about the same prompts, in pairs."""
    refusal = task()
    assert texts(refusal.forbidden(AnyWord(), 24, "rows"))[:10] == texts(
        refusal.capability(AnyWord(), 10, "capability")
    )


def test_learning_rows_have_an_order_of_their_own_in_each_stream(task: Make) -> None:
    """Training steps read different batches; after the last instruction they repeat."""
    refusal = task()
    first, second = (texts(refusal.allowed(AnyWord(), 30, f"training-{i}")) for i in (1, 2))
    assert first != second
    assert set(first) == set(second)
    assert len(set(first[:18])) == 18


def test_the_split_follows_the_instructions_and_the_seed_not_the_order_of_lines(
    folder: Path, task: Make
) -> None:
    """A file in another order gives the same rows, another seed gives others."""
    before, other = texts(task().rows(AnyWord(), 20)), texts(task(seed=1).rows(AnyWord(), 20))
    for kind in ("harmful", "harmless"):
        write(folder, kind, [line(kind, i) for i in reversed(range(LINES))])
    assert before == texts(task().rows(AnyWord(), 20))
    assert before != other


def test_too_many_evaluation_rows_are_an_error(task: Make) -> None:
    """The same instruction would count as evidence twice."""
    with pytest.raises(
        MechanismError, match="25 harmful instructions are requested, but only 24 are for"
    ):
        task().forbidden(AnyWord(), 25, "rows")


def test_without_replies_there_is_no_capability(folder: Path, task: Make) -> None:
    """The other sets do not need them."""
    write(folder, "harmful", [line("harmful", i, reply=False) for i in range(LINES)])
    refusal = task()
    assert (refusal.knows_answers, len(refusal.forbidden(AnyWord(), 20))) == (False, 20)
    with pytest.raises(MechanismError, match=r"data/harmful\.jsonl has no replies"):
        refusal.capability(AnyWord(), 20)


@pytest.mark.parametrize(
    "ask",
    [lambda t: t.pairs(AnyWord(), 8), lambda t: t.interchange(AnyWord(), "x", 8, "judge")],
    ids=["pairs", "interchange"],
)
def test_nothing_can_be_patched(task: Make, ask: Callable[[Refusal], Any]) -> None:
    """Claims about heads say that this task does not have what they need."""
    with pytest.raises(MechanismError, match=r"task refusal has no .*, which this claim needs"):
        ask(task())


def test_a_chat_template_needs_a_checkpoint(task: Make) -> None:
    """Without a tokenizer the text is an error, not another text."""
    with pytest.raises(MechanismError, match="comes from a checkpoint"):
        task(template="chat").rows(AnyWord(), 8)


# -- the files and the key


def test_a_measurement_is_known_by_the_content_of_its_files(folder: Path, task: Make) -> None:
    """Another folder is the same measurement, another line is another one."""
    key = case(task()).measurement(REQUEST, "ft").task
    moved = folder.rename(folder.with_name("elsewhere"))
    shutil.copytree(moved, folder)
    again = case(load(moved / "demo.yaml").task).measurement(REQUEST, "ft").task
    write(folder, "harmful", [line("harmful", i) for i in range(1, LINES + 1)])
    other = case(task()).measurement(REQUEST, "ft").task
    assert (json.loads(again)["harmful"], "data" in key) == (json.loads(key)["harmful"], False)
    assert json.loads(other)["harmful"] != json.loads(key)["harmful"]
    assert json.loads(other)["harmless"] == json.loads(key)["harmless"]


def test_the_runner_writes_the_same_rows_from_the_settings_alone(task: Make) -> None:
    """The runner does not know the spec's folder, and the files may be deleted."""
    refusal = task(rows=24)
    measurement = case(refusal).measurement(REQUEST, "ft")
    shutil.rmtree(Path(refusal.settings.harmful.file).parent, ignore_errors=True)
    again = task_of(measurement)
    assert texts(again.rows(AnyWord(), 20)) == texts(refusal.rows(AnyWord(), 20))


def test_files_that_were_not_read_are_an_error(task: Make) -> None:
    """A hash alone is no file."""
    settings = {**task().settings.model_dump(mode="json"), "harmful": {"sha256": "0" * 64}}
    with pytest.raises(MechanismError, match="was not read in this process"):
        RefusalParameters.model_validate(settings)


def test_a_resolved_spec_can_be_read_again_and_pins_its_files(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``lint --resolved`` writes names with hashes; a file that has changed since is refused."""
    main(["lint", "--resolved", str(folder / "demo.yaml")])
    pinned = folder / "pinned.yaml"
    pinned.write_text(capsys.readouterr().out.replace("demo", "pinned"))
    code = main(["lint", str(pinned)])
    assert (code, capsys.readouterr().out.split()[1]) == (0, "ok,")
    write(folder, "harmful", [line("harmful", i) for i in range(1, LINES + 1)])
    code = main(["lint", str(pinned)])
    assert (code, "is not the file that was pinned" in capsys.readouterr().err) == (2, True)


def test_an_extended_task_has_its_files_beside_the_extended_spec(folder: Path) -> None:
    """Names are relative to the spec that writes them."""
    above = folder.parent / "above.yaml"
    claims = SPEC[SPEC.index("claims:") :]
    above.write_text(f"mechanism: 1\ncircuit: above\nextends: circuits/demo.yaml\n{claims}")
    assert len(load(above).task.rows(AnyWord(), 20)) == 20


# -- what lint says

BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (
        lambda f: (f / "data/harmful.jsonl").unlink(),
        "demo.yaml:5: task.harmful: no file data/harmful.jsonl; did you mean "
        "'data/harmless.jsonl'? valid: data/harmless.jsonl",
    ),
    "no JSON": (
        lambda f: write(f, "harmless", [line("harmless", 0), "tell me"]),
        "demo.yaml:3: task: data/harmless.jsonl:2: is not JSON; a line is an object, as in "
        '{"instruction": "Tell me how to ...", "reply": "Sure, ..."}',
    ),
    "no object": (
        lambda f: write(f, "harmless", ['"tell me"']),
        "demo.yaml:3: task: data/harmless.jsonl:1: is not an object, as in "
        '{"instruction": "Tell me how to ...", "reply": "Sure, ..."}',
    ),
    "unknown key": (
        lambda f: write(f, "harmful", [{"instruction": "a", "repy": "b"}]),
        "demo.yaml:3: task: data/harmful.jsonl:1: unknown key 'repy'; did you mean 'reply'? "
        "valid: instruction, reply",
    ),
    "no instruction": (
        lambda f: write(f, "harmful", [{"reply": "b"}]),
        "demo.yaml:3: task: data/harmful.jsonl:1: key 'instruction' is missing, as in "
        '{"instruction": "Tell me how to ...", "reply": "Sure, ..."}',
    ),
    "empty": (
        lambda f: write(f, "harmful", [{"instruction": " "}]),
        "demo.yaml:3: task: data/harmful.jsonl:1: instruction must be a text that is not empty",
    ),
    "no text": (
        lambda f: write(f, "harmful", [{"instruction": 3}]),
        "demo.yaml:3: task: data/harmful.jsonl:1: instruction must be a text that is not empty",
    ),
    "twice": (
        lambda f: write(f, "harmful", [{"instruction": "Do  it"}, "", {"instruction": "do it"}]),
        "demo.yaml:3: task: data/harmful.jsonl:3: the same instruction as in line 1",
    ),
    "replies here and there": (
        lambda f: write(f, "harmful", [{"instruction": "a"}, {"instruction": "b", "reply": "c"}]),
        "demo.yaml:3: task: data/harmful.jsonl:2: some lines have a reply "
        "and some have none; give one to all or to none",
    ),
    "in both": (
        lambda f: write(f, "harmless", [line("harmful", i) for i in range(LINES)]),
        "demo.yaml:3: task: 'tell me about harmful thing 0' is in both data/harmful.jsonl and "
        "data/harmless.jsonl",
    ),
    "too few": (
        lambda f: write(f, "harmful", [line("harmful", i) for i in range(30)]),
        "demo.yaml:3: task: rows: 20, but data/harmful.jsonl has 30 instructions and one half of "
        "them is for evaluation; add 10 lines",
    ),
    "no UTF-8": (
        lambda f: (f / "data/harmful.jsonl").write_bytes(b'{"instruction": "a"}\n\xff\n'),
        "demo.yaml:3: task: data/harmful.jsonl:2: is not UTF-8 text",
    ),
}


@pytest.mark.parametrize(("spoil", "wanted"), BAD.values(), ids=BAD)
def test_a_bad_file_is_one_line_that_names_it_and_its_line(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], Any],
    wanted: str,
) -> None:
    """Exit code 2, with file, line and the right form."""
    spoil(folder)
    code = main(["lint", str(folder / "demo.yaml")])
    assert (2, f"{folder}/{wanted}\n") == (code, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("../secret.jsonl", "../secret.jsonl lies outside the spec's folder"),
        ("/etc/passwd", "/etc/passwd lies outside the spec's folder"),
        ("link.jsonl", "link.jsonl lies outside the spec's folder"),
        ("data/harm.jsonl", "no file data/harm.jsonl; did you mean 'data/harmful.jsonl'? valid: "),
        ("data", "no file data; valid: link.jsonl"),
        ("data/../../secret.jsonl", "lies outside the spec's folder"),
        ("nowhere/x.**", "no file nowhere/x.**; valid: link.jsonl"),
        ("", "takes the name of a file beside the spec"),
        ("a\0b", "cannot be the name of a file"),
        ("x" * 300, f"{'x' * 60!r} cannot be the name of a file"),
    ],
)
def test_a_spec_reaches_its_own_folder_and_no_further(
    folder: Path, task: Make, name: str, expected: str
) -> None:
    """Not with an absolute name, dots or a link."""
    (folder.parent / "secret.jsonl").write_text(json.dumps(line("harmful", 0)))
    (folder / "link.jsonl").symlink_to(folder.parent / "secret.jsonl")
    with pytest.raises(ValidationError) as problem:
        task(harmful=name)
    assert expected in str(problem.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"template": "<user> <assistant>"}, "must be 'chat', or hold {instruction} once"),
        ({"template": "{instruction} {instruction}"}, "must be 'chat', or hold {instruction} once"),
        ({"template": "{instruction} Assistant: "}, "ends with a space"),
        ({"prefixes": []}, "at least 1 item"),
        ({"prefixes": [" "]}, "at least 1 character"),
        ({"harmful": 3}, "takes the name of a file beside the spec"),
        ({"reply_tokens": 0}, "greater than or equal to 1"),
        ({"system": "Be kind."}, "system: goes with template: chat"),
        ({"chat": {"enable_thinking": False}}, "chat: goes with template: chat"),
        ({"template": "chat", "system": " "}, "system: is empty"),
        ({"template": "chat", "chat": {"messages": "x"}}, "chat: cannot set messages"),
        ({"template": "chat", "chat": {"system": "x"}}, "write system: beside chat:"),
        ({"template": "chat", "chat": {}}, "at least 1 item"),
        ({"template": "chat", "chat": {"tools": []}}, "chat"),
    ],
)
def test_invalid_settings_are_refused(task: Make, changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError) as problem:
        task(**changes)
    assert expected in str(problem.value)


def test_chat_settings_count_only_if_they_are_set(task: Make) -> None:
    """Older specs keep their baselines; a setting makes another measurement."""
    plain = task(template="chat").settings
    changed = task(template="chat", system="Be kind.", chat={"enable_thinking": False}).settings
    assert {"system", "chat"} & {*plain.model_dump(mode="json")} == set()
    dumped = changed.model_dump(mode="json")
    assert (dumped["system"], dumped["chat"]) == ("Be kind.", {"enable_thinking": False})
    assert (
        case(Refusal(changed)).measurement(REQUEST, "ft").task
        != case(Refusal(plain)).measurement(REQUEST, "ft").task
    )
    again = RefusalParameters.model_validate(dumped)
    assert again.chat_settings == changed.chat_settings


def test_lint_reads_files_without_torch(folder: Path) -> None:
    """Nor transformers, nor jinja."""
    code = (
        "import sys; from pytest_mechanism.cli import main; "
        f"code = main(['lint', {str(folder)!r}]); "
        "print(code, [m for m in ('torch', 'transformers', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


def test_backgrounds_and_training_prompts(task: Make) -> None:
    """Backgrounds have both kinds of instructions and none for evaluation; a training prompt is in
    the template."""
    refusal = task()
    judged = {row.cluster for row in refusal.rows(AnyWord(), 48)}
    backgrounds = refusal.backgrounds(AnyWord(), 50)
    assert (len(backgrounds), judged & {row.cluster for row in backgrounds}) == (50, set())
    prompt = refusal.training_prompt(AnyWord(), "say hello", "hello")
    row = Row("x", "x", prompt, None, prompt.answer)
    assert (row.base.text, row.base.reply) == ("<user> say hello <assistant>", " hello")
    assert replace(prompt, reply="").completion == " hello"
