"""What a spec file says, validated."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.claims.base import Claim
from pytest_mechanism.errors import add_models
from pytest_mechanism.fields.ablation import Ablation
from pytest_mechanism.fields.applies_to import AppliesTo
from pytest_mechanism.fields.groups import AnyGroup, SoughtGroup
from pytest_mechanism.spec.yaml import Document
from pytest_mechanism.tasks.base import Task


@dataclass(frozen=True)
class Spec:
    """A circuit and what is claimed of it.

    Attributes:
        path: the file.
        circuit: its name.
        applies_to: where it speaks.
        task: where its rows come from.
        groups: name -> heads, from the answer back to the input.
        found_on: role on which the heads were found.
        ablation: how heads are silenced.
        confidence: of every interval.
        claims: name -> claim.
        document: the parsed file, for lines and excerpts.
    """

    path: Path
    circuit: str
    applies_to: AppliesTo
    task: Task
    groups: Mapping[str, AnyGroup]
    found_on: str | None
    ablation: Ablation
    confidence: float
    claims: Mapping[str, Claim]
    document: Document

    @property
    def sought(self) -> bool:
        """Whether some group's heads are found on the model under test."""
        return any(isinstance(group, SoughtGroup) for group in self.groups.values())

    def line(self, claim: str) -> int:
        """Line on which a claim stands."""
        return self.document.line(("claims", claim))

    def skip_reason(self, labels: Mapping[str, str], shapes: Mapping[str, Shape]) -> str | None:
        """Why the spec does not speak about these models, or None if it does.

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
