"""Does `diffuse_change` see harm that is smaller than a re-fit, and let re-fits pass?

    python -m benchmarks.diffuse --folder DIR [--minutes M] [--report]

In `benchmarks.sabotage`, a fault is all that a candidate differs by, so that its share is 1 whatever its size: no
evidence for a claim about shares. Here every weight of a candidate differs from the release, ``ft``, and the harm lies
on top. DIR keeps the results: the same command continues a run that was stopped.

Both candidates of `benchmarks.naming` and its faults were looked at first, on 84 rows, by a script that grafts by
copying weights. The claim then compared mean divergences; with the fourth fresh re-fit, in which a few rows hold most
of the mean, its bound came out above 1. The geometric mean over rows was chosen then, on the same 84 rows. The rest
was fixed before the first run:

- *Bound.* Of five re-fits whose seeds nothing else has, the largest upper end of a head's, an MLP's or an outer
  parameter's share, each; a further re-fit stays below with 95 % (`benchmarks.faults.stories.bound`). The same for
  layers and their attention.
- *Faults.* Those of `benchmarks.naming`, on its two candidates. They and the benign changes are looked at
  in random order.
- *False alarms.* The two candidates without a fault, and the re-fits, gentle fine-tunes and LoRAs of the suite
  `release`.
- *Size.* KL(candidate || harmed) at the answers of 504 rows, divided by that of the median re-fit (`naming.SAME`).
- *Seen.* Some share is not surely at most its bound: the claim is red.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import naming
from benchmarks.faults import entity_tracking, learned
from benchmarks.faults.book import Book, command
from benchmarks.faults.change import Edit, Make
from benchmarks.faults.gate import evaluator
from benchmarks.faults.rules import rate
from benchmarks.faults.stories import FRESH, bound
from pytest_mechanism.claims.diffuse_change import DiffuseChange
from pytest_mechanism.claims.parts import OTHER_COLUMNS, in_logs, share, whole
from pytest_mechanism.measurements.grafting import BEFORE
from pytest_mechanism.spec.load import load

SPEC = """mechanism: 1
circuit: diffuse
task: {family: entity_tracking, boxes: 7, fillers: 3, rows: 140, seed: 3}
claims:
  spread: {kind: diffuse_change, at_most: 0.6}
