"""Evaluates claims: builds the `ClaimContext` of a claim and a role, and asks the claim for a verdict."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from pytest_mechanism.causes import Cause
from pytest_mechanism.checkpoints.settings_diff import different_settings
from pytest_mechanism.checkpoints.shape import Shape, read_shape
from pytest_mechanism.claims.base import PAIR, REFERENCE, Claim
from pytest_mechanism.claims.context import ClaimContext, FoundCircuit, task_settings
from pytest_mechanism.claims.coverage import Coverage
from pytest_mechanism.claims.needed_heads import parts_of
from pytest_mechanism.discovery.discover import Discovery, Effort, discover
from pytest_mechanism.discovery.preflight import search_measurements, with_placeholders
from pytest_mechanism.discovery.repeated import fresh, search_again
from pytest_mechanism.errors import Crashed, MechanismError, NoDevice, add_models, one_line
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.member_weights import MemberWeightResult
from pytest_mechanism.nodes import spelled
from pytest_mechanism.runner import evidence, locate
from pytest_mechanism.runner.edited_weights import (
    can_weigh,
    small_enough,
    weight_changes,
    with_weights,
)
from pytest_mechanism.runner.grafts import (
    NO_GRAFTS,
    Grafted,
    about_grafts,
    answers,
    first_grafts,
    grafts,
)
from pytest_mechanism.runner.keys import ContentHashes, device_kind, versions
from pytest_mechanism.runner.preflight import Preflight, first_obstacle, make_preflight
from pytest_mechanism.runner.ranked_rows import Focus
from pytest_mechanism.runner.resident import task_of
from pytest_mechanism.runner.runner import Runner
from pytest_mechanism.runner.undiscovered import missing_groups, verdict_without_heads
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.statistics import kept, verdicts
from pytest_mechanism.statistics.estimates import UndefinedScoreError
from pytest_mechanism.statistics.honesty import require_safeguards
from pytest_mechanism.tasks.base import Row
from pytest_mechanism.types import (
    Evidence,
    Located,
    MemberChange,
    Result_co,
    Setting,
    Verdict,
    canonical,
)

Sweep = tuple[list[MemberChange], list[str], float]
"""The change of every member, where heads are in another place, and how long the sweep took."""


@dataclass
class ClaimEvaluator:
    """Evaluates the items of a run.

    Attributes:
        runner: makes measurements.
        confidence: of every interval, if it overrides that of the specs.
        shapes: role -> sizes of its model.
        trace: traceback of the error behind the last verdict, or empty.
    """

    runner: Runner
    confidence: float | None = None
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    trace: str = ""
    _items: list[tuple[Spec, Claim, str]] = field(default_factory=list)
    _obstacles: dict[tuple[Path, int, str], MechanismError | None] = field(default_factory=dict)
    _preflight: Preflight | None = None
    _searched: dict[tuple[Path, str, int], FoundCircuit] = field(default_factory=dict)
    _discovered: dict[tuple[Path, str], Discovery | MechanismError] = field(default_factory=dict)
    _swept: dict[tuple[Path, str], Sweep | None] = field(default_factory=dict)
    _weighed: dict[str, tuple[MemberWeightResult | None, float]] = field(default_factory=dict)
    _grafted: dict[tuple[Path, str], Grafted] = field(default_factory=dict)
    _asked: dict[Measurement, None] = field(default_factory=dict)

    @staticmethod
    def over(runner: Runner, confidence: float | None = None) -> ClaimEvaluator:
        """An evaluator with the sizes of every model, from its config.

        Raises:
            MechanismError: a config lacks a size, or has changed.
        """
        shapes = {
            role: read_shape(ref.folder, ref.adapter) for role, ref in runner.references.items()
        }
        runner.check_configs()
        return ClaimEvaluator(runner, confidence, shapes)

    @property
    def labels(self) -> dict[str, str]:
        """Role -> label, of the pair."""
        return {r: ref.label for r, ref in self.runner.references.items() if r in ("base", "ft")}

    def context(self, spec: Spec, claim: Claim, role: str) -> ClaimContext:
        """The context of an item.

        Raises:
            MechanismError: the run has no checkpoint for a role that the claim needs, or the models
                differ in a size that must match.
        """
        models = claim.models(role)
        missing = [m for m in models if m not in self.runner.references]
        if missing:
            have = ", ".join(self.runner.references)
            labelled = [r for r, ref in self.runner.references.items() if ref.label == missing[0]]
            if labelled:
                raise MechanismError(
                    f"{missing[0]!r} is the label of {labelled[0]}, and a claim names roles: write "
                    f"{labelled[0]}; valid: {have}"
                )
            raise MechanismError(
                f"needs a checkpoint for the role {missing[0]!r}, this run has {have}: "
                f"{add_models(missing[:1])}"
            )
        claim.check_matching_sizes(role, self.shapes)
        optional = [m for m in claim.optional_roles(role) if m in self.runner.references]
        return self.model_context(spec, role, (*models, *optional))

    def model_context(self, spec: Spec, role: str, models: Sequence[str] = ()) -> ClaimContext:
        """The context of a measurement on a role's model that belongs to no claim.

        Args:
            spec: gives the task and the groups.
            role: of the context.
            models: roles of the models that take part; ``role`` by default.
        """
        options, marks = self.runner.options, self.runner.fingerprints
        hashes = ContentHashes(marks, models or (role,))
        known = all(marks[of].known for of in hashes.roles)
        return ClaimContext(
            role=role,
            groups=spec.groups,
            ablation=spec.ablation,
            task=spec.task,
            confidence=self.confidence or spec.confidence,
            shapes=self.shapes,
            setting=Setting(
                seed=int(spec.task.settings.seed),
                dtype=options.numbers,
                device=device_kind(options.device),
                engine=options.engine,
                fingerprints=dict(hashes) if known else hashes,
                versions=versions(),
            ),
            claims=tuple(spec.claims.values()),
        )

    def skip_reason(self, spec: Spec) -> str | None:
        """Why a spec does not apply to this run's models."""
        return spec.skip_reason(self.labels, self.shapes)

    def plan(self, items: Sequence[tuple[Spec, Claim, str]]) -> None:
        """Announces the measurements of the items to the runner, as far as they are known; none of an
        item that cannot be measured (`obstacle`)."""
        self._items = list(items)
        for spec, claim, role in items:
            with contextlib.suppress(Exception):  # the item itself will report it
                if self.obstacle(spec, claim, role) is None:
                    self.runner.plan(self.required_measurements(spec, claim, role))

    # -- preflight

    def obstacle(self, spec: Spec, claim: Claim, role: str) -> MechanismError | None:
        """Why an item cannot be measured, found without loading a checkpoint, or None. All that the
        item will measure is checked, with a search for its heads."""
        key = (spec.path, id(claim), role)
        if key not in self._obstacles:
            problem = self._obstacle(spec, claim, role)
            self._obstacles[key] = None if problem is None else problem.at(place(spec, claim))
        return self._obstacles[key]

    def _obstacle(self, spec: Spec, claim: Claim, role: str) -> MechanismError | None:
        if self.skip_reason(spec) is not None:
            return None
        try:
            self.context(spec, claim, role)
            measurements = self.expected_measurements(spec, claim, role)
        except MechanismError as problem:
            return problem
        except Exception:  # a claim kind's own: its item will report it
            return None
        return self.first_obstacle(measurements)

    def first_obstacle(self, measurements: Sequence[Measurement]) -> MechanismError | None:
        """The first reason why these measurements cannot be made, or None."""
        return first_obstacle(self.runner, self.preflight, measurements)

    def preflight(self) -> Preflight:
        """Checks measurements with the tokenizers of the run."""
        if self._preflight is None:
            self._preflight = make_preflight(self.runner)
        return self._preflight

    def blocking_reason(self, spec: Spec, claim: Claim, role: str) -> str | None:
        """Why an item cannot pass whatever is measured (no model to compare with, no heads for a
        control), or None."""
        if self.skip_reason(spec) is not None:
            return None
        try:
            return claim.blocking_reason(self.context(spec, claim, role))
        except MechanismError:
            return None  # `obstacle` reports it

    def expected_measurements(self, spec: Spec, claim: Claim, role: str) -> tuple[Measurement, ...]:
        """What an item will measure. While its heads are not discovered: the measurements of the
        search and of the claim, with placeholders for the heads."""
        on = discovery_role(spec, claim, role)
        if on is None or (spec.path, on) in self._discovered:
            return (
                *self.required_measurements(spec, claim, role),
                *self.search_measurements(spec, claim, role),
            )
        try:
            context = self.context(spec, claim, role)
            return (
                *search_measurements(context, on, Effort()),
                *claim.required_measurements(with_placeholders(context)),
            )
        except MechanismError:
            return ()

    def search_measurements(self, spec: Spec, claim: Claim, role: str) -> Iterator[Measurement]:
        """What the searches of a claim will measure, with placeholders for heads."""
        searches = claim.required_searches(role, spec.groups)
        if searches and self.skip_reason(spec) is None:
            context = self.context(spec, claim, role)
            for on, number in searches:
                yield from search_measurements(fresh(context, number), on, Effort())

    # -- measuring

    def required_measurements(self, spec: Spec, claim: Claim, role: str) -> tuple[Measurement, ...]:
        """What a claim will measure; nothing while its heads are not discovered, or if it cannot
        be evaluated, which its item will report."""
        if self.skip_reason(spec) is not None:
            return ()
        try:
            context = self.context(spec, claim, role)
            if (on := discovery_role(spec, claim, role)) is not None:
                found = self._discovered.get((spec.path, on))
                if not isinstance(found, Discovery) or missing_groups(claim, spec.groups, found):
                    return ()
                context = replace(context, groups=found.groups)
            return claim.required_measurements(context)
        except MechanismError:
            return ()

    def judge(self, spec: Spec, claim: Claim, role: str) -> Verdict:
        """Makes the measurements and judges them. A `MechanismError` becomes a verdict.

        Raises:
            NoDevice: nothing can be measured, whatever the claim.
        """
        self.trace = ""
        self._asked.clear()
        if (reason := self.skip_reason(spec)) is not None:
            return Verdict("skipped", reason, "")
        try:
            context = self.context(spec, claim, role)
            hashes = dict(context.setting.fingerprints)  # waits for weights that are not read yet
            context = replace(context, setting=replace(context.setting, fingerprints=hashes))
            if (problem := self.obstacle(spec, claim, role)) is not None:
                raise problem
            if (on := discovery_role(spec, claim, role)) is not None:
                found = self._discover(spec, context, on)
                if missing := missing_groups(claim, spec.groups, found):
                    return verdict_without_heads(found, missing, on)
                context = replace(context, groups=found.groups)
            context = replace(context, search=partial(self._search, spec, context))
            with kept.keeping(self._estimates(spec, claim, role)):
                judged = claim.judge(context, self._measure)
            verdict = require_safeguards(judged, claim.kind)
            return verdicts.of_reference(verdict) if role == REFERENCE else verdict
        except NoDevice:
            raise
        except Crashed as problem:
            self.trace = problem.trace
            return Verdict("error", str(problem.at(place(spec, claim))), "")
        except MechanismError as problem:
            self.trace = problem.trace
            return Verdict("error", str(problem), "")

    def _estimates(self, spec: Spec, claim: Claim, role: str) -> Path | None:
        """The file of the estimates of a claim on these checkpoints; None without a store."""
        if (store := self.runner.store) is None:
            return None
        roles = [*claim.models(role), *claim.optional_roles(role)]
        marks = self.runner.fingerprints
        models = [marks[of].model for of in sorted({*roles} & marks.keys())]
        about = [spec.circuit, name_of(spec, claim), role, task_settings(spec.task), *models]
        return store.estimates(hashlib.sha256(canonical(about).encode()).hexdigest())

    def _measure(self, measurement: Measurement[Result_co]) -> Result_co:
        """A result, and a note that the claim asked for it (`evidence`)."""
        self._asked[measurement] = None
        return self.runner.measure(measurement)

    def _search(self, spec: Spec, context: ClaimContext, on: str, number: int) -> FoundCircuit:
        """`ClaimContext.search`: the circuit of a search, which each run makes once."""
        key = (spec.path, on, number)
        if key not in self._searched:
            self._searched[key] = search_again(context, on, number, self.runner.measure)
        return self._searched[key]

    def _discover(self, spec: Spec, context: ClaimContext, on: str) -> Discovery:
        """The search for the heads of the spec's groups on the model of role ``on``.

        Raises:
            MechanismError: the search cannot be made.
        """
        key = (spec.path, on)
        if key not in self._discovered:
            try:
                self._discovered[key] = discover(context, on, self.runner.measure, Effort())
            except MechanismError as problem:
                self._discovered[key] = problem
            # the measurements of other items are known now: make them while the model is loaded
            for other, claim, role in self._items:
                if other.path == spec.path and discovery_role(other, claim, role) == on:
                    self.runner.plan(self.required_measurements(other, claim, role))
        result = self._discovered[key]
        if isinstance(result, MechanismError):
            raise result
        return result

    # -- for reports

    def locate(self, spec: Spec, claim: Claim, role: str, cause: Cause | None) -> Located | None:
        """The heads and MLPs behind a red claim, and where weights changed; None where neither can be said.

        Raises:
            NoDevice: nothing can be measured.
        """
        try:
            found = self._located(spec, claim, role, cause)
        except NoDevice:
            raise
        except Exception as problem:
            line = f"the heads and MLPs behind it cannot be measured: {one_line(str(problem))}"
            return Located((line,), (), 0.0)
        to = locate.candidate(claim, role)
        settings = partial(self._settings, to)
        grafts = partial(self._grafts, spec, role, to)
        return with_weights(found, *self._weights(spec, claim, role, cause), settings, grafts)

    def _settings(self, to: str) -> str:
        """The settings that differ between the reference model and another, in words."""
        before, now = (
            (self.runner.references[of], self.runner.fingerprints[of]) for of in (REFERENCE, to)
        )
        with contextlib.suppress(MechanismError, OSError):
            return different_settings(before, now, (REFERENCE, to))
        return ""

    def _located(self, spec: Spec, claim: Claim, role: str, cause: Cause | None) -> Located | None:
        """The members behind a red claim; None where it is not about any, or the task has no rows for the sweep."""
        context = self.context(spec, claim, role)
        searched = self._discovered.get((spec.path, REFERENCE))
        if isinstance(searched, MechanismError):
            return None
        if searched is not None:
            context = replace(context, groups=searched.groups)
        if not locate.can_locate(context, spec, claim, role, cause):
            return None
        to = locate.candidate(claim, role)
        context = locate.with_rows(context, spec, to)
        key = (spec.path, to)
        if key not in self._swept:
            self._swept[key] = None
            needed = locate.needed(context, to)
            if self.first_obstacle(needed) is None:
                self.runner.plan(needed)
                self._swept[key] = locate.sweep(context, to, self.runner.measure)
        if (swept := self._swept[key]) is None:
            return None
        return locate.located(claim, *swept, 1 - context.confidence)

    def _weights(
        self, spec: Spec, claim: Claim, role: str, cause: Cause | None
    ) -> tuple[MemberWeightResult | None, float]:
        """How far the candidate's weights are from the reference model's, and the seconds that it took."""
        to = locate.candidate(claim, role)
        if not can_weigh(self.shapes, to, role, cause):
            return None, 0.0
        if to not in self._weighed:
            started = time.perf_counter()
            result = None
            with contextlib.suppress(MechanismError):  # the other lines do not depend on it
                if all(small_enough(self.runner.references[of].folder) for of in (REFERENCE, to)):
                    context = self.model_context(spec, role, (REFERENCE, to))
                    result = self.runner.measure(weight_changes(context, to))
            self._weighed[to] = (result, time.perf_counter() - started)
        return self._weighed[to]

    def _grafts(self, spec: Spec, role: str, to: str) -> Grafted:
        """What the reference model's members do in the candidate; nothing where that cannot be measured."""
        key = (spec.path, to)
        if key not in self._grafted:
            self._grafted[key] = NO_GRAFTS
            started = time.perf_counter()
            context = self.model_context(spec, role, (REFERENCE, to))
            needed = (answers(context), first_grafts(context, to))
            if not spec.task.judges_replies and self.first_obstacle(needed) is None:
                self.runner.plan(needed)
                with contextlib.suppress(MechanismError, UndefinedScoreError):
                    found = about_grafts(grafts(context, to, self.runner.measure), to)
                    self._grafted[key] = replace(found, seconds=time.perf_counter() - started)
        return self._grafted[key]

    def recalled_sweep(self, spec: Spec, to: str) -> list[MemberChange]:
        """The change of every head and MLP between the reference model and ``to``, if a red claim or a claim
        of kind ``same_profile`` had it measured; else nothing."""
        context = self.model_context(spec, to, (REFERENCE, to))
        try:
            return locate.sweep(locate.with_rows(context, spec, to), to, self.runner.recall)[0]
        except MechanismError:
            return []

    def evidence(self, spec: Spec, claim: Claim, role: str, cause: Cause | None) -> Evidence | None:
        """The prompts behind the red verdict that `judge` gave last; None where it has none."""
        if cause not in evidence.ABOUT_ROWS:
            return None
        own = locate.candidate(claim, role) if role == PAIR else role
        try:
            own_rows = [m for m in self._asked if evidence.speaks_of(m.request, claim, cause)]
            others = [model for model in claim.models(role) if model != own]
            against = (
                others[0] if len(others) == 1 and str(claim.kind) in evidence.BEHAVIOUR else None
            )
            cell = None
            if isinstance(claim, Coverage):
                cell = partial(claim.broken, self.context(spec, claim, role))
            by_accuracy = getattr(claim, "of", "accuracy") == "accuracy"
            focus = Focus(against, by_accuracy=by_accuracy, cell=cell)
            beside = against or REFERENCE
            return evidence.evidence(own_rows, own, beside, self.runner.peek, self._rows, focus)
        except Exception as problem:  # what a reader gets beside the verdict must not change it
            what = f"the prompts behind it cannot be shown: {one_line(str(problem))}"
            return Evidence(what, "", ())

    def _rows(self, measurement: Measurement) -> Sequence[Row]:
        """The rows of a measurement's first set."""
        row_set = measurement.request.row_sets()[0]
        return self.preflight().rows(measurement.task, task_of(measurement), row_set)

    def discovered_heads(self, spec: Spec, claim: Claim, role: str) -> str | None:
        """A line that names the discovered heads of an item."""
        if (on := discovery_role(spec, claim, role)) is None:
            return None
        found = self._discovered.get((spec.path, on))
        if not isinstance(found, Discovery):
            return None
        heads = [
            f"{name} {' '.join(map(spelled, parts_of(found.groups[name])))}"
            if name in found.groups
            else f"{name} none"
            for name in spec.groups
        ]
        return f"heads discovered on {on} (layer.head): {'; '.join(heads)}"

    def dropped_words(self, spec: Spec) -> str | None:
        """A line that names the words of a task that no measured prompt has."""
        return self.runner.left_out.get(task_settings(spec.task)) or None


def name_of(spec: Spec, claim: Claim) -> str:
    """The name of a claim; empty where the spec has none like it."""
    return next((name for name, other in spec.claims.items() if other is claim), "")


def place(spec: Spec, claim: Claim) -> str:
    """``file:line`` of a claim."""
    line = spec.line(name) if (name := name_of(spec, claim)) else 1
    return f"{spec.document.path}:{line}"


def discovery_role(spec: Spec, claim: Claim, role: str) -> str | None:
    """The role on whose model the heads of an item are discovered; None where the spec names them, or
    the claim needs none or searches itself."""
    if not (spec.discovers_heads and claim.needs_groups) or claim.required_searches(
        role, spec.groups
    ):
        return None
    return claim.discovery_role(role, spec.found_on or "base")
