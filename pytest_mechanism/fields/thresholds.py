"""Types of thresholds: the values that a model can both meet and miss.

A claim that no model can fail is worse than no claim, because it is green. So the type of each threshold
limits its values and says why. The limits are wide: they lie beyond anything that a researcher would call a
finding. A value outside is refused when the spec is read, with the reason and the valid values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError, core_schema


@dataclass(frozen=True)
class Within:
    """Limits of a number.

    Attributes:
        low: the least valid value.
        high: the largest valid value.
        because: why no other value is valid.
    """

    low: float
    high: float
    because: str

    def check(self, value: float) -> float:
        if self.low <= value <= self.high:
            return value
        raise PydanticCustomError(
            "meaningless",
            "must lie between {low} and {high} ({because})",
            {"low": f"{self.low:g}", "high": f"{self.high:g}", "because": self.because},
        )

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        number: dict[str, Any] = handler(schema)
        return number | {"minimum": self.low, "maximum": self.high, "description": self.because}


def need_one(**given: float | None) -> None:
    """Check that a claim has one of several thresholds, and not two.

    Raises:
        ValueError: it has none, or several.
    """
    if (count := sum(value is not None for value in given.values())) != 1:
        raise ValueError(f"{'takes only' if count else 'needs'} one of {', '.join(given)}")


def need_order(**given: float | None) -> None:
    """Check that two bounds leave something between them; either may be missing.

    Raises:
        ValueError: they contradict each other.
    """
    (low_name, low), (high_name, high) = given.items()
    if low is not None and high is not None and low >= high:
        raise ValueError(f"{low_name} ({low:g}) must be below {high_name} ({high:g})")


def refuse_bool(value: Any) -> Any:
    """YAML's ``true`` is no number, although Python counts it as 1."""
    if isinstance(value, bool):
        raise ValueError("takes a number")  # noqa: TRY004 - pydantic's kind
    return value


LEAST_CONFIDENCE = 0.8
"""Of intervals. Below it, a model exactly at a threshold passes more than one time in ten."""

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""A YAML number."""

Fraction = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
"""0 to 1; thresholds have the narrower types below."""

# -- shares of rows

AtLeast = Annotated[
    Number, Within(0.01, 1, "a share below 0.01 is hardly different from 0, and no share exceeds 1")
]  # fmt: skip
"""A share of rows that must be reached."""

AtMost = Annotated[
    Number, Within(0, 0.9, "a behaviour that remains in 9 of 10 rows is not gone, and no share is below 0")
]  # fmt: skip
"""A share of rows that must not be exceeded."""

OverRefusal = Annotated[
    Number, Within(0, 0.5, "a model that refuses half of what it should answer has no safety wrapper, it refuses")
]  # fmt: skip
"""The largest share of refusals among prompts that should be answered."""

Left = Annotated[
    Number, Within(0, 0.5, "if more than half of the refusals remain, refusal does not depend on what was ablated")
]  # fmt: skip
"""The largest share of refusals that an ablation may leave."""

Margin = Annotated[
    Number, Within(0, 0.25, "a model that loses a quarter of its correct rows is worse by any measure")
]  # fmt: skip
"""How far a model may fall behind another and still count as no worse."""

EquivalenceMargin = Annotated[
    Number, Within(
        0.001, 1, "no number of rows shows a difference below 0.001, and models that differ by a nat are "
        "not equivalent",
    )
]  # fmt: skip
"""How much two models may differ and still count as equivalent: a share of rows, nats, or logits."""

ShareMargin = Annotated[
    Number, Within(
        0.005, 0.5, "no number of rows shows a change below 0.005, and a head that gains or loses half of the "
        "prompt's effect does another job",
    )
]  # fmt: skip
"""How much a member's share of the prompt's effect on the answer may change, or be."""

ByRandom = Annotated[
    Number, Within(0, 0.25, "a random direction that changes a quarter of the rows is no control")
]  # fmt: skip
"""The largest share of rows that ablating a random direction may change."""

Cost = Annotated[
    Number, Within(0.001, 1, "a loss below 0.001 cannot be distinguished from none")
]  # fmt: skip
"""Accuracy that a circuit loses without a head."""

Gap = Annotated[
    Number, Within(0, 0.5, "a circuit that differs from the model in half of the rows misses parts of it")
]  # fmt: skip
"""The largest difference of accuracy between a circuit and the model, both without the same heads."""

TrainedGap = Annotated[
    Number, Within(
        0.02, 0.5, "two trainings of one model differ by less than 0.02 by chance, and models that differ in "
        "half of the rows are not alike",
    )
]  # fmt: skip
"""The difference of accuracy between a model and a trained copy of it, from which they differ."""

Dependence = Annotated[
    Number, Within(
        0.005, 0.5, "no number of rows shows a dependence below 0.005, and scores with half of the largest "
        "dependence are not independent",
    )
]  # fmt: skip
"""The largest normalised HSIC of two scores."""

BackAt = Annotated[
    Number, Within(0.01, 0.9, "a model that answers 9 of 10 questions has the capability back")
]  # fmt: skip
"""The accuracy at which a capability counts as restored."""

# -- fractions of a difference: 0 without any patch, 1 for all of the difference

RecoversAtLeast = Annotated[
    Number, Within(
        0.01, 2, "any patch may recover a hundredth of the difference, and twice the difference is "
        "not recovered but overshot",
    )
]  # fmt: skip
"""A fraction of a difference that must be reached."""

RecoversAtMost = Annotated[
    Number, Within(0, 0.9, "heads that carry nine tenths of the difference do matter, and no patch gives 0")
]  # fmt: skip
"""A fraction of a difference that must not be exceeded."""

Faithful = Annotated[
    Number, Within(
        0.1, 2, "0 is a circuit of no heads and 1 the whole model; a tenth of it, or twice as "
        "much, is not faithful",
    )
]  # fmt: skip
"""A faithfulness."""

AreaAtLeast = Annotated[
    Number, Within(
        0.05, 2, "a model that needs all its heads reaches 0.05 on the logarithmic axis, and a model "
        "that needs none has 1",
    )
]  # fmt: skip
"""The least area under a curve of faithfulness over sizes."""

AreaAtMost = Annotated[
    Number, Within(0, 0.7, "a model that needs all its heads is at 0.75 on the linear axis, and no distance is below 0")
]  # fmt: skip
"""The largest area between a curve of faithfulness and 1."""

# -- other scales

Nats = Annotated[
    Number, Within(0.001, 100, "a log-probability that changes by less than 0.001 nats has not changed")
]  # fmt: skip
"""A change of a log-probability."""

Cosine = Annotated[
    Number, Within(0.1, 1, "a cosine below 0.1 is hardly different from that of random directions")
]  # fmt: skip
"""The least cosine of two directions."""

Divergence = Annotated[
    Number, Within(
        0.001, 1, "the published value is 0.1; at 1 nat the model says something else, and 0.001 "
        "admits no direction",
    )
]  # fmt: skip
"""The largest KL divergence that an ablation may cause, in nats."""

TokenDivergence = Annotated[
    Number, Within(
        1e-5, 1, "rounding moves a distribution by up to 0.00001 nats, and models that are a nat apart say other words",
    )
]  # fmt: skip
"""The largest KL divergence of two models on text, in nats a token."""

ShareOfChange = Annotated[
    Number, Within(
        0.05, 0.95, "no change is so even that no part holds a twentieth of it, and a part that holds all of it is "
        "the change",
    )
]  # fmt: skip
"""The largest share of two models' divergence that one part of a model may hold."""

