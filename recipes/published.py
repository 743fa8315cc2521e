"""A published circuit, measured on its own models: our scores beside the published figures.

    python -m recipes.published entity_tracking_llama_7b --model-pair llama=REF,goat=REF
    python -m recipes.published ioi_gpt2_small --model-pair gpt2=REF,NAME=REF

The weights are yours to get; REF is what ``--model-pair`` takes. The labels before ``=`` say which model is
which, because the figures are theirs. Further options go to pytest (``--mechanism-device cuda``). The gate
runs once over the spec in ``circuits/published``; then the command prints a line for each published figure:
our score with its interval, and the difference. ``--result FILE`` prints the lines for a result file that
``--mechanism-json`` wrote before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "circuits" / "published"
COLUMNS = (
    "model",
    "published figure",
    "published",
    "ours",
    "95 % interval",
    "difference",
    "source",
)
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Figure:
    """A number that a paper reports, and the score of ours that measures the same quantity.

    Attributes:
        what: the quantity.
        where: in the paper.
        claim: of the spec.
        score: name of its score; None for the first.
        published: label of a model -> the number.
    """

    what: str
    where: str
    claim: str
    score: str | None
    published: Mapping[str, float]


def figures(name: str) -> list[Figure]:
    """The published figures of a spec."""
    content = json.loads((FOLDER / "figures.json").read_text(encoding="utf-8"))
    return [Figure(**figure) for figure in content[name]]


def names() -> list[str]:
    """The published circuits."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


# -- ours


def measured(result: Mapping[str, Any], figure: Figure, label: str) -> tuple[Any, str]:
    """The score of a model in a result file, or None and why there is none.

    A claim about the pair is about its second model: the fine-tune, whose gain is recovered.
    """
    roles = [role for role, entry in result["pair"].items() if entry["label"] == label]
    claims = [claim for claim in result["claims"] if claim["claim"] == figure.claim]
    for claim in claims:
        if claim["role"] in roles or (claim["role"] == "pair" and "ft" in roles):
            scores = claim["scores"]
            wanted = [s for s in scores if figure.score in (None, s["name"])]
            return (wanted[0], "") if wanted else (None, claim["reason"])
    return None, "the run has no such claim on this model"


def lines(result: Mapping[str, Any], name: str) -> Iterator[tuple[str, ...]]:
    """A line for each published figure of the models of a run."""
    labels = [entry["label"] for entry in result["pair"].values()]
    for figure in figures(name):
        for label, published in figure.published.items():
            if label not in labels:
                continue
            score, why = measured(result, figure, label)
            before = (label, figure.what, f"{published:.2f}")
            if score is None:
                yield (*before, NOT_MEASURED, "", "", f"{figure.where}; {why}")
                continue
            low, high = score["interval"]
            value = score["value"]
            yield (
                *before,
                f"{value:.2f}",
                f"[{low:.2f}, {high:.2f}]",
                f"{value - published:+.2f}" + ("" if low <= published <= high else " *"),
                figure.where,
            )


def table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Rows below their headings, in columns; the last column is as long as it is."""
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, strict=True)]
    for row in (COLUMNS, *rows):
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def report(result: Mapping[str, Any], name: str) -> Iterator[str]:
    """The table, and what its marks mean.

    Raises:
        SystemExit: the run has none of the paper's models.
    """
    rows = list(lines(result, name))
    if not rows:
        known = dict.fromkeys(label for figure in figures(name) for label in figure.published)
        labels = [entry["label"] for entry in result["pair"].values()]
        raise SystemExit(
            f"{name}: no published figure is about {' or '.join(labels) or 'this run'}; label the checkpoints "
            f"as the paper's models, valid: {', '.join(known)}"
        )
    yield from table(rows)
    yield "* the published figure lies outside our interval"
    if any(row[3] == NOT_MEASURED for row in rows):
        yield f"{NOT_MEASURED}: the last column says why"


# -- the command


def run_gate(name: str, pair: str, options: Sequence[str]) -> dict[str, Any]:
    """The result file of a run over the spec; red claims are no error here.

    Raises:
        SystemExit: pytest wrote no result file.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "result.json"
        command = [sys.executable, "-m", "pytest", str(FOLDER / f"{name}.yaml")]
        command += ["--model-pair", pair, "--mechanism-json", str(target), *options]
        subprocess.run(command, check=False)  # noqa: S603 - this interpreter's pytest
        return read_result(target)


def read_result(path: Path) -> dict[str, Any]:
    """A result file of the gate.

    Raises:
        SystemExit: it cannot be read, or is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise SystemExit(f"{path}: cannot be read as a result file: {problem}") from None
    if not isinstance(content, dict) or "mechanism_json" not in content:
        raise SystemExit(f"{path}: is no result file; --mechanism-json writes one")
    return content


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.published",
        description="Print our scores of a published circuit beside the published figures.",
        epilog="Further options go to pytest, such as --mechanism-device cuda.",
    )
    parser.add_argument("name", choices=names(), help="a spec of circuits/published")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--model-pair", help="as pytest takes it; the labels name the paper's models"
    )
    source.add_argument("--result", type=Path, help="a result file of an earlier run")
    known, options = parser.parse_known_args(arguments)
    if known.result is not None:
        if options:
            parser.error(f"with --result, pytest does not run: {' '.join(options)}")
        result = read_result(known.result)
    else:
        result = run_gate(known.name, known.model_pair, options)
    print("\n".join(report(result, known.name)))


if __name__ == "__main__":
    main()
