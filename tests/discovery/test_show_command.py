"""``pytest-mechanism show`` on the planted pair, whose circuit and effects are known."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from evaluators import open_evaluator

from pytest_mechanism.checkpoints.reference import ZOO
from pytest_mechanism.cli import main
from pytest_mechanism.discovery.measured_circuit import measure_circuit
from pytest_mechanism.report.circuit_graph_data import marked, positions
from pytest_mechanism.runner.resident import ResidentCheckpoint
from pytest_mechanism.spec.load import load
from pytest_mechanism.tasks.base import Task

SPEC = """mechanism: 1
circuit: planted
task: {family: entity_tracking, boxes: 2, rows: 20, seed: 0}
groups:
  value_fetcher:   {heads: {3: [1, 4]}, at: last}
  pos_transmitter: {heads: {2: [6]}, at: last, into: {group: value_fetcher, via: q}}
  pos_detector:    {heads: {1: [2]}, at: query_label, into: {group: pos_transmitter, via: v}}
claims:
  solves: {kind: accuracy, at_least: 0.9}
"""
NO_GROUPS = re.sub(r"groups:.*(?=claims:)", "", SPEC, flags=re.DOTALL)
PAIR = ["--model-pair", "base=zoo:planted_base,ft=zoo:planted_ft"]
ROWS = ["--rows", "20"]
SENDERS = {"value_fetcher": 32, "pos_transmitter": 24, "pos_detector": 16}
"""Heads below the receivers; all for the logits."""

FILES = [f"planted_{name}.{kind}" for name in ("heads", "circuit") for kind in ("svg", "png")]


class Shown:
    """``show`` in a folder of its own, with one store."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture) -> None:
        self.folder, self.capsys = folder, capsys
        self.note = f"note: no claim of {folder / 'planted.yaml'} is about its groups, which are drawn all the same\n"

    def show(self, out: str, *options: str, spec: str = SPEC) -> tuple[int, str, str]:
        (self.folder / "planted.yaml").write_text(spec)
        command = ["show", "-q", str(self.folder / "planted.yaml"), *ROWS, *options]
        self.capsys.readouterr()
        code = main(
            [*command, "--out", str(self.folder / out), "--store", str(self.folder / "store")]
        )
        return code, *self.capsys.readouterr()

    def text(self, name: str) -> str:
        return (self.folder / name).read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("show")


@pytest.fixture
def shown(folder: Path, capsys: pytest.CaptureFixture) -> Shown:
    """The pair has been shown once, in ``pictures``."""
    result = Shown(folder, capsys)
    if not (folder / "pictures").exists():
        code, out, err = result.show("pictures", *PAIR)
        assert code == 0, err
        assert out == "".join(f"wrote {folder / 'pictures' / name}\n" for name in FILES)
        assert err == f"{result.note}14 measurements made, 0 taken from the store\n"
    return result


def test_pictures_hold_the_numbers_that_were_measured(shown: Shown) -> None:
    """Every score of the maps and every effect of the graph, with its interval and control."""
    heads, circuit = (shown.text(f"pictures/planted_{n}.svg") for n in ("heads", "circuit"))
    spec = load(shown.folder / "planted.yaml")
    for view in measured(shown.folder):
        for stage in view.stages:
            assert len(stage.effects) == SENDERS[stage.group]
            for (layer, head), effect in stage.effects.items():
                (text,) = texts(heads, f"score-{stage.group}-{layer}.{head}-{view.label}")
                assert float(text) == pytest.approx(effect.value, abs=0.051)
        for group in spec.groups:
            score = view.effects[group]
            (text,) = texts(circuit, f"effect-{group}-{view.label}")
            assert float(text) == pytest.approx(score.value, abs=0.051)
            assert score.value < -3
            assert score.control is not None
            assert abs(score.control.value) < 1e-3
            assert f"[{score.interval[0]:+.1f}, {score.interval[1]:+.1f}]" in circuit


def measured(folder: Path):
    """What was seen of each model, from the store."""

    store = folder / "store"
    gate = open_evaluator("--model-pair", PAIR[1], "--store", store)
    spec = load(folder / "planted.yaml")
    for role, reference in gate.runner.references.items():
        case = gate.model_context(spec, role)
        yield measure_circuit(case, role, reference.label, gate.runner.measure, 20)
    assert gate.runner.done == 0