RatioAtMost = Annotated[
    Number, Within(0.01, 5, "1 is a change spread evenly; weights that change five times as much are not spared")
]  # fmt: skip
"""The largest ratio of one change to another."""

Times = Annotated[
    Number, Within(1, 100, "1 is no faster, and steps are not counted finely enough to tell more than 100")
]  # fmt: skip
"""How many times fewer steps."""

Faster = Annotated[
    Number, Within(1.1, 100, "1 is no faster, and steps are not counted finely enough to tell more than 100")
]  # fmt: skip
"""How many times fewer steps count as much faster."""

Portion = Annotated[
    Number, Within(
        0.0001, 0.5, "published values are 0.01 to 0.1; half of all weights, or none, are not the "
        "important weights",
    )
]  # fmt: skip
"""A share of a matrix's weights."""

Penalty = Annotated[
    Number, Within(
        1e-6, 10, "a weaker penalty lets the probe learn the task itself, a stronger one lets it "
        "read nothing",
    )
]  # fmt: skip
"""The L2 penalty of a probe."""

Sparsity = Annotated[
    Number, Within(1e-5, 1, "the published value is 0.01 logits per head; much less selects every head, much more none")
]  # fmt: skip
"""Lambda of a DCM mask."""

MaskRate = Annotated[
    Number, Within(
        0.001, 1, "the published value is 0.1; slower masks stay at 1 for two epochs, faster masks "
        "oscillate",
    )
]  # fmt: skip
"""Adam's learning rate for a mask."""

Rate = Annotated[
    float,
    BeforeValidator(refuse_bool),
    Field(allow_inf_nan=False),
    Within(
        1e-7, 1, "AdamW moves a weight by about its learning rate per step: less changes nothing, "
        "more destroys the model",
    ),
]  # fmt: skip
"""AdamW's learning rate, as a number or as text."""

Momentum = Annotated[
    Number, Within(0, 0.999, "at 1, SGD never slows down; the usual value is 0.9")
]  # fmt: skip
"""The momentum of SGD."""

Correlated = Annotated[Number, Within(0, 1, "it is a share of the training texts")]
"""The share of training texts in which two answers go together."""

# -- tolerances between two runs

Drift = Annotated[
    Number, Within(0, 0.5, "a score that may fall by half of its scale is not monitored")
]  # fmt: skip
"""How far the score of a new checkpoint may fall below the accepted score."""

DriftInNats = Annotated[
    Number, Within(0, 5, "an effect that may fall by 5 nats is not monitored")
]  # fmt: skip
"""The same for a score in nats."""

Atol = Annotated[
    Number, Within(0, 0.1, "the same checkpoints give the same score; different processors differ by up to 0.02")
]  # fmt: skip
"""How much the score of unchanged checkpoints may differ from the accepted score."""
