"""``pytest-mechanism discover SPEC --model REF``: find a circuit and write it as a spec.

Every step is a measurement in the store, so the same command after an interruption goes on where it
was and writes the same spec.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_mechanism.commands.config import read_config
from pytest_mechanism.commands.models import add_model_options, open_session, print_work
from pytest_mechanism.commands.output import say
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.files import temporary_beside, write_text

if TYPE_CHECKING:
    from pytest_mechanism.claims.base import Claim, ClaimContext
    from pytest_mechanism.discovery.claims import Written
    from pytest_mechanism.discovery.discover import Discovery, Effort
    from pytest_mechanism.runner.evaluator import ClaimEvaluator
    from pytest_mechanism.spec.spec import Spec

NOT_SHOWN = 1
"""Nothing was found, or what was found does not do what the model does."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "discover",
        help="find a circuit by path patching and minimality, and write it as a spec",
        description="Find the heads of a spec's groups on a checkpoint and write a spec with heads, "
        "claims and scores. With --model-pair, heads are found on the first checkpoint, and claims are "
        "judged on both: only what holds is written, and a gate on the new spec judges the second too. "
        "What the search needs (prompts, positions, backgrounds) is checked before anything is "
        "measured. Interrupted, the same command goes on where it was. Exit code 1: a group was not "
        "found, the circuit does not suffice on rows that the search never saw, or no claim holds on "
        "the second checkpoint.",
    )
    parser.add_argument(
        "spec", type=Path, metavar="SPEC", help="groups with at, into and via; heads are found anew"
    )
    add_model_options(parser)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="default: SPEC's name with the model's label"
    )
    parser.add_argument("--force", action="store_true", help="overwrite FILE")
    parser.add_argument("--seed", type=int, metavar="N", help="of the rows, over the spec's")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0 where a spec was written of a circuit that suffices, 1 where it does not, where groups or claims
    about the fine-tune are missing, or where nothing was found, 2 for wrong use."""
    from pytest_mechanism.discovery.claims import OF_THE_CIRCUIT
    from pytest_mechanism.discovery.discover import Effort, compare
    from pytest_mechanism.spec.load import load

    spec = load(arguments.spec)
    if not spec.groups:
        raise MechanismError(
            f"{arguments.spec} has no groups to search; each needs at, and into with via"
        )
    if arguments.seed is not None:
        settings = spec.task.settings.model_copy(update={"seed": arguments.seed})
        spec = spec.model_copy(update={"task": replace(spec.task, settings=settings)})
    evaluator = open_session(arguments, read_config(arguments, [arguments.spec])).evaluator
    runner = evaluator.runner
    label = runner.references["base"].label
    out = arguments.out or arguments.spec.with_name(f"{arguments.spec.stem}_{label}.yaml")
    if out.exists() and not arguments.force:
        raise MechanismError(
            f"{out} exists already; --force overwrites it, --out takes another name"
        )
    check_writable(out)  # before hours of search, and not after
    search = Search(evaluator, spec, Effort())
    try:
        search.make_preflight()
        for role in runner.references:
            search.on(role)
    except MechanismError as problem:
        if runner.done:
            print_work(runner)
        raise problem.at(search.place) from None
    if len(search.found) == 2:
        base, ft = (search.found[role].groups for role in ("base", "ft"))
        say(f"{runner.references['ft'].label} against {label}: precision, recall, Jaccard")
        for name, (precision, recall, jaccard) in compare(base, ft).items():
            say(f"  {name:<20} {precision:.2f}  {recall:.2f}  {jaccard:.2f}")
    if search.claims:
        say("claims, on rows that the search never saw:")
        for claim in search.claims:
            for role in claim.verdicts:
                on = f"{claim.name} on {role}" if len(runner.references) > 1 else claim.name
                say(f"  {on:<24} {claim.outcome(role)}")
    print_work(runner)
    if "base" not in search.found:
        return NOT_SHOWN
    write_text(out, search.text())
    left = [claim.name for claim in search.claims if not claim.holds]
    say(f"wrote {out}" + (f", without what is not shown: {', '.join(left)}" if left else ""))
    unjudged = "ft" in runner.references and not any(c.judges_ft for c in search.claims)
    if unjudged:
        say("no claim of it judges the fine-tune, so a gate on it is red", err=True)
    missing = search.found["base"].reason is not None
    return NOT_SHOWN if missing or unjudged or {*left} & {*OF_THE_CIRCUIT} else 0


@dataclass
class Search:
    """A search for a spec's groups on each model, and the claims about what was found on base.

    Attributes:
        gate: measures.
        spec: its groups are sought, whatever heads they name.
        effort: rows of each step.
        found: role -> what was found, where anything was.
        claims: about base's circuit.
    """

    evaluator: ClaimEvaluator
    spec: Spec
    effort: Effort
    found: dict[str, Discovery] = field(default_factory=dict)
    claims: list[Written] = field(default_factory=list)

    @property
    def place(self) -> str:
        """``file:line`` of the groups."""
        return f"{self.spec.path}:{self.spec.document.line(('groups',))}"

    def context(self, role: str) -> ClaimContext:
        """With no heads known."""
        from pytest_mechanism.claims.accuracy import Accuracy
        from pytest_mechanism.discovery.claims import sought

        context = self.evaluator.context(
            self.spec, Accuracy(kind="accuracy", on=role, at_least=0.01), role
        )
        return replace(context, groups=sought(self.spec.groups))

    def make_preflight(self) -> None:
        """Before anything is measured: can all that the search may come to be measured?

        Raises:
            MechanismError: not all of it.
        """
        from pytest_mechanism.discovery.preflight import of_claims, of_search

        for role in self.evaluator.runner.references:
            context = self.context(role)
            wanted = (
                *of_search(context, role, self.effort),
                *of_claims(context, role, self.effort),
            )
            if (problem := self.evaluator.first_obstacle(wanted)) is not None:
                raise problem

    def on(self, role: str) -> None:
        """Search on one model, and say what came of it."""
        from pytest_mechanism.discovery.claims import judged_on, of_circuit, of_pair
        from pytest_mechanism.discovery.discover import discover

        label, measure = self.evaluator.runner.references[role].label, self.evaluator.runner.measure
        context = self.context(role)
        result = discover(context, role, measure, self.effort)
        if result.reason is not None:
            say(f"{label}: {result.reason}", err=True)
        if result.groups:
            self.found[role] = result
            say(f"{label}:")
            for name, group in result.groups.items():
                heads = " ".join(f"{layer}.{head}" for layer, head in group.members())
                say(f"  {name:<20} {heads}")
            for name in self.spec.groups:
                if name not in result.groups:
                    say(f"  {name:<20} not found")
            for line in (*screening(result), *growth(result)):
                say(f"  {line}")
        if role == "base" and result.groups:
            self.claims = of_circuit(context, result, role, measure, self.effort)
        elif role == "ft" and "base" in self.found:
            self.claims = [
                *judged_on(self.claims, role, self.with_base, measure),
                *of_pair(self.with_base, measure),
            ]

    def with_base(self, claim: Claim, role: str) -> ClaimContext:
        """Of a claim about base's circuit on another role."""
        groups = self.found["base"].groups
        return replace(self.evaluator.context(self.spec, claim, role), groups=groups)

    def text(self) -> str:
        """The new spec."""
        from pytest_mechanism.discovery.write import spec_text

        runner = self.evaluator.runner
        label, mark = runner.references["base"].label, runner.fingerprints["base"].short
        also = ""
        if "ft" in runner.references:
            also = f"{runner.references['ft'].label} ({runner.fingerprints['ft'].short})"
        return spec_text(self.spec, self.found["base"], self.claims, label, mark, "base", also)


