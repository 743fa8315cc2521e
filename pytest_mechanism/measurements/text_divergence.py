"""Requests of `methods.text_divergence`: how far two models are apart on plain text."""

from __future__ import annotations

from pytest_mechanism.measurements.request import Cost, Request, TaskSettings

Line = tuple[str, str, str]
"""Name, text and paragraph of a line."""


class TextDonation(Request):
    """What the reference model says on some lines of text, for a measurement on another model.

    Attributes:
        name: of the text, for errors.
        lines: each is a passage.
    """

    implementation = "pytest_mechanism.methods.text_divergence:donate"
    stored = False

    name: str
    lines: tuple[Line, ...]

    def cost(self, task: TaskSettings) -> Cost:
        return Cost(rows=len(self.lines))


class TextDivergence(Request):
    """How far is this model's distribution of the next token from the reference model's, line by line?

    Its input is a `TextDonation` on the reference model.

    Attributes:
        lines: how many.
    """

    implementation = "pytest_mechanism.methods.text_divergence:measure"

    lines: int

    def cost(self, task: TaskSettings) -> Cost:
        return Cost(rows=self.lines)
