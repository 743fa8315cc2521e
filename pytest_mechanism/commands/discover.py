"""``pytest-mechanism discover SPEC --model REF``: find a circuit and write it as a spec.

Every step is a measurement in the store: after an interruption, the same command continues and writes
the same spec.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_mechanism.commands.config import read_config
from pytest_mechanism.commands.models import add_model_options, open_session, print_work
from pytest_mechanism.commands.output import BAD_USE, appeared, not_written, say
from pytest_mechanism.commands.searched import members_of, offering, with_seed
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.files import temporary_beside, write_text
from pytest_mechanism.nodes import KINDS, spelled
from pytest_mechanism.progress import Silent
from pytest_mechanism.report.progress import InSteps

if TYPE_CHECKING:
    from pytest_mechanism.claims.base import Claim
    from pytest_mechanism.claims.context import ClaimContext
    from pytest_mechanism.discovery.claims import DraftClaim
    from pytest_mechanism.discovery.discover import Discovery, Effort
    from pytest_mechanism.runner.evaluator import ClaimEvaluator
    from pytest_mechanism.spec.spec import Spec

INCOMPLETE = 1
"""Exit code: a group was not found, the circuit does not suffice, or no claim judges the fine-tune."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "discover",
        help="find a circuit by path patching and minimality, and write it as a spec",
        description="Find the heads of a spec's groups on a checkpoint, and their MLPs and attention outputs "
        "where --members or find: {members: ...} offers them, and write a spec with these members, "
        "claims and scores. With --model-pair, they are found on the first checkpoint, and every "
        "claim is judged on both: the new spec contains the claims that hold, so that a gate on it "
        "judges the second too. The command checks everything that the search needs (prompts, positions, "
        "ablation prompts) before it measures. After an interruption, the same command continues. "
        "Exit code 1: a group was not found, the circuit does not suffice on rows that the search did "
        "not use, or no claim holds on the second checkpoint.",
    )
    parser.add_argument(
        "spec",
        type=Path,
        metavar="SPEC",
        help="a spec whose groups have at, into and via; members that it names are ignored",
    )
    parser.add_argument(
        "--members",
        type=members_of,
        metavar="KINDS",
        help=f"what may be a member of a group: {', '.join(KINDS)}, joined by commas (default: heads, or what "
        "the group's find: {members: ...} names)",
    )
    add_model_options(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the new spec (default: SPEC's name and the model's label)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite FILE")
    parser.add_argument(
        "--seed", type=int, metavar="N", help="seed of the rows, instead of the spec's"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Search, print and write; 0 for a circuit that suffices, with all groups and with a claim about
    the fine-tune, else 1.

    Raises:
        MechanismError: wrong use, or something that the search needs cannot be measured.
    """
    from pytest_mechanism.discovery.discover import Effort
    from pytest_mechanism.spec.load import load

    spec = load(arguments.spec)
    if not spec.groups:
        raise MechanismError(
            f"{arguments.spec} has no groups to search; each needs at, and into with via"
        )
    spec = offering(spec, arguments.members)
    spec = with_seed(spec, arguments.seed)
    session = open_session(arguments, read_config(arguments, [arguments.spec]))
    steps = InSteps(session.progress or Silent())
    session.progress = steps
    evaluator = session.evaluator
    search = Search(evaluator, spec, Effort(), steps)
    out = checked_output(arguments, search.label("base"))
    try:
        search.make_preflight()
        for role in search.roles:
            search.search_role(role)
    except MechanismError as problem:
        if evaluator.runner.done:
            print_work(evaluator.runner)
        raise problem.at(spec.place("groups")) from None
    for line in (*search.comparison(), *search.verdicts()):
        say(line)
    print_work(evaluator.runner)
    if "base" not in search.results:
        say(not_written(out), err=True)
        return INCOMPLETE
    if appeared(out, arguments.force):
        return BAD_USE
    write_text(out, search.spec_text())
    for line in search.about_file(out):
        say(line)
    shortcomings = [*search.shortcomings()]
    for line in shortcomings:
        say(line, err=True)
    return INCOMPLETE if shortcomings or search.results["base"].reason else 0


@dataclass
class Search:
    """A search for a spec's groups on each model, and the claims about base's circuit.

    Attributes:
        evaluator: measures.
        spec: its groups are searched, whatever heads they name.
        effort: rows of each step.
        steps: announces what begins.
        results: role -> groups and how they were found, if any were.
        claims: about base's circuit.
    """

    evaluator: ClaimEvaluator
    spec: Spec
    effort: Effort
    steps: InSteps = field(default_factory=partial(InSteps, Silent()))
    results: dict[str, Discovery] = field(default_factory=dict)
    claims: list[DraftClaim] = field(default_factory=list)

    @property
    def roles(self) -> list[str]:
        """The roles to search on. Further checkpoints only restrict the words of the task."""
        return [role for role in ("base", "ft") if role in self.evaluator.runner.references]

    def label(self, role: str) -> str:
        return self.evaluator.runner.references[role].label

    def context(self, role: str) -> ClaimContext:
        """The context of a search on a role's model, in which no group has members yet."""
        from pytest_mechanism.discovery.claims import without_heads

        context = self.evaluator.model_context(self.spec, role)
        return replace(context, groups=without_heads(self.spec.groups))

    def make_preflight(self) -> None:
        """Check that everything that the search may need can be measured.

        Raises:
            MechanismError: some of it cannot.
        """
        from pytest_mechanism.discovery.preflight import claim_measurements, search_measurements

        for role in self.roles:
            context = self.context(role)
            needed = (
                *search_measurements(context, role, self.effort),
                *claim_measurements(context, role, self.effort),
            )
            if (problem := self.evaluator.first_obstacle(needed)) is not None:
                raise problem

    def search_role(self, role: str) -> None:
        """Search on one model, print its groups, and judge the claims on it."""
        from pytest_mechanism.discovery.claims import circuit_claims, judge_on, pair_claims
        from pytest_mechanism.discovery.discover import STEPS_BESIDE_STAGES, discover

        measure = self.evaluator.runner.measure
        context = self.context(role)
        self.steps.begin(len(self.spec.groups) + STEPS_BESIDE_STAGES + 1)
        result = discover(context, role, measure, self.effort, self.steps.step)
        if result.reason is not None:
            say(f"{self.label(role)}: {result.reason}", err=True)
        if result.groups:
            self.results[role] = result
            say(f"{self.label(role)}:")
            for line in self.group_lines(result):
                say(f"  {line}")
        self.steps.step("claims, on rows that the search does not use")
        if role == "base" and result.groups:
            self.claims = circuit_claims(context, result, role, measure, self.effort)
        elif role == "ft" and "base" in self.results:
            self.claims = [
                *judge_on(self.claims, role, self.context_with_base, measure),
                *pair_claims(self.context_with_base, measure),
            ]

    def group_lines(self, result: Discovery) -> Iterator[str]:
        """The members of each group, and how the search came to them."""
        from pytest_mechanism.claims.needed_heads import parts_of
        from pytest_mechanism.discovery.remarks import growth, screening

        for name, group in result.groups.items():
            yield f"{name:<20} {' '.join(spelled(part[:2]) for part in parts_of(group))}"
        for name in self.spec.groups:
            if name not in result.groups:
                yield f"{name:<20} not found"
        yield from screening(result)
        yield from growth(result)

    def context_with_base(self, claim: Claim, role: str) -> ClaimContext:
        """The context of a claim about base's circuit on another role."""
        groups = self.results["base"].groups
        return replace(self.evaluator.context(self.spec, claim, role), groups=groups)

    def comparison(self) -> Iterator[str]:
        """How well the fine-tune's groups match base's, if both were found."""
        from pytest_mechanism.discovery.discover import compare

        if len(self.results) == 2:
            base, ft = (self.results[role].groups for role in ("base", "ft"))
            yield f"{self.label('ft')} against {self.label('base')}: precision, recall, Jaccard"
            for name, (precision, recall, jaccard) in compare(base, ft).items():
                yield f"  {name:<20} {precision:.2f}  {recall:.2f}  {jaccard:.2f}"

    def verdicts(self) -> Iterator[str]:
        """The verdict on each claim and role."""
        if self.claims:
            yield "claims, on rows that the search did not use:"
        for claim in self.claims:
            for role in claim.verdicts:
                title = f"{claim.name} on {role}" if len(self.roles) > 1 else claim.name
                yield f"  {title:<24} {claim.outcome(role)}"

    def about_file(self, out: Path) -> Iterator[str]:
        """What was written, and which claims it lacks."""
        failing = [claim.name for claim in self.claims if not claim.holds]
        if len(failing) == len(self.claims):
            yield (
                f"wrote {out}; none of its claims holds on {self.label('base')}, and a spec needs a "
                f"claim: it has {failing[0]}, which is red"
            )
        else:
            note = f", without claims that do not hold: {', '.join(failing)}" if failing else ""
            yield f"wrote {out}{note}"

    def shortcomings(self) -> Iterator[str]:
        """Why the new spec is not what a gate needs, beside groups that were not found."""
        from pytest_mechanism.discovery.claims import ESSENTIAL_CLAIMS

        failing = {claim.name for claim in self.claims if not claim.holds}
        for name in ESSENTIAL_CLAIMS:
            if name in failing:
                yield f"{name} does not hold on {self.label('base')}, so the exit code is {INCOMPLETE}"
        if "ft" in self.roles and not any(claim.judges_ft for claim in self.claims):
            yield "no claim of it judges the fine-tune, so a gate on it is red"

    def spec_text(self) -> str:
        """The new spec, as YAML."""
        from pytest_mechanism.discovery.write import spec_text

        marks = {role: self.evaluator.runner.fingerprints[role].short for role in self.roles}
        ft = f"{self.label('ft')} ({marks['ft']})" if "ft" in marks else ""
        return spec_text(
            self.spec,
            self.results["base"],
            self.claims,
            self.label("base"),
            marks["base"],
            "base",
            ft,
        )


def checked_output(arguments: argparse.Namespace, base: str) -> Path:
    """Where the new spec is to be, before hours of search.

    Args:
        arguments: of the command.
        base: the label of the model.

    Raises:
        MechanismError: a file is there, or none can be written.
    """
    out: Path = arguments.out or arguments.spec.with_name(f"{arguments.spec.stem}_{base}.yaml")
    if out.exists() and not arguments.force:
        raise MechanismError(
            f"{out} exists already; --force overwrites it, --out takes another name"
        )
    check_writable(out)
    return out


def check_writable(out: Path) -> None:
    """Check that the file of ``--out`` can be written.

    Raises:
        MechanismError: it cannot.
    """
    try:
        if out.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        with temporary_beside(out) as temporary:
            temporary.touch()
    except OSError as problem:
        raise MechanismError(f"--out {out} cannot be written: {problem.strerror}") from None
