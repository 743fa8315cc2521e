"""What a comparison needs, checked before a checkpoint is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from pytest_mechanism.claims.context import ClaimContext
from pytest_mechanism.comparison.members import BASE, FT
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.fields.groups import Group
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.paths import RANK_STREAM
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.measurements.profile import EffectProfile
from pytest_mechanism.tasks.text.encoding import Encoder, SharedVocabulary

COMPARED = 64
"""Rows whose tokens are compared; the exchange compares those of all rows."""


def needed(context: ClaimContext, rows: int) -> list[Measurement]:
    """A measurement for each set of rows and position of the comparison; they are never made.

    Raises:
        MechanismError: a model lacks a head that a group names.
    """
    measurements: list[Measurement] = []
    for role in (BASE, FT):
        request = Performance(rows=rows, stream=RANK_STREAM)
        measurements.append(context.measurement(request, role))
        for name, group in context.groups.items():
            if isinstance(group, Group):
                context.group(name, role)
            profile = EffectProfile(
                senders={"any": ((0, 0),)}, at=group.at, rows=rows, stream=RANK_STREAM
            )
            measurements.append(context.measurement(profile, role))
    return measurements


def check_tokens(
    encoders: Mapping[str, Encoder], context: ClaimContext, rows: int, labels: Mapping[str, str]
) -> None:
    """Check that both tokenizers split the prompts alike.

    Raises:
        MechanismError: they do not.
    """
    vocabulary = SharedVocabulary(tuple(encoders.values()))
    drawn = context.task.pairs(vocabulary, min(rows, COMPARED), RANK_STREAM)
    for prompt in chain.from_iterable((row.base, row.source) for row in drawn):
        if prompt is None:
            continue
        base, ft = (encoders[role].encode(prompt).ids for role in (BASE, FT))
        if list(base) != list(ft):
            raise MechanismError(
                f"the tokenizers of {labels[BASE]} and {labels[FT]} give {prompt.text[:60]!r} other token ids, so "
                "activations at one token cannot be compared"
            )
