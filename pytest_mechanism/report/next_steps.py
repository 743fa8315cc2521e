"""What to do after a run: commands that can be pasted, chosen by what the run says."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from pytest_mechanism.causes import Cause
from pytest_mechanism.claims.base import REFERENCE
from pytest_mechanism.report.rows import only_unaccepted
from pytest_mechanism.report.run_report import ClaimResult, ConclusionState, RunReport


def next_steps(
    report: RunReport,
    state: ConclusionState,
    reds: Sequence[ClaimResult],
    lead: ClaimResult | None,
) -> tuple[str, ...]:
    """The next commands, the first one first; none where nothing is to be done.

    Args:
        report: of the run.
        state: of its conclusion.
        reds: the red claims.
        lead: of them, the one that the conclusion is about: its spec is the one to look at.
    """
    if lead is None:
        return ()
    pair, spec = pair_options(report), shlex.quote(lead.spec)
    doctor = f"pytest-mechanism doctor {spec} {pair}"
    show = f"pytest-mechanism show {spec} {pair}"
    unaccepted = dict.fromkeys(shlex.quote(red.id.rpartition("::")[0]) for red in reds)
    accept = f"pytest {' '.join(unaccepted)} {pair} --snapshot-update"
    first = {
        "accuracy": doctor,
        # on a model that does not do the task there are no heads to be found
        "reference": doctor
        if any(red.order == 0 and red.role == REFERENCE and red.verdict == "fail" for red in reds)
        else f"pytest-mechanism discover {spec} {pair} --out found.yaml",
        "broken": show,
        # a command that accepts scores is offered only where nothing but the acceptance is missing
        "baseline": accept if only_unaccepted(reds) else show,
        "not_judged": doctor,
    }.get(state)
    if state == "reference" and all(red.verdict == "inconclusive" for red in reds):
        first = None  # other rows or thresholds decide, which the reason names
    if state == "undecided" and any(result.groups or result.order > 10 for result in reds):
        first = show if all(r.cause is not Cause.NOT_JUDGED for r in reds) else doctor
    if state == "broken" and not any(result.located for result in reds):
        first = doctor if all(result.order <= 10 for result in reds) else show
    again = f"pytest {shlex.quote(lead.id)} {pair} -v"
    return tuple(step for step in (first, again) if step is not None)


def pair_options(report: RunReport) -> str:
    """The options that name this run's checkpoints."""

    def named(role: str) -> str:
        entry = report.checkpoints[role]
        return (
            entry.reference
            if entry.label == entry.reference
            else f"{entry.label}={entry.reference}"
        )

    if not {"base", "ft"} <= {*report.checkpoints}:
        return "--model-pair BASE,FT"
    pair = shlex.quote(",".join((named("base"), named("ft"))))
    others = [role for role in report.checkpoints if role not in ("base", "ft")]
    models = [shlex.quote(f"{role}={named(role)}") for role in others]
    return " ".join([f"--model-pair {pair}", *(f"--mechanism-model {model}" for model in models)])
