"""From a YAML file to a validated `Spec`.

Pydantic checks each part; this module turns what it finds into one line with file, line, what is
wrong and the valid choices, and checks what crosses parts (a claim's group exists, a group's
position is one of the task's).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from pytest_mechanism.claims.base import PAIR, Claim
from pytest_mechanism.errors import SpecError, choices
from pytest_mechanism.fields.ablation import Ablation
from pytest_mechanism.fields.applies_to import AppliesTo
from pytest_mechanism.fields.groups import AnyGroup, Group, SoughtGroup
from pytest_mechanism.fields.part import Part
from pytest_mechanism.fields.thresholds import LEAST_CONFIDENCE, Atol, Drift
from pytest_mechanism.registry import claim_kinds, task_families
from pytest_mechanism.spec.across import (
    circles,
    infeasible,
    labels_for_roles,
    misplaced,
    strange_origin,
)
from pytest_mechanism.spec.explain import explained, field_names, narrowed, short
from pytest_mechanism.spec.extends import TOLERANCES, extended
from pytest_mechanism.spec.feasible import Feasible
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.spec.yaml import Document, Path_, read
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.tasks.files import FOLDER

VERSION = 1
KEYS = (
    "mechanism",
    "circuit",
    "extends",
    "applies_to",
    "task",
    "groups",
    "found_on",
    "ablation",
    "confidence",
    "atol",
    "drift",
    "claims",
)
LETTERS = "use letters, digits and '_', 100 at most"
MOST_PROBLEMS = 100
"""Problems of one file that are named."""
MOST = 500
"""Groups, and claims, of a spec."""
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


class Tolerances(Part):
    """A spec's own ``atol`` and ``drift``, for all of its claims."""

    atol: Atol = 1e-3
    drift: Drift = 0.05


class SpecErrors(SpecError):
    """Everything that is wrong with a file; its text is the first one."""

    def __init__(self, found: list[SpecError]) -> None:
        first = found[0]
        super().__init__(first.message, first.where)
        self.found = found


def load(path: Path, shown: Path | None = None) -> Spec:
    """Read and validate a spec; ``shown`` is how errors name the file.

    Raises:
        SpecErrors: with every problem found.
        SpecError: the file is no readable YAML.
    """
    own = read(path, shown)
    document = extended(own, path)
    folder = path.parent
    if isinstance(own.value, dict) and "task" not in own.value and "extends" in own.value:
        folder = (folder / own.value["extends"]).parent  # a task's files lie where it was written
    return _Loader(document, path, folder).spec()


