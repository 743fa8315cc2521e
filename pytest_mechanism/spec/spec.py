"""A spec file as one model: its JSON schema, ``lint --resolved``, what ``extends`` shares and what the
definition of an accepted score hashes all come from `Spec`."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, PrivateAttr, StrictStr, ValidationInfo, field_validator

from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.claims.base import Claim
from pytest_mechanism.errors import add_models
from pytest_mechanism.fields.ablation import Ablation
from pytest_mechanism.fields.applies_to import AppliesTo
from pytest_mechanism.fields.groups import AnyGroup, SoughtGroup
from pytest_mechanism.fields.part import Part
from pytest_mechanism.fields.thresholds import LEAST_CONFIDENCE, Atol, Drift
from pytest_mechanism.registry import claim_kinds, task_families
from pytest_mechanism.spec.choice import ByKey, Complaint, Entries, Name, TaskByFamily
from pytest_mechanism.spec.yaml import Document
from pytest_mechanism.tasks.base import Task

DOCUMENT = "document"
"""Validation context: the parsed file."""

PATH = "path"
"""Validation context: where the file is."""

TOLERANCES = ("atol", "drift")
"""Keys that hold for every claim which does not set its own."""

LETTERS = "use letters, digits and '_', 100 at most"

Version = Annotated[
    int,  # strict, which a Literal is not about true
    Field(strict=True, ge=1, le=1, description="version of the format; the first key"),
    Complaint("mechanism: {value} is no version this plugin reads; valid: 1"),
]
Circuit = Annotated[Name, Complaint("circuit: give it a name of letters, digits and '_'")]
GroupName = Annotated[Name, Complaint(f"group name {{value}}: {LETTERS}")]
ClaimName = Annotated[Name, Complaint(f"claim name {{value}}: {LETTERS}")]
Claims = Annotated[
    dict[ClaimName, Annotated[Claim, ByKey("kind", claim_kinds)]],
    Entries("claims", "a spec needs claims: name: {kind: ..., ...}", least=1),
]
AnyTask = Annotated[Task, TaskByFamily("family", task_families)]


class Spec(Part):
    """A circuit and what is claimed of it.

    Attributes:
        mechanism: version of the format.
        circuit: name of the circuit.
        extends: a spec whose keys count where this one has none; None once they are taken over.
        applies_to: the runs that the spec is about.
        task: where its rows come from.
        groups: name -> heads, from the answer back to the input.
        found_on: role on which the heads were found.
        ablation: how heads are ablated.
        confidence: of every interval.
        atol: for claims that do not set their own.
        drift: for claims that do not set their own.
        claims: name -> claim.
    """

    OWN: ClassVar = ("mechanism", "circuit", "extends", "claims")
    """Keys that belong to one file; a spec that extends another takes over all the others."""

    DEFINING: ClassVar = ("task", "groups", "ablation", "confidence")
    """Keys that, with a claim's own, say what its score is."""

    mechanism: Version
    circuit: Circuit
    extends: Annotated[StrictStr, Field(description="a spec beside this one")] | None = None
    applies_to: AppliesTo = AppliesTo()
    task: AnyTask
    groups: Annotated[
        dict[GroupName, AnyGroup],
        Entries("groups", "groups takes name: {heads: {layer: [head, ...]}, at: position}"),
    ] = Field(default_factory=dict)
    found_on: Annotated[StrictStr | None, Complaint("found_on takes a role, such as base")] = None
    ablation: Ablation = Ablation()
    confidence: Annotated[
        float,
        Field(strict=True, ge=LEAST_CONFIDENCE, lt=1),
        Complaint(f"confidence lies between {LEAST_CONFIDENCE:g} and 1, such as 0.95"),
    ] = 0.95
    # not set; what is set is a number, and YAML's null is none
    atol: Atol = None  # type: ignore[assignment]
    drift: Drift = None  # type: ignore[assignment]
    claims: Claims

    _path: Path = PrivateAttr()
    _document: Document = PrivateAttr()

    @field_validator("claims", mode="before")
    @classmethod
    def take_over_tolerances(cls, claims: Any, info: ValidationInfo) -> Any:
        """A claim has the spec's ``atol`` and ``drift`` unless it sets its own. An invalid one is blamed
        where it stands, and not on every claim."""
        common = {k: info.data[k] for k in TOLERANCES if info.data.get(k) is not None}
        if not isinstance(claims, dict):
            return claims
        return {n: common | c if isinstance(c, dict) else c for n, c in claims.items()}

    def model_post_init(self, context: Mapping[str, Any], /) -> None:
        self._path, self._document = context[PATH], context[DOCUMENT]

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @property
    def document(self) -> Document:
        """The parsed file, for lines and excerpts."""
        return self._document

    def resolved(self) -> dict[str, Any]:
        """The spec as data with every default; tolerances stand in the claims."""
        return self.model_dump(
            mode="json", by_alias=True, exclude_none=True, exclude={*TOLERANCES, "extends"}
        )

    def definition(self) -> dict[str, Any]:
        """What every score of the spec depends on; its hash must not change with the version."""
        return self.model_dump(mode="json", include={*self.DEFINING})

    @property
    def sought(self) -> bool:
        """Whether the heads of some group are found on the model under test."""
        return any(isinstance(group, SoughtGroup) for group in self.groups.values())

    def place(self, *keys: str) -> str:
        """``file:line`` of a part of the spec."""
        return f"{self.document.path}:{self.document.line(keys)}"

    def line(self, claim: str) -> int:
        """The line of a claim."""
        return self.document.line(("claims", claim))

    def skip_reason(self, labels: Mapping[str, str], shapes: Mapping[str, Shape]) -> str | None:
        """Why the spec is not about these models, or None if it is.

        Args:
            labels: role -> label.
            shapes: role -> sizes.
        """
        for role in self.applies_to.roles:
            if role not in shapes:
                return (
                    f"spec applies to runs with a checkpoint for the role {role}: "
                    f"{add_models([role])}"
                )
        patterns = self.applies_to.labels
        for role, label in labels.items():
            if patterns is not None and not any(fnmatch.fnmatchcase(label, p) for p in patterns):
                return f"spec applies to labels {', '.join(patterns)}; {role} is {label}"
            for name, wanted in self.applies_to.shape.items():
                if role in shapes and (has := getattr(shapes[role], name)) != wanted:
                    return f"spec applies to {name} = {wanted}; {label} has {has}"
        return None


class ValidParts(Spec):
    """The parts of an invalid spec that are valid: enough to check them against each other."""

    mechanism: Version = 1
    circuit: Circuit = ""
    task: AnyTask | None = None  # type: ignore[assignment]
    claims: Claims = Field(default_factory=dict)
