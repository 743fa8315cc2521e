"""``applies_to``: the runs that a spec is about. A spec that no run can meet would always be skipped and
claim nothing, so it is an error when the spec is read."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, StrictInt, StrictStr, model_validator

from pytest_mechanism.errors import FieldError
from pytest_mechanism.fields.part import Part

Pattern = Annotated[StrictStr, Field(max_length=200)]


class AppliesTo(Part):
    """Where a spec speaks at all; elsewhere its claims are skipped, saying why.

    Attributes:
        labels: patterns (``ft*``); each label of the pair must match one.
        shape: sizes the models must have, such as ``{n_heads: 4}``.
        roles: further roles that the run must have checkpoints for (``--mechanism-model``).
    """

    labels: Annotated[list[Pattern], Field(max_length=100)] | None = None
    shape: dict[
        Literal["n_layers", "n_heads", "n_kv_heads", "d_model", "d_head", "d_vocab"], StrictInt
    ] = Field(default_factory=dict)
    roles: list[StrictStr] = Field(default_factory=list)

    @model_validator(mode="after")
    def some_run_meets_it(self) -> Self:
        check_reach(self.labels, {str(k): v for k, v in self.shape.items()}, self.roles)
        return self


IN_LABELS = frozenset(string.ascii_letters + string.digits + "_.-")
"""See `checkpoints.reference.LABEL`."""

WILD = re.compile(r"\*|\?|\[!?\]?[^\]]*\]")
"""Parts of a pattern that stand for any character, or for several."""


def check_reach(
    labels: Sequence[str] | None, shape: Mapping[str, int], roles: Sequence[str]
) -> None:
    """Some pair, some sizes and some roles of a run satisfy ``applies_to``.

    Raises:
        FieldError: none can.
    """
    if labels is not None:
        check_labels(labels)
    for name, size in shape.items():
        if size < 1:
            raise FieldError(f"no model has {name} = {size}, so no run can meet it", "shape", name)
    heads, shared = shape.get("n_heads"), shape.get("n_kv_heads")
    if heads and shared and heads % shared:
        raise FieldError(
            f"no model shares {shared} key-value heads among {heads} heads, so no run can meet it",
            "shape",
        )
    for role in roles:
        if not role.isidentifier() or role == "pair":
            raise FieldError(
                f"no run has a checkpoint for the role {role!r}: a role is a name of letters, digits "
                "and '_', as in --mechanism-model control=REFERENCE",
                "roles",
            )


def check_labels(patterns: Sequence[str]) -> None:
    """Two different labels can each match one of the patterns.

    Raises:
        FieldError: they cannot.
    """
    if not patterns:
        raise FieldError(
            "is empty, so that no run can meet it; name labels or patterns such as ft*, or take it out",
            "labels",
        )
    for pattern in patterns:
        if (why := unreachable(pattern)) is not None:
            raise FieldError(f"no run can have a label like {pattern[:60]!r}: {why}", "labels")
    if len(set(patterns)) == 1 and WILD.search(patterns[0]) is None:
        raise FieldError(
            f"only {patterns[0]!r}, and a pair has two different labels, both of which have to match; "
            "name the other one too, or a pattern such as ft*",
            "labels",
        )


def unreachable(pattern: str) -> str | None:
    """Why no label matches a pattern, or None where some may."""
    literal = WILD.sub("", pattern)
    wrong = sorted(set(literal) - IN_LABELS)
    if not pattern:
        return "a label has at least one character"
    if wrong:
        return f"a label has letters, digits, '_', '.' and '-' alone, and not {wrong[0]!r}"
    if pattern[0] in "_.-":
        return "a label begins with a letter or a digit"
    if len(literal) > 100:
        return "a label has 100 characters at most"
    return None