"""

FRESH_REFITS = 5
KINDS = ("re-fit", "gentle fine-tune", "benign LoRA")
"""Of the benign changes of the suite `release` that are judged."""


def fresh() -> Iterator[tuple[str, Make]]:
    """The re-fits that give the bounds."""
    for seed in FRESH[:FRESH_REFITS]:
        yield f"fresh re-fit {seed}", learned.tuned(seed, 1e-4, 100, start="parent")


def benign() -> list[tuple[str, Make]]:
    """What nobody harmed."""
    return [(c.name, c.make) for c in entity_tracking.changes() if not c.fault and c.kind in KINDS]


def harmed() -> list[tuple[str, str, str | None, Edit]]:
    """Name, candidate, hurt head and edit of each harmed candidate, and of the two that nobody harmed."""
    return [
        (f"{candidate}: {change.name}", candidate, change.hurt, edit)
        for candidate in naming.CANDIDATES
        for change, edit in naming.faults()
    ]


def looked_at(candidate: Path, folder: Path) -> dict[str, Any]:
    """KL(release || candidate), and the share of every part: value, lower and upper end."""
    started = time.process_time()
    gate = evaluator({"base": "released=zoo:ft", "ft": f"ft={candidate}"}, folder / "store")
    spec = load(folder / "diffuse.yaml")
    claim = spec.claims["spread"]
    assert isinstance(claim, DiffuseChange)
    context = gate.model_context(spec, "pair", ("base", "ft"))
    found = gate.runner.measure(claim.first(context))
    gate.runner.checkpoint.release()
    how = context.sampling(found)
    shares = {
        name: [round(number, 4) for number in (each.value, *each.interval)]
        for name in found.values
        if name not in OTHER_COLUMNS
        for each in [share(in_logs(found.values, name, how))]
    }
    kl = float(sum(found.values[BEFORE]) / len(found.example_ids))
    return {"kl": kl, "shares": shares, "seconds": round(time.process_time() - started, 1)}


def go(folder: Path, until: float) -> None:
    """Look at every candidate, until a point in time."""
    book = Book(folder / "diffuse.jsonl")
    (folder / "diffuse.yaml").write_text(SPEC, encoding="utf-8")

    def add(key: str, entry: Mapping[str, Any]) -> None:
        book.add(key, entry)
        best = max(entry["shares"], key=lambda name: float(entry["shares"][name][0]))
        print(f"{key}: KL {entry['kl']:.4f} most {best} {entry['shares'][best]}", flush=True)

    def judge(group: str, name: str, make: Make, **fields: Any) -> None:
        if name in book or time.time() > until:
            return
        with tempfile.TemporaryDirectory() as temporary:
            make(naming.shop(), Path(temporary))
            add(name, {"group": group, **fields, **looked_at(Path(temporary), folder)})

    def harm(name: str, candidate: str, hurt: str | None, edit: Edit) -> None:
        if name in book or time.time() > until:
            return
        unharmed = naming.candidate(candidate, folder)
        model = naming.shop().load(unharmed)
        with torch.no_grad():
            edit(model)
        group, size = "harmed" if hurt else "benign", naming.kl(unharmed, model)
        judge(group, name, lambda shop, to: shop.save(model, to), hurt=hurt, size=size)

    for name, make in fresh():
        judge("fresh", name, make)
    work = [partial(judge, "benign", *each) for each in benign()]
    work += [partial(harm, *each) for each in harmed()]
    random.Random("diffuse").shuffle(work)  # a run that ends early has looked at a random sample
    for do in work:
        do()


def largest(entry: Mapping[str, Any], *, layers: bool) -> float:
    """The largest upper end of a share, of heads, MLPs and outer parameters, or of layers and attention."""
    return max(float(e[2]) for name, e in entry["shares"].items() if whole(name) is layers)


SIZES = ((0.0, 0.1), (0.1, 0.5), (0.5, 1.0), (1.0, 2.0), (2.0, 1e9))
"""Of harm, in re-fits."""


def text(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """The tables."""
    of = {
        group: {k: e for k, e in entries.items() if e["group"] == group}
        for group in ("fresh", "benign", "harmed")
    }
    told = [f"{len(of['harmed'])} harmed and {len(of['benign'])} benign candidates"]
    bounds = {}
    for layers, what in (
        (False, "heads, MLPs and outer parameters"),
        (True, "layers and attention"),
    ):
        ends = [largest(e, layers=layers) for e in of["fresh"].values()]
        bounds[layers] = bound(ends)
        told.append(
            f"bound of {what}: {bounds[layers]:.2f} (of {len(ends)} re-fits, {min(ends):.2f} to {max(ends):.2f})"
        )

    def seen(entry: Mapping[str, Any]) -> bool:
        return any(largest(entry, layers=layers) > at_most for layers, at_most in bounds.items())

    for low, high in SIZES:
        chosen = [e for e in of["harmed"].values() if low < e["size"] / naming.SAME <= high]
        name = (
            f"harm of {low:g} to {high:g} re-fits" if high < 1e9 else f"harm above {low:g} re-fits"
        )
        told.append(f"{name:28} seen {rate(seen(e) for e in chosen)}")
    small = [e for e in of["harmed"].values() if e["size"] <= naming.SAME]
    told.append(f"{'harm of at most a re-fit':28} seen {rate(seen(e) for e in small)}")
    red = [e for e in of["harmed"].values() if seen(e)]
    told.append(
        f"the hurt head has the largest share of a head or MLP, of those seen: "
        f"{rate(first(e) == e['hurt'] for e in red)}"
    )
    told.append(f"benign changes red           {rate(seen(e) for e in of['benign'].values())}")
    told += [f"  red: {name}" for name, e in of["benign"].items() if seen(e)]
    return "\n".join(told)


def first(entry: Mapping[str, Any]) -> str:
    """The head, MLP or outer parameter with the largest share."""
    alone = [str(name) for name in entry["shares"] if not whole(name)]
    return max(alone, key=lambda name: float(entry["shares"][name][0]))


def main(arguments: Sequence[str] | None = None) -> int:
    return command(
        "Does `diffuse_change` tell harm from a re-fit?", "diffuse.jsonl", go, text, arguments
    )


if __name__ == "__main__":
    sys.exit(main())
