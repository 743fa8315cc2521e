"""``ablation``: how heads outside a circuit are ablated."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictInt

from pytest_mechanism.fields.part import Part

LEAST_PROMPTS = 50
"""A mean over fewer prompts is an error."""


class Ablation(Part):
    """What replaces an ablated head's output z, and an ablated MLP's output.

    Attributes:
        value: ``positional_mean`` (the model's own mean of the output at the same place of the template;
            paper 1, appendix), ``mean`` (over all places), ``zero``, or ``resample`` (the output on
            another prompt at the same place).
        prompts: how many prompts a mean is taken over.
    """

    value: Literal["positional_mean", "mean", "zero", "resample"] = "positional_mean"
    prompts: Annotated[StrictInt, Field(ge=LEAST_PROMPTS, le=100_000)] = 500

    def key(self, mlps: bool = False) -> str:
        """The full ablation key: a faithfulness number means nothing without it.

        Args:
            mlps: whether MLPs are ablated too.
        """
        over = f" over {self.prompts} prompts" if "mean" in self.value else ""
        if mlps:
            return f"{self.value}{over}; z of every other head and the output of every other MLP at every position"
        return f"{self.value}{over}; z of every other head at every position; MLPs alive"
