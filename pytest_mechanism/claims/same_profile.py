"""``same_profile``: every head and MLP does in one model what it does in the other.

The other claims about two models ask whether the circuit's groups still do their work. This claim looks at all
heads and MLPs (`claims.profiles`): each is path patched into the readers of each group, and into the logits, in
both models on the same rows. Its effect is a share of what the source prompt as a whole does to the answer's
centred logit. Shares are compared, and not nats: a fine-tune that is surer of its answers has larger logits
everywhere, and a sure model's log-probability hardly falls when one of several heads is patched. In the embedded
pair (accuracy .70 and .99), the shares of the heads that write the answer differ by at most .02, and their
effects on the log-probability by up to a factor of 3.

Passes if the whole confidence interval of *every* member's change lies within ``margin``. All members must pass,
so the chance to pass at the margin needs no correction. It fails if some member's change is larger than the
margin by Holm's correction for the number of members, and the reason names each such member: which fell silent,
which took over, and by how much. ``outside_at_most`` limits the share of members that no group names at that
position, of the kinds (heads, MLPs) that the groups name.

The control is the same comparison with the heads of every layer in another order, of all cyclic orders the one
that does best: where no head has an effect, or all have the same, it passes too and the profile shows nothing.

Heads that changed places compute the same. If the claim is red, heads are matched by what they write
(`methods.circuits.matching`); if the heads of a layer are those of the other model in another order, the
profile is measured again in that order, and the reason says it.

The accepted score keeps the change of every member. A later run is red if some member's change differs from
the accepted one by more than ``drift`` (`statistics.drift`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from pytest_mechanism.causes import Cause
from pytest_mechanism.claims.base import PairClaim
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.moved_work import called, largest_first, sentences
from pytest_mechanism.claims.moved_work import outside as outside_groups
from pytest_mechanism.claims.other_places import OtherPlaces, places_in_circuit
from pytest_mechanism.claims.places import elsewhere
from pytest_mechanism.claims.profile_stages import stages
from pytest_mechanism.claims.profiles import (
    StageProfile,
    changes,
    known_measurements,
    measured,
    permuted,
)
from pytest_mechanism.claims.scoring import above_chance, guesses, performance, score
from pytest_mechanism.fields.groups import AnyGroup
from pytest_mechanism.fields.thresholds import ShareMargin
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.nodes import KINDS, kind_of
from pytest_mechanism.statistics import estimates, verdicts
from pytest_mechanism.statistics.estimates import Estimate
from pytest_mechanism.statistics.honesty import beats, no_control
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.types import Control, MemberChange, Score, Verdict

METRIC = "share of what the source prompt does to the answer's centred logit (path patching of one member)"


class SameProfile(PairClaim):
    """Every head and MLP has the same effect in two models.

    Attributes:
        source: YAML ``from``: role of the reference model.
        to: role of the model that is compared with it.
        margin: the largest change of a share that counts as none.
        outside_at_most: the largest share of a member that no group names; None for no limit.
    """

    summary: ClassVar[str] = "every head and MLP has the same effect in two models"
    if_red: ClassVar[str] = (
        "heads or MLPs do another share of the work than in the reference model: the reason names them"
    )
    members: ClassVar[tuple[str, ...]] = tuple(KINDS)
    thresholds: ClassVar[tuple[str, ...]] = ("margin", "outside_at_most")
    matching_sizes: ClassVar[tuple[str, ...]] = ("n_layers", "n_heads")

    kind: Literal["same_profile"]
    margin: ShareMargin = 0.1
    outside_at_most: ShareMargin | None = None

    def row_sets(self, task: Task) -> tuple[tuple[str, str], ...]:
        return (("rows", ""), ("pairs", ""))

    def members_problem(self, group: AnyGroup) -> str | None:
        return elsewhere(group, "a profile is measured at") or super().members_problem(group)

    def required_measurements(self, context: ClaimContext) -> tuple[Measurement, ...]:
        of = stages(context, self.source)
        return (
            *(performance(context, role) for role in self.models(context.role)),
            *(m for role in (self.source, self.to) for m in known_measurements(context, role, of)),
        )

    def judge(self, context: ClaimContext, measure: Measure) -> Verdict:
        threshold = f"changes by at most {self.margin:g}"
        solved = []
        for role in (self.source, self.to):
            full = measure(performance(context, role))
            solved.append(above_chance(context, full))
            if solved[-1] is None:
                reason = f"{guesses(context, role, full)}, so no head has an effect to compare"
                judge = verdicts.reference_fails if role == self.source else verdicts.at_chance
                return judge(reason, threshold)
        of = stages(context, self.source)
        try:
            verdict = self.compared(context, measured(context, self.source, self.to, measure, of))
            doubtful = verdict.cause in (Cause.REFUTED, Cause.UNSETTLED)
            places = OtherPlaces({})
            if doubtful:
                places = places_in_circuit(context, self.source, self.to, measure, of)
            if places.moved:
                again = measured(context, self.source, self.to, measure, of, places.moved)
                verdict = self.compared(context, again)
                order = "; ".join(places.sentences(self.source))
                verdict = replace(verdict, reason=f"{order}; in this order, {verdict.reason}")
        except estimates.UndefinedScoreError as problem:
            return verdicts.inconclusive(
                f"the source prompts do not change the answer's logit, so there are no shares of it: {problem}",
                threshold,
            )
        return replace(verdict, chance=solved[1])

    def compared(self, context: ClaimContext, profiles: Sequence[StageProfile]) -> Verdict:
        """The verdict on the profiles of both models."""
        found = changes(context, profiles, self.margin)
        worst = max(found, key=lambda m: max(abs(m.interval[0]), abs(m.interval[1])))
        shuffled = permuted(context, profiles, context.shapes[self.source].n_heads)
        order = "the heads of every layer in another order"
        judged = self.scored(context, profiles, worst, order, shuffled)
        verdict = verdicts.within(
            judged,
            -self.margin,
            self.margin,
            f"largest of {len(found)} changes, {called(worst.member)} towards {worst.readers}:",
            f"changes by at most {self.margin:g}",
            difference=True,
        )
        parts = [self.named(verdict, found, worst, 1 - context.confidence)]
        if self.outside_at_most is not None:
            parts += self.outside(context, profiles, self.outside_at_most)
        verdict = replace(verdicts.together(parts), members=tuple(found))
        if shuffled is None:
            return no_control(verdict, "no layer has two heads to exchange")
        size = max(shuffled.interval[0], -shuffled.interval[1])
        return beats(
            verdict,
            order,
            f"{order} change no more than the margin either ({shuffled.value:+.3f} "
            f"[{shuffled.interval[0]:+.3f}, {shuffled.interval[1]:+.3f}]): no head can be told from another",
            ahead=size > self.margin,
        )

    def scored(
        self,
        context: ClaimContext,
        profiles: Sequence[StageProfile],
        worst: MemberChange,
        order: str,
        shuffled: Estimate | None,
    ) -> Score:
        """The change of the member whose interval reaches farthest."""
        n = len(profiles[0].now.example_ids)
        clusters = len(set(profiles[0].now.clusters))
        control = None if shuffled is None else Control(order, shuffled.value, shuffled.interval)
        estimate = Estimate(worst.change, worst.interval, worst.standard_error, n, clusters)
        # the member may change from run to run, the judged and accepted quantity does not
        return score(context, "largest change of a member's share", estimate, METRIC, 0.0, control)

    @staticmethod
    def named(
        verdict: Verdict, found: Sequence[MemberChange], worst: MemberChange, alpha: float
    ) -> Verdict:
        """The verdict with the members whose change is significant; without any, nothing is refuted."""
        changed = [member for member in found if member.p < alpha]
        if changed:
            reason = (
                f"{len(changed)} of {len(found)} heads and MLPs changed by more than the margin "
                f"(corrected for {len(found)} comparisons): "
                f"{'; '.join(sentences(changed, found))}{whose_score(worst, changed)}"
            )
            return replace(verdict, status="fail", reason=reason, cause=Cause.REFUTED)
        if verdict.status == "fail":
            reason = (
                f"{verdict.reason}, not significant once corrected for {len(found)} comparisons"
            )
            return replace(verdict, status="inconclusive", reason=reason, cause=Cause.UNSETTLED)
        return verdict

    def outside(
        self, context: ClaimContext, profiles: Sequence[StageProfile], at_most: float
    ) -> list[Verdict]:
        """The verdict on the member outside all groups that may do most, of the kinds that groups name."""
        kinds = {
            kind_of(part)
            for name in context.groups
            for _, part, _ in context.group(name, self.source).placed()
        }
        kinds |= {"heads"} if "attention_outputs" in kinds else set()
        outside = [
            (profile, name)
            for profile in profiles
            for name, nodes in profile.senders.items()
            if name not in profile.own and kind_of(nodes[0][1]) in kinds
        ]
        if not outside:
            return []
        shares = [profile.share(name, context.sampling(profile.now)) for profile, name in outside]
        reach = [max(abs(bound) for bound in share.interval) for share in shares]
        estimate, (profile, name) = (
            shares[reach.index(max(reach))],
            outside[reach.index(max(reach))],
        )
        judged = score(
            context, "largest share of a member outside the circuit", estimate, METRIC, "lower"
        )
        stage, nodes = profile.stage, profile.senders[name]
        group = stage.others.get(nodes[0]) if len(nodes) == 1 else None
        what = f"{called(name)}{outside_groups(group, stage.at)} towards {stage.readers}:"
        return [verdicts.within(judged, -at_most, at_most, what, f"does at most {at_most:g}")]


def whose_score(worst: MemberChange, changed: Sequence[MemberChange]) -> str:
    """Whose change the score is, where it is not the first that the reason names."""
    if worst == largest_first(changed, changed)[0]:
        return ""
    unsure = "" if worst in changed else ", itself not surely beyond the margin"
    return (
        f"; the score is the change of {called(worst.member)} towards {worst.readers}, whose interval reaches "
        f"farthest{unsure}"
    )