class _Loader:
    def __init__(self, document: Document, path: Path, task_folder: Path) -> None:
        self.document = document
        self.path = path
        self.task_folder = task_folder
        self.found: list[SpecError] = []

    def problem(self, message: str, where: Path_ = ()) -> None:
        self.found.append(self.document.error(message, where))
        if len(self.found) == MOST_PROBLEMS:  # this is no slip, and nobody reads on
            raise SpecErrors(sorted(self.found, key=_line_of))

    def problems(self, several: Iterable[tuple[str, Path_]]) -> None:
        for message, where in several:
            self.problem(message, where)

    def spec(self) -> Spec:
        top = self.document.value
        if not isinstance(top, dict):
            raise SpecErrors(
                [self.document.error("a spec is a mapping; its first key is 'mechanism: 1'")]
            )
        if next(iter(top), None) != "mechanism":
            self.problem("the first key of a spec is 'mechanism: 1'", tuple(list(top)[:1]))
        for key in top:
            if key not in KEYS:
                self.problem(f"unknown key {key!r}; {choices(str(key), KEYS)}", (key,))
        missing = [key for key in KEYS if key not in top]
        if any(difflib.get_close_matches(str(k), missing) for k in top if k not in KEYS):
            # a misspelt section: what follows from its absence would only hide it
            raise SpecErrors(sorted(self.found, key=_line_of))
        if type(top.get("mechanism")) is not int or top["mechanism"] != VERSION:
            self.problem(
                f"mechanism: {top.get('mechanism')!r} is no version this plugin reads; valid: 1",
                ("mechanism",),
            )
        circuit = top.get("circuit")
        if not isinstance(circuit, str) or not IDENTIFIER.fullmatch(circuit):
            self.problem("circuit: give it a name of letters, digits and '_'", ("circuit",))
        found_on = top.get("found_on")
        if found_on is not None and not isinstance(found_on, str):
            self.problem("found_on takes a role, such as base", ("found_on",))
        confidence = top.get("confidence", 0.95)
        if (
            isinstance(confidence, bool)
            or not isinstance(confidence, float)
            or not LEAST_CONFIDENCE <= confidence < 1
        ):
            self.problem(
                f"confidence lies between {LEAST_CONFIDENCE:g} and 1, such as 0.95", ("confidence",)
            )
        applies = self.part(AppliesTo, top.get("applies_to", {}), ("applies_to",))
        ablation = self.part(Ablation, top.get("ablation", {}), ("ablation",))
        task = self.task(top.get("task"))
        groups = self.groups(top.get("groups", {}), task)
        claims = self.claims(top.get("claims"), task)
        self.problems(strange_origin(found_on, claims, applies))
        self.problems(labels_for_roles(claims, applies))
        if task is not None and ablation is not None and not self.found:
            self.problems(infeasible(claims, groups, Feasible(task, ablation)))
        for name, claim in claims.items():
            origin = (
                claim.discovery_role(PAIR, str(found_on)) if claim.roles() == (PAIR,) else found_on
            )
            named = any(isinstance(group, Group) for group in groups.values())
            if named and found_on is not None and origin != found_on:
                self.problem(
                    f"claim {name}: speaks of the circuit of {origin}, and the heads named here were "
                    f"found_on {found_on}",
                    ("claims", name, "from"),
                )
        if self.found or task is None or applies is None or ablation is None:
            raise SpecErrors(sorted(self.found, key=_line_of))
        return Spec(
            path=self.path,
            circuit=str(circuit),
            applies_to=applies,
            task=task,
            groups=groups,
            found_on=found_on,
            ablation=ablation,
            confidence=confidence,
            claims=claims,
            document=self.document,
        )

    def part(self, model: type[BaseModel], value: Any, where: Path_) -> Any:
        """Validate one part; problems are noted, and None returned."""
        if not isinstance(value, dict):
            self.problem(
                f"{where[-1]} takes keys and values; {choices('', field_names(model))}", where
            )
            return None
        try:
            folder = self.task_folder if where[:1] == ("task",) else self.path.parent
            return model.model_validate(value, context={FOLDER: folder})
        except ValidationError as problem:
            for each in narrowed([dict(e) for e in problem.errors()], value):
                self.problem(*explained(each, model, where))
            return None

    def task(self, value: Any) -> Task | None:
        families = task_families()
        family = value.get("family") if isinstance(value, dict) else None
        if not isinstance(family, str) or family not in families:
            what = f"unknown family {family!r}" if family is not None else "task needs a family"
            self.problem(f"{what}; {choices(str(family), families)}", ("task", "family"))
            return None
        kind = families[family]
        settings = self.part(kind.parameters, value, ("task",))
        return None if settings is None else kind(settings)

    def groups(self, value: Any, task: Task | None) -> dict[str, AnyGroup]:
        if not isinstance(value, dict):
            self.problem(
                "groups takes name: {heads: {layer: [head, ...]}, at: position}", ("groups",)
            )
            return {}
        if len(value) > MOST:
            self.problem(f"groups: {len(value):,} of them, a spec has at most {MOST}", ("groups",))
            return {}
        found: dict[str, AnyGroup] = {}
        for name, each in value.items():
            where = ("groups", name)
            if not isinstance(name, str) or not IDENTIFIER.fullmatch(name):
                self.problem(f"group name {short(name)}: {LETTERS}", where)
                continue
            sought = isinstance(each, dict) and each.get("heads") == "discovered"
            if (group := self.part(SoughtGroup if sought else Group, each, where)) is not None:
                found[name] = group
        for name, group in found.items():
            if task is not None and (wrong := misplaced(group.at, task)):
                self.problem(f"group {name}: {wrong}", ("groups", name, "at"))
            if group.into is not None and group.into.group not in value:
                others = [n for n in found if n != name]
                self.problem(
                    f"group {name}: into an unknown group {group.into.group!r}; "
                    f"{choices(group.into.group, others)}",
                    ("groups", name, "into", "group"),
                )
            reader = found.get(group.into.group) if group.into else None
            if group.into and group.into.via == "q" and reader and reader.at != group.at:
                self.problem(
                    f"group {name}: works at {group.at}, its reader {group.into.group} at "
                    f"{reader.at}; a query is made where the reader works, so via: q needs the same "
                    "position (valid here: k, v)",
                    ("groups", name, "into", "via"),
                )
            if isinstance(group, SoughtGroup):
                continue
            members = [
                h for heads in group.heads.items() for h in ((heads[0], x) for x in heads[1])
            ]
            # '3' and 3.0 are other YAML keys than 3, and the same layer
            if len(set(members)) < len(members) or len(group.heads) < len(value[name]["heads"]):
                self.problem(f"group {name} names a head twice", ("groups", name, "heads"))
        self.problems(circles(found))
        return found

    def claims(self, value: Any, task: Task | None) -> dict[str, Claim]:
        if not isinstance(value, dict) or not value:
            self.problem("a spec needs claims: name: {kind: ..., ...}", ("claims",))
            return {}
        if len(value) > MOST:
            self.problem(f"claims: {len(value):,} of them, a spec has at most {MOST}", ("claims",))
            return {}
        kinds = claim_kinds()
        found: dict[str, Claim] = {}
        top = self.document.value
        # checked once where they stand, so that a bad one is not blamed on every claim
        tolerances = {key: top[key] for key in TOLERANCES if key in top}
        shared = self.part(Tolerances, tolerances, ()) if tolerances else None
        common = tolerances if shared is not None else {}
        for name, each in value.items():
            where: Path_ = ("claims", name)
            if not isinstance(name, str) or not IDENTIFIER.fullmatch(name):
                self.problem(f"claim name {short(name)}: {LETTERS}", where)
                continue
            kind = each.get("kind") if isinstance(each, dict) else None
            if not isinstance(kind, str) or kind not in kinds:
                what = f"unknown kind {kind!r}" if kind is not None else "needs a kind"
                self.problem(f"claim {name}: {what}; {choices(str(kind), kinds)}", (*where, "kind"))
                continue
            claim = self.part(kinds[kind], common | each, where)
            if claim is None:
                continue
            found[name] = claim
            self.mentions(name, claim, task)
        return found

    def mentions(self, name: str, claim: Claim, task: Task | None) -> None:
        """Groups, variables and roles that a claim names exist."""
        # names as written: a group with an error of its own is no unknown group as well
        written = self.document.value.get("groups")
        groups = [str(g) for g in written] if isinstance(written, dict) else []
        for field, (what, given) in claim.references().items():
            if what == "position":
                if task is not None and (wrong := misplaced(given, task)):
                    self.problem(f"claim {name}: {wrong}", ("claims", name, field))
                continue
            valid = groups if what == "group" else (task.variables if task else (given,))
            if given not in valid:
                self.problem(
                    f"claim {name}: unknown {what} {given!r}; {choices(given, valid)}",
                    ("claims", name, field.split()[0]),
                )
        if task is not None and (why := claim.unsupported_reason(task)) is not None:
            self.problem(f"claim {name}: {why}", ("claims", name))
        if claim.needs_groups and not groups:
            self.problem(f"claim {name}: kind {claim.kind} needs groups", ("claims", name))
        roles = claim.roles()
        if len(set(roles)) < len(roles):
            self.problem(f"claim {name}: a role stands twice in on", ("claims", name, "on"))
        named = {r for own in roles for r in (own, *claim.models(own), *claim.optional_roles(own))}
        for role in sorted(named):
            if not IDENTIFIER.fullmatch(role):
                self.problem(
                    f"claim {name}: role {role!r}: use letters, digits and '_'; the pair's roles "
                    "are base and ft",
                    ("claims", name),
                )


def _line_of(problem: SpecError) -> int:
    return int((problem.where or ":1").rsplit(":", 1)[1])
