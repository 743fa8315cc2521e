"""Random runs and branches for hypothesis, and how two outcomes are compared.

Whatever the interface allows may come out: several edits of any part at once, positions that repeat
within a row or lie in its padding, batches with more padding than their longest row needs, ids that
are not zero there. Numbers come from one seed, so that hypothesis shrinks the structure alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.engine.interface import (
    ActiveHeads,
    ActiveMlp,
    Branch,
    Edit,
    Engine,
    Knockout,
    Outcome,
    Part,
    Reading,
    Run,
    Site,
    Tokens,
)

PARTS: tuple[Part, ...] = ("q", "k", "v", "z", "attn_out", "mlp_out", "resid_pre", "resid_post")
FAMILIES = ("llama", "llama-gqa", "qwen3", "gpt2")


@dataclass(frozen=True, eq=False)
class EngineCase:
    """A run and branches of it.

    Attributes:
        tokens: the batch.
        edits: the run's own.
        readings: of the run.
        branches: in the order asked for.
        answer: whether the run's logits are wanted.
    """

    tokens: Tokens
    edits: Sequence[Edit]
    readings: Sequence[Reading]
    branches: Sequence[Branch]
    answer: bool = True

    def run(self, engine: Engine) -> Run:
        return engine.run(self.tokens, self.edits, self.readings, answer=self.answer)

    def outcomes(self, engine: Engine) -> list[Outcome]:
        """Of the run, then of each branch."""
        run = self.run(engine)
        first = run.outcome
        if not self.answer:  # what then stands there is the engine's business
            first = Outcome(first.logits[:, :0], first.readings)
        return [first, *run.branches(self.branches)]

    def all_readings(self) -> list[Sequence[Reading]]:
        """Readings of the run, then of each branch."""
        return [self.readings, *(branch.readings for branch in self.branches)]


@st.composite
def batches(draw: st.DrawFn, rows: int = 3, longest: int = 9, padded: bool = True) -> Tokens:
    """Rows of several lengths, and sometimes more padding than any of them needs."""
    lengths = draw(st.lists(st.integers(1, longest), min_size=1, max_size=rows))
    if not padded:
        lengths = [lengths[0]] * len(lengths)
    width = max(lengths) + draw(st.sampled_from([0, 0, 1, 3] if padded else [0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    ids = torch.randint(0, 256, (len(lengths), width), generator=generator)
    return Tokens(ids, torch.tensor(lengths))


def widths(shape: Shape, part: Part) -> tuple[int, int]:
    """Heads of a part and what each is wide."""
    if part in ("q", "z"):
        return shape.n_heads, shape.d_head
    if part in ("k", "v"):
        return shape.n_kv_heads, shape.d_head
    return 1, shape.d_model


class CaseBuilder:
    """Draws what a case is made of.

    Attributes:
        draw: hypothesis' own.
        shape: of the model.
        tokens: the batch.
        windowed: whether late tokens do not see the first one.
        named: positions drawn so far.
        generator: of numbers.
    """

    def __init__(
        self, draw: st.DrawFn, shape: Shape, tokens: Tokens, windowed: bool = False
    ) -> None:
        self.draw, self.shape, self.tokens, self.windowed = draw, shape, tokens, windowed
        self.named: list[Tensor] = []
        self.generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))

    def numbers(self, *size: int) -> Tensor:
        return torch.randn(size, generator=self.generator, dtype=torch.float64)

    def layer(self) -> int:
        return self.draw(st.integers(0, self.shape.n_layers - 1))

    def site(self) -> Site:
        return Site(self.layer(), self.draw(st.sampled_from((*PARTS, "z", "z"))))

    def at(self) -> Tensor | None:
        """None, or [R, K] positions: of each row's own tokens, or anywhere in the batch; often the
        very tensor that something else named."""
        if self.draw(st.integers(0, 5)) == 0:
            return None
        if self.named and self.draw(st.booleans()):
            return self.draw(st.sampled_from(self.named))
        many = self.draw(st.integers(1, 3))
        rows, width = self.tokens.ids.shape
        anywhere = self.draw(st.integers(0, 9)) == 0
        ends = [width] * rows if anywhere else self.tokens.lengths.tolist()
        places = [
            self.draw(st.lists(st.integers(0, n - 1), min_size=many, max_size=many)) for n in ends
        ]
        self.named.append(torch.tensor(places))
        return self.named[-1]

    def heads(self, part: Part) -> tuple[int, ...] | None:
        many = widths(self.shape, part)[0]
        if many == 1 or self.draw(st.booleans()):
            return None
        return tuple(self.draw(st.lists(st.integers(0, many - 1), min_size=1, unique=True)))

    def edit(self) -> Edit:
        site, at = self.site(), self.at()
        heads = self.heads(site.part)
        many, wide = widths(self.shape, site.part)
        many = many if heads is None else len(heads)
        share = self.draw(st.sampled_from(["none", "none", "one", "heads", "positions"]))
        keep = {
            "none": None,
            "one": self.numbers(1),
            "heads": self.numbers(1, 1, many, 1),
            "positions": self.by_position(at, many, 1),
        }[share]
        if keep is not None:
            keep = keep.sigmoid()
        kind = self.draw(st.sampled_from(["scalar", "mean", "rows", "positions", "positions"]))
        value = {
            "scalar": self.numbers(),
            "mean": self.numbers(1, 1, many, wide),
            "rows": self.numbers(self.tokens.ids.shape[0], 1, many, wide),
            "positions": self.by_position(at, many, wide),
        }[kind]
        if kind == "scalar" and site.part in ("resid_pre", "resid_post"):
            # the same number in every dimension leaves a LayerNorm nothing but rounding, which the
            # layers above make as large as any activation
            value = torch.zeros_like(value)
        return Edit(site, value, at, heads, keep)

    def by_position(self, at: Tensor | None, *size: int) -> Tensor:
        """[R, K, ...], the same wherever a row repeats a position."""
        rows, width = self.tokens.ids.shape
        whole = self.numbers(rows, width, *size)
        return whole if at is None else whole[torch.arange(rows)[:, None], at]

    def reading(self) -> Reading:
        site = self.site()
        return Reading(site, self.at(), self.heads(site.part))

    def knockouts(self) -> list[Knockout]:
        """Each query keeps a key that it sees: itself, or the first token."""
        rows, width = self.tokens.ids.shape
        many = self.draw(st.sampled_from([0, 0, 1, 2]))
        if width == 1 or not many:
            return []
        odd = self.draw(st.sampled_from([0, 1] if self.windowed else [None, 0, 1]))
        queries = range(width) if odd is None else range(odd, width, 2)
        keys = range(1, width) if odd is None else range(1 - odd, width, 2)

        def chosen(among: range) -> Tensor:
            count = self.draw(st.integers(1, 3))
            picks = st.lists(st.sampled_from(among), min_size=count, max_size=count)
            return torch.tensor([self.draw(picks) for _ in range(rows)])

        return [
            Knockout(self.layer(), chosen(queries), chosen(keys), self.heads("z"))
            for _ in range(many)
        ]

    def several(self, make: Any, most: int) -> list[Any]:
        return [make() for _ in range(self.draw(st.integers(0, most)))]

    def active_mlp(self) -> ActiveMlp:
        return ActiveMlp(self.layer(), self.at())

    def active_heads(self) -> ActiveHeads:
        return ActiveHeads(self.layer(), self.at(), self.heads("z"))

    def branch(self) -> Branch:
        return Branch(
            self.several(self.edit, 3),
            self.several(self.reading, 2),
            freeze_attention=self.draw(st.booleans()),
            active_heads=self.several(self.active_heads, 3),
            active_mlps=self.several(self.active_mlp, 1),
            knockouts=self.knockouts(),
            answer=self.draw(st.integers(0, 3)) > 0,
        )


@st.composite
def cases(draw: st.DrawFn, shape: Shape, branches: int = 5, windowed: bool = False) -> EngineCase:
    """A run with up to 2 edits of its own, and its branches.

    With ``windowed`` there is no padding: where a window is narrower than it, transformer-lens
    makes NaN there.
    """
    tokens = draw(batches(padded=not windowed))
    drawn = CaseBuilder(draw, shape, tokens, windowed)
    return EngineCase(
        tokens,
        drawn.several(drawn.edit, 2),
        drawn.several(drawn.reading, 2),
        drawn.several(drawn.branch, branches),
        answer=draw(st.integers(0, 4)) > 0,
    )


def gaps(
    observed: Outcome, wanted: Outcome, tokens: Tokens, readings: Sequence[Reading]
) -> list[tuple[float, float]]:
    """(largest difference, scale) of the logits and of each reading of tokens that are not padding.

    The scale is the standard deviation of logits and the root mean square of readings, of which
    an edit may have made a constant.
    """
    assert observed.logits.shape == wanted.logits.shape
    assert len(observed.readings) == len(wanted.readings) == len(readings)
    pairs = [(observed.logits, wanted.logits)]
    everywhere = torch.arange(tokens.ids.shape[1]).expand_as(tokens.ids)
    for left, right, reading in zip(observed.readings, wanted.readings, readings, strict=True):
        assert left.shape == right.shape
        at = everywhere if reading.at is None else reading.at
        there = at <= tokens.last[:, None]
        pairs.append((left[there], right[there]))
    return [
        (gap(a.double(), b.double()), scale(b.double() - (b.double().mean() if i == 0 else 0)))
        for i, (a, b) in enumerate(pairs)
        if b.numel()
    ]


def scale(numbers: Tensor) -> float:
    return float(numbers.square().mean().sqrt())


def gap(observed: Tensor, wanted: Tensor) -> float:
    """The largest difference; infinite where something is not a number."""
    difference = float((observed - wanted).abs().max())
    return difference if difference == difference else float("inf")  # noqa: PLR0124 - NaN is not itself


def farthest(
    case: EngineCase, observed: Sequence[Outcome], wanted: Sequence[Outcome]
) -> tuple[float, float]:
    """The largest difference between outcomes of a case, plain and in standard deviations."""
    assert len(observed) == len(wanted)
    every = [
        pair
        for left, right, readings in zip(observed, wanted, case.all_readings(), strict=True)
        for pair in gaps(left, right, case.tokens, readings)
    ]
    return (
        max((difference for difference, _ in every), default=0.0),
        max((difference / max(scale, 1e-12) for difference, scale in every), default=0.0),
    )
