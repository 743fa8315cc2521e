"""What counts: the rules, fixed before the first run, and the figures that follow from them.

- A change *is seen* if some claim is red that is green on the unharmed release with the same seed of rows.
- A fault is *equivalent to none* if its size is at most the median size of the re-fits (`Change.refit`), at the
  answers of the task and on plain text alike: the release, trained again with other rows, differs as much.
- A fault leaves the *accuracy unchanged* if it moves by less than `SAME_ACCURACY` on rows that no gate measures.
- The hurt head is *named* if the report of the first red claim that names heads or MLPs names it first; the taker if
  it is among those that this report names. Also counted by what the lines rest on (`gate.source`), of the reports that
  name a head or MLP there: the weights, grafts of the reference model's members, the sweep. These three were added
  after the first run.
- Rates *without claims about where a change lies* leave out kind ``diffuse_change``: in a suite whose faults are all
  that a candidate differs by, it is red by construction where one part was changed. Added with that claim.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from scipy import stats

from benchmarks.faults.change import Change
from benchmarks.faults.gate import Judgement, Source, named
from benchmarks.faults.sizes import Size

SAME_ACCURACY = 0.02

Measure = Literal["rows", "text"]

SOURCES: Mapping[Source, str] = {
    "weights": "the weights",
    "grafts": "grafts",
    "sweep": "the sweep",
}

ACCURACY = ("accuracy",)
"""Kinds of claims that a benchmark without a look inside has."""

PLACE = "diffuse_change"
"""Kind of the claims about where a change lies, whatever its size."""


@dataclass(frozen=True)
class Outcome:
    """The gate on one change with one seed of rows.

    Attributes:
        change: what was changed.
        seed: of the rows.
        size: of the change.
        judgements: on claims that are green on the unharmed release.
    """

    change: Change
    seed: int
    size: Size
    judgements: Sequence[Judgement]

    @property
    def red(self) -> list[Judgement]:
        return [judgement for judgement in self.judgements if judgement.red]

    def seen(self, kinds: Sequence[str] | None = None) -> bool:
        """Whether some claim is red, of some kinds only."""
        return any(kinds is None or judgement.kind in kinds for judgement in self.red)

    @property
    def names(self) -> list[str]:
        return named(self.red)


@dataclass(frozen=True)
class Rate:
    """A share with its 95 % interval (Wilson)."""

    hits: int
    of: int

    @property
    def interval(self) -> tuple[float, float]:
        if not self.of:
            return 0.0, 1.0
        found = stats.binomtest(self.hits, self.of).proportion_ci(method="wilson")
        return float(found.low), float(found.high)

    def __str__(self) -> str:
        if not self.of:
            return "none of 0"
        low, high = self.interval
        return f"{self.hits} of {self.of} ({self.hits / self.of:.0%} [{low:.0%}, {high:.0%}])"


def rate(hits: Iterable[bool]) -> Rate:
    listed = list(hits)
    return Rate(sum(listed), len(listed))


def limit(sizes: Mapping[str, Size], changes: Iterable[Change]) -> Size | None:
    """The size up to which a fault is equivalent to none; None before a re-fit was measured."""
    refits = [sizes[c.name] for c in changes if c.refit and c.name in sizes]
    if not refits:
        return None
    return Size(
        median(size.rows for size in refits),
        median(size.text for size in refits),
        median(size.accuracy for size in refits),
    )


def equivalent(size: Size, most: Size | None) -> bool:
    """Whether a fault changes no more than fitting the release again does."""
    return most is not None and size.rows <= most.rows and size.text <= most.text


def same_accuracy(size: Size, release: float) -> bool:
    return abs(size.accuracy - release) < SAME_ACCURACY


def unharmed_red(judgements: Iterable[Judgement]) -> set[str]:
    """Claims that are red without a fault, which no fault can be seen by."""
    return {judgement.claim for judgement in judgements if judgement.red}


def kinds_of_size(outcomes: Iterable[Outcome]) -> tuple[str, ...]:
    """Kinds of the claims that are not about where a change lies; none if all claims are of these kinds."""
    kinds = {j.kind for o in outcomes for j in o.judgements}
    return tuple(kinds - {PLACE}) if PLACE in kinds else ()


def figures(outcomes: Sequence[Outcome], most: Size | None, release: float) -> dict[str, Rate]:
    """The figures of a list of outcomes, by what they count."""
    faults = [o for o in outcomes if o.change.fault and o.seed == 0]
    real = [o for o in faults if not equivalent(o.size, most)]
    hidden = [o for o in real if same_accuracy(o.size, release)]
    benign = [o for o in outcomes if not o.change.fault]
    single = [o for o in real if o.change.hurt is not None and o.change.taker is None]
    moved = [o for o in real if o.change.taker is not None]
    of_size = kinds_of_size(outcomes)

    def without_place(name: str, what: Sequence[Outcome]) -> dict[str, Rate]:
        return {f"{name} without {PLACE}": rate(o.seen(of_size) for o in what)} if of_size else {}

    return {
        "faults seen, equivalent ones too": rate(o.seen() for o in faults),
        "faults seen": rate(o.seen() for o in real),
        "faults seen at unchanged accuracy": rate(o.seen() for o in hidden),
        **without_place("the same", hidden),
        "the same by claims about accuracy alone": rate(o.seen(ACCURACY) for o in hidden),
        "benign changes red": rate(o.seen() for o in benign),
        **without_place("benign changes red", benign),
        "benign changes red, first seed": rate(o.seen() for o in benign if o.seed == 0),
        "single-head faults whose head is named first": rate(
            o.names[:1] == [o.change.hurt] for o in single
        ),
        "the same, of those that are seen": rate(
            o.names[:1] == [o.change.hurt] for o in single if o.seen()
        ),
        **{
            f"by {what}, where there is such a line": rate(
                first == [o.change.hurt] for o in single if (first := named(o.red, by)[:1])
            )
            for by, what in SOURCES.items()
        },
        "moved work: hurt head named first": rate(o.names[:1] == [o.change.hurt] for o in moved),
        "moved work: taker named": rate(o.change.taker in o.names for o in moved),
    }


def by_kind(outcomes: Sequence[Outcome], most: Size | None) -> dict[str, tuple[Rate, Rate, Rate]]:
    """Kind of change -> seen, seen by accuracy alone, and how many are equivalent to none; faults first."""
    kinds: dict[tuple[bool, str], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        kinds[not outcome.change.fault, outcome.change.kind].append(outcome)
    return {
        kind: (
            rate(o.seen() for o in group),
            rate(o.seen(ACCURACY) for o in group),
            rate(equivalent(o.size, most) for o in group),
        )
        for (_, kind), group in sorted(kinds.items(), key=lambda item: item[0])
    }


def by_claim(outcomes: Sequence[Outcome]) -> dict[str, tuple[Rate, Rate]]:
    """Claim -> how often it is red on faults, and on benign changes."""
    claims = dict.fromkeys(j.claim for o in outcomes for j in o.judgements)

    def red(claim: str, *, fault: bool) -> Rate:
        return rate(
            j.red
            for o in outcomes
            if o.change.fault is fault
            for j in o.judgements
            if j.claim == claim
        )

    return {claim: (red(claim, fault=True), red(claim, fault=False)) for claim in claims}


def by_size(
    outcomes: Iterable[Outcome], on: Measure = "rows", bins: int = 6
) -> list[tuple[float, list[Outcome]]]:
    """Faults in groups of about the same KL, with the median of each.

    Args:
        outcomes: of a suite.
        on: the KL on the task's rows, or on text.
        bins: how many groups.
    """

    def size(outcome: Outcome) -> float:
        return outcome.size.rows if on == "rows" else outcome.size.text

    faults = sorted((o for o in outcomes if o.change.fault and o.seed == 0), key=size)
    groups = [faults[len(faults) * i // bins : len(faults) * (i + 1) // bins] for i in range(bins)]
    return [(median(map(size, group)), group) for group in groups if group]


def curve(outcomes: Iterable[Outcome], on: Measure = "rows") -> list[tuple[float, Rate, Rate]]:
    """The kill rate over the size: of each group (`by_size`) the median KL, the share that is seen, and the share that
    accuracy alone sees."""
    return [
        (size, rate(o.seen() for o in group), rate(o.seen(ACCURACY) for o in group))
        for size, group in by_size(outcomes, on)
    ]


def as_data(outcome: Outcome) -> dict[str, Any]:
    """An outcome in the file of results."""
    change, size = outcome.change, outcome.size
    return {
        "change": change.name,
        "kind": change.kind,
        "fault": change.fault,
        "strength": change.strength,
        "seed": outcome.seed,
        "kl_rows": float(f"{size.rows:.4g}"),
        "kl_text": float(f"{size.text:.4g}"),
        "accuracy": round(size.accuracy, 4),
        "red": [judgement.claim for judgement in outcome.red],
        "hurt": change.hurt,
        "taker": change.taker,
        "named": outcome.names,
    }
