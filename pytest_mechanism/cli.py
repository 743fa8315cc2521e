"""The console script ``pytest-mechanism``: chooses a command and turns its errors into exit codes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from pytest_mechanism import __version__
from pytest_mechanism.commands.output import BAD_USE, BUG, INTERRUPTED, Parser, say
from pytest_mechanism.errors import TRACEBACK, MechanismError, NoDevice, crash


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands, in the order of the help page."""
    # here, because Ctrl-C while they are imported is for `main` to answer
    from pytest_mechanism.commands import (
        badge,
        card,
        comment,
        compare,
        discover,
        doctor,
        fine_tune,
        history,
        init,
        lint,
        metrics,
        new,
        report,
        schema,
        show,
        sweep,
    )

    parser = Parser(
        prog="pytest-mechanism",
        description="Write, check and draw mechanism specs. To test a pair of models against specs, run "
        "'pytest circuits --model-pair BASE,FT'.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (
        lint, schema, discover, show, compare, sweep, fine_tune, doctor, new, init,
        report, comment, badge, card, metrics, history,
    ):  # fmt: skip
        command.add_parser(commands)
    return parser


def main(typed: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is the command's own, or 2 for a bad spec or wrong use."""
    command = "pytest-mechanism"
    try:
        arguments = make_parser().parse_args(typed)
        command = arguments.command
        return int(arguments.run(arguments))
    except MechanismError as problem:
        from pytest_mechanism.settings.table import DEVICE

        error = DEVICE.error(problem) if isinstance(problem, NoDevice) else problem
        say(f"pytest-mechanism: {error}", err=True)
        if os.environ.get(TRACEBACK):
            for line in problem.trace.splitlines():
                say(line, err=True)
        return BAD_USE
    except KeyboardInterrupt:
        say("pytest-mechanism: interrupted; finished measurements are kept", err=True)
        return INTERRUPTED
    except BrokenPipeError:  # nobody reads our output any more
        sys.stderr.close()
        return 0
    except OSError as problem:  # a path that is too long, a folder that may not be read
        say(f"pytest-mechanism: {problem.filename}: {problem.strerror}", err=True)
        return BAD_USE
    except Exception as problem:
        if os.environ.get(TRACEBACK):
            raise
        say(f"pytest-mechanism: {crash(f'{command} failed', problem)}", err=True)
        return BUG


if __name__ == "__main__":
    sys.exit(main())
