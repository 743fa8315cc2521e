"""A discovered circuit as a spec: heads, claims with thresholds, and the scores behind them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pytest_mechanism.claims.accuracy import Accuracy
from pytest_mechanism.claims.base import Case, Measured
from pytest_mechanism.claims.faithfulness import Faithfulness
from pytest_mechanism.claims.path import Path as PathClaim
from pytest_mechanism.claims.scoring import accuracy, performance
from pytest_mechanism.discovery.discover import THRESHOLD, Discovery, Effort
from pytest_mechanism.errors import visible
from pytest_mechanism.spec.parts import AnyGroup
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.spec.write import flow
from pytest_mechanism.statistics.verdicts import show
from pytest_mechanism.types import Verdict

PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./]*")
"""Texts that YAML reads as they are."""

OF_THE_CIRCUIT = ("solves_task", "circuit_suffices")
"""Claims without which there is no circuit to speak of; a model may be too small for the control of
another."""

SLACK = 0.5
"""A written threshold asks for half of what was measured: a release may lose some of an effect."""


@dataclass(frozen=True)
class Written:
    """A claim for the new spec; one that does not hold is written as a comment.

    Attributes:
        name: of the claim.
        fields: as in YAML.
        verdict: what it came to on the spec's own rows, which the search never saw.
    """

    name: str
    fields: Mapping[str, Any]
    verdict: Verdict

    @property
    def holds(self) -> bool:
        return self.verdict.status == "pass"

    @property
    def outcome(self) -> str:
        """What it came to, in one line."""
        if self.holds and self.verdict.score is not None:
            return visible(f"{show(self.verdict.score)}, {self.verdict.threshold}")
        return visible(f"{self.verdict.status}, {self.verdict.reason}")


def claims_for(
    case: Case, found: Discovery, on: str, measured: Measured, effort: Effort
) -> list[Written]:
    """What can be claimed of the circuit. Thresholds come from the threshold rows, the scores beside
    them from the judgement rows."""
    case = replace(case, groups=found.groups, role=on)
    settings = case.task.settings.model_copy(update={"rows": effort.threshold_rows})
    elsewhere = replace(case, task=replace(case.task, settings=settings))
    written: list[Written] = []

    own = accuracy(case, on_rows(measured)(performance(elsewhere, on)))
    least = round(max(case.task.chance, own.interval[0] - 0.05), 2)
    solves = Accuracy(kind="accuracy", on=on, at_least=least)
    fields: dict[str, Any] = {"kind": "accuracy", "on": on, "at_least": least}
    written.append(Written(OF_THE_CIRCUIT[0], fields, solves.judge(case, measured)))

    whole = Faithfulness(kind="faithfulness", on=on, between=(0.9, 1.1))
    fields = {"kind": "faithfulness", "on": on, "between": [0.9, 1.1]}
    written.append(Written(OF_THE_CIRCUIT[1], fields, whole.judge(case, measured)))

    for name in found.groups:
        probe = PathClaim(kind="path", group=name, on=on, drops_at_least=0.001)
        effect = probe.judge(elsewhere, on_rows(measured)).score
        drop = 0.0 if effect is None else -effect.interval[1]
        if drop <= 0.01:
            continue
        wanted = float(f"{SLACK * drop:.2g}")
        claim = PathClaim(kind="path", group=name, on=on, drops_at_least=wanted)
        fields = {"kind": "path", "group": name, "on": on, "drops_at_least": wanted}
        written.append(Written(f"{name}_is_heard", fields, claim.judge(case, measured)))
    return written


def on_rows(measured: Measured) -> Measured:
    """The same measurements on the threshold rows instead of the judgement rows."""

    def ask(measurement: Any) -> Any:
        arguments = json.loads(measurement.arguments)
        if "stream" in arguments:
            arguments["stream"] = THRESHOLD
        spelled = json.dumps(arguments, sort_keys=True, separators=(",", ":"))
        return measured(replace(measurement, arguments=spelled))

    return ask


def spec_text(
    spec: Spec, found: Discovery, claims: list[Written], label: str, fingerprint: str, on: str
) -> str:
    """The new spec; what was measured stands beside it in comments."""
    lines = [
        "mechanism: 1",
        f"circuit: {spec.circuit}",
        f"# found by `pytest-mechanism discover` on {visible(label)} ({fingerprint})",
        f"task: {flow(spec.task.settings.model_dump(mode='json'))}",
        "groups:",
    ]
    stages = {stage.group: stage for stage in found.stages}
    for name, group in found.groups.items():
        stage = stages[name]
        heads = flow(dict(group.heads))
        into = "" if group.into is None else f", into: {flow(group.into.model_dump())}"
        lines.append(f"  {name}: {{heads: {heads}, at: {flow(group.at)}{into}}}")
        if stage.screened_out:
            lines.append(f"    # {stage.screened_out} heads were screened out by gradient alone")
        for layer, head in sorted(
            group.members(), key=lambda h: stage.effects[h].value if h in stage.effects else 0.0
        ):
            if (effect := stage.effects.get((layer, head))) is not None:
                lines.append(
                    f"    # {layer}.{head}: {effect.value:+.3f} nats {bounds(effect.interval)}"
                )
    lines += [
        f"found_on: {flow(on)}",
        f"ablation: {flow(spec.ablation.model_dump(mode='json'))}",
        f"confidence: {spec.confidence}",
        "claims:",
    ]
    kept = [claim for claim in claims if claim.holds] or claims  # a spec has one at least
    for claim in kept:
        score = claim.verdict.score
        lines.append(f"  {claim.name}: {flow(claim.fields)}")
        if score is not None:
            lines.append(f"    # {visible(show(score))} on rows that the search never saw")
    for claim in claims:
        if claim not in kept:
            lines.append(f"  # {claim.name}: {flow(claim.fields)}")
            lines.append(f"  #   left out, on rows that the search never saw: {claim.outcome}")
    return "\n".join(lines) + "\n"


def bounds(interval: tuple[float, float]) -> str:
    return f"[{interval[0]:+.3f}, {interval[1]:+.3f}]"


def sought(groups: Mapping[str, AnyGroup]) -> dict[str, AnyGroup]:
    """Every group with its heads forgotten, for a search from nothing."""
    return {name: group.sought() for name, group in groups.items()}
