"""The text that pytest shows for a red claim: the reason first, then the YAML, then the numbers."""

from __future__ import annotations

from pytest_mechanism.errors import visible
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.statistics.drift import Drift
from pytest_mechanism.types import Located, Score, Verdict

STATUS = {
    "fail": "FAILED",
    "inconclusive": "INCONCLUSIVE (counts as red)",
    "error": "could not be judged",
}


def failure_text(
    spec: Spec,
    claim: str,
    role: str,
    verdict: Verdict,
    drift: Drift | None,
    meaning: str = "",
    located: Located | None = None,
) -> str:
    """Several lines, of which pytest's short summary shows the first.

    Args:
        spec: the spec.
        claim: the claim's name.
        role: the role.
        verdict: on the claim.
        drift: the comparison with the baseline, if there is one.
        meaning: what follows from the verdict.
        located: the heads and MLPs behind it, if they were looked for.
    """
    first, last = spec.document.block(("claims", claim))
    lines = [
        f"{claim} on {role}: {verdict.reason}",
        *located_lines(located, verdict.reason),
        "",
        f"{spec.document.path}:{first}: {STATUS.get(verdict.status, verdict.status)}",
    ]
    width = len(str(last))
    lines += [
        f"  {number:>{width}} | {spec.document.text[number - 1]}"
        for number in range(first, last + 1)
    ]
    lines.append("")
    if verdict.threshold:
        lines.append(f"  claimed   {verdict.threshold}")
    for i, score in enumerate(verdict.scores):
        lines += score_lines(score, "measured" if i == 0 else "also")
    if meaning:
        lines.append(f"  meaning   {meaning}")
    if drift is not None:
        lines.append(f"  baseline  {drift.reason}")
    return "\n".join(visible(line) for line in lines)


def located_lines(located: Located | None, reason: str) -> list[str]:
    """The members behind a red claim, unless the reason names them, and what finding them took."""
    if located is None:
        return []
    took = f"a sweep over all heads and MLPs, {located.seconds:.0f} s; --mechanism-no-locate leaves it out"
    return [*(f"  {line}" for line in located.lines if line not in reason), f"  ({took})"]


def score_lines(score: Score, label: str) -> list[str]:
    """A score with its interval, its rows, its definition and its control."""
    low, high = score.interval
    lines = [
        f"  {label:<9} {score.name} = {score.value:.4f}, {score.confidence:.0%} confidence interval "
        f"[{low:.4f}, {high:.4f}], {score.n:,} rows in {score.clusters:,} contexts",
        f"            {score.metric}",
    ]
    if score.control is not None:
        interval = score.control.interval
        bounds = "" if interval is None else f" [{interval[0]:.4f}, {interval[1]:.4f}]"
        lines.append(f"  control   {score.control.name} = {score.control.value:.4f}{bounds}")
    return lines
