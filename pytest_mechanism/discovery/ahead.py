"""What a search for heads will measure, before any head is known: for the look-ahead.

Each step of `discovery.discover` is stood for by one measurement with a head that every model has. It
draws the same rows at the same positions with the same ablation as the real one, so whatever is missing
there is missing here. None of these is ever made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pytest_mechanism.claims.base import Case
from pytest_mechanism.claims.faithfulness import Faithfulness
from pytest_mechanism.claims.path import Path as PathClaim
from pytest_mechanism.claims.scoring import performance
from pytest_mechanism.discovery import minimality, sufficiency
from pytest_mechanism.discovery.claims import elsewhere
from pytest_mechanism.discovery.discover import THRESHOLD, Effort
from pytest_mechanism.discovery.stages import STREAM, sweep
from pytest_mechanism.methods.catalogue import CIRCUIT, PERFORMANCE
from pytest_mechanism.spec.parts import AnyGroup, Group, plain
from pytest_mechanism.types import Measurement

HEAD = (0, 0)
"""Every model has it."""


def stand_ins(groups: Mapping[str, AnyGroup]) -> dict[str, Group]:
    """The groups with some head where heads have to be found."""
    layer, head = HEAD
    return {
        name: group
        if isinstance(group, Group)
        else Group(heads={layer: [head]}, at=group.at, into=group.into)
        for name, group in groups.items()
    }


def with_stand_ins(case: Case) -> Case:
    """The case of a claim about heads that are not known yet."""
    return replace(case, groups=stand_ins(case.groups))


def of_search(case: Case, on: str, effort: Effort) -> tuple[Measurement, ...]:
    """One measurement for each set of rows that `discover` looks at on the model of role ``on``."""
    alive = [[*HEAD, group.at] for group in case.groups.values()]

    def circuit(rows: int, stream: str) -> Measurement:
        return case.ask(
            CIRCUIT,
            on,
            rows=rows,
            stream=stream,
            ablation=plain(case.ablation),
            alive={"circuit": alive, "empty": []},
        )

    return (
        case.ask(PERFORMANCE, on, rows=effort.rank_rows, stream=STREAM),
        *of_stages(case, on, effort.rank_rows),
        case.ask(PERFORMANCE, on, rows=effort.threshold_rows, stream=THRESHOLD),
        circuit(effort.threshold_rows, THRESHOLD),
        circuit(effort.rank_rows, sufficiency.SELECT),
        circuit(effort.select_rows, minimality.SELECT),
    )


def of_claims(case: Case, on: str, effort: Effort) -> tuple[Measurement, ...]:
    """What `discovery.claims` will measure on the model of role ``on``."""
    case = replace(with_stand_ins(case), role=on)
    settings = case.task.settings.model_copy(update={"rows": effort.threshold_rows})
    threshold = replace(case, task=replace(case.task, settings=settings))
    heard = [PathClaim(kind="path", group=name, on=on, drops_at_least=1.0) for name in case.groups]
    return (
        *Faithfulness(kind="faithfulness", on=on, between=(0.9, 1.1)).needs(case),
        *(m for claim in heard for m in claim.needs(case)),
        *(elsewhere(m) for claim in heard for m in claim.needs(threshold)),
    )


def of_look(case: Case, on: str, rank_rows: int) -> tuple[Measurement, ...]:
    """What `discovery.look` will measure on the model of role ``on``."""
    known = replace(with_stand_ins(case), role=on)
    effects = [
        PathClaim(kind="path", group=name, on=on, drops_at_least=1.0) for name in case.groups
    ]
    search = (
        ()
        if all(isinstance(group, Group) for group in case.groups.values())
        else (of_search(case, on, Effort(rank_rows=rank_rows)))
    )
    return (
        performance(case, on),
        *of_stages(case, on, rank_rows),
        *(m for claim in effects for m in claim.needs(known)),
        *search,
    )


def of_stages(case: Case, on: str, rows: int) -> tuple[Measurement, ...]:
    """Path patching at each group's position."""
    return tuple(sweep(case, on, group, [HEAD], None, rows) for group in case.groups.values())
