"""From a spec's claim and a role to a `ClaimContext`, and from there to a verdict."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pytest_mechanism.checkpoints.fingerprint import Fingerprint
from pytest_mechanism.checkpoints.shape import Shape, read_shape
from pytest_mechanism.claims.base import REFERENCE, Claim, ClaimContext, task_settings
from pytest_mechanism.discovery.discover import Effort, with_discovered_heads
from pytest_mechanism.discovery.preflight import search_measurements, with_placeholders
from pytest_mechanism.errors import Crashed, MechanismError, NoDevice, add_models
from pytest_mechanism.fields.groups import AnyGroup, Group
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.runner.keys import device_kind, versions
from pytest_mechanism.runner.preflight import Preflight, first_obstacle, make_preflight
from pytest_mechanism.runner.runner import Runner
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.statistics import verdicts
from pytest_mechanism.statistics.honesty import require_safeguards
from pytest_mechanism.types import Setting, Verdict, canonical


@dataclass
class ClaimEvaluator:
    """A runner with what claims have to know about its models.

    Attributes:
        runner: measures.
        confidence: of every interval, where it overrides the specs'; else None.
        shapes: role -> sizes.
        trace: traceback of the library's error behind the last verdict, or nothing.
    """

    runner: Runner
    confidence: float | None = None
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    trace: str = ""
    _items: list[tuple[Spec, Claim, str]] = field(default_factory=list)
    _refused: dict[tuple[Path, int, str], MechanismError | None] = field(default_factory=dict)
    _ahead: Preflight | None = None
    _found: dict[tuple[Path, str], Mapping[str, AnyGroup] | MechanismError] = field(
        default_factory=dict
    )

    @staticmethod
    def over(runner: Runner, confidence: float | None = None) -> ClaimEvaluator:
        """Read the sizes of every model from its config.

        Raises:
            MechanismError: a config does not say them, or has changed.
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
        """Everything a claim's judgement may look at.

        Raises:
            MechanismError: the claim needs a role that this run has no checkpoint for, or models
                of one shape.
        """
        models = claim.models(role)
        missing = [m for m in models if m not in self.runner.references]
        if missing:
            have = ", ".join(self.runner.references)
            called = [r for r, ref in self.runner.references.items() if ref.label == missing[0]]
            if called:
                raise MechanismError(
                    f"{missing[0]!r} is the label of {called[0]}, and a claim names roles; valid: "
                    f"{have}"
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
            spec: what is measured.
            role: of the context.
            models: roles of the models that take part; the role's own by default.
        """
        options = self.runner.options
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
                fingerprints={
                    **{m: self.runner.fingerprints[m].model for m in models or (role,)},
                    # the rows are words that every tokenizer of the run keeps whole
                    "tokenizers": tokenizers(self.runner.fingerprints),
                },
                versions=versions(),
            ),
        )

    def skip_reason(self, spec: Spec) -> str | None:
        """Why a spec does not speak about this run's models."""
        return spec.skip_reason(self.labels, self.shapes)

    def plan(self, items: Sequence[tuple[Spec, Claim, str]]) -> None:
        """Tell the runner what the items will ask for, as far as it is known. Nothing is planned for
        an item that cannot be measured (`refusal`)."""
        self._items = list(items)
        for spec, claim, role in items:
            # whatever goes wrong with one claim, its own item will run into and report
            with contextlib.suppress(Exception):
                if self.refusal(spec, claim, role) is None:
                    self.runner.plan(self.needs(spec, claim, role))

    # -- looking ahead

    def refusal(self, spec: Spec, claim: Claim, role: str) -> MechanismError | None:
        """Why an item cannot be measured, known without loading a checkpoint; None where nothing
        speaks against it. Everything that it will ask for is looked at, a search for heads too."""
        key = (spec.path, id(claim), role)
        if key not in self._refused:
            found = self.first_obstacle_of(spec, claim, role)
            self._refused[key] = None if found is None else found.at(place(spec, claim))
        return self._refused[key]

    def first_obstacle_of(self, spec: Spec, claim: Claim, role: str) -> MechanismError | None:
        """Why an item cannot be measured, without its place."""
        if self.skip_reason(spec) is not None:
            return None
        try:
            self.context(spec, claim, role)
            wanted = self.foreseen(spec, claim, role)
        except MechanismError as problem:
            return problem
        except Exception:  # of a claim kind: its own item runs into it and reports it
            return None
        return self.first_obstacle(wanted)

    def first_obstacle(self, measurements: Sequence[Measurement]) -> MechanismError | None:
        """Why one of these measurements cannot be made; None where nothing speaks against it."""
        return first_obstacle(self.runner, self.ahead, measurements)

    def ahead(self) -> Preflight:
        """Checks measurements on the tokenizers alone."""
        if self._ahead is None:
            self._ahead = make_preflight(self.runner)
        return self._ahead

    def foreseen(self, spec: Spec, claim: Claim, role: str) -> tuple[Measurement, ...]:
        """What an item will ask for; where heads have to be found first, measurements that stand
        for those of the search and of the claim."""
        if not (spec.discovers_heads and claim.needs_groups) or self.skip_reason(spec) is not None:
            return self.needs(spec, claim, role)
        on = found_on(spec, claim, role)
        groups = self._found.get((spec.path, on))
        if groups is not None:
            return self.needs(spec, claim, role)
        try:
            context = self.context(spec, claim, role)
            return (
                *search_measurements(context, on, Effort()),
                *claim.required_measurements(with_placeholders(context)),
            )
        except MechanismError:
            return ()

    def lacks(self, spec: Spec, claim: Claim, role: str) -> str | None:
        """Why an item cannot pass whatever is measured: no checkpoint to compare with, or no heads
        for a control. None where it can."""
        if self.skip_reason(spec) is not None:
            return None
        try:
            context = self.context(spec, claim, role)
            return claim.blocking_reason(context)
        except MechanismError:
            return None  # it cannot be measured, which is another matter

    def needs(self, spec: Spec, claim: Claim, role: str) -> tuple[Measurement, ...]:
        """What a claim will ask for; nothing where it cannot run, which its item will say, or
        where heads have to be discovered first."""
        if self.skip_reason(spec) is not None:
            return ()
        try:
            context = self.context(spec, claim, role)
            if spec.discovers_heads and claim.needs_groups:
                groups = self._found.get((spec.path, found_on(spec, claim, role)))
                if groups is None or isinstance(groups, MechanismError):
                    return ()
                context = replace(context, groups=groups)
            return claim.required_measurements(context)
        except MechanismError:
            return ()

    def judge(self, spec: Spec, claim: Claim, role: str) -> Verdict:
        """Measure what is missing and judge. An error of the user's is a verdict, not a raise.

        Raises:
            NoDevice: nothing can be measured, which is no matter of this claim's.
        """
        self.trace = ""
        if (reason := self.skip_reason(spec)) is not None:
            return Verdict("skipped", reason, "")
        try:
            context = self.context(spec, claim, role)
            if (refused := self.refusal(spec, claim, role)) is not None:
                raise refused
            if spec.discovers_heads and claim.needs_groups:
                context = replace(
                    context, groups=self.discovered(spec, context, found_on(spec, claim, role))
                )
            verdict = require_safeguards(claim.judge(context, self.runner.measure), claim.kind)
            return verdicts.of_reference(verdict) if role == REFERENCE else verdict
        except NoDevice:
            raise
        except Crashed as problem:
            self.trace = problem.trace
            return Verdict("error", str(problem.at(place(spec, claim))), "")
        except MechanismError as problem:
            self.trace = problem.trace
            return Verdict("error", str(problem), "")

    def heads(self, spec: Spec, claim: Claim, role: str) -> str | None:
        """Which heads were found for a claim that speaks of discovered ones, as a sentence."""
        if not (spec.discovers_heads and claim.needs_groups):
            return None
        on = found_on(spec, claim, role)
        groups = self._found.get((spec.path, on))
        if groups is None or isinstance(groups, MechanismError):
            return None
        named = [
            f"{name} {' '.join(f'{layer}.{head}' for layer, head in group.members())}"
            for name, group in groups.items()
            if isinstance(group, Group)
        ]
        return f"heads discovered on {on} (layer.head): {'; '.join(named)}"

    def left_out(self, spec: Spec) -> str | None:
        """Which words of a spec's task no prompt that was measured on has, as a sentence."""
        return self.runner.left_out.get(task_settings(spec.task)) or None

    def discovered(self, spec: Spec, context: ClaimContext, on: str) -> Mapping[str, AnyGroup]:
        """The spec's groups with their heads found on the model of role ``on``.

        Raises:
            MechanismError: nothing was found.
        """
        key = (spec.path, on)
        if key not in self._found:
            try:
                self._found[key] = with_discovered_heads(context, on, self.runner.measure).groups
            except MechanismError as problem:
                self._found[key] = problem
            # now it is known what the other items want of this model: measure it in one go
            for other, claim, role in self._items:
                if other.path == spec.path and found_on(other, claim, role) == on:
                    self.runner.plan(self.needs(other, claim, role))
        found = self._found[key]
        if isinstance(found, MechanismError):
            raise found
        return found


def place(spec: Spec, claim: Claim) -> str:
    """``file:line`` of a claim."""
    names = [name for name, each in spec.claims.items() if each is claim]
    line = spec.line(names[0]) if names else 1
    return f"{spec.document.path}:{line}"


def tokenizers(fingerprints: Mapping[str, Fingerprint]) -> str:
    """One hash of all tokenizers of a run."""
    several = canonical(sorted({f.tokenizer for f in fingerprints.values()}))
    return hashlib.sha256(several.encode()).hexdigest()


def found_on(spec: Spec, claim: Claim, role: str) -> str:
    """The role on whose model an item's heads are discovered."""
    return claim.discovery_role(role, spec.found_on or "base")
