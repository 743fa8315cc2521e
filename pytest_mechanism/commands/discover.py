"""``pytest-mechanism discover SPEC --model REF``: find a circuit and write it as a spec.

Every step is a measurement in the store, so the same command after an interruption goes on where it
was and writes the same spec.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_mechanism.commands.say import say
from pytest_mechanism.commands.session import add_model_options, open_gate, say_what_was_done
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.spec.parts import Group

if TYPE_CHECKING:
    from pytest_mechanism.discovery.discover import Discovery

NOT_SHOWN = 1
"""Nothing was found, or what was found does not do what the model does."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "discover",
        help="find a circuit by path patching and minimality, and write it as a spec",
        description="Find the heads of a spec's groups on a checkpoint and write a spec with heads, "
        "claims and scores. Interrupted, the same command goes on where it was. Exit code 1: nothing was "
        "found, or the circuit does not suffice on rows that the search never saw.",
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


def run(given: argparse.Namespace) -> int:
    """0 where a spec was written of a circuit that suffices, 1 where it does not or nothing was
    found, 2 for wrong use."""
    from pytest_mechanism.claims.accuracy import Accuracy
    from pytest_mechanism.discovery.discover import Effort, compare, discover
    from pytest_mechanism.discovery.write import OF_THE_CIRCUIT, claims_for, sought, spec_text
    from pytest_mechanism.spec.load import load

    spec = load(given.spec)
    if not spec.groups:
        raise MechanismError(
            f"{given.spec} has no groups to search; each needs at, and into with via"
        )
    if given.seed is not None:
        settings = spec.task.settings.model_copy(update={"seed": given.seed})
        spec = replace(spec, task=replace(spec.task, settings=settings))
    gate = open_gate(given)
    runner = gate.runner
    label = runner.references["base"].label
    out = given.out or given.spec.with_name(f"{given.spec.stem}_{label}.yaml")
    if out.exists() and not given.force:
        raise MechanismError(
            f"{out} exists already; --force overwrites it, --out takes another name"
        )
    check_writable(out)  # before hours of search, and not after

    effort = Effort()
    found: dict[str, dict[str, Group]] = {}
    written, claims = "", []
    for role, reference in runner.references.items():
        case = gate.case(spec, Accuracy(kind="accuracy", on=role, at_least=0.01), role)
        case = replace(case, groups=sought(spec.groups))
        result = discover(case, role, runner.measure, effort)
        if result.reason is not None:
            say(f"{reference.label}: {result.reason}", err=True)
            continue
        found[role] = dict(result.groups)
        say(f"{reference.label}:")
        for name, group in result.groups.items():
            heads = " ".join(f"{layer}.{head}" for layer, head in group.members())
            say(f"  {name:<20} {heads}")
        for line in (*screening(result), *growth(result)):
            say(f"  {line}")
        if role == "base":
            claims = claims_for(case, result, role, runner.measure, effort)
            written = spec_text(
                spec, result, claims, reference.label, runner.fingerprints[role].short, role
            )
    if len(runner.references) == 2 and len(found) == 2:
        say(f"{runner.references['ft'].label} against {label}: precision, recall, Jaccard")
        for name, (precision, recall, jaccard) in compare(found["base"], found["ft"]).items():
            say(f"  {name:<20} {precision:.2f}  {recall:.2f}  {jaccard:.2f}")
    if claims:
        say("claims, on rows that the search never saw:")
        for claim in claims:
            say(f"  {claim.name:<24} {claim.outcome}")
    say_what_was_done(runner)
    if not written:
        return NOT_SHOWN
    temporary = out.with_name(f"{out.name}.{os.getpid()}.tmp")
    temporary.write_text(written, encoding="utf-8")
    os.replace(temporary, out)
    left = [claim.name for claim in claims if not claim.holds]
    say(f"wrote {out}" + (f", without what is not shown: {', '.join(left)}" if left else ""))
    return NOT_SHOWN if set(left) & set(OF_THE_CIRCUIT) else 0


def check_writable(out: Path) -> None:
    """Whether a file can be made there.

    Raises:
        MechanismError: it cannot.
    """
    trial = out.with_name(f"{out.name}.{os.getpid()}.tmp")
    try:
        if out.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        trial.touch()
        trial.unlink()
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
