"""What a red claim shows: the sentence first, then the YAML, then the numbers."""

from __future__ import annotations

from pytest_mechanism.errors import visible
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.statistics.drift import Drift
from pytest_mechanism.types import Score, Verdict

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
) -> str:
    """Several lines; the first is what pytest's short summary shows."""
    first, last = spec.document.block(("claims", claim))
    lines = [
        f"{claim} on {role}: {verdict.reason}",
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
        lines += score_lines(score, "measured" if i == 0 else "beside")
    if meaning:
        lines.append(f"  meaning   {meaning}")
    if drift is not None:
        lines.append(f"  accepted  {drift.reason}")
    return "\n".join(visible(line) for line in lines)


def score_lines(score: Score, word: str) -> list[str]:
    """A score with interval, rows, definition and control."""
    low, high = score.interval
    lines = [
        f"  {word:<9} {score.name} = {score.value:.4f}, {score.confidence:.0%} interval "
        f"[{low:.4f}, {high:.4f}], {score.n:,} rows in {score.clusters:,} contexts",
        f"            {score.metric}",
    ]
    if score.control is not None:
        around = score.control.interval
        shown = "" if around is None else f" [{around[0]:.4f}, {around[1]:.4f}]"
        lines.append(f"  control   {score.control.name} = {score.control.value:.4f}{shown}")
    return lines
