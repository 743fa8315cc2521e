"""``applies_to``: the runs that a spec is about. A spec that no run can meet would always be skipped and
claim nothing, so it is an error when the spec is read."""

from __future__ import annotations

import re
import string
from typing import Annotated, Literal, Self

from pydantic import Field, StrictInt, StrictStr, model_validator

from pytest_mechanism.errors import FieldError
from pytest_mechanism.fields.part import Part

LABEL_CHARACTERS = frozenset(string.ascii_letters + string.digits + "_.-")
"""See `checkpoints.reference.LABEL`."""

WILDCARD = re.compile(r"\*|\?|\[!?\]?[^\]]*\]")
"""Parts of a pattern that stand for any character, or for several."""

Pattern = Annotated[StrictStr, Field(max_length=200)]


class AppliesTo(Part):
    """The runs that a spec is about; in other runs its claims are skipped with a reason.

    Attributes:
        labels: patterns (``ft*``); the label of each model of the pair must match one.
        shape: sizes that the models must have, such as ``{n_heads: 4}``.
        roles: further roles that need a checkpoint (``--mechanism-model``).
    """

    labels: Annotated[list[Pattern], Field(max_length=100)] | None = None
    shape: dict[
        Literal["n_layers", "n_heads", "n_kv_heads", "d_model", "d_head", "d_vocab"], StrictInt
    ] = Field(default_factory=dict)
    roles: list[StrictStr] = Field(default_factory=list)

    @model_validator(mode="after")
    def some_run_meets_it(self) -> Self:
        """Some pair, some sizes and some roles satisfy every condition.

        Raises:
            FieldError: none can.
        """
        if self.labels is not None:
            check_labels(self.labels)
        for name, size in self.shape.items():
            if size < 1:
                raise FieldError(
                    f"no model has {name} = {size}, so no run can meet it", "shape", name
                )
        heads, kv_heads = self.shape.get("n_heads"), self.shape.get("n_kv_heads")
        if heads and kv_heads and heads % kv_heads:
            raise FieldError(
                f"no model shares {kv_heads} key-value heads among {heads} heads, so no run can meet it",
                "shape",
            )
        for role in self.roles:
            if not role.isidentifier() or role == "pair":
                raise FieldError(
                    f"no run has a checkpoint for the role {role!r}: a role is a name of letters, "
                    "digits and '_', as in --mechanism-model control=REFERENCE",
                    "roles",
                )
        return self


def check_labels(patterns: list[str]) -> None:
    """Two different labels can each match one of the patterns.

    Raises:
        FieldError: they cannot.
    """
    if not patterns:
        raise FieldError(
            "is empty, so that no run can meet it; name labels or patterns such as ft*, or leave labels out",
            "labels",
        )
    for pattern in patterns:
        if (problem := label_problem(pattern)) is not None:
            raise FieldError(f"no run can have a label like {pattern[:60]!r}: {problem}", "labels")
    if len(set(patterns)) == 1 and WILDCARD.search(patterns[0]) is None:
        raise FieldError(
            f"only {patterns[0]!r}, and a pair has two different labels, both of which have to match; "
            "name the other label too, or a pattern such as ft*",
            "labels",
        )


def label_problem(pattern: str) -> str | None:
    """Why no label matches a pattern, or None if some label may."""
    literal = WILDCARD.sub("", pattern)
    wrong = sorted(set(literal) - LABEL_CHARACTERS)
    if not pattern:
        return "a label has at least one character"
    if wrong:
        return f"a label has only letters, digits, '_', '.' and '-', and not {wrong[0]!r}"
    if pattern[0] in "_.-":
        return "a label begins with a letter or a digit"
    if len(literal) > 100:
        return "a label has 100 characters at most"
    return None
