"""Does a report name the head that was harmed, also where every weight has changed?

    python -m benchmarks.naming --folder DIR [--minutes M] [--report]

One head of a candidate is harmed, or its work is moved to a head of the same layer. The candidate is the embedded
``ft`` trained further: every weight differs from the release, ``ft``, to which it is compared. DIR keeps the results:
the same command continues a run that was stopped.

Fixed before the first run. (One harmed candidate of another list was looked at: head 0.1 silenced, whose gain was not
sure by the t test that this list does not use.)

- *Candidates.* ``gentle``: 20 more steps at 3e-5. ``re-fit``: the fine-tune made again from the parent, another seed.
- *Faults.* Heads 0.3, 1.3, 2.2 and 3.0, one for each layer of the circuit. Each silenced, halved, with noise as large
  as itself, rotated by 60 degrees, or set back to the parent's: 20 for each candidate. 30 and 60 % of heads 2.2 and 1.3
  moved to heads 2.1 and 1.0 outside the circuit: 4 for each candidate. And both candidates without a fault.
- *Size.* KL(candidate || harmed) in nats at the answers of 504 rows. A fault up to `SAME` is equivalent to none: the
  median of five re-fits in docs/how-good-is-the-gate.md.
- *Reports.* Of a red claim about the circuit and of one about the task alone; the claims are taken for red. Rows and
  groups are those of `SPEC`.
- *Named.* The harmed head is the first that the report names; also by its lines about weights alone, and by the sweep.
  By grafts: the first member that `runner.grafts.behind` gives, also where the report leaves grafts out because weights
  name one part. By tracing: the head or MLP whose activation of the release, put into the candidate, brings most of the
  answer's logit back (`methods.circuits.exchange`, causal tracing), which no report says.
- *Chance.* One of the 16 heads.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from benchmarks.faults import learned, sizes, weights
from benchmarks.faults.book import Book, command
from benchmarks.faults.change import Change, Edit, Make, Workshop
from benchmarks.faults.gate import MEMBER, Judgement, evaluator, named
from benchmarks.faults.rules import rate
from benchmarks.faults.suites import SUITES
from pytest_mechanism.causes import Cause
from pytest_mechanism.claims.other_places import OtherPlaces
from pytest_mechanism.comparison.members import exchanged, to_exchange
from pytest_mechanism.runner.grafts import behind, grafts
from pytest_mechanism.spec.load import load

SAME = 0.0210

SPEC = """mechanism: 1
circuit: naming
task: {family: entity_tracking, boxes: 7, fillers: 3, rows: 140, seed: 3}
groups:
  value_fetcher:   {heads: {3: [0, 1, 2, 3]}, at: last}
  pos_transmitter: {heads: {2: [2]}, at: last, into: {group: value_fetcher, via: q}}
  pos_detector:    {heads: {1: [3]}, at: query_label, into: {group: pos_transmitter, via: v}}
  struct_reader:   {heads: {0: [0, 1, 2, 3]}, at: previous_query_label, into: {group: pos_detector, via: v}}
found_on: base
claims:
  heard: {kind: path, on: ft, group: pos_transmitter, drops_at_least: 0.5}
  solves: {kind: accuracy, on: ft, at_least: 0.9}
