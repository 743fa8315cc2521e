"""What to do after a run: commands that can be pasted, chosen by what the run says."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_mechanism import registry
from pytest_mechanism.causes import Cause
from pytest_mechanism.claims.base import REFERENCE, Claim
from pytest_mechanism.report.rows import only_unaccepted
from pytest_mechanism.report.run_report import ClaimResult, ConclusionState, RunReport

ACCURACY = ("accuracy", "coverage", "equivalent")
"""Claim kinds about the task alone."""

BEHAVIOUR = 11
"""The largest `ClaimResult.order` of claims about what a model says, not about its parts."""

CHECKS = frozenset({Cause.NOT_JUDGED, Cause.MODEL_MISSING, Cause.NO_DIFFERENCE, Cause.AT_CHANCE})
"""Causes that ``doctor`` explains: which claims lack what, and whether each checkpoint does the task. Of
`Cause.REFERENCE_FAILS`, it explains those about answers (`NO_ANSWERS`)."""

NO_ANSWERS = ("same_text", "suppression_holds", "spares_safety_weights", "direction")
"""Claim kinds whose reference model fails at something else than answering."""


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
    commands = Commands(pair_options(report), shlex.quote(lead.spec))
    beside = [result for result in report.claims if result.spec == lead.spec]
    drawn = any(map(about_parts, beside))
    shown = drawn or any(has_curves(result.kind) for result in beside)
    first = {
        "accuracy": commands.doctor,
        "not_judged": commands.doctor,
        "reference": of_reference(commands, reds, drawn),
        "broken": commands.show if shown else None,
        "behaviour": commands.show if has_curves(lead.kind) else None,
        # a command that accepts scores is offered only where nothing but the acceptance is missing
        "baseline": commands.accept(reds)
        if only_unaccepted(reds)
        else commands.show
        if shown and lead.cause is not Cause.MOVED
        else None,
        "undecided": of_undecided(commands, lead, drawn=drawn, shown=shown),
    }.get(state)
    again = f"pytest {shlex.quote(lead.id)} {commands.pair} -v"
    return tuple(step for step in (first, again) if step is not None)


@dataclass(frozen=True)
class Commands:
    """The commands about a spec.

    Attributes:
        pair: the options that name the checkpoints.
        spec: the path, quoted for a shell.
    """

    pair: str
    spec: str

    @property
    def doctor(self) -> str:
        return f"pytest-mechanism doctor {self.spec} {self.pair}"

    @property
    def show(self) -> str:
        return f"pytest-mechanism show {self.spec} {self.pair}"

    @property
    def compare(self) -> str:
        return f"pytest-mechanism compare {self.spec} {self.pair}"

    @property
    def discover(self) -> str:
        return f"pytest-mechanism discover {self.spec} {self.pair} --out found.yaml"

    def accept(self, reds: Sequence[ClaimResult]) -> str:
        unaccepted = dict.fromkeys(shlex.quote(red.id.rpartition("::")[0]) for red in reds)
        return f"pytest {' '.join(unaccepted)} {self.pair} --snapshot-update"


def of_reference(commands: Commands, reds: Sequence[ClaimResult], drawn: bool) -> str | None:
    """After a run in which the spec does not hold on the base model.

    Args:
        commands: about the spec.
        reds: the red claims.
        drawn: whether the spec has groups.
    """
    on_base = [red for red in reds if red.role == REFERENCE]
    if any(red.kind in ACCURACY and red.verdict == "fail" for red in on_base):
        return (
            commands.doctor
        )  # on a model that does not do the task there are no heads to be found
    if all(red.verdict == "inconclusive" for red in reds):
        # where other rows or thresholds decide, the reason names them; else, the model may guess
        return None if all(map(is_open, reds)) else commands.doctor
    return commands.discover if drawn else None


def of_undecided(commands: Commands, lead: ClaimResult, *, drawn: bool, shown: bool) -> str | None:
    """After a run in which nothing broke, and nothing is shown to be intact.

    Args:
        commands: about the spec.
        lead: the claim that the conclusion is about.
        drawn: whether the spec has groups.
        shown: whether there is anything to draw.
    """
    if lead.cause in CHECKS or (
        lead.cause is Cause.REFERENCE_FAILS and lead.kind not in NO_ANSWERS
    ):
        return commands.doctor
    if lead.cause is Cause.NOT_COMPARABLE and drawn:
        return commands.compare  # heads in another order, or others that do the work
    return commands.show if shown else None


def is_open(result: ClaimResult) -> bool:
    """Whether the interval of an undecided claim contains a threshold."""
    bounded = [row for row in result.rows if row.low is not None or row.high is not None]
    return any(row.verdict == "inconclusive" for row in bounded)


def about_parts(result: ClaimResult) -> bool:
    """Whether a claim is about heads or other parts, so that its spec has groups that can be drawn."""
    return bool(result.groups) or result.order > BEHAVIOUR


def has_curves(kind: str) -> bool:
    """Whether claims of a kind have curves, which ``show`` draws."""
    known = registry.claim_kinds().get(kind)
    return known is not None and known.chart is not Claim.chart


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