def check_writable(out: Path) -> None:
    """Whether a file can be made there.

    Raises:
        MechanismError: it cannot.
    """
    try:
        if out.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        with temporary_beside(out) as trial:
            trial.touch()
    except OSError as problem:
        raise MechanismError(f"--out {out} cannot be written: {problem.strerror}") from None


def screening(result: Discovery) -> list[str]:
    """How many heads were judged by gradient alone."""
    return [
        f"{stage.group}: {stage.screened_out} of {stage.screened_out + len(stage.effects)} heads "
        "screened out by gradient, the others path patched"
        for stage in result.stages
        if stage.screened_out
    ]


def growth(result: Discovery) -> list[str]:
    """What joined the heads of large effect, and whether the circuit suffices now."""
    from pytest_mechanism.discovery.sufficiency import ENOUGH

    grown = result.grown
    if grown is None:
        return []
    found = [
        f"{layer}.{head} joined {group}: heads of large effect alone do not suffice"
        for group, (layer, head) in grown.joined
        if (layer, head) in result.groups[group].members()
    ]
    if grown.faithfulness is None:
        found.append("faithfulness has no value: the model does no better than with silent heads")
    elif grown.faithfulness.interval[0] < ENOUGH:
        low, high = grown.faithfulness.interval
        found.append(
            f"this circuit does not suffice: faithfulness {grown.faithfulness.value:.2f} "
            f"[{low:.2f}, {high:.2f}] on the rows that it was grown on, and no head surely helps"
        )
    return found
