"""What can be claimed of a discovered circuit, on the model that it was found on and on its fine-tune.

Thresholds come from rows of their own (`discover.THRESHOLD`) on the model that was searched. Each claim is
then judged on the spec's own rows, which the search never saw, and on each model of the pair; a claim
that does not hold is not written, but for a comment with its score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_mechanism.claims.accuracy import Accuracy
from pytest_mechanism.claims.base import PAIR, Claim, ClaimContext, Measure
from pytest_mechanism.claims.faithfulness import Faithfulness
from pytest_mechanism.claims.path import Path as PathClaim
from pytest_mechanism.claims.path import path_effect, path_scores
from pytest_mechanism.claims.scoring import above_chance, accuracy, performance
from pytest_mechanism.claims.transfer import Transfer
from pytest_mechanism.discovery.discover import THRESHOLD, Discovery, Effort
from pytest_mechanism.errors import MechanismError, NoDevice, visible
from pytest_mechanism.fields.groups import AnyGroup
from pytest_mechanism.statistics.honesty import require_safeguards
from pytest_mechanism.statistics.verdicts import show
from pytest_mechanism.types import Verdict

OF_THE_CIRCUIT = ("solves_task", "circuit_suffices")
"""Claims without which there is no circuit to speak of; a model may be too small for the control of
another."""

SLACK = 0.5
"""A written threshold asks for half of what was measured: a release may lose some of an effect."""

OF_THE_PAIR: Mapping[str, Mapping[str, Any]] = {
    "no_worse": {"kind": "accuracy", "on": "ft", "not_worse_than": "base", "margin": 0.05},
    "same_circuit": {
        "kind": "transfer", "from": "base", "to": "ft", "faithfulness_at_least": 0.8,
    },
}  # fmt: skip
"""Claims that set the fine-tune against the model that it comes from."""

KINDS: Mapping[str, type[Claim]] = {
    "accuracy": Accuracy,
    "faithfulness": Faithfulness,
    "path": PathClaim,
    "transfer": Transfer,
}

CaseOf = Callable[[Claim, str], ClaimContext]
"""Of a claim and a role, with the groups that were found."""


@dataclass(frozen=True)
class Written:
    """A claim for the new spec.

    Attributes:
        name: of the claim.
        fields: as in YAML; ``on`` is left to the roles on which it holds.
        verdicts: role -> what it came to on the spec's own rows, which the search never saw.
    """

    name: str
    fields: Mapping[str, Any]
    verdicts: Mapping[str, Verdict]

    @property
    def holds(self) -> bool:
        """Whether it is written: it holds on the model that was searched, or between the two."""
        first = next(iter(self.verdicts.values()), None)
        return first is not None and first.status == "pass"

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles on which it holds."""
        return tuple(role for role, verdict in self.verdicts.items() if verdict.status == "pass")

    @property
    def judges_ft(self) -> bool:
        """Whether it is written, and red on some other fine-tune."""
        return self.holds and bool({"ft", PAIR} & {*self.roles})

    def spelled(self, roles: Sequence[str]) -> dict[str, Any]:
        """The fields, on these roles where they say nothing of roles themselves."""
        if self.own_roles:
            return dict(self.fields)
        on = roles[0] if len(roles) == 1 else list(roles)
        return {"kind": self.fields["kind"], "on": on, **self.fields}

    @property
    def own_roles(self) -> bool:
        """Whether the fields say which models they are about."""
        return "on" in self.fields or "from" in self.fields

    def outcome(self, role: str) -> str:
        """What it came to on a role, in one line."""
        verdict = self.verdicts[role]
        if verdict.status == "pass" and verdict.score is not None:
            return visible(f"{show(verdict.score)}, {verdict.threshold}")
        return visible(f"{verdict.status}, {verdict.reason}")


def of_circuit(
    context: ClaimContext, found: Discovery, on: str, measure: Measure, effort: Effort
) -> list[Written]:
    """What can be claimed of the circuit on the model that it was found on."""
    context = replace(context, groups=found.groups, role=on)
    settings = context.task.settings.model_copy(update={"rows": effort.threshold_rows})
    elsewhere = replace(context, task=replace(context.task, settings=settings))

    whole = on_rows(measure)(performance(elsewhere, on))
    own, solves = accuracy(context, whole), above_chance(elsewhere, whole)
    least = round(max(context.task.chance, own.interval[0] - 0.05), 2)
    wanted: list[tuple[str, dict[str, Any]]] = [
        (OF_THE_CIRCUIT[0], {"kind": "accuracy", "at_least": least}),
        (OF_THE_CIRCUIT[1], {"kind": "faithfulness", "between": [0.9, 1.1]}),
    ]
    for name in found.groups:
        effect, _ = path_scores(elsewhere, name, on_rows(measure)(path_effect(elsewhere, name)))
        drop = -effect.interval[1]
        if solves and drop > 0.01:
            asked = float(f"{SLACK * drop:.2g}")
            fields = {"kind": "path", "group": name, "drops_at_least": asked}
            wanted.append((f"{name}_is_heard", fields))
    blank = [Written(name, fields, {}) for name, fields in wanted]
    return judged_on(blank, on, lambda _claim, _role: context, measure)


def judged_on(
    claims: Sequence[Written], role: str, case_of: CaseOf, measure: Measure
) -> list[Written]:
    """The same claims, judged on a further role. What cannot be judged there does not hold."""
    found: list[Written] = []
    for claim in claims:
        meant = KINDS[claim.fields["kind"]].model_validate(claim.spelled([role]))
        verdict = attempted(meant, role, case_of, measure)
        found.append(replace(claim, verdicts={**claim.verdicts, role: verdict}))
    return found


def of_pair(case_of: CaseOf, measure: Measure) -> list[Written]:
    """Claims that set the fine-tune against the model that was searched."""
    found: list[Written] = []
    for name, fields in OF_THE_PAIR.items():
        claim = KINDS[fields["kind"]].model_validate(fields)
        (role,) = claim.roles()
        found.append(Written(name, fields, {role: attempted(claim, role, case_of, measure)}))
    return found


def attempted(claim: Claim, role: str, case_of: CaseOf, measure: Measure) -> Verdict:
    """The verdict; where the claim cannot be judged, an error that says why."""
    try:
        return require_safeguards(claim.judge(case_of(claim, role), measure), claim.kind)
    except NoDevice:
        raise
    except MechanismError as problem:
        return Verdict("error", str(problem), "")


def on_rows(measure: Measure) -> Measure:
    """The same measurements on the threshold rows instead of the judgement rows."""

    def ask(measurement: Any) -> Any:
        return measure(elsewhere(measurement))

    return ask


def elsewhere(measurement: Any) -> Any:
    """A measurement on the threshold rows instead of the judgement rows."""
    return replace(measurement, request=measurement.request.on_stream(THRESHOLD))


def sought(groups: Mapping[str, AnyGroup]) -> dict[str, AnyGroup]:
    """Every group with its heads forgotten, for a search from nothing."""
    return {name: group.sought() for name, group in groups.items()}
