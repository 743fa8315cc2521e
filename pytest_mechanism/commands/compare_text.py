"""``pytest-mechanism compare --text FILE``: how far apart two models are on plain text, and from which layer on."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_mechanism.commands.config import read_config
from pytest_mechanism.commands.models import open_session
from pytest_mechanism.commands.output import say
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.files import write_text
from pytest_mechanism.registry import resolve

if TYPE_CHECKING:
    from pytest_mechanism.comparison.text import Result
    from pytest_mechanism.runner.runner import Runner
    from pytest_mechanism.statistics.estimates import Estimate
    from pytest_mechanism.tasks.text.encoding import Encoder
    from pytest_mechanism.tasks.text.passages import Text

SAME = 1e-6
"""Nats a token: rounding in float32 is below it."""

SHOWN = 6
"""Layers that the list shows, those with the largest parts."""


def run(arguments: argparse.Namespace) -> int:
    """Compare, print and write; always 0.

    Raises:
        MechanismError: no usable text, or models that cannot be compared.
    """
    from pytest_mechanism.commands.compare import check_pair
    from pytest_mechanism.commands.compare_output import identities
    from pytest_mechanism.comparison.text import estimated
    from pytest_mechanism.tasks.text.passages import PASSAGES, read_lines, tokens_of

    lines = read_lines(arguments.text)
    session = open_session(arguments, read_config(arguments))
    check_pair(session.evaluator, arguments)
    runner = session.evaluator.runner
    labels = session.evaluator.labels
    encoders = runner.checkpoint.encoders
    check_vocabularies(encoders, labels)
    text = tokens_of(
        f"--text {arguments.text}",
        lines,
        encoders["base"],
        arguments.rows or PASSAGES,
        longest=longest(runner),
        d_vocab=max(shape.d_vocab for shape in session.evaluator.shapes.values()),
    )
    try:
        passages, sums = measured(runner, text)
    finally:
        session.release()
    confidence = session.evaluator.confidence or 0.95
    result = estimated(passages, text, confidence)
    guessing = no_better(text, sums, confidence, labels)
    for line in (*conclusion(result, labels, text, guessing), *text.notes):
        say(line)
    if arguments.json is not None:
        data = as_json(result, labels, text, guessing, identities(session.evaluator), confidence)
        write_text(arguments.json, json.dumps(data, indent=2) + "\n")
        say(f"wrote {arguments.json}")
    return 0


def check_vocabularies(encoders: Mapping[str, Encoder], labels: Mapping[str, str]) -> None:
    """Check that both tokenizers have the same words with the same ids.

    Raises:
        MechanismError: they have not.
    """
    base, ft = (
        encoders[role].tokenizer.get_vocab(with_added_tokens=True) for role in ("base", "ft")
    )
    if base == ft:
        return
    only = sorted(base.items() ^ ft.items())
    raise MechanismError(
        f"the vocabularies of {labels['base']} ({len(base):,} tokens) and {labels['ft']} ({len(ft):,}) differ, first "
        f"in {only[0][0]!r}, so their next-token distributions cannot be compared"
    )


def longest(runner: Runner) -> int:
    """Tokens of a passage that both models can read."""
    from pytest_mechanism.checkpoints.shape import read_positions
    from pytest_mechanism.tasks.text.passages import LONGEST

    known = (read_positions(reference.folder) for reference in runner.references.values())
    return min([LONGEST, *(limit for limit in known if limit is not None)])


def measured(runner: Runner, text: Text) -> tuple[list[Any], dict[str, list[float]]]:
    """Sums of every passage, and the same beside those of guesses; loads the reference model, then the other one."""
    from pytest_mechanism.tasks.text.plain import PlainText

    encoder, most = runner.checkpoint.encoders["base"], longest(runner)
    task = PlainText.of([shortened(each, encoder, most) for each in text.texts])
    record = resolve("pytest_mechanism.methods.text_divergence:record")
    compare = resolve("pytest_mechanism.methods.text_divergence:compare")
    recorded = record(runner.checkpoint.context("base", task), text.passages)
    passages: list[Any] = compare(runner.checkpoint.context("ft", task), recorded)
    sums = resolve("pytest_mechanism.methods.text_divergence:sums")
    return passages, sums(recorded, passages)


def no_better(
    text: Text, sums: Mapping[str, Sequence[float]], confidence: float, labels: Mapping[str, str]
) -> str | None:
    """That the reference model guesses, so that the numbers say little; None if it does better. The test is that of
    claim kind ``same_text``."""
    from pytest_mechanism.claims.same_text import no_better_than_guessing
    from pytest_mechanism.statistics.estimates import Sampling
    from pytest_mechanism.types import Observations

    found = Observations([*map(str, text.places)], text.clusters, sums)
    how = Sampling(text.clusters, confidence, 0)
    guessing = no_better_than_guessing(found, how, "this text", labels["base"])
    return guessing and f"{guessing}: what the models say on it tells little about them"


def shortened(text: str, encoder: Encoder, most: int) -> str:
    """A passage for a self-check, which needs no more than some words; of ``most`` tokens at most."""
    text = text[:200]
    while len(encoder.tokens(text, True).ids) > most:
        text = text[: len(text) // 2]
    return text


def conclusion(
    result: Result, labels: Mapping[str, str], text: Text, guessing: str | None = None
) -> Iterator[str]:
    """The sentences, the most important first; ``guessing`` says that the reference model guesses."""
    from pytest_mechanism.statistics.verdicts import in_three_digits

    a, b = labels["base"], labels["ft"]
    whole = result.divergence
    read = f"{len(text.passages)} passages, {text.predictions:,} predicted tokens"
    size = f"KL({a} || {b}) = {in_three_digits(whole)} nats a token on {read}"
    if whole.interval[1] <= SAME:
        yield f"no difference above {SAME:g} nats a token: {size}"
        yield from filter(None, [guessing])
        return
    largest = sorted(result.parts.items(), key=lambda part: -abs(part[1].value))[:SHOWN]
    first, most = largest[0]
    share = most.value / whole.value if whole.value > SAME else 0.0
    where = (
        f"{'most of it' if share > 0.5 else 'the largest part'} comes from {first} ({share:.0%})"
    )
    yield f"{b} predicts other words than {a}: {size}; {where}"
    yield from filter(None, [guessing])
    better, worse = (a, b) if result.perplexity[0] <= result.perplexity[1] else (b, a)
    yield (
        f"perplexity: {a} {result.perplexity[0]:.4g}, {b} {result.perplexity[1]:.4g}; {better} predicts this text "
        f"{'as well as' if result.perplexity[0] == result.perplexity[1] else 'better than'} {worse}"
    )
    yield "where it comes from, in nats a token (the parts add up):"
    for name, part in largest:
        yield f"  {name:<26} {in_three_digits(part)}"
    rest = [part.value for name, part in result.parts.items() if name not in dict(largest)]
    if rest:
        yield f"  {f'the other {len(rest)}':<26} {sum(rest):.3g}"
    yield (
        f"a part is how much KL grows when this layer of {b} takes over from {a}, with the layers below it {a}'s and "
        f"those above it {b}'s; another order gives other parts"
    )


def as_json(
    result: Result,
    labels: Mapping[str, str],
    text: Text,
    guessing: str | None,
    models: Mapping[str, Mapping[str, str]],
    confidence: float,
) -> dict[str, Any]:
    """Every number."""

    def numbers(part: Estimate) -> dict[str, Any]:
        return {"value": part.value, "interval": list(part.interval)}

    return {
        "mechanism_compare_text": 1,
        "pair": models,
        "conclusion": [*conclusion(result, labels, text, guessing)],
        "confidence": confidence,
        "passages": len(text.passages),
        "lines": text.lines,
        "predictions": text.predictions,
        "divergence": numbers(result.divergence),
        "perplexity": dict(zip(("base", "ft"), result.perplexity, strict=True)),
        "parts": {name: numbers(part) for name, part in result.parts.items()},
        "notes": list(text.notes),
    }