"""

HEADS = ((0, 3), (1, 3), (2, 2), (3, 0))
MOVES = (((2, 2), 1), ((1, 3), 0))

CANDIDATES: Mapping[str, Make] = {
    "gentle": learned.tuned(63, 3e-5, 20),
    "re-fit": learned.tuned(64, 1e-4, 100, start="parent"),
}


def faults() -> Iterator[tuple[Change, Edit]]:
    """Faults of a candidate, each with its edit; first none."""

    def fault(name: str, kind: str, hurt: str | None, taker: str | None = None) -> Change:
        return Change(name, kind, hurt is not None, "", lambda *_: None, hurt=hurt, taker=taker)

    yield fault("no fault", "none", None), lambda _: None
    for layer, head in HEADS:
        hurt = f"{layer}.{head}"
        for kind, edit in (
            ("silenced", weights.scale_head(layer, head, 0.0)),
            ("halved", weights.scale_head(layer, head, 0.5)),
            ("noised", weights.noise_head(layer, head, 1.0, 11)),
            ("rotated", weights.rotate_head(layer, head, 60, 12)),
            ("set back", weights.head_of(shop().load(shop().parent), layer, head)),
        ):
            yield fault(f"{hurt} {kind}", kind, hurt), edit
    for (layer, head), to in MOVES:
        for share in (0.3, 0.6):
            hurt, taker = f"{layer}.{head}", f"{layer}.{to}"
            name = f"{share:.0%} of {hurt} moved to {taker}"
            yield fault(name, "moved", hurt, taker), weights.move_head(layer, head, to, share)


@cache
def shop() -> Workshop:
    return SUITES["release"].shop


@cache
def said(folder: Path) -> sizes.Scale:
    """What a candidate without a fault says at the answers."""
    return sizes.Scale(sizes.load(folder), sizes.boxes(rows=504, texts=0))


def kl(whole: Path, harmed: LlamaForCausalLM) -> float:
    """How far a harmed candidate is from the unharmed one, in nats."""
    scale = said(whole)
    return float(sizes.divergence(scale.answers, scale.said(harmed)[0]).mean())


def candidate(name: str, folder: Path) -> Path:
    """A candidate without a fault, trained once."""
    made = folder / name
    if not (made / "model.safetensors").exists():
        made.mkdir(parents=True, exist_ok=True)
        CANDIDATES[name](shop(), made)
    return made


def looked_at(harmed: Path, store: Path, spec_file: Path) -> dict[str, Any]:
    """What reports say of a harmed candidate, and which member tracing finds."""
    started = time.process_time()
    gate = evaluator({"base": "released=zoo:ft", "ft": f"ft={harmed}"}, store)
    spec, found = load(spec_file), []
    for name, cause in (("heard", Cause.REFUTED), ("solves", Cause.REFUTED)):
        located = gate.locate(spec, spec.claims[name], "ft", cause)
        said = () if located is None else located.lines
        lines = [line for line in said if " shows no sure change " not in line]
        found.append(lines)
    seconds = time.process_time() - started
    plain = gate.model_context(spec, "ft", ("base", "ft"))
    grafted = [each.name for each in behind(grafts(plain, "ft", gate.runner.measure))]
    context = replace(
        gate.model_context(spec, "pair", ("base", "ft")), sweep_rows=spec.task.settings.rows
    )
    members = to_exchange(context.shapes["base"], (), OtherPlaces({}))
    alone = {name: nodes for name, nodes in members.items() if len(nodes) == 1}
    result = gate.runner.measure(exchanged(context, "ft", alone, OtherPlaces({})))
    gate.runner.checkpoint.release()
    traced = max(alone, key=lambda name: float(result.values[name].mean()))
    return {
        "circuit": found[0],
        "task": found[1],
        "grafted": grafted,
        "traced": traced,
        "seconds": round(seconds, 1),
    }


def go(folder: Path, until: float) -> None:
    """Look at every fault of every candidate, until a point in time."""
    book = Book(folder / "naming.jsonl")
    spec_file = folder / "naming.yaml"
    spec_file.write_text(SPEC, encoding="utf-8")
    work = [(name, *fault) for name in CANDIDATES for fault in faults()]
    random.Random("naming").shuffle(work)  # a run that ends early has looked at a random sample
    for name, change, edit in work:
        whole = candidate(name, folder)
        key = f"{name}: {change.name}"
        if key in book or time.time() > until:
            continue
        model = shop().load(whole)
        with torch.no_grad():
            edit(model)
        size = kl(whole, model)
        with tempfile.TemporaryDirectory() as temporary:
            harmed = Path(temporary)
            shop().save(model, harmed)
            entry = looked_at(harmed, folder / "store", spec_file)
        book.add(key, {"size": size, "hurt": change.hurt, "taker": change.taker, **entry})
        report, task = (names(entry[which])[:1] for which in ("circuit", "task"))
        print(
            f"{key}: KL {size:.4f} report {report} {task} sweep {names(entry['circuit'], 'sweep')[:1]} "
            f"grafts {entry['grafted'][:1]} tracing {entry['traced']} ({entry['seconds']:.0f} s)",
            flush=True,
        )


def names(lines: Sequence[str], by: Any = None) -> list[str]:
    """What a report with these lines names."""
    return named([Judgement("", "", "fail", None, "", lines)], by)


def text(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """The tables."""
    told: list[str] = []
    for title, least in (("not equivalent to none", SAME), ("all", -1.0)):
        chosen = [e for e in entries.values() if e["hurt"] and e["size"] > least]
        single = [e for e in chosen if e["taker"] is None]
        moved = [e for e in chosen if e["taker"] is not None]
        told.append(f"single-head faults, {title} (chance: 1 of 16, 6%)")
        for which in ("circuit", "task"):
            told.append(f"  first head in the report of a claim about the {which}")
            for by, what in (
                (None, "the report"),
                ("weights", "the weights"),
                ("sweep", "the sweep"),
            ):
                hits = rate(names(e[which], by)[:1] == [e["hurt"]] for e in single)
                told.append(f"    by {what:14} {hits}")
        told.append(
            f"  by grafts            {rate(e['grafted'][:1] == [e['hurt']] for e in single)}"
        )
        told.append(f"  by tracing           {rate(e['traced'] == e['hurt'] for e in single)}")
        told.append(f"moved work, {title}")
        for which in ("circuit", "task"):
            first = rate(names(e[which])[:1] == [e["hurt"]] for e in moved)
            taker = rate(e["taker"] in mentioned(e[which]) for e in moved)
            told.append(f"  claim about the {which}: hurt head first {first}, taker named {taker}")
    for key, entry in entries.items():
        if entry["hurt"] is None:
            told.append(f"{key}: grafts name {', '.join(entry['grafted']) or 'nobody'}")
    return "\n".join(told)


def mentioned(lines: Sequence[str]) -> list[str]:
    """Every head and MLP that a report mentions."""
    return [head or f"{layer}.mlp" for line in lines for head, layer in MEMBER.findall(line)]


def main(arguments: Sequence[str] | None = None) -> int:
    return command("Does a report name the harmed head first?", "naming.jsonl", go, text, arguments)


if __name__ == "__main__":
    sys.exit(main())
