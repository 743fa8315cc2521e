"""Which values of a threshold mean something.

A claim that no model can refute is worse than none: it is green. So the type of every threshold says
between which values it can be met and missed, and why. The limits are wide: each of them lies beyond
what a researcher would call a finding, and far beyond the shipped specs. A share below 0.01 or a
margin of a quarter is refused when the spec is read, with the reason and the valid values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError, core_schema


@dataclass(frozen=True)
class Within:
    """The values of a number that mean something.

    Attributes:
        low: the least of them.
        high: the largest.
        because: why none lies outside, as the end of a sentence.
    """

    low: float
    high: float
    because: str

    def check(self, given: float) -> float:
        if self.low <= given <= self.high:
            return given
        raise PydanticCustomError(
            "meaningless",
            "must lie between {low} and {high} ({because})",
            {"low": f"{self.low:g}", "high": f"{self.high:g}", "because": self.because},
        )

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        found: dict[str, Any] = handler(schema)
        return found | {"minimum": self.low, "maximum": self.high, "description": self.because}


def no_truth(given: Any) -> Any:
    """YAML's ``true`` is no number, though Python counts it as 1."""
    if isinstance(given, bool):
        raise ValueError("takes a number")  # noqa: TRY004 - pydantic's kind
    return given


LEAST_CONFIDENCE = 0.8
"""Of intervals: below it, a model just at a threshold passes more than one time in ten."""

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""A YAML number."""

Fraction = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
"""0 to 1; thresholds have the narrower types below."""

# -- shares of rows

AtLeast = Annotated[
    Number, Within(0.01, 1, "less than one row in a hundred is next to nothing, and none has more than all")
]  # fmt: skip
"""A share of rows, from below."""

AtMost = Annotated[
    Number, Within(0, 0.9, "what nine rows in ten still do is not gone, and none has less than nothing")
]  # fmt: skip
"""A share of rows, from above."""

OverRefusal = Annotated[
    Number, Within(0, 0.5, "who refuses half of what must be answered has no wrapper around anything")
]  # fmt: skip
"""A share of what must be answered, from above."""

Left = Annotated[
    Number, Within(0, 0.5, "refusal that is more than half there does not hang on what was taken out")
]  # fmt: skip
"""What an ablation may leave of refusal."""

Margin = Annotated[
    Number, Within(0, 0.25, "a model that loses a quarter of its right rows is worse by any measure")
]  # fmt: skip
"""By how much a model may fall behind another and still be no worse."""

ByRandom = Annotated[
    Number, Within(0, 0.25, "a random direction that changes a quarter of the rows is no control")
]  # fmt: skip
"""What a random ablation may change."""

Cost = Annotated[
    Number, Within(0.001, 1, "less than one row in a thousand is not told apart from none")
]  # fmt: skip
"""Accuracy that a circuit loses."""

BackAt = Annotated[
    Number, Within(0.01, 0.9, "who answers nine questions in ten has the capability back")
]  # fmt: skip
"""An accuracy that counts as having a capability back."""

# -- fractions of a difference: 0 is what no patch gives, 1 all of it

RecoversAtLeast = Annotated[
    Number, Within(0.01, 2, "less than a hundredth of the difference is what any patch may do, and twice of it is not recovered but exaggerated")
]  # fmt: skip
"""A fraction of a difference, from below."""

RecoversAtMost = Annotated[
    Number, Within(0, 0.9, "what carries nine tenths of the difference does matter, and no patch gives 0")
]  # fmt: skip
"""A fraction of a difference, from above."""

Faithful = Annotated[
    Number, Within(0.1, 2, "0 is a circuit of no heads and 1 the whole model; a tenth of it, or twice as much, is faithful to nothing")
]  # fmt: skip
"""A faithfulness."""

# -- other scales

Nats = Annotated[
    Number, Within(0.001, 100, "a log-probability that moves by less than 0.001 nats has not moved")
]  # fmt: skip
"""A change of a log-probability."""

Cosine = Annotated[
    Number, Within(0.1, 1, "directions that have less in common are hardly told apart from random ones")
]  # fmt: skip
"""A cosine, from below."""

Divergence = Annotated[
    Number, Within(0.001, 1, "published is 0.1; with 1 nat the model says something else, and 0.001 leaves no direction")
]  # fmt: skip
"""A KL divergence that an ablation may cause, in nats."""

RatioAtMost = Annotated[
    Number, Within(0.01, 5, "1 is a change spread evenly; five times as much on these weights is not spared")
]  # fmt: skip
"""A change against another, from above."""

Times = Annotated[
    Number, Within(1, 100, "1 is no faster, and steps are not counted to a hundredth")
]
"""How many times fewer steps."""

Faster = Annotated[
    Number, Within(1.1, 100, "1 is no faster, and steps are not counted to a hundredth")
]
"""How many times fewer steps count as much faster."""

Portion = Annotated[
    Number, Within(0.0001, 0.5, "published are 0.01 to 0.1; half of all weights, or none, are not the important ones")
]  # fmt: skip
"""A share of a matrix's weights."""

Penalty = Annotated[
    Number, Within(1e-6, 10, "a weaker one lets the probe learn the task itself, a stronger one lets it read nothing")
]  # fmt: skip
"""On a probe's squared weights."""

Sparsity = Annotated[
    Number, Within(1e-5, 1, "published is 0.01 logits a head; much less prices no head, much more every head too high")
]  # fmt: skip
"""Lambda of a DCM mask."""

MaskRate = Annotated[
    Number, Within(0.001, 1, "published is 0.1; slower masks do not leave 1 in two epochs, faster ones jump between their ends")
]  # fmt: skip
"""Of Adam, for a mask."""

Rate = Annotated[
    float,
    BeforeValidator(no_truth),
    Field(allow_inf_nan=False),
    Within(1e-7, 1, "AdamW moves a weight by about its rate in a step: less moves none, more destroys all"),
]  # fmt: skip
"""Of AdamW. YAML reads 1e-4 as a text; both are taken."""

# -- what is allowed between two runs

Drift = Annotated[
    Number, Within(0, 0.5, "a score that may fall by half of its scale is not watched")
]  # fmt: skip
"""How much worse than the accepted score a new checkpoint may be."""

DriftInNats = Annotated[
    Number, Within(0, 5, "an effect that may fall by 5 nats is not watched")
]  # fmt: skip
"""The same of a score in nats, which has no scale from 0 to 1."""

Atol = Annotated[
    Number, Within(0, 0.1, "the same checkpoints give the same score; 0.02 is another processor's rounding")
]  # fmt: skip
"""How much the score of unchanged checkpoints may differ from the accepted one."""
