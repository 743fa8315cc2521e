"""A comparison on a task: which measurements, in which order, on which rows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pytest_mechanism.errors import MechanismError, TooFewContexts

if TYPE_CHECKING:
    from pytest_mechanism.claims.context import ClaimContext
    from pytest_mechanism.comparison.members import Comparison
    from pytest_mechanism.fields.groups import AnyGroup, Group
    from pytest_mechanism.measurements.measurement import Measurement
    from pytest_mechanism.runner.evaluator import ClaimEvaluator
    from pytest_mechanism.spec.spec import Spec
    from pytest_mechanism.types import Result_co


@dataclass
class Work:
    """A comparison on a task.

    Attributes:
        evaluator: measures.
        spec: its task and groups.
        margin: the largest change that counts as none; None for the default.
        asked: rows that the user asked for.
        groups: with members, once they are known.
        circuits: role -> its own circuit.
        found: the comparison, once it is made.
        lines: the conclusion.
    """

    evaluator: ClaimEvaluator
    spec: Spec
    margin: float | None
    asked: int | None
    groups: dict[str, AnyGroup] = field(default_factory=dict)
    circuits: dict[str, dict[str, Group]] = field(default_factory=dict)
    found: Comparison | None = None
    lines: list[str] = field(default_factory=list)

    @property
    def labels(self) -> dict[str, str]:
        return self.evaluator.labels

    @property
    def result(self) -> Comparison:
        """The comparison.

        Raises:
            MechanismError: `compare` has not been called.
        """
        if self.found is None:
            raise MechanismError("nothing has been compared yet")
        return self.found

    @property
    def rows(self) -> int:
        """Pairs of prompts of the comparison."""
        from pytest_mechanism.claims.patched_alone import ALL_UP_TO
        from pytest_mechanism.comparison.members import ROWS

        large = len(self.evaluator.shapes["base"].heads()) > ALL_UP_TO
        return self.asked or (64 if large else ROWS)

    def context(self, role: str = "pair") -> ClaimContext:
        """The context of a measurement."""
        context = self.evaluator.model_context(self.spec, role, ("base", "ft"))
        return replace(context, groups=self.groups or self.spec.groups, sweep_rows=self.rows)

    def measure(self, measurement: Measurement[Result_co]) -> Result_co:
        """The result on the rows of the comparison, which no claim of the new spec is judged on."""
        from pytest_mechanism.measurements.paths import RANK_STREAM

        return self.evaluator.runner.measure(on_stream(measurement, RANK_STREAM))

    def make_preflight(self) -> None:
        """Check that the task has the rows, and that both tokenizers read them alike.

        Raises:
            MechanismError: it has not, or they do not.
        """
        from pytest_mechanism.comparison.preflight import check_tokens, needed

        context = self.context()
        problem = self.evaluator.first_obstacle(needed(context, self.rows))
        if isinstance(problem, TooFewContexts):
            raise MechanismError(problem.message.replace("task.rows", "--rows"))
        if problem is not None:
            raise MechanismError(f"{problem} (--text FILE compares without a task)")
        check_tokens(self.evaluator.runner.checkpoint.encoders, context, self.rows, self.labels)

    @property
    def names_members(self) -> bool:
        """Whether every group of the spec names its members."""
        from pytest_mechanism.fields.groups import Group

        return all(isinstance(group, Group) for group in self.spec.groups.values())

    def plan(self) -> None:
        """Announce the measurements, so that each checkpoint is loaded as seldom as possible."""
        from pytest_mechanism.comparison.members import planned
        from pytest_mechanism.measurements.paths import RANK_STREAM

        context = self.context()
        self.evaluator.runner.plan(on_stream(m, RANK_STREAM) for m in planned(context))

    def at_chance(self) -> str | None:
        """Why nothing can be compared: a model that guesses has no member that works."""
        from pytest_mechanism.claims.scoring import above_chance, guesses
        from pytest_mechanism.measurements.paths import RANK_STREAM
        from pytest_mechanism.measurements.performance import Performance

        if self.names_members:
            self.plan()
        context = self.context()
        request = Performance(rows=self.rows, stream=RANK_STREAM)
        full_runs = {role: context.measurement(request, role) for role in self.labels}
        self.evaluator.runner.plan(full_runs.values())
        for role, label in self.labels.items():
            full = self.measure(full_runs[role])
            if above_chance(context, full) is None:
                return f"{guesses(context, label, full)}, so no head has work to compare"
        return None

    def compare(self) -> None:
        """Find the members of groups that name none, compare all members, and say what changed."""
        from pytest_mechanism.comparison.circuits import own_circuit
        from pytest_mechanism.comparison.conclusion import conclusion
        from pytest_mechanism.comparison.members import MARGIN, compare_members
        from pytest_mechanism.fields.groups import Group
        from pytest_mechanism.statistics.estimates import UndefinedScoreError

        context = self.context()
        try:
            groups = (
                dict(self.spec.groups)
                if self.names_members
                else own_circuit(context, "base", self.spec.groups, self.measure)
            )
            if not groups:
                raise MechanismError(
                    f"no head or MLP of {self.labels['base']} writes the answer by itself, so there is nothing to "
                    "compare; name groups in a spec"
                )
            self.groups = dict(groups)
            self.plan()
            self.found = compare_members(self.context(), self.measure, self.margin or MARGIN)
            for role in ("base", "ft"):
                self.circuits[role] = (
                    own_circuit(context, role, self.spec.groups, self.measure)
                    if self.result.changed_shares
                    else {n: g for n, g in groups.items() if isinstance(g, Group)}
                )
        except UndefinedScoreError as problem:
            raise MechanismError(
                f"the source prompts do not change the answer's logit, so members have no share of it: {problem}"
            ) from None
        shown = self.circuits if self.result.changed_shares else {}
        self.lines = conclusion(self.result, self.labels, shown)


def on_stream(measurement: Measurement[Result_co], stream: str) -> Measurement[Result_co]:
    """The measurement and its inputs on another stream of rows."""
    inputs = tuple(on_stream(given, stream) for given in measurement.inputs)
    return replace(measurement, request=measurement.request.on_stream(stream), inputs=inputs)
