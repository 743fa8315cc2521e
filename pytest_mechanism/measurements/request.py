"""What a method is asked to do, as a value: its fields, its cost and the rows that it needs.

One file for each method, beside this one. A request imports no torch, so that the key of its result, the
cost that `doctor` adds up and the checks before anything is measured come from the request alone; the
function that it names in `implementation` is imported when a measurement runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Generic, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pytest_mechanism.fields.ablation import Ablation
from pytest_mechanism.measurements.recipe import Recipe
from pytest_mechanism.nodes import EVERYWHERE, Node
from pytest_mechanism.progress import Parts
from pytest_mechanism.types import Head, Observations, Result_co, canonical

RowKind = Literal[
    "rows", "pairs", "interchange", "backgrounds", "forbidden", "allowed", "capability"
]

TaskSettings = Mapping[str, Any]
"""Settings of a task, as JSON data."""

PlacedHead = tuple[int, int, str]
"""(layer, head, named position)."""

PlacedNode = tuple[int, int | Literal["mlp"], str]
"""(layer, head or ``mlp``, named position or ``everywhere``)."""


def by_name(mapping: dict[str, Any]) -> dict[str, Any]:
    """Sorted, so that equal requests give their results in the same order."""
    return dict(sorted(mapping.items()))


Differences = Annotated[bool, Field(exclude_if=lambda wanted: not wanted)]
"""Whether the logit difference is measured too. Results of requests without it stay valid."""

HeadSets = Annotated[dict[str, tuple[Head, ...]], AfterValidator(by_name)]
NodeSets = Annotated[dict[str, tuple[Node, ...]], AfterValidator(by_name)]
PlacedNodeSets = Annotated[dict[str, tuple[PlacedNode, ...]], AfterValidator(by_name)]


@dataclass(frozen=True)
class RowSet:
    """Rows that a method takes from the task, and what it needs of them: checked by the preflight.

    Attributes:
        kind: which of the task's sets.
        count: how many rows.
        stream: of random numbers.
        positions: named positions at which activations are read or changed.
        variable: of an interchange.
        one_token_answers: whether answers and targets are compared as single tokens.
        trained_replies: whether the rows' replies are trained or scored, so that they need tokens.
        behind_interval: whether a confidence interval is taken over the rows.
        one_token_positions: whether each position may have one token only.
    """

    kind: RowKind
    count: int
    stream: str
    positions: tuple[str, ...] = ()
    variable: str = ""
    one_token_answers: bool = False
    trained_replies: bool = False
    behind_interval: bool = True
    one_token_positions: bool = False

    @property
    def has_sources(self) -> bool:
        """Whether each row has a source prompt to patch from."""
        return self.kind in ("pairs", "interchange")


@dataclass(frozen=True)
class Cost:
    """About what a measurement takes, for the progress bar and for ``pytest-mechanism doctor``.

    Attributes:
        rows: rows sent through the model; a backward pass costs two forward passes.
        rows_per_layer: further rows for each layer of the model.
        reply_rows: those of ``rows`` that are tokens of replies after the first: they take less time
            where a model keeps keys and values.
        prompts: name of the set of prompts whose runs it branches from. Measurements on one task that
            give the same name share these runs. Empty where it branches from none.
        prompt_count: how many prompts are in that set.
        gradient_rows: rows whose gradients are held at once; ``batch`` for as many as a batch has.
        weight_copies: how often it holds the weights beside the model: a copy, its gradient, what an
            optimiser remembers.
        parts: name, number and noun of its parts, where the progress bar should count them.
    """

    rows: int = 1
    rows_per_layer: int = 0
    reply_rows: int = 0
    prompts: str = ""
    prompt_count: int = 0
    gradient_rows: int | Literal["batch"] = 0
    weight_copies: int = 0
    parts: Parts | None = None

    def rows_with(self, layers: int) -> int:
        """All rows, for a model with this number of layers."""
        return self.rows + layers * self.rows_per_layer


def training_cost(recipe: Recipe, other_rows: int, reply_rows: int = 0) -> Cost:
    """What the training of a copy takes, with rows that are sent through it without a gradient, and rows of
    their replies."""
    stages = [recipe] if recipe.first is None else [recipe.first, recipe]
    trained = sum(stage.steps * stage.batch for stage in stages)
    copies = 2 + recipe.descent.state_copies if recipe.lora is None else 1
    return Cost(
        rows=3 * trained + other_rows,  # a backward costs two forwards
        reply_rows=reply_rows,
        gradient_rows=recipe.batch,
        weight_copies=copies + (recipe.first is not None),
        parts=("training", sum(stage.steps for stage in stages), "steps"),
    )


def rows_at(
    rows: int, stream: str, positions: Iterable[str], *, behind_interval: bool = True
) -> RowSet:
    """Rows whose answers are judged, with activations read or changed at these positions."""
    return RowSet(
        "rows",
        rows,
        stream,
        tuple(sorted({*positions} - {EVERYWHERE})),
        one_token_answers=True,
        behind_interval=behind_interval,
    )


class Request(BaseModel, Generic[Result_co]):
    """What a method is asked to do. Subclasses add the arguments as fields.

    ``class Entropy(Request)`` gives plain `Observations`, ``class Probes(Request[ProbeResult])`` a
    subclass with further fields. Equal requests are those with equal fields.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    implementation: ClassVar[str]
    """``package.module:function`` of the method, called with a `MeasurementContext`, the request and
    the results of the measurement's inputs."""

    revision: ClassVar[int] = 1
    """Raised by the author whenever the method's numbers can change: results of other revisions are
    measured again."""

    stored: ClassVar[bool] = True
    """Whether the result is small and goes to disk. Activations for another model are not stored."""

    result: ClassVar[type[Observations]] = Observations
    """Class of the result, taken from ``Request[...]``."""

    @classmethod
    def __pydantic_init_subclass__(cls, **arguments: Any) -> None:
        super().__pydantic_init_subclass__(**arguments)
        for result in cls.__pydantic_generic_metadata__["args"]:
            cls.result = result

    def spelled(self) -> str:
        """Canonical JSON of the fields, for the key of the result."""
        return canonical(self.model_dump(mode="json"))

    def __hash__(self) -> int:
        return hash((type(self), self.spelled()))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def on_stream(self, stream: str) -> Self:
        """The same request on another stream of random numbers, where it has one."""
        if "stream" not in type(self).model_fields:
            return self
        return self.model_copy(update={"stream": stream})

    # -- what a run asks before it loads a checkpoint

    def cost(self, task: TaskSettings) -> Cost:
        """About what the measurement takes; by default, that the model runs on ``rows`` rows once.

        Args:
            task: settings of the task.
        """
        return Cost(rows=int(getattr(self, "rows", 1)))

    def row_sets(self) -> tuple[RowSet, ...]:
        """Rows that the method takes from the task, but for the background prompts of `ablation_used`.
        Without them the preflight checks nothing."""
        return ()

    def ablation_used(self) -> Ablation | None:
        """How the method ablates heads, or None where it does not."""
        return None

    def recipe_used(self) -> Recipe | None:
        """How the method trains a copy of the model, or None where it does not."""
        return None
