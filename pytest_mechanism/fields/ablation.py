"""``ablation``: how heads outside a circuit are ablated."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictInt

from pytest_mechanism.fields.part import Part

LEAST_PROMPTS = 50
"""A mean over fewer prompts is an error."""


class Ablation(Part):
    """What replaces an ablated head's output z.

    Attributes:
        value: ``positional_mean`` (the model's own mean of z at the same place of the template;
            paper 1, appendix), ``mean`` (over all places), ``zero``, or ``resample`` (z of
            another prompt at the same place).
        prompts: how many prompts a mean is taken over.
    """

    value: Literal["positional_mean", "mean", "zero", "resample"] = "positional_mean"
    prompts: Annotated[StrictInt, Field(ge=LEAST_PROMPTS, le=100_000)] = 500

    def key(self) -> str:
        """The full ablation key: a faithfulness number means nothing without it."""
        over = f" over {self.prompts} prompts" if "mean" in self.value else ""
        return f"{self.value}{over}; z of every other head at every position; MLPs alive"