def texts(svg: str, gid: str) -> list[str]:
    """Text inside the element with this id."""
    inside = svg[svg.index(f'<g id="{gid}"') :]
    return re.findall(r"<text[^>]*>([^<]*)</text>", inside[: inside.index("</g>")])


def test_the_groups_of_the_spec_are_outlined_and_drawn(shown: Shown) -> None:
    """Its heads in every map, a box a group, an arrow a group and model."""
    heads, circuit = (shown.text(f"pictures/planted_{n}.svg") for n in ("heads", "circuit"))
    chosen = {f"value_fetcher-3.{h}" for h in (1, 4)} | {"pos_transmitter-2.6", "pos_detector-1.2"}
    assert set(re.findall(r'id="chosen-(\S+-\d\.\d)-ft"', heads)) == chosen
    assert set(re.findall(r'id="edge-(\w+)-ft"', circuit)) == set(
        re.findall(r'id="group-(\w+)"', circuit)
    )
    for wanted in ("via q of value_fetcher", "at query_label", "L3 H1, L3 H4", "[1] query_label"):
        assert f">{wanted}</text>" in circuit
    assert ">head of the group, named in the spec</text>" in heads


def test_showing_again_measures_nothing_and_writes_the_same_bytes(shown: Shown) -> None:
    """Everything comes from the store."""
    code, _, err = shown.show("again", *PAIR)
    assert (code, err) == (0, f"{shown.note}0 measurements made, 14 taken from the store\n")
    for name in FILES:
        first, second = (shown.folder / where / name for where in ("pictures", "again"))
        assert first.read_bytes() == second.read_bytes()
    assert sorted(p.name for p in (shown.folder / "again").iterdir()) == sorted(FILES)


