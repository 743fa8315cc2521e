"""``overlap``: the circuit of one model has the same heads as the other model's own circuit.

``transfer`` runs one model's circuit in the other, and a circuit may work there although the other model
does the task with further heads. This claim searches the other model's circuit itself and compares heads.
With B the heads of the circuit of ``from`` and F those of ``to``, a head counted once for each group:

    precision = |B & F| / |F|     recall = |B & F| / |B|     Jaccard = |B & F| / |B | F|

F is what ``discover`` finds on ``to``. B is the heads that the spec names, or, of a group with ``heads:
discovered``, what ``discover`` finds on ``from``. Prakash et al. 2024, section 3.3, name how much the
circuits of their models share.

A search is an estimate: on other rows it finds other heads. So the search is repeated on fresh rows, number i
on the same rows of both models, and heads are pooled over all searches. The interval is Wilson's for the share
of heads, with a design effect over searches, and Student's t for their small number widens it.

MLPs and attention outputs that a group names, or may find, are compared in the same way; a text that says "heads"
means all members.

Control, the floor: random circuits of the same sizes (`claims.overlap_by_chance`). The overlap must exceed that of 95
random circuits in 100. The ceiling is the overlap of two searches on one model: where the models' circuits differ no
more than those, nothing is refuted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictInt, StrictStr, model_validator

from pytest_mechanism.causes import Cause
from pytest_mechanism.claims.base import PairClaim, Reference
from pytest_mechanism.claims.context import ClaimContext, FoundCircuit, Measure
from pytest_mechanism.claims.heads_in_common import (
    INDICES,
    Circuit,
    Index,
    members_of,
    of,
    shared,
    unsearched,
)
from pytest_mechanism.claims.overlap_by_chance import by_chance
from pytest_mechanism.claims.scoring import above_chance, guesses, performance, score
from pytest_mechanism.fields.groups import AnyGroup, Group
from pytest_mechanism.fields.thresholds import AtLeast
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.nodes import KINDS, kind_of, listing
from pytest_mechanism.statistics import verdicts
from pytest_mechanism.statistics.estimates import Estimate, Sampling
from pytest_mechanism.statistics.honesty import beats_control
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.types import Control, Score, Verdict


class Overlap(PairClaim):
    """The circuits of two models have the same heads.

    Attributes:
        source: YAML ``from``: role whose circuit the spec names, or on which it is searched.
        to: role whose own circuit is searched.
        group: the only group to compare; None compares all.
        searches: how many searches on each model, each on fresh rows.
        jaccard_at_least: least share of the heads of either circuit that both have.
        precision_at_least: least share of the heads of ``to`` that ``from`` has too.
        recall_at_least: least share of the heads of ``from`` that ``to`` has too.
    """

    summary: ClassVar[str] = "the circuits of two models have the same heads"
    if_red: ClassVar[str] = (
        "the two models do the task with other heads: a search finds another circuit in one than in the "
        "other, and the two differ more than two searches on one model do"
    )
    thresholds: ClassVar[tuple[str, ...]] = (
        "jaccard_at_least",
        "precision_at_least",
        "recall_at_least",
    )
    ablates: ClassVar[bool] = True
    members: ClassVar[tuple[str, ...]] = tuple(KINDS)
    counted: ClassVar[str] = "heads of all searches"
    matching_sizes: ClassVar[tuple[str, ...]] = ("n_layers", "n_heads")

    kind: Literal["overlap"]
    group: StrictStr | None = None
    searches: Annotated[StrictInt, Field(ge=2, le=100)] = 4
    jaccard_at_least: AtLeast | None = None
    precision_at_least: AtLeast | None = None
    recall_at_least: AtLeast | None = None

    @model_validator(mode="after")
    def check_thresholds(self) -> Overlap:
        if not self.least:
            raise ValueError(f"needs one of {', '.join(self.thresholds)}")
        return self

    @property
    def least(self) -> dict[Index, float]:
        """Index -> its threshold, of those that the claim has."""
        named = {index: getattr(self, f"{index}_at_least") for index in INDICES}
        return {index: least for index, least in named.items() if least is not None}

    def discovery_role(self, role: str, spec_found_on: str) -> str:
        return self.source

    def references(self) -> tuple[Reference, ...]:
        return (Reference("group", "group", self.group),) if self.group else ()

    def groups_problem(self, groups: Mapping[str, AnyGroup]) -> str | None:
        for name, group in groups.items():
            if group.find is None:
                return (
                    f"kind overlap searches the circuit of {self.to}, and group {name} does not say how: "
                    "write find: {} (or how) beside its heads, or heads: discovered"
                )
            if isinstance(group, Group) and (problem := unsearched(group)) is not None:
                return f"group {name} {problem}, so a search on {self.to} cannot find these"
        return None

    def unsupported_reason(self, task: Task) -> str | None:
        if not task.from_file:
            return None
        return (
            f"kind overlap repeats its search on fresh rows, and the rows of task {task.family} come from a "
            "file; use kind: transfer"
        )

    def row_sets(self, task: Task) -> tuple[tuple[str, str], ...]:
        return (("rows", ""), ("pairs", ""))

    def required_searches(
        self, role: str, groups: Mapping[str, AnyGroup]
    ) -> tuple[tuple[str, int], ...]:
        named = all(isinstance(group, Group) for group in groups.values())
        models = (self.to,) if named else (self.source, self.to)
        return tuple((on, number) for on in models for number in range(self.searches))

    def required_measurements(self, context: ClaimContext) -> tuple[Measurement, ...]:
        return performance(context, self.source), performance(context, self.to)

    def judge(self, context: ClaimContext, measure: Measure) -> Verdict:
        threshold = " and ".join(
            f"{i} {verdicts.spell(x, math.inf)}" for i, x in self.least.items()
        )
        for on, request in zip(
            (self.source, self.to), self.required_measurements(context), strict=True
        ):
            observations = measure(request)
            solved = above_chance(context, observations)
            if solved is None:
                why = f"{guesses(context, on, observations)}, so it has no circuit to compare"
                return (
                    verdicts.reference_fails(why, threshold)
                    if on == self.source
                    else verdicts.at_chance(why, threshold)
                )
        asked = self.required_searches(context.role, context.groups)
        found: dict[str, list[FoundCircuit]] = {self.source: [], self.to: []}
        for on, number in asked:
            found[on].append(context.search(on, number))
        compared = [self.group] if self.group else list(context.groups)
        theirs = [members_of(circuit.groups, compared) for circuit in found[self.to]]
        reference = self.reference_circuits(context, found[self.source], compared)
        if not any(any(circuit.values()) for circuit in theirs):
            return verdicts.inconclusive(
                f"no search on {self.to} found a head{reasons(found)}", threshold
            )
        how = self.sampling(context)
        floor = by_chance(context, self.to, reference, theirs)
        judged = {
            index: self.index_score(context, index, reference, theirs, how, floor[index])
            for index in INDICES
        }
        within_model = self.within_model(context, found, compared)
        parts = []
        for index, least in self.least.items():
            verdict = self.in_words(verdicts.at_least(judged[index], least), least)
            verdict = replace(verdict, chance=solved)
            if verdict.status == "fail" and (same := no_farther(judged["jaccard"], within_model)):
                reason = f"{verdict.reason}, but {same}"
                verdict = replace(
                    verdict, status="inconclusive", cause=Cause.UNDECIDED, reason=reason
                )
            if verdict.red:
                verdict = replace(verdict, reason=verdict.reason + reasons(found))
            control = floor[index]
            gap = estimate_of(judged[index], -control.value)
            as_good = f"the best of {control.name} overlap as much ({control.value:.3f})"
            parts.append(beats_control(verdict, control.name, gap, as_good))
        verdict = verdicts.together(parts)
        by_group = [
            self.index_score(context, index, of(reference, name), of(theirs, name), how, None, name)
            for name in compared
            if len(compared) > 1
            for index in INDICES
        ]
        return replace(verdict, scores=(*judged.values(), *within_model, *by_group))

    def reference_circuits(
        self, context: ClaimContext, found: Sequence[FoundCircuit], names: Sequence[str]
    ) -> list[Circuit]:
        """The circuit of ``from`` beside each search: heads that the spec names stay."""
        named = {name: group for name, group in context.groups.items() if isinstance(group, Group)}
        for name in named:
            context.group(name, self.source)  # its heads exist
        searched: Sequence[FoundCircuit] = found or [FoundCircuit({})] * self.searches
        return [members_of({**circuit.groups, **named}, names) for circuit in searched]

    def sampling(self, context: ClaimContext) -> Sampling:
        return Sampling((), context.confidence, context.seed)

    def index_score(
        self,
        context: ClaimContext,
        index: Index,
        reference: Sequence[Circuit],
        theirs: Sequence[Circuit],
        how: Sampling,
        floor: Control | None,
        name: str | None = None,
    ) -> Score:
        """An index with its interval, over all groups or of one."""
        models = f"the circuits of {self.source} and {self.to}"
        parts = [m for c in (*reference, *theirs) for members in c.values() for m in members]
        found = listing({kind_of(part) for _, part, *_ in parts} or {"heads"})
        return score(
            context,
            f"{index} of {models}" + (f", {name}" if name else ""),
            shared(index, reference, theirs, how),
            f"{INDICES[index]}, B: {found} of {self.source}, F: {found} of {self.to}, pooled over "
            f"{len(theirs)} searches",
            control=floor,
        )

    def within_model(
        self,
        context: ClaimContext,
        found: Mapping[str, Sequence[FoundCircuit]],
        names: Sequence[str],
    ) -> list[Score]:
        """The ceiling: the Jaccard index of two searches on one model, for each model with searches.
        Each search belongs to one pair, so that pairs are independent."""
        scores = []
        for on, circuits in found.items():
            own = [members_of(circuit.groups, names) for circuit in circuits]
            first, second = own[0 : len(own) // 2 * 2 : 2], own[1::2]
            if any(any(circuit.values()) for circuit in own):
                scores.append(
                    score(
                        context,
                        f"jaccard of two searches on {on}",
                        shared("jaccard", first, second, self.sampling(context)),
                        f"the same index for pairs of searches on one model, {len(first)} pairs",
                    )
                )
        return scores

    def in_words(self, verdict: Verdict, least: float) -> Verdict:
        """An unsettled verdict says how many searches would decide."""
        if verdict.cause is not Cause.UNSETTLED:
            return verdict
        judged = verdict.judged[0].score
        distance = abs(judged.value - least)
        low, high = judged.interval
        width = judged.value - low if judged.value >= least else high - judged.value
        more = "no number of searches would decide, because the score lies on the threshold"
        if distance > 1e-9 and (factor := (width / distance) ** 2) < 1000:
            needed = max(self.searches + 1, math.ceil(self.searches * factor))
            more = (
                f"about {verdicts.round_up(needed):,} searches would decide (now {self.searches})"
            )
        reason = f"{judged.name} {verdicts.show(judged)} does not show whether it is {verdict.threshold}; {more}"
        return replace(verdict, reason=reason)


def estimate_of(judged: Score, shift: float) -> Estimate:
    """A score as an estimate, moved by a number that is known."""
    low, high = judged.interval
    return Estimate(
        judged.value + shift,
        (low + shift, high + shift),
        judged.standard_error,
        judged.n,
        judged.clusters,
        judged.method,
    )


def no_farther(between: Score, within: Sequence[Score]) -> str | None:
    """What to say where the circuits of two models differ no more than two searches on one model do;
    else None."""
    if not within:
        return "no search says how much two searches on one model differ"
    least = min(within, key=lambda ceiling: ceiling.interval[0])
    if between.interval[1] < least.interval[0]:
        return None
    return f"two searches on one model do not overlap more ({least.name}: {verdicts.show(least)})"


def reasons(found: Mapping[str, Sequence[FoundCircuit]]) -> str:
    """Why the first search without all groups has not all of them; empty if all have."""
    for on, circuits in found.items():
        for number, circuit in enumerate(circuits):
            if circuit.reason is not None:
                return f"; search {number} on {on}: {circuit.reason}"
    return ""
