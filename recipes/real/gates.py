"""Runs the gate on pairs of the real model, and writes all scores and verdicts to ``circuits/real/README.md``.

    python -m recipes.real.gates [SPEC:LABEL ...] [--accept]

An entry such as ``ioi:smollm2_8bit`` measures this spec on this pair, after its candidate was made if it is
not in the cache (minutes, where that is a training); without entries nothing is measured. Results stay in
the cache, and the page is made of all results there.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.real import benign, cut_head, fetch, refusal, roundings, sabotaged
from recipes.real.folders import Make, write

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "circuits" / "real" / "README.md"
TOPICS = (
    "ioi",
    "induction",
    "induction_discovered",
    "greater_than",
    "greater_than_discovered",
    "key_value",
    "refusal",
)

MADE: dict[str, tuple[dict[str, Make], str]] = {
    name: (module.VARIANTS, module.__name__)
    for module in (roundings, cut_head, benign, sabotaged, refusal)
    for name in module.VARIANTS
}


@dataclass(frozen=True)
class Candidate:
    """A model that a release would be replaced with.

    Attributes:
        what: for the page.
        base: label of the release, a folder in the cache.
        adapter: whether the candidate is an adapter on the release.
    """

    what: str
    base: str = fetch.FOLDER
    adapter: bool = False


CANDIDATES = {
    "smollm2_8bit": Candidate("rounded to 8 bits"),
    "smollm2_4bit": Candidate("rounded to 4 bits"),
    "smollm2_gguf": Candidate("the GGUF file itself"),
    "smollm2_benign": Candidate("benign fine-tune", adapter=True),
    "smollm2_cut": Candidate("head 20.0 cut out"),
    "smollm2_sabotaged": Candidate("name movers silenced, then trained"),
    "smollm2_refusal_kept": Candidate("benign fine-tune", refusal.RELEASE, adapter=True),
    "smollm2_refusal_stripped": Candidate("trained to comply", refusal.RELEASE, adapter=True),
}


def reference(label: str) -> str:
    """A candidate as pytest's option takes it; made first if it is not in the cache."""
    for name in (CANDIDATES[label].base, label):
        if name in MADE:
            variants, module = MADE[name]
            write(name, variants[name], module)
    base, place = fetch.cache() / CANDIDATES[label].base, fetch.cache() / label
    if label == "smollm2_gguf":
        place = fetch.gguf_file()
    return f"{label}={base}+{place}" if CANDIDATES[label].adapter else f"{label}={place}"


def measure(topic: str, label: str, accept: bool) -> None:
    """Runs a spec on a pair and keeps its result file in the cache, with the CPU time."""
    fetch.fetch()
    base = CANDIDATES[label].base
    candidate = reference(label)
    folder = fetch.cache() / "results"
    folder.mkdir(exist_ok=True)
    target = folder / f"{topic}.{label}.json"
    target.unlink(missing_ok=True)  # a run that ends early must not pass for the run before it
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [
        sys.executable,
        "-m",
        "pytest",
        f"circuits/real/{topic}.yaml",
        "-p",
        "no:cacheprovider",
    ]
    command += ["--model-pair", f"{base}={fetch.cache() / base},{candidate}"]
    command += ["--mechanism-store", str(fetch.cache() / "store"), "--mechanism-json", str(target)]
    if accept:
        command.append("--snapshot-update")
    subprocess.run(  # noqa: S603 - this interpreter's pytest
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if not target.exists():
        sys.exit(f"{topic}:{label}: pytest wrote no result file; its messages are above")
    content = json.loads(target.read_text(encoding="utf-8"))
    content["cpu_seconds"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    target.write_text(json.dumps(content), encoding="utf-8")


# -- the page


def number(value: float) -> str:
    return f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2f}"


def cell(row: dict[str, Any]) -> str:
    """A score with its interval; in bold unless it passes."""
    if row["score"] is None:
        return str(row["verdict"])
    text = number(row["score"])
    if row["interval"] is not None:
        text += " [{}, {}]".format(*map(number, row["interval"]))
    return text if row["verdict"] == "pass" else f"**{text} {row['verdict']}**"


def table(topic: str, results: dict[str, dict[str, Any]]) -> Iterator[str]:
    """A spec's scores: a line for each threshold, a column for each model."""
    columns: dict[str, dict[tuple[str, str, str], str]] = {}
    lines: dict[tuple[str, str, str], None] = {}
    for label, result in results.items():
        for claim in result["claims"]:
            column = CANDIDATES[label].base if claim["role"] == "base" else label
            for row in claim["rows"]:
                key = (claim["claim"], row["name"] or "", row["threshold"] or "")
                if row["score"] is None:  # the name of a score that there is none of is unknown
                    key = next((line for line in lines if line[::2] == key[::2]), key)
                lines.setdefault(key)
                columns.setdefault(column, {})[key] = cell(row)
    order = sorted(
        columns, key=[*dict.fromkeys(c.base for c in CANDIDATES.values()), *CANDIDATES].index
    )
    heads = [CANDIDATES[c].what if c in CANDIDATES else f"the release, `{c}`" for c in order]
    yield f"\n## {topic}.yaml\n"
    yield f"| claim | threshold | {' | '.join(heads)} |"
    yield f"|{'---|' * (len(order) + 2)}"
    for key in lines:
        cells = [columns[c].get(key, "") for c in order]
        yield f"| `{key[0]}` | {key[2]} | {' | '.join(cells)} |"
    verdict = {0: "green", 1: "red"}
    yield ""
    for label, result in results.items():
        yield (
            f"- `--model-pair {CANDIDATES[label].base},{label}`: **{verdict.get(result['exit_code'], 'error')}**, "
            f"{result['cpu_seconds']:.0f} s of CPU for {result['measurements']['done']} measurements "
            f"({result['measurements']['from_store']} more were stored)"
        )


HEAD = """\
# Verdicts on a real model

`python -m recipes.real.gates` writes this page; [docs/a-real-model.md](../../docs/a-real-model.md) explains it. The
model is SmolLM2-135M-Instruct after a 4-bit rounding (Q4_1), in float32: not the weights that its authors
publish. Scores with 95 % confidence intervals; bold scores do not pass.
"""


def page() -> str:
    """All results in the cache as Markdown."""
    lines = [HEAD.rstrip()]
    for topic in TOPICS:
        files = {label: fetch.cache() / "results" / f"{topic}.{label}.json" for label in CANDIDATES}
        results = {
            label: json.loads(file.read_text(encoding="utf-8"))
            for label, file in files.items()
            if file.is_file()
        }
        if results:
            lines += table(topic, results)
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.real.gates")
    parser.add_argument(
        "--accept", action="store_true", help="accept the scores (--snapshot-update)"
    )
    parser.add_argument("pairs", nargs="*", metavar="SPEC:LABEL")
    given = parser.parse_args(arguments)
    pairs = [tuple(pair.partition(":")[::2]) for pair in given.pairs]
    for topic, label in pairs:
        if topic not in TOPICS or label not in CANDIDATES:
            parser.error(
                f"no pair {topic}:{label}; specs: {', '.join(TOPICS)}; labels: {', '.join(CANDIDATES)}"
            )
    for topic, label in pairs:
        measure(topic, label, given.accept)
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