def test_each_model_is_loaded_once(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The curves of claims are measured while it is in memory for the circuit."""
    loaded: list[str] = []
    load_checkpoint = ResidentCheckpoint._load

    def noted(self: ResidentCheckpoint, role: str, task: Task) -> None:
        loaded.append(role)
        load_checkpoint(self, role, task)

    monkeypatch.setattr(ResidentCheckpoint, "_load", noted)
    curve = "blocked: {kind: knockout, from: last, to: query_label, drops_at_least: 0.5}"
    spec = SPEC.replace("solves: {kind: accuracy, at_least: 0.9}", curve)
    code, out, err = Shown(tmp_path, capsys).show("pictures", *PAIR, spec=spec)
    assert code == 0, err
    assert "planted_blocked.svg" in out
    assert sorted(loaded) == ["base", "ft"]


def test_heads_that_gradients_left_out_are_drawn_as_estimates(shown: Shown) -> None:
    """A group that is screened has a mark on every head that was not patched alone, and a sentence that says
    what it shows; heads that cannot reach the receivers have another."""
    screened = SPEC.replace("at: last}", "at: last, find: {screen: {keep: 4}}}", 1)
    code, _, err = shown.show("screened", "--model", "base=zoo:planted_base", spec=screened)
    assert code == 0, err
    heads = shown.text("screened/planted_heads.svg")
    marked = [
        int(stop) + 1 - int(start)
        for start, stop in re.findall(r'id="estimated-value_fetcher-\d\.(\d)-(\d)-base"', heads)
    ]
    alone = len(re.findall(r'id="score-value_fetcher-', heads))
    assert alone < SENDERS["value_fetcher"]
    assert sum(marked) + alone == SENDERS["value_fetcher"]
    assert "estimated-pos_detector" not in heads
    words = " ".join(re.findall(r">([^<>]+)</text>", heads))
    assert "Dotted cells were not patched alone" in words


def test_one_model_is_one_column(shown: Shown) -> None:
    """With ``--model`` instead of a pair, show searches for heads that are to be discovered, and finds the
    planted ones."""
    code, _, err = shown.show(
        "one",
        "--model",
        "base=zoo:planted_base",
        spec=SPEC.replace("{heads: {2: [6]}", "{heads: discovered"),
    )
    assert code == 0, err
    heads = shown.text("one/planted_heads.svg")
    assert set(re.findall(r'id="chosen-pos_transmitter-(\d\.\d)-base"', heads)) == {"2.6"}
    assert "named in the spec, or discovered by its effect" in heads
    assert "-ft" not in heads
    assert "-ft" not in shown.text("one/planted_circuit.svg")


def test_a_group_for_which_nothing_is_found_is_drawn_without_heads(shown: Shown) -> None:
    """And so are those that it would have read."""
    spec = re.sub(r"heads: \{[^}]*\}, at: (\w+)", r"heads: discovered, at: \1", SPEC)
    spec = spec.replace("at: last}", "at: last, find: {drops_at_least: 99.0}}")
    code, _, err = shown.show("none", "--model", "base=zoo:planted_base", spec=spec)
    assert code == 0, err
    assert "chosen-" not in shown.text("none/planted_heads.svg")
    circuit = shown.text("none/planted_circuit.svg")
    assert circuit.count(">no heads found</text>") == 3 + 3
    assert "No effect could be measured." in circuit


@pytest.mark.parametrize(
    ("spec", "options", "problem"),
    [
        (NO_GROUPS, PAIR, "has nothing to show: no groups"),
        (SPEC.replace("{1: [2]}", "{1: [9]}"), PAIR, "group pos_detector names head 9 of layer 1"),
        (SPEC, ["--model", "zoo:nobody"], "no embedded checkpoint 'nobody'"),
        (SPEC, [], "name the checkpoints: either --model REF or --model-pair A,B"),
        (
            SPEC,
            [*PAIR, "--rows", "18"],
            "--rows 18 is too few: a confidence interval needs 10 contexts",
        ),
        (SPEC, [*PAIR, "--rows", "-1"], "--rows -1 is too few"),
        (SPEC, [*PAIR, "--rows", "19"], "--rows 19: Input should be greater than or equal to 20"),
        (SPEC.replace("mechanism: 1", "mechanism: 2"), PAIR, "is not a supported version"),
    ],
)
def test_what_cannot_be_shown_is_one_line(
    shown: Shown, spec: str, options: list[str], problem: str
) -> None:
    """Exit code 2, no traceback, no picture."""
    code, out, err = shown.show("nothing", *options, spec=spec)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert problem in err
    assert not (shown.folder / "nothing").exists()


def test_a_file_in_place_of_the_folder_is_one_line(shown: Shown) -> None:
    """show reports it before it measures anything, also for a file in the middle of the path."""
    for out in ("planted.yaml", "planted.yaml/deeper"):
        code, _, err = shown.show(out, *PAIR)
        assert (code, err.count("\n")) == (2, 1)
        assert re.search(r"\S+ cannot be written: \S+planted.yaml is a file", err)


def test_a_model_at_chance_is_shown_with_a_warning(shown: Shown) -> None:
    """Random weights: the pictures show what there is, and they and the command say what it is worth."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    random = shown.folder / "random"
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(
        AutoConfig.from_pretrained(ZOO / "planted_base")
    ).save_pretrained(random)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ZOO / "planted_base" / name, random / name)
    code, _, err = shown.show("chance", "--model-pair", f"base=zoo:planted_base,ft={random}")
    warning = "ft answers no better than chance, so it does not do the task"
    assert code == 0
    assert f"warning: {warning}" in err
    for name in ("heads", "circuit"):
        text = " ".join(re.findall(r">([^<>]+)</text>", shown.text(f"chance/planted_{name}.svg")))
        assert f"Warning: {warning}" in text


def test_the_example_has_its_positions_marked() -> None:
    """The picture's example prompt marks the positions of the groups."""
    from types import SimpleNamespace

    from pytest_mechanism.tasks.base import Prompt

    groups = {str(i): SimpleNamespace(at=at) for i, at in enumerate(("end", "all", "first"))}
    prompt = Prompt(
        "in Box O, in Box L. the",
        {"first": ((6, 8),), "all": ((6, 8), (16, 18)), "end": ((19, 23),)},
        "x",
    )
    marks = positions(SimpleNamespace(groups=groups), prompt)
    assert list(marks) == ["all", "first", "end"]
    assert marked(prompt.text, marks) == "in Box [1, 2: O], in Box [1: L]. [3: the]"
