"""How a search came to its heads, in lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_mechanism.discovery.discover import Discovery
from pytest_mechanism.discovery.screening import summary
from pytest_mechanism.discovery.sufficiency import ENOUGH


def screening(result: Discovery) -> Iterator[str]:
    """What the gradient left out of each group's stage."""
    for stage in result.stages:
        if stage.screening.left_out:
            yield f"{stage.group}: {summary(stage.screening, len(stage.effects))}"


def growth(result: Discovery) -> Iterator[str]:
    """The heads that joined those of large effect, and why the circuit still does not suffice."""
    grown = result.grown
    if grown is None:
        return
    for name in dict.fromkeys(name for name, _ in result.restored):
        heads = " ".join(f"{layer}.{h}" for group, (layer, h) in result.restored if group == name)
        yield (
            f"{heads} of {name} stay although the circuit does without any single one of them: heads of "
            "the group can replace each other"
        )
    for group, (layer, head) in grown.joined:
        if group in result.groups and (layer, head) in result.groups[group].members():
            yield f"{layer}.{head} joined {group}: heads of large effect alone do not suffice"
    if grown.faithfulness is None:
        yield "faithfulness is undefined: the model does no better than with its heads ablated"
    elif grown.faithfulness.interval[0] < ENOUGH:
        low, high = grown.faithfulness.interval
        yield (
            f"this circuit does not suffice: faithfulness {grown.faithfulness.value:.2f} "
            f"[{low:.2f}, {high:.2f}] on the rows of the search, and no head significantly improves it"
        )
