"""Claims about a discovered circuit, on the model that was searched and on its fine-tune.

Thresholds come from separate rows (`discover.THRESHOLD`) on the model that was searched. Each claim is then
judged on the spec's own rows, which the search did not use, and on each model of the pair. A claim that does
not hold is written as a comment with its score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_mechanism.claims.accuracy import Accuracy
from pytest_mechanism.claims.base import PAIR, Claim
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.faithfulness import Faithfulness
from pytest_mechanism.claims.needed_heads import parts_of
from pytest_mechanism.claims.path import Path as PathClaim
from pytest_mechanism.claims.path import patched_path, path_scores
from pytest_mechanism.claims.scoring import above_chance, accuracy
from pytest_mechanism.claims.transfer import Transfer
from pytest_mechanism.discovery.discover import THRESHOLD, Discovery, Effort
from pytest_mechanism.discovery.sufficiency import faithfulness
from pytest_mechanism.errors import MechanismError, NoDevice, visible
from pytest_mechanism.fields.groups import AnyGroup
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.statistics.honesty import require_safeguards
from pytest_mechanism.statistics.verdicts import show
from pytest_mechanism.types import Observations, Verdict

ESSENTIAL_CLAIMS = ("solves_task", "circuit_suffices")
"""Claims that every circuit must meet; a model may be too small for the controls of the others."""

SLACK = 0.5
"""A threshold is this share of the measured effect, so that a release may lose some of it."""

SHARE_CLAIM = "circuit_carries"
"""The claim about a circuit that is not shown to suffice: it carries a share of what the model does."""

SHARE_SLACK = 0.1
"""How far the thresholds of this claim lie outside the interval of the circuit's faithfulness."""

LEAST_SHARE = 0.1
"""Least lower threshold of this claim; a circuit that carries less gets no such claim."""

EFFECT_ROWS = 105
"""Rows on which the effect of a group is measured for its threshold."""

PAIR_CLAIMS: Mapping[str, Mapping[str, Any]] = {
    "no_worse": {"kind": "accuracy", "on": "ft", "not_worse_than": "base", "margin": 0.05},
    "same_circuit": {
        "kind": "transfer", "from": "base", "to": "ft", "faithfulness_at_least": 0.8,
    },
}  # fmt: skip
"""Claims that compare the fine-tune with the model that it comes from."""

KINDS: Mapping[str, type[Claim]] = {
    "accuracy": Accuracy,
    "faithfulness": Faithfulness,
    "path": PathClaim,
    "transfer": Transfer,
}

ContextOf = Callable[[Claim, str], ClaimContext]
"""The context of a claim on a role, with the discovered groups."""


