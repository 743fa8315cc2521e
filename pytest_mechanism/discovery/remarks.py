"""How a search came to its heads, in lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_mechanism.claims.needed_heads import Member
from pytest_mechanism.discovery.discover import Discovery
from pytest_mechanism.discovery.screening import summary
from pytest_mechanism.discovery.sufficiency import ENOUGH, MOST_TRIED
from pytest_mechanism.nodes import spelled


def screening(result: Discovery) -> Iterator[str]:
    """What the gradient left out of each group's stage."""
    for stage in result.stages:
        if stage.screening.left_out:
            yield f"{stage.group}: {summary(stage.screening, len(stage.effects))}"
        if stage.edges is not None:
            yield from (f"{stage.group}: {line}" for line in stage.edges.lines())


def growth(result: Discovery) -> Iterator[str]:
    """The members that joined those of large effect, and why the circuit still does not suffice."""
    grown = result.grown
    if grown is None:
        return
    noun, nouns = result.nouns
    for name, members in by_group(result, result.restored):
        yield (
            f"{members} of {name} stay although the circuit does without any single one of them: {nouns} of "
            "the group can replace each other"
        )
    for name, members in by_group(result, grown.joined):
        yield f"{members} joined {name}: {nouns} of large effect alone do not suffice"
    if grown.faithfulness is None:
        yield f"faithfulness is undefined: the model does no better than with its {nouns} ablated"
    elif grown.faithfulness.interval[0] < ENOUGH:
        low, high = grown.faithfulness.interval
        tried = f"no {noun}"
        if grown.untried:
            tried = (
                f"none of the {MOST_TRIED} {nouns} with the strongest effects (the other {grown.untried} "
                "were not tried)"
            )
        yield (
            f"this circuit does not suffice: faithfulness {grown.faithfulness.value:.2f} "
            f"[{low:.2f}, {high:.2f}] on the rows of the search, and {tried} significantly improves it"
        )


def by_group(result: Discovery, members: Sequence[Member]) -> Iterator[tuple[str, str]]:
    """Each found group that has some of these members, and the members."""
    for name, group in result.groups.items():
        kept = [(layer, part) for layer, part, _ in group.placed()]
        named = [part for of_group, part in members if of_group == name and part in kept]
        if named:
            yield name, " ".join(map(spelled, named))
