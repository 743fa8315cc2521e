"""``same_text``: a model predicts plain text as the reference model does.

The score is the Kullback-Leibler divergence of the next token's distribution, in nats a token, over lines of text:

    KL(A || B) = sum over lines, tokens t, words w of  p_A(w | t) log(p_A(w | t) / p_B(w | t))  /  number of tokens

for the reference model A and the candidate B (`methods.text_divergence`). It compares what both say at every token, and
not only whether the word that follows is as likely: a model can lose a word here and gain another there at the same
perplexity. Intervals resample paragraphs of the text, or lines where it has few paragraphs. A line that comes again is
read once: copies of a line would make the interval narrower than the text allows. The claim passes if the
whole interval is at most the threshold, and fails if it lies above. Perplexities and the worst line stand beside it.

Two models that say the same whatever they read agree without having learnt anything, so

- *control*: A's mean distribution over the whole text, which knows how often each word comes and no context. If its
  divergence from A is not surely above the threshold, a model that ignores the text would pass, and the claim does not.
- *chance*: A must predict the text better than these word frequencies and than guessing among all words do. A text that
  A cannot predict (another language, another tokenizer's words) shows nothing about B.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Discriminator, Field, StrictStr, Tag, model_validator

from pytest_mechanism.claims.base import PairClaim
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.scoring import score
from pytest_mechanism.fields.thresholds import TokenDivergence
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.text_divergence import Line, TextDivergence, TextDonation
from pytest_mechanism.statistics import estimates, verdicts
from pytest_mechanism.statistics.estimates import Estimate, Sampling
from pytest_mechanism.statistics.honesty import beats
from pytest_mechanism.statistics.verdicts import in_three_digits
from pytest_mechanism.tasks.files import DataFile
from pytest_mechanism.tasks.text.passages import LEAST, LONGEST, MOST_UNKNOWN, PASSAGES
from pytest_mechanism.tasks.writing.json_lines import text_lines
from pytest_mechanism.types import Control, Observations, Safeguard, Verdict

MOST_CHARACTERS = 32 * LONGEST
"""Of a line that are kept: more than its tokens have that are read."""

MOST_LINES = 2000

METRIC = "KL divergence of the distribution of the next token, in nats a token (Kullback and Leibler 1951)"

Text = Annotated[
    Annotated[DataFile, Tag("file")]
    | Annotated[tuple[StrictStr, ...], Field(min_length=LEAST), Tag("lines")],
    Discriminator(lambda value: "lines" if isinstance(value, (list, tuple)) else "file"),
]
"""A file beside the spec, or lines of the spec."""


class SameText(PairClaim):
    """A model predicts plain text as another does.

    Attributes:
        source: YAML ``from``: role of the reference model A.
        to: role of the model B that is compared with it.
        text: a text file in UTF-8 beside the spec, or a list of lines. Each line is read for itself.
        at_most: the largest KL(A || B), in nats a token.
        lines: how many different lines are read, from the first; empty ones do not count.
    """

    summary: ClassVar[str] = "two models predict plain text alike (KL divergence)"
    if_red: ClassVar[str] = (
        "the two models predict plain text differently: something changed that shows in other text than the task's "
        "prompts"
    )
    thresholds: ClassVar[tuple[str, ...]] = ("at_most",)
    needs_groups: ClassVar[bool] = False
    counted: ClassVar[str] = "lines"

    kind: Literal["same_text"]
    text: Text
    at_most: TokenDivergence
    lines: Annotated[int, Field(strict=True, ge=LEAST, le=MOST_LINES)] = PASSAGES

    @model_validator(mode="after")
    def check_text(self) -> SameText:
        if why := too_short(self.text, self.lines):
            raise ValueError(why)
        return self

    @property
    def name(self) -> str:
        """The text, in messages."""
        return named(self.text)

    @property
    def passages(self) -> tuple[Line, ...]:
        """The lines that are read."""
        return passages_of(self.text, self.lines)

    def measurement(self, context: ClaimContext) -> Measurement[Observations]:
        lines = self.passages
        said = context.measurement(TextDonation(name=self.name, lines=lines), self.source)
        return context.measurement(TextDivergence(lines=len(lines)), self.to, (said,))

    def required_measurements(self, context: ClaimContext) -> tuple[Measurement, ...]:
        return (self.measurement(context),)

    def judge(self, context: ClaimContext, measure: Measure) -> Verdict:
        found = measure(self.measurement(context))
        how = context.sampling(found)
        apart = a_token(found, how, "divergence")
        free = a_token(found, how, "free_divergence")
        control = Control(
            f"{self.source}'s word frequencies, without context", free.value, free.interval
        )
        judged = score(
            context, f"KL({self.source} || {self.to}) on text", apart, METRIC, "lower", control
        )
        change = score(
            context,
            f"log-perplexity of {self.to} minus that of {self.source}",
            a_token(found, how, "surprise_to", "surprise_from"),
            "mean difference of minus the log-probability of the token that follows, in nats a token",
            "lower",
        )
        threshold = f"at most {self.at_most:g}"
        scores = (judged, change)
        if (why := unreadable(found, how, self.name, self.source, self.to)) is not None:
            return verdicts.reference_fails(why, threshold, scores)
        verdict = verdicts.within(judged, -math.inf, self.at_most)
        verdict = replace(verdict, reason=self.explained(verdict, found), scores=scores)
        chance = perplexity(found, better_guess(found))
        return beats(
            replace(verdict, chance=Safeguard(f"guessing (perplexity {chance:.4g})")),
            f"word frequencies without context ({in_three_digits(free)})",
            f"a model that ignores the text would be as close: the word frequencies of {self.source} are "
            f"{in_three_digits(free)} nats a token from it",
            ahead=free.interval[0] > self.at_most,
        )

    def explained(self, verdict: Verdict, found: Observations) -> str:
        """The reason: the divergence, what it is of, perplexities and the worst line."""
        judged = verdict.scores[0]
        predictions = np.asarray(found.values["predictions"])
        size = (
            f"KL({self.source} || {self.to}) {in_three_digits(judged)} nats a token on {self.name} "
            f"({len(predictions):,} lines, {int(predictions.sum()):,} tokens)"
        )
        claimed = f"; claimed: {verdict.threshold}"
        if verdict.status == "inconclusive":
            needed = verdicts.settle(judged, -math.inf, self.at_most, "lines", "of the claim")
            claimed = f" does not show whether it is {verdict.threshold}; {needed}"
        each = np.asarray(found.values["divergence"]) / predictions
        worst = int(each.argmax())
        before, after = (perplexity(found, name) for name in ("surprise_from", "surprise_to"))
        return (
            f"{size}{claimed}; perplexity {self.source} {before:.4g}, {self.to} {after:.4g}; worst: "
            f"{found.example_ids[worst]}, {each[worst]:.3g}"
        )


def named(text: Text) -> str:
    """A text, in messages."""
    return text.file if isinstance(text, DataFile) else "the text of the claim"


def passages_of(text: Text, lines: int) -> tuple[Line, ...]:
    """The first different lines of a text, as far as a passage is read; of a file, empty lines part its paragraphs."""
    numbered = (
        text_lines(text)
        if isinstance(text, DataFile)
        else ((i, line.strip()) for i, line in enumerate(text, 1) if line.strip())
    )
    read: dict[str, Line] = {}
    paragraph, last = 1, 0
    for number, line in numbered:
        paragraph += bool(read) and number > last + 1
        last = number
        kept = line[:MOST_CHARACTERS]
        read.setdefault(kept, (f"line {number}", kept, str(paragraph)))
        if len(read) == lines:
            break
    return tuple(read.values())


def too_short(text: Text, lines: int) -> str | None:
    """Why a text has too few lines for an interval, or None."""
    if (found := len(passages_of(text, lines))) < LEAST:
        return f"text: {named(text)} has {found} different lines that are not empty, and an interval needs {LEAST}"
    return None


def unreadable(found: Observations, how: Sampling, name: str, source: str, to: str) -> str | None:
    """Why a text says nothing about the reference model, or None."""
    unknown = float(np.sum(found.values["unknown"])) / (
        float(np.sum(found.values["predictions"])) + len(found.example_ids)
    )
    if unknown > MOST_UNKNOWN:
        return f"{unknown:.0%} of the tokens of {name} are unknown to the tokenizer: this is no text for these models"
    guessed = no_better_than_guessing(found, how, name, source)
    return guessed and f"{guessed}: that {to} is close to it there means nothing"


def no_better_than_guessing(
    found: Observations, how: Sampling, name: str, source: str
) -> str | None:
    """That the reference model predicts a text no better than a guess; None if it does."""
    guess = better_guess(found)
    if a_token(found, how, guess, "surprise_from").interval[0] > 0:
        return None
    guesses = {
        "free_surprise": "its own word frequencies do",
        "uniform": "guessing among all words does",
    }
    return (
        f"{source} predicts {name} no better than {guesses[guess]} (perplexity "
        f"{perplexity(found, 'surprise_from'):.4g} against {perplexity(found, guess):.4g})"
    )


def a_token(found: Observations, how: Sampling, column: str, minus: str = "") -> Estimate:
    """The sum of a column, or of a difference of two, over the number of predicted tokens."""
    sums = np.asarray(found.values[column], float)
    if minus:
        sums = sums - np.asarray(found.values[minus], float)
    counts = found.values["predictions"]
    estimate = estimates.of_means([sums, counts], estimates.ratio, how, counted=False)
    return estimates.for_few_clusters(estimate, how.confidence)


def better_guess(found: Observations) -> str:
    """The column of whichever guesses the text better: word frequencies, or all words alike."""
    return min(("free_surprise", "uniform"), key=lambda name: float(np.sum(found.values[name])))


def perplexity(found: Observations, column: str) -> float:
    """exp of the mean surprise; infinite where that is beyond all numbers."""
    with np.errstate(over="ignore"):
        return float(np.exp(np.sum(found.values[column]) / np.sum(found.values["predictions"])))
