"""A discovered circuit as a spec: heads, claims with thresholds, and the scores behind them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_mechanism.discovery.claims import OF_THE_PAIR, Written
from pytest_mechanism.discovery.discover import Discovery
from pytest_mechanism.errors import visible
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.spec.write import flow
from pytest_mechanism.statistics.verdicts import show

UNSEEN = "on rows that the search never saw"

NOTHING_ON_FT = (
    "# no claim here judges the fine-tune (role ft), and a gate that judged nothing on it is red;",
    "# discover --model-pair BASE,FT writes the claims that hold on both, or add:",
)


def spec_text(
    spec: Spec,
    found: Discovery,
    claims: Sequence[Written],
    label: str,
    fingerprint: str,
    on: str,
    also: str = "",
) -> str:
    """The new spec; what was measured stands beside it in comments.

    Args:
        spec: whose groups were searched.
        found: what was found.
        claims: about it.
        label: of the model that was searched.
        fingerprint: of its weights.
        on: its role.
        also: a further model that claims were judged on, as text.
    """
    lines = [
        "mechanism: 1",
        f"circuit: {spec.circuit}",
        f"# found by `pytest-mechanism discover` on {visible(label)} ({fingerprint})",
    ]
    if also:
        lines.append(f"# claims about ft were judged on {visible(also)}")
    if found.reason is not None:
        lines.append(f"# not all of what was looked for: {visible(found.reason)}")
    lines += [f"task: {flow(spec.task.settings.model_dump(mode='json'))}", "groups:"]
    lines += groups(found)
    lines += [
        f"found_on: {flow(on)}",
        f"ablation: {flow(spec.ablation.model_dump(mode='json'))}",
        f"confidence: {spec.confidence}",
        "claims:",
    ]
    kept = [claim for claim in claims if claim.holds] or list(claims)  # a spec has one at least
    for claim in kept:
        lines += written(claim)
    for claim in claims:
        if claim not in kept:
            lines += left_out(claim)
    if not any(claim.judges_ft for claim in claims):
        lines += [f"  {line}" for line in NOTHING_ON_FT]
        there = {claim.name for claim in claims}
        lines += [
            f"  # {name}: {flow(fields)}"
            for name, fields in OF_THE_PAIR.items()
            if name not in there
        ]
    return "\n".join(lines) + "\n"


def groups(found: Discovery) -> Iterator[str]:
    """Each group with its heads, and the effect of each head."""
    stages = {stage.group: stage for stage in found.stages}
    for name, group in found.groups.items():
        stage = stages[name]
        heads = flow(dict(group.heads))
        into = "" if group.into is None else f", into: {flow(group.into.model_dump())}"
        yield f"  {name}: {{heads: {heads}, at: {flow(group.at)}{into}}}"
        if stage.screened_out:
            yield f"    # {stage.screened_out} heads were screened out by gradient alone"
        for layer, head in sorted(
            group.members(), key=lambda h: stage.effects[h].value if h in stage.effects else 0.0
        ):
            if (effect := stage.effects.get((layer, head))) is not None:
                yield f"    # {layer}.{head}: {effect.value:+.3f} nats {bounds(effect.interval)}"


def written(claim: Written) -> Iterator[str]:
    """A claim on the roles on which it holds, with its scores; and where it does not hold."""
    roles = claim.roles or tuple(claim.verdicts)[:1]
    yield f"  {claim.name}: {flow(claim.spelled(roles))}"
    several = len(claim.verdicts) > 1
    for role, verdict in claim.verdicts.items():
        on = f"{role}: " if several else ""
        if role in roles and verdict.score is not None:
            yield f"    # {on}{visible(show(verdict.score))} {UNSEEN}"
        elif role not in roles:
            yield f"    # not claimed on {role}, {UNSEEN}: {claim.outcome(role)}"


def left_out(claim: Written) -> Iterator[str]:
    """A claim that does not hold, as a comment."""
    yield f"  # {claim.name}: {flow(claim.spelled(tuple(claim.verdicts)))}"
    for role in claim.verdicts:
        on = f" on {role}" if len(claim.verdicts) > 1 else ""
        yield f"  #   left out, {UNSEEN}{on}: {claim.outcome(role)}"


def bounds(interval: tuple[float, float]) -> str:
    return f"[{interval[0]:+.3f}, {interval[1]:+.3f}]"
