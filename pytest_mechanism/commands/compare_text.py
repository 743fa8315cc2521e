"""``pytest-mechanism compare --text FILE``: how far apart two models are on plain text, and from which layer on."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_mechanism.commands.config import read_config
from pytest_mechanism.commands.models import open_session
from pytest_mechanism.commands.output import say
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.files import BadFile, read_bytes, write_text
from pytest_mechanism.registry import resolve

if TYPE_CHECKING:
    from pytest_mechanism.runner.runner import Runner
    from pytest_mechanism.statistics.estimates import Estimate
    from pytest_mechanism.tasks.text.encoding import Encoder

MOST_BYTES = 16 << 20
"""Of the file; a comparison reads a small part of it."""

PASSAGES = 200
"""Passages that are read, unless the user asks for another number."""

LONGEST = 256
"""Tokens of a passage; the rest of a longer line is left out."""

MOST_NUMBERS = 1 << 28
"""Log-probabilities of the reference model that are kept: 1 GiB."""

LEAST = 10
"""Passages and paragraphs that an interval needs."""

SAME = 1e-6
"""Nats a token: rounding in float32 is below it."""

SHOWN = 6
"""Layers that the list shows, those with the largest parts."""


@dataclass(frozen=True)
class Text:
    """A user's text in tokens.

    Attributes:
        texts: the passages.
        passages: token ids of each.
        clusters: the paragraph of each.
        lines: how many lines the file has that are not empty.
        notes: what a reader of the numbers has to know.
    """

    texts: tuple[str, ...]
    passages: tuple[tuple[int, ...], ...]
    clusters: tuple[str, ...]
    lines: int
    notes: tuple[str, ...] = ()

    @property
    def predictions(self) -> int:
        """Tokens that are predicted."""
        return sum(len(passage) - 1 for passage in self.passages)


def run(arguments: argparse.Namespace) -> int:
    """Compare, print and write; always 0.

    Raises:
        MechanismError: no usable text, or models that cannot be compared.
    """
    from pytest_mechanism.commands.compare import check_pair
    from pytest_mechanism.commands.compare_output import identities

    lines = read_lines(arguments.text)
    session = open_session(arguments, read_config(arguments))
    check_pair(session.evaluator, arguments)
    runner = session.evaluator.runner
    labels = session.evaluator.labels
    encoders = runner.checkpoint.encoders
    check_vocabularies(encoders, labels)
    d_vocab = max(shape.d_vocab for shape in session.evaluator.shapes.values())
    text = tokens_of(arguments.text, lines, encoders["base"], arguments.rows or PASSAGES, d_vocab)
    try:
        passages = measured(runner, text)
    finally:
        session.release()
    confidence = session.evaluator.confidence or 0.95
    result = estimated(passages, text, confidence)
    for line in (*conclusion(result, labels, text), *text.notes):
        say(line)
    if arguments.json is not None:
        data = as_json(result, labels, text, identities(session.evaluator), confidence)
        write_text(arguments.json, json.dumps(data, indent=2) + "\n")
        say(f"wrote {arguments.json}")
    return 0


# -- the text


def read_lines(path: Path) -> list[tuple[str, str]]:
    """The lines that are not empty, each with the number of its paragraph.

    Raises:
        MechanismError: there is no such file, it is not text in UTF-8, or it is empty.
    """
    try:
        content = read_bytes(path, MOST_BYTES)
    except FileNotFoundError:
        raise MechanismError(f"--text {path}: no such file") from None
    except BadFile as problem:
        raise MechanismError(f"--text {path} {problem.problem}") from None
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise MechanismError(f"--text {path} is UTF-16; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise MechanismError(
            f"--text {path} is not UTF-8: {problem.reason} at byte {problem.start}"
        ) from None
    if "\0" in text:
        raise MechanismError(f"--text {path} has null characters, so it is no text")
    lines, paragraph = [], 0
    for line in text.splitlines():
        if line.strip():
            lines.append((line.strip(), str(paragraph)))
        else:
            paragraph += 1
    if not lines:
        raise MechanismError(f"--text {path} is empty")
    return lines


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


def tokens_of(
    path: Path, lines: Sequence[tuple[str, str]], encoder: Encoder, most: int, d_vocab: int
) -> Text:
    """The passages that are read.

    Raises:
        MechanismError: too few of them have two tokens.
    """
    texts: list[str] = []
    passages: list[tuple[int, ...]] = []
    clusters: list[str] = []
    cut, room = 0, max(2, MOST_NUMBERS // d_vocab)
    for line, paragraph in lines:
        ids = tuple(encoder.tokens(line, True).ids)
        cut += len(ids) > LONGEST
        ids = ids[: min(LONGEST, room)]
        if len(ids) < 2:
            continue
        texts.append(line)
        passages.append(ids)
        clusters.append(paragraph)
        room -= len(ids)
        if len(passages) == most or room < 2:
            break
    if len(passages) < LEAST:
        raise MechanismError(
            f"--text {path} has {len(passages)} lines of two tokens or more, and an interval needs {LEAST}"
        )
    notes = []
    if len(set(clusters)) < LEAST:
        clusters = [str(number) for number in range(len(passages))]
    if len(passages) < len(lines):
        notes.append(f"read the first {len(passages)} of {len(lines)} lines (--rows reads more)")
    if cut:
        notes.append(f"{cut} lines were cut to {LONGEST} tokens")
    unknown = encoder.tokenizer.token_to_id("[UNK]") or encoder.tokenizer.token_to_id("<unk>")
    if unknown is not None:
        share = float(np.mean([i == unknown for ids in passages for i in ids]))
        if share > 0.1:
            notes.append(
                f"{share:.0%} of the tokens are unknown to the tokenizer: this is no text for these models"
            )
    return Text(tuple(texts), tuple(passages), tuple(clusters), len(lines), tuple(notes))


# -- measuring


def measured(runner: Runner, text: Text) -> list[Any]:
    """Sums of every passage; loads the reference model, then the other one."""
    from pytest_mechanism.tasks.text.plain import PlainText

    task = PlainText.of([shortened(each) for each in text.texts])
    record = resolve("pytest_mechanism.methods.text_divergence:record")
    compare = resolve("pytest_mechanism.methods.text_divergence:compare")
    recorded = record(runner.checkpoint.context("base", task), text.passages)
    passages: list[Any] = compare(runner.checkpoint.context("ft", task), recorded)
    return passages


def shortened(text: str) -> str:
    """A passage for a self-check, which needs no more than some words."""
    return text[:200]


# -- the result


@dataclass(frozen=True)
class Result:
    """How far two models are apart on a text.

    Attributes:
        divergence: KL(A || B) in nats a token.
        parts: where it comes from -> nats a token; they add up to the divergence.
        perplexity: of A and of B.
    """

    divergence: Estimate
    parts: Mapping[str, Estimate]
    perplexity: tuple[float, float]


def estimated(passages: Sequence[Any], text: Text, confidence: float) -> Result:
    """Means over tokens, with intervals over paragraphs (over lines, where there are few paragraphs)."""
    from pytest_mechanism.statistics import estimates
    from pytest_mechanism.statistics.estimates import Sampling

    how = Sampling(text.clusters, confidence, 0)
    counts = [float(passage.predictions) for passage in passages]
    cuts = np.array([passage.cuts for passage in passages])

    def a_token(sums: Any) -> Estimate:
        estimate = estimates.of_means([sums, counts], lambda s, n: s / n, how, counted=False)
        return estimates.for_few_clusters(estimate, confidence)

    names = ["embeddings", *(f"layer {i}" for i in range(cuts.shape[1] - 2))]
    parts = {name: a_token(cuts[:, i] - cuts[:, i + 1]) for i, name in enumerate(names)}
    parts["last norm and unembedding"] = a_token(cuts[:, -1])
    total = sum(counts)
    a, b = (float(np.exp(sum(p.surprise[i] for p in passages) / total)) for i in range(2))
    return Result(a_token(cuts[:, 0]), parts, (a, b))


def conclusion(result: Result, labels: Mapping[str, str], text: Text) -> Iterator[str]:
    """The sentences, the most important first."""
    a, b = labels["base"], labels["ft"]
    whole = result.divergence
    read = f"{len(text.passages)} passages, {text.predictions:,} predicted tokens"
    size = f"KL({a} || {b}) = {spelled(whole)} nats a token on {read}"
    if whole.interval[1] <= SAME:
        yield f"no difference above {SAME:g} nats a token: {size}"
        return
    largest = sorted(result.parts.items(), key=lambda part: -abs(part[1].value))[:SHOWN]
    first, most = largest[0]
    share = most.value / whole.value if whole.value > SAME else 0.0
    where = (
        f"{'most of it' if share > 0.5 else 'the largest part'} comes from {first} ({share:.0%})"
    )
    yield f"{b} predicts other words than {a}: {size}; {where}"
    better, worse = (a, b) if result.perplexity[0] <= result.perplexity[1] else (b, a)
    yield (
        f"perplexity: {a} {result.perplexity[0]:.4g}, {b} {result.perplexity[1]:.4g}; {better} predicts this text "
        f"{'as well as' if result.perplexity[0] == result.perplexity[1] else 'better than'} {worse}"
    )
    yield "where it comes from, in nats a token (the parts add up):"
    for name, part in largest:
        yield f"  {name:<26} {spelled(part)}"
    rest = [part.value for name, part in result.parts.items() if name not in dict(largest)]
    if rest:
        yield f"  {f'the other {len(rest)}':<26} {sum(rest):.3g}"
    yield (
        f"a part is how much KL grows when this layer of {b} takes over from {a}, with the layers below it {a}'s and "
        f"those above it {b}'s; another order gives other parts"
    )


def spelled(part: Estimate) -> str:
    """A number with its interval."""
    low, high = part.interval
    return f"{part.value + 0.0:.3g} [{low + 0.0:.3g}, {high + 0.0:.3g}]"


def as_json(
    result: Result,
    labels: Mapping[str, str],
    text: Text,
    models: Mapping[str, Mapping[str, str]],
    confidence: float,
) -> dict[str, Any]:
    """Every number."""

    def numbers(part: Estimate) -> dict[str, Any]:
        return {"value": part.value, "interval": list(part.interval)}

    return {
        "mechanism_compare_text": 1,
        "pair": models,
        "conclusion": [*conclusion(result, labels, text)],
        "confidence": confidence,
        "passages": len(text.passages),
        "lines": text.lines,
        "predictions": text.predictions,
        "divergence": numbers(result.divergence),
        "perplexity": dict(zip(("base", "ft"), result.perplexity, strict=True)),
        "parts": {name: numbers(part) for name, part in result.parts.items()},
        "notes": list(text.notes),
    }