@dataclass(frozen=True)
class DraftClaim:
    """A claim for the new spec.

    Attributes:
        name: of the claim.
        fields: as in YAML, without ``on`` unless the claim compares two models.
        verdicts: role -> verdict on the spec's own rows, which the search did not use.
    """

    name: str
    fields: Mapping[str, Any]
    verdicts: Mapping[str, Verdict]

    @property
    def holds(self) -> bool:
        """Whether it passes on the model that was searched, or on the pair."""
        first = next(iter(self.verdicts.values()), None)
        return first is not None and first.status == "pass"

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles on which it passes."""
        return tuple(role for role, verdict in self.verdicts.items() if verdict.status == "pass")

    @property
    def judges_ft(self) -> bool:
        """Whether the new spec can fail a fine-tune by this claim."""
        return self.holds and bool({"ft", PAIR} & {*self.roles})

    @property
    def names_roles(self) -> bool:
        """Whether the fields name the models that it is about."""
        return "on" in self.fields or "from" in self.fields

    def yaml_fields(self, roles: Sequence[str]) -> dict[str, Any]:
        """The fields with ``on``, unless they name roles themselves."""
        if self.names_roles:
            return dict(self.fields)
        on = roles[0] if len(roles) == 1 else list(roles)
        return {"kind": self.fields["kind"], "on": on, **self.fields}

    def outcome(self, role: str) -> str:
        """The verdict on a role in one line."""
        verdict = self.verdicts[role]
        if verdict.status == "pass" and verdict.score is not None:
            return visible(f"{show(verdict.score)}, {verdict.threshold}")
        return visible(f"{verdict.status}, {verdict.reason}")


def circuit_claims(
    context: ClaimContext, result: Discovery, on: str, measure: Measure, effort: Effort
) -> list[DraftClaim]:
    """Claims about the circuit, judged on the model that was searched."""
    context = replace(context, groups=result.groups, role=on)

    def measure_threshold(measurement: Measurement) -> Observations:
        return measure(on_threshold_rows(measurement))

    # as the search asked for it, so that it is not measured again
    full = measure(
        context.measurement(Performance(rows=effort.threshold_rows, stream=THRESHOLD), on)
    )
    own = accuracy(context, full)
    at_least = round(max(context.task.chance, own.interval[0] - 0.05), 2)
    fields: dict[str, dict[str, Any]] = {
        ESSENTIAL_CLAIMS[0]: {"kind": "accuracy", "at_least": at_least},
        ESSENTIAL_CLAIMS[1]: {"kind": "faithfulness", "between": [0.9, 1.1]},
    }
    fewer = with_rows(context, min(effort.threshold_rows, EFFECT_ROWS))
    for name in result.groups if above_chance(context, full) else ():
        effect, _ = path_scores(fewer, name, measure_threshold(patched_path(fewer, name)))
        if -effect.interval[1] > 0.01:
            drop = float(f"{-SLACK * effect.interval[1]:.2g}")
            fields[f"{name}_is_heard"] = {"kind": "path", "group": name, "drops_at_least": drop}
    drafts = [DraftClaim(name, written, {}) for name, written in fields.items()]
    judged = judge_on(drafts, on, lambda _claim, _role: context, measure)
    if judged[1].holds or (share := carried_share(context, on, measure, effort)) is None:
        return judged
    carries = DraftClaim(SHARE_CLAIM, {"kind": "faithfulness", "between": share}, {})
    return [*judged, *judge_on([carries], on, lambda _claim, _role: context, measure)]


def with_rows(context: ClaimContext, rows: int) -> ClaimContext:
    """The context with another number of rows of its task."""
    settings = context.task.settings.model_copy(update={"rows": rows})
    return replace(context, task=replace(context.task, settings=settings))


def carried_share(
    context: ClaimContext, on: str, measure: Measure, effort: Effort
) -> list[float] | None:
    """The faithfulness to claim of a circuit that is not shown to suffice: its interval on `THRESHOLD` rows, and
    slack. None if it carries next to nothing."""
    members = {name: parts_of(context.group(name, on)) for name in context.groups}
    carried = faithfulness(context, on, members, measure, effort.threshold_rows, THRESHOLD)
    if carried is None:
        return None
    low, high = carried.interval
    least, most = round(low - SHARE_SLACK, 2), round(max(1.0, high) + SHARE_SLACK, 2)
    return [least, most] if least >= LEAST_SHARE else None


def judge_on(
    drafts: Sequence[DraftClaim], role: str, context_of: ContextOf, measure: Measure
) -> list[DraftClaim]:
    """The claims with their verdicts on a further role."""
    judged: list[DraftClaim] = []
    for draft in drafts:
        claim = KINDS[draft.fields["kind"]].model_validate(draft.yaml_fields([role]))
        verdict = judge(claim, role, context_of, measure)
        judged.append(replace(draft, verdicts={**draft.verdicts, role: verdict}))
    return judged


def pair_claims(context_of: ContextOf, measure: Measure) -> list[DraftClaim]:
    """Claims that compare the fine-tune with the model that was searched."""
    judged: list[DraftClaim] = []
    for name, fields in PAIR_CLAIMS.items():
        claim = KINDS[fields["kind"]].model_validate(fields)
        (role,) = claim.roles()
        judged.append(DraftClaim(name, fields, {role: judge(claim, role, context_of, measure)}))
    return judged


def judge(claim: Claim, role: str, context_of: ContextOf, measure: Measure) -> Verdict:
    """The verdict; an error with its reason if the claim cannot be judged."""
    try:
        return require_safeguards(claim.judge(context_of(claim, role), measure), claim.kind)
    except NoDevice:
        raise
    except MechanismError as problem:
        return Verdict("error", str(problem), "")


def on_threshold_rows(measurement: Measurement) -> Measurement:
    """The measurement on `THRESHOLD` rows instead of the spec's own."""
    return replace(measurement, request=measurement.request.on_stream(THRESHOLD))


def without_heads(groups: Mapping[str, AnyGroup]) -> dict[str, AnyGroup]:
    """Every group without its heads, for a search that ignores them."""
    return {name: group.without_heads() for name, group in groups.items()}
