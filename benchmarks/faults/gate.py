"""The gate on a changed checkpoint, in this process: what ``pytest SPEC --model-pair`` would find.

Claims are measured by the runner that pytest uses, compared with the accepted scores as the plugin does it, and a red
claim's heads are looked for as in its report. Measurements are stored, so that the reference model is measured once
for each seed of rows.
"""

from __future__ import annotations

import argparse
import re
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pytest_mechanism.commands.config import read_config
from pytest_mechanism.commands.models import add_model_options, open_session
from pytest_mechanism.plugin.baseline import Comparison, with_comparison
from pytest_mechanism.plugin.score_entry import score_entry
from pytest_mechanism.runner.evaluator import ClaimEvaluator
from pytest_mechanism.spec.load import load
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.statistics.drift import Tolerance, compare
from pytest_mechanism.types import Verdict

Accepted = Mapping[str, Mapping[str, Any]]
"""``claim.role`` -> its accepted score."""

MEMBER = re.compile(r"\bhead (\d+\.\d+)\b|\bMLP of layer (\d+)\b")


@dataclass(frozen=True)
class Judgement:
    """The outcome of one claim.

    Attributes:
        claim: ``claim.role``.
        kind: of the claim.
        status: of the verdict, after the comparison with the accepted score.
        cause: why it is red, or None.
        reason: its first line.
        lines: what a reader of the red claim is told about heads and MLPs.
    """

    claim: str
    kind: str
    status: str
    cause: str | None
    reason: str
    lines: Sequence[str]

    @property
    def red(self) -> bool:
        return self.status not in ("pass", "skipped")


def with_seed(spec: Path, seed: int, folder: Path) -> Path:
    """A copy of a spec whose task draws rows from another seed.

    Raises:
        ValueError: the spec does not name exactly one seed.
    """
    text, changed = re.subn(r"\bseed: \d+", f"seed: {seed}", spec.read_text(encoding="utf-8"))
    if changed != 1:
        raise ValueError(f"{spec}: {changed} seeds, 1 needed")
    path = folder / f"{spec.stem}_{seed}.yaml"
    path.write_text(text, encoding="utf-8")
    for file in spec.parent.glob("*.txt"):  # texts that claims name
        shutil.copy(file, folder / file.name)
    return path


def evaluator(references: Mapping[str, str], store: Path) -> ClaimEvaluator:
    """An evaluator over these checkpoints, by role; roles beside base and ft are further models."""
    parser = argparse.ArgumentParser()
    add_model_options(parser)
    further = [f"--mechanism-model={r}={ref}" for r, ref in references.items() if r not in PAIR]
    arguments = parser.parse_args(
        [
            "-q",
            "--model-pair",
            ",".join(references[role] for role in PAIR),
            *further,
            "--store",
            str(store),
        ]
    )
    return open_session(arguments, read_config(arguments)).evaluator


PAIR = ("base", "ft")


def judge(
    gate: ClaimEvaluator, spec: Spec, accepted: Accepted, locate: bool = True
) -> tuple[list[Judgement], dict[str, Any]]:
    """Every claim that is about the candidate, and its score as it would be accepted; whether the heads and MLPs
    behind a red claim are looked for."""
    items = [
        (name, claim, role)
        for name, claim in spec.claims.items()
        for role in claim.roles()
        if "ft" in claim.models(role)
    ]
    gate.plan([(spec, claim, role) for _, claim, role in items])
    found, entries = [], {}
    for name, claim, role in items:
        key = f"{name}.{role}"
        verdict = gate.judge(spec, claim, role)
        entry = score_entry(spec, claim, verdict)
        if entry is not None:
            entries[key] = entry
            if key in accepted:
                drift = compare(entry, accepted[key], Tolerance(claim.atol, claim.drift))
                comparison = Comparison(drift, float(accepted[key]["value"]))
                verdict = with_comparison(verdict, comparison, requires_accepted=False)
        found.append(
            Judgement(
                key,
                claim.kind,
                verdict.status,
                None if verdict.cause is None else str(verdict.cause),
                verdict.reason,
                lines(gate, spec, claim, role, verdict) if locate else [],
            )
        )
    gate.runner.checkpoint.release()
    return found, entries


def lines(gate: ClaimEvaluator, spec: Spec, claim: Any, role: str, verdict: Verdict) -> list[str]:
    """What the report says about heads and MLPs of a red claim."""
    if not verdict.red:
        return []
    located = gate.locate(spec, claim, role, verdict.cause)
    if located is None:
        return []
    return [line for line in located.lines if " shows no sure change " not in line]


Source = Literal["weights", "grafts", "sweep"]
"""What a line about heads and MLPs rests on."""


def source(line: str) -> Source:
    """Of a line of a report: where weights changed, what a member of the reference model brings back
    (`runner.grafts`), or who does less and more than before (`runner.locate`)."""
    if line.startswith(("with ", "no head, MLP or layer of ")):
        return "grafts"
    return "weights" if "weights changed" in line or " was changed (" in line else "sweep"


def named(judgements: Iterable[Judgement], by: Source | None = None) -> list[str]:
    """The heads and MLPs that the report names, the first of each line, in its order; of the first red claim that
    names any.

    Args:
        judgements: on the red claims.
        by: only lines that rest on this; the whole report by default, as its reader sees it.
    """
    for judgement in judgements:
        members = [
            head or f"{layer}.mlp"
            for line in judgement.lines
            if "in another order" not in line and "in another basis" not in line
            if by in (None, source(line))
            for head, layer in MEMBER.findall(line.split("; its readers fell silent")[0])[:1]
        ]
        if members:
            return list(dict.fromkeys(members))
    return []


def run(
    spec: Path,
    references: Mapping[str, str],
    store: Path,
    accepted: Accepted,
    locate: bool = True,
) -> tuple[list[Judgement], dict[str, Any], float]:
    """The judgements on a candidate, its scores as they would be accepted, and the seconds of CPU."""
    started = time.process_time()
    found, scores = judge(evaluator(references, store), load(spec), accepted, locate)
    return found, scores, time.process_time() - started


def as_data(judgements: Iterable[Judgement]) -> list[dict[str, Any]]:
    """The judgements as JSON."""
    return [asdict(judgement) for judgement in judgements]
