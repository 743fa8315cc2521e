"""A discovered circuit as a spec: members, claims with thresholds, and the scores behind them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_mechanism.discovery.claims import PAIR_CLAIMS, DraftClaim
from pytest_mechanism.discovery.discover import Discovery
from pytest_mechanism.discovery.screening import summary
from pytest_mechanism.errors import visible
from pytest_mechanism.nodes import spelled
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.spec.write import flow
from pytest_mechanism.statistics.verdicts import show

NOTHING_ON_FT = (
    "# no claim here judges the fine-tune (role ft), so a gate on it is red;",
    "# discover --model-pair BASE,FT writes the claims that hold on both, or add:",
)


def spec_text(
    spec: Spec,
    result: Discovery,
    claims: Sequence[DraftClaim],
    label: str,
    fingerprint: str,
    on: str,
    ft: str = "",
) -> str:
    """The new spec, with the measured values in comments.

    Args:
        spec: the spec whose groups were searched.
        result: the discovered groups.
        claims: about them.
        label: of the model that was searched.
        fingerprint: of its weights.
        on: its role.
        ft: label and fingerprint of the fine-tune, if claims were judged on it.
    """
    lines = [
        "mechanism: 1",
        f"circuit: {spec.circuit}",
        f"# found by `pytest-mechanism discover` on {visible(label)} ({fingerprint})",
    ]
    if ft:
        lines.append(f"# claims about ft were judged on {visible(ft)}")
    if result.reason is not None:
        lines.append(f"# incomplete: {visible(result.reason)}")
    content = spec.resolved()
    lines += [f"task: {flow(content['task'])}", "groups:"]
    lines += group_lines(result)
    lines += [
        f"found_on: {flow(on)}",
        f"ablation: {flow(content['ablation'])}",
        f"confidence: {spec.confidence}",
        "claims:",
    ]
    # a spec needs a claim
    kept = [claim for claim in claims if claim.holds] or list(claims[:1])
    for claim in kept:
        lines += claim_lines(claim)
    for claim in claims:
        if claim not in kept:
            lines += comment_lines(claim)
    if not any(claim.judges_ft for claim in claims):
        lines += [f"  {line}" for line in NOTHING_ON_FT]
        names = {claim.name for claim in claims}
        lines += [
            f"  # {name}: {flow(fields)}"
            for name, fields in PAIR_CLAIMS.items()
            if name not in names
        ]
    return "\n".join(lines) + "\n"


def group_lines(result: Discovery) -> Iterator[str]:
    """Each group with its members, and the effect of each member."""
    stages = {stage.group: stage for stage in result.stages}
    for name, group in result.groups.items():
        stage = stages[name]
        named = "".join(f"{key}: {flow(dict(getattr(group, key)))}, " for key in group.kinds)
        into = "" if group.into is None else f", into: {flow(group.into.model_dump())}"
        yield f"  {name}: {{{named}at: {flow(group.at)}{into}}}"
        if stage.screening.left_out:
            yield f"    # {summary(stage.screening, len(stage.effects))}"
        if stage.edges is not None:
            yield from (f"    # {line}" for line in stage.edges.lines())
        members = [(layer, part) for layer, part, _ in group.placed()]
        effects = {member: stage.effects[member] for member in members if member in stage.effects}
        for member, effect in sorted(effects.items(), key=lambda item: item[1].value):
            low, high = effect.interval
            yield f"    # {spelled(member)}: {effect.value:+.3f} nats [{low:+.3f}, {high:+.3f}]"


def claim_lines(claim: DraftClaim) -> Iterator[str]:
    """A claim on the roles on which it holds, with its scores, and the verdict on the other roles."""
    roles = claim.roles or tuple(claim.verdicts)[:1]
    yield f"  {claim.name}: {flow(claim.yaml_fields(roles))}"
    several = len(claim.verdicts) > 1
    for role, verdict in claim.verdicts.items():
        on = f"{role}: " if several else ""
        if role not in roles:
            yield f"    # {on}does not hold on held-out rows: {claim.outcome(role)}"
        elif verdict.score is not None:
            yield f"    # {on}{visible(show(verdict.score))} on held-out rows"


def comment_lines(claim: DraftClaim) -> Iterator[str]:
    """A claim that does not hold."""
    yield f"  # {claim.name}: {flow(claim.yaml_fields(tuple(claim.verdicts)))}"
    for role in claim.verdicts:
        on = f" ({role})" if len(claim.verdicts) > 1 else ""
        yield f"  #   does not hold on held-out rows{on}: {claim.outcome(role)}"
