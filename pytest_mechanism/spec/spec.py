"""A spec file as one model: its JSON schema, ``lint --resolved``, what ``extends`` shares and what the
definition of an accepted score hashes all come from `Spec`."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, PlainSerializer, PrivateAttr, StrictStr, ValidationInfo, field_validator

from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.claims.base import Claim
from pytest_mechanism.errors import add_models
from pytest_mechanism.fields.ablation import Ablation
from pytest_mechanism.fields.applies_to import AppliesTo
from pytest_mechanism.fields.groups import AnyGroup, DiscoveredGroup
from pytest_mechanism.fields.part import Part
from pytest_mechanism.fields.thresholds import LEAST_CONFIDENCE, Atol, Drift
from pytest_mechanism.registry import claim_kinds, task_families
from pytest_mechanism.spec.choice import MOST, ByKey, Name, complaint, entries
from pytest_mechanism.spec.yaml import Document
from pytest_mechanism.tasks.base import Task

DOCUMENT = "document"
"""Validation context: the parsed file."""

PATH = "path"
"""Validation context: where the file is."""

TOLERANCES = ("atol", "drift")
"""Keys that apply to every claim without its own."""

LETTERS = "use letters, digits and '_', 100 characters at most"

Version = Annotated[
    int,  # a Literal[1] also accepts true
    Field(strict=True, ge=1, le=1, description="version of the format; the first key"),
    complaint("mechanism: {value} is not a supported version; valid: 1"),
]
Circuit = Annotated[Name, complaint(f"circuit: must be a name; {LETTERS}")]
GroupName = Annotated[Name, complaint(f"group name {{value}}: {LETTERS}")]
ClaimName = Annotated[Name, complaint(f"claim name {{value}}: {LETTERS}")]
GROUPS = "groups: must be name: {heads: {layer: [head, ...]}, at: position}, ..."
CLAIMS = "claims: a spec needs claims, each as name: {kind: ..., ...}"

BY_KIND = ByKey("kind", claim_kinds)
BY_FAMILY = ByKey("family", task_families)

Groups = Annotated[
    dict[GroupName, AnyGroup], Field(max_length=MOST), entries("groups", GROUPS, least=0)
]
Claims = Annotated[
    dict[ClaimName, Annotated[Claim, BY_KIND]],
    Field(min_length=1, max_length=MOST),
    entries("claims", CLAIMS, least=1),
]
AnyTask = Annotated[
    Task, BY_FAMILY, PlainSerializer(lambda task: task.settings.model_dump(mode="json"))
]


class Spec(Part):
    """A circuit and the claims about it.

    Attributes:
        mechanism: version of the file format.
        circuit: name of the circuit.
        extends: a spec whose keys apply if this one lacks them; None after loading.
        applies_to: the runs that the spec is about.
        task: source of its rows.
        groups: name -> heads, from the answer back to the input.
        found_on: role on which the heads were found.
        ablation: how heads are ablated.
        confidence: confidence level of every interval.
        atol: tolerance of claims without their own.
        drift: tolerance of claims without their own.
        claims: name -> claim.
    """

    OWN: ClassVar = ("mechanism", "circuit", "extends", "claims")
    """Keys that `extends` does not share: a spec takes over all others from the spec that it extends."""

    DEFINING: ClassVar = ("task", "groups", "ablation", "confidence")
    """Keys that define what the score of a claim measures, together with the claim's own."""

    mechanism: Version
    circuit: Circuit
    extends: Annotated[StrictStr, Field(description="a spec beside this one")] | None = None
    applies_to: AppliesTo = AppliesTo()
    task: AnyTask
    groups: Groups = Field(default_factory=dict)
    found_on: Annotated[StrictStr | None, complaint("found_on: must be a role, such as base")] = (
        None
    )
    ablation: Ablation = Ablation()
    confidence: Annotated[
        float,
        Field(strict=True, ge=LEAST_CONFIDENCE, lt=1),
        complaint(f"confidence: must lie between {LEAST_CONFIDENCE:g} and 1, such as 0.95"),
    ] = 0.95
    # None if not set; YAML's null is invalid
    atol: Atol = None  # type: ignore[assignment]
    drift: Drift = None  # type: ignore[assignment]
    claims: Claims

    _path: Path = PrivateAttr()
    _document: Document = PrivateAttr()

    @field_validator("claims", mode="before")
    @classmethod
    def take_over_tolerances(cls, claims: Any, info: ValidationInfo) -> Any:
        """Give the spec's ``atol`` and ``drift`` to claims without their own. An invalid one is reported
        once, at its own line."""
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
        """The spec as data, with defaults filled in and tolerances in each claim."""
        return self.model_dump(
            mode="json", by_alias=True, exclude_none=True, exclude={*TOLERANCES, "extends"}
        )

    def definition(self) -> dict[str, Any]:
        """What defines the spec's scores. A release must not change its hash: accepted scores depend on it."""
        return self.model_dump(mode="json", include={*self.DEFINING})

    @property
    def discovers_heads(self) -> bool:
        """Whether the heads of some group are found on the model under test."""
        return any(isinstance(group, DiscoveredGroup) for group in self.groups.values())

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
        patterns = self.applies_to.labels
        for role, label in labels.items():
            if patterns is not None and not any(fnmatch.fnmatchcase(label, p) for p in patterns):
                return f"spec applies to labels {', '.join(patterns)}; {role} is {label}"
            for name, wanted in self.applies_to.shape.items():
                if role in shapes and (has := getattr(shapes[role], name)) != wanted:
                    return f"spec applies to {name} = {wanted}; {label} has {has}"
        # last: a further model helps only where the pair itself is what the spec is about
        for role in self.applies_to.roles:
            if role not in shapes:
                return (
                    f"spec applies to runs with a checkpoint for the role {role}: "
                    f"{add_models([role])}"
                )
        return None


class ValidParts(Spec):
    """The valid parts of an invalid spec, to be checked against each other."""

    mechanism: Version = 1
    circuit: Circuit = ""
    task: AnyTask | None = None  # type: ignore[assignment]
    claims: Claims = Field(default_factory=dict)
