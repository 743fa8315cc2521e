"""From a spec's claim and a role to a `Case`, and from there to a verdict."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pytest_mechanism.checkpoints.fingerprint import Fingerprint
from pytest_mechanism.checkpoints.shape import Shape, read_shape
from pytest_mechanism.claims.base import Case, Claim, task_settings
from pytest_mechanism.discovery.discover import with_discovered
from pytest_mechanism.errors import MechanismError, NoDevice, add_models
from pytest_mechanism.runner.keys import device_kind, versions
from pytest_mechanism.runner.runner import Runner
from pytest_mechanism.spec.parts import AnyGroup, Group
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.types import Measurement, Setting, Verdict, canonical


@dataclass
class Gate:
    """A runner with what claims have to know about its models.

    Attributes:
        runner: measures.
        confidence: of every interval, where it overrides the specs'; else None.
        shapes: role -> sizes.
    """

    runner: Runner
    confidence: float | None = None
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    _items: list[tuple[Spec, Claim, str]] = field(default_factory=list)
    _found: dict[tuple[Path, str], Mapping[str, AnyGroup] | MechanismError] = field(
        default_factory=dict
    )

    @staticmethod
    def over(runner: Runner, confidence: float | None = None) -> Gate:
        """Read the sizes of every model from its config.

        Raises:
            MechanismError: a config does not say them.
        """
        shapes = {
            role: read_shape(ref.folder, ref.adapter) for role, ref in runner.references.items()
        }
        return Gate(runner, confidence, shapes)

    @property
    def labels(self) -> dict[str, str]:
        """Role -> label, of the pair."""
        return {r: ref.label for r, ref in self.runner.references.items() if r in ("base", "ft")}

    def case(self, spec: Spec, claim: Claim, role: str) -> Case:
        """Everything a claim's judgement may look at.

        Raises:
            MechanismError: the claim needs a role that this run has no checkpoint for, or models
                of one shape.
        """
        models = claim.models(role)
        missing = [m for m in models if m not in self.runner.references]
        if missing:
            have = ", ".join(self.runner.references)
            raise MechanismError(
                f"needs a checkpoint for the role {missing[0]!r}, this run has {have}: "
                f"{add_models(missing[:1])}"
            )
        claim.check_alike(role, self.shapes)
        options = self.runner.options
        helpers = [m for m in claim.helped_by(role) if m in self.runner.references]
        return Case(
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
                    **{m: self.runner.fingerprints[m].model for m in (*models, *helpers)},
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
        """Tell the runner what the items will ask for, as far as it is known."""
        self._items = list(items)
        for spec, claim, role in items:
            # whatever goes wrong with one claim, its own item will run into and report
            with contextlib.suppress(Exception):
                self.runner.plan(self.needs(spec, claim, role))

    def needs(self, spec: Spec, claim: Claim, role: str) -> tuple[Measurement, ...]:
        """What a claim will ask for; nothing where it cannot run, which its item will say, or
        where heads have to be discovered first."""
        if self.skip_reason(spec) is not None:
            return ()
        try:
            case = self.case(spec, claim, role)
            if spec.sought and claim.needs_groups:
                groups = self._found.get((spec.path, found_on(spec, claim, role)))
                if groups is None or isinstance(groups, MechanismError):
                    return ()
                case = replace(case, groups=groups)
            return claim.needs(case)
        except MechanismError:
            return ()

    def judge(self, spec: Spec, claim: Claim, role: str) -> Verdict:
        """Measure what is missing and judge. An error of the user's is a verdict, not a raise.

        Raises:
            NoDevice: nothing can be measured, which is no matter of this claim's.
        """
        if (reason := self.skip_reason(spec)) is not None:
            return Verdict("skipped", reason, "")
        try:
            case = self.case(spec, claim, role)
            if spec.sought and claim.needs_groups:
                case = replace(
                    case, groups=self.discovered(spec, case, found_on(spec, claim, role))
                )
            return claim.judge(case, self.runner.measure)
        except NoDevice:
            raise
        except MechanismError as problem:
            return Verdict("error", str(problem), "")

    def heads(self, spec: Spec, claim: Claim, role: str) -> str | None:
        """Which heads were found for a claim that speaks of discovered ones, as a sentence."""
        if not (spec.sought and claim.needs_groups):
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
        return f"{spec.circuit}: heads discovered on {on} (layer.head): {'; '.join(named)}"

    def left_out(self, spec: Spec) -> str | None:
        """Which words of a spec's task no prompt that was measured on has, as a sentence."""
        said = self.runner.left_out.get(task_settings(spec.task))
        return f"{spec.circuit}: {said}" if said else None

    def discovered(self, spec: Spec, case: Case, on: str) -> Mapping[str, AnyGroup]:
        """The spec's groups with their heads found on the model of role ``on``.

        Raises:
            MechanismError: nothing was found.
        """
        key = (spec.path, on)
        if key not in self._found:
            try:
                self._found[key] = with_discovered(case, on, self.runner.measure).groups
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


def tokenizers(fingerprints: Mapping[str, Fingerprint]) -> str:
    """One hash of all tokenizers of a run."""
    several = canonical(sorted({f.tokenizer for f in fingerprints.values()}))
    return hashlib.sha256(several.encode()).hexdigest()


def found_on(spec: Spec, claim: Claim, role: str) -> str:
    """The role on whose model an item's heads are discovered."""
    return claim.found_on(role, spec.found_on or "base")
