"""The console script ``pytest-mechanism``: what is done about specs outside a pytest run."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pytest_mechanism import __version__
from pytest_mechanism.commands.output import Parser, say
from pytest_mechanism.errors import TRACEBACK, MechanismError, crash

BAD_SPEC = 2
BUG = 3
"""Something that nobody foresaw; pytest's own code for it."""
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0, or 2 for a bad spec or wrong use."""
    parser: argparse.ArgumentParser = Parser(
        prog="pytest-mechanism",
        description="Check and look at mechanism specs. The gate itself is "
        "'pytest circuits --model-pair BASE,FT'.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    from pytest_mechanism.commands.config import add_config_options

    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    linting = commands.add_parser(
        "lint",
        help="check specs without loading a model",
        description="Check specs; no torch needed.",
    )
    linting.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="specs, or folders of them"
    )
    linting.add_argument(
        "--resolved",
        action="store_true",
        help="print each spec with 'extends' followed and defaults filled in",
    )
    linting.add_argument(
        "--power",
        action="store_true",
        help="print for each accepted score the chance that an unchanged model passes",
    )
    add_config_options(linting)
    linting.set_defaults(run=lint)

    commands.add_parser("schema", help="print a JSON Schema of specs, for editors").set_defaults(
        run=print_schema
    )

    from pytest_mechanism.commands import discover, doctor, fine_tune, new, show

    discover.add_parser(commands)
    show.add_parser(commands)
    fine_tune.add_parser(commands)
    doctor.add_parser(commands)
    new.add_parser(commands)

    given = parser.parse_args(arguments)
    try:
        return int(given.run(given))
    except MechanismError as problem:
        say(f"pytest-mechanism: {problem}", err=True)
        if os.environ.get(TRACEBACK):
            for line in problem.trace.splitlines():
                say(line, err=True)
        return BAD_SPEC
    except KeyboardInterrupt:
        say("pytest-mechanism: interrupted; what was measured is kept", err=True)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output left
        sys.stderr.close()
        return 0
    except OSError as problem:  # a path that is too long, a folder that may not be read
        say(f"pytest-mechanism: {problem.filename}: {problem.strerror}", err=True)
        return BAD_SPEC
    except Exception as problem:
        if os.environ.get(TRACEBACK):
            raise
        say(f"pytest-mechanism: {crash(f'{given.command} failed', problem)}", err=True)
        return BUG


def lint(given: argparse.Namespace) -> int:
    """Every problem of every spec, one line each."""
    from pytest_mechanism.commands.config import read_config
    from pytest_mechanism.errors import SpecError
    from pytest_mechanism.plugin.collecting import spec_files
    from pytest_mechanism.spec.find import Stray, read_spec
    from pytest_mechanism.spec.load import SpecErrors

    config = read_config(given, given.paths)
    bad = 0
    for path in spec_files(given.paths, config):
        try:
            if isinstance(path, Stray):
                raise SpecError(path.wrong, f"{path.path}:1")
            spec = read_spec(path, root=config.rootpath)
        except SpecErrors as problems:
            bad += 1
            for each in problems.problems:
                say(each, err=True)
            continue
        except SpecError as problem:
            bad += 1
            say(problem, err=True)
            continue
        if given.resolved:
            text = yaml.safe_dump(spec.resolved(), sort_keys=False, default_flow_style=None)
            for line in text.splitlines():
                say(line)
        elif given.power:
            print_power(path, spec)
        else:
            items = sum(len(claim.roles()) for claim in spec.claims.values())
            say(f"{path}: ok, {len(spec.claims)} claims, {items} tests")
    return BAD_SPEC if bad else 0


def print_power(path: Path, spec: Any) -> None:
    """One line an accepted score, for every pair that has some."""
    from pytest_mechanism.plugin.snapshot import FOLDER, read_scores
    from pytest_mechanism.report.result import asked
    from pytest_mechanism.statistics.power import WANTED, of_spec, power

    files = sorted((path.parent / FOLDER).glob(f"*/{path.stem}.json"))
    if not files:
        say(
            f"{path}: no accepted scores to plan from; accept some with "
            "pytest ... --model-pair BASE,FT --snapshot-update"
        )
        return
    for file in files:
        say(f"{path}, {file.parent.name}: chance that an unchanged model passes on fresh rows")
        several = []
        for name, entry in sorted(read_scores(file).items()):
            if not entry.get("judged"):
                say(f"  {name:<40} no bound was judged: not counted")
                continue
            claim = spec.claims.get(name.partition(".")[0])
            if claim is not None and entry.get("asked", asked(claim)) != asked(claim):
                say(
                    f"  {name:<40} accepted under other thresholds than the spec has now: not "
                    "counted; --snapshot-update brings them up to date"
                )
                continue
            try:
                found = power([*entry["judged"], *entry.get("checks", ())], spec.confidence)
            except (KeyError, TypeError, ValueError):
                raise MechanismError(
                    f"the accepted score {name} is damaged; accept it again", f"{file}:1"
                ) from None
            several.append(found)
            rows = (
                "no number of rows gives 0.9"
                if found.rows is None
                else (f"{found.rows:,} rows give {WANTED}")
            )
            weak = "" if found.passes >= WANTED else "  <- too few rows, or a threshold too near"
            say(f"  {name:<40} {found.passes:.3f} with {found.now:,} rows ({rows}){weak}")
        if several:
            whole = of_spec(several)
            weak = "" if whole >= WANTED else "  <- some claim is red too often"
            say(
                f"  {'the whole spec':<40} {whole:.3f} or more (chances of failing added: claims "
                f"share their rows){weak}"
            )
            false_pass = max(each.false_pass for each in several)
            say(f"  a model exactly at a threshold passes at most {false_pass:.1%} of the time")


def print_schema(given: argparse.Namespace) -> int:
    from pytest_mechanism.spec.schema import schema

    for line in json.dumps(schema(), indent=1).splitlines():
        say(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
