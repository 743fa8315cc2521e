"""The spec that ``compare`` writes: groups, claims with their scores, and claims that do not hold as comments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pytest_mechanism.comparison.drafts import Drafts
from pytest_mechanism.errors import visible
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.spec.write import flow
from pytest_mechanism.statistics.verdicts import show
from pytest_mechanism.types import Verdict

Verdicts = Mapping[str, Mapping[str, Verdict]]
"""Claim -> role -> verdict on the spec's own rows."""


def spec_text(
    spec: Spec, drafts: Drafts, names: tuple[str, str], said: Sequence[str], verdicts: Verdicts
) -> str:
    """The new spec.

    Args:
        spec: what was compared: its task, ablation and confidence.
        drafts: groups and claims.
        names: label and fingerprint of both models.
        said: the conclusion, as comments.
        verdicts: on the claims; a claim with a red verdict becomes a comment. Empty before any is judged.
    """
    content = spec.resolved()
    lines = [
        "mechanism: 1",
        f"circuit: {spec.circuit}",
        f"# written by `pytest-mechanism compare` from base = {visible(names[0])} and ft = {visible(names[1])}:",
        *(f"#   {visible(line)}" for line in said),
        "# the claims hold on this pair; thresholds were chosen on other rows than those that judge them",
        f"task: {flow(content['task'])}",
    ]
    if drafts.groups:
        lines.append("groups:")
    for name, group in drafts.groups.items():
        members: dict[str, object] = {key: dict(getattr(group, key)) for key in group.kinds}
        into = {} if group.into is None else {"into": group.into.model_dump()}
        lines.append(f"  {name}: {flow({**members, 'at': group.at, **into})}")
    lines += [
        f"ablation: {flow(content['ablation'])}",
        f"confidence: {spec.confidence}",
        "claims:",
    ]
    for name, fields in drafts.claims.items():
        of = verdicts.get(name, {})
        red = any(verdict.red for verdict in of.values())
        lines.append(f"  {'# ' if red else ''}{name}: {flow(fields)}")
        lines += [f"    # {line}" for line in outcomes(of)]
    return "\n".join(lines) + "\n"


def outcomes(verdicts: Mapping[str, Verdict]) -> Iterator[str]:
    """A line for each role: the score, or why the claim does not hold."""
    for role, verdict in verdicts.items():
        if verdict.red:
            yield visible(f"{role}: does not hold on the spec's rows: {verdict.reason}")
        elif verdict.score is not None:
            yield visible(f"{role}: {show(verdict.score)}")


def holding(drafts: Drafts, verdicts: Verdicts) -> dict[str, Mapping[str, object]]:
    """The claims without a red verdict."""
    return {
        name: fields
        for name, fields in drafts.claims.items()
        if not any(verdict.red for verdict in verdicts.get(name, {}).values())
    }
