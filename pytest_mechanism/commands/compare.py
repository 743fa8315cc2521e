"""``pytest-mechanism compare [SPEC] --model-pair A,B``: what changed between two checkpoints, for somebody without
a hypothesis.

Every measurement goes through the store, so that a second call loads no model.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_mechanism.commands.config import read_config
from pytest_mechanism.commands.discover import check_writable
from pytest_mechanism.commands.models import add_model_options, open_session, print_work
from pytest_mechanism.commands.output import not_written, say
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.files import check_output, remove_output
from pytest_mechanism.report.pictures import MARK as PICTURE_MARK

if TYPE_CHECKING:
    from pytest_mechanism.runner.evaluator import ClaimEvaluator

INCOMPLETE = 1
"""Exit code: a model is at chance, so that nothing can be compared, or no claim judges the second checkpoint."""

NO_TASK = "name what to compare on: SPEC, --task FAMILY, or --text FILE"

LEAST_ROWS, MOST_ROWS = 10, 100_000
"""Rows that the user may ask for: an interval needs ten."""

MARKS = {"json": '"mechanism_compare', "picture": PICTURE_MARK}
"""Options that name a file which a later comparison replaces, and what tells it from other files."""

SIZES = ("n_layers", "n_heads", "d_head", "d_model")
"""Sizes that both models must share."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "compare",
        help="say what changed between two checkpoints: every head, MLP and layer",
        description="Compare every head, MLP and layer of two checkpoints: the work that it does for the answer "
        "(path patching to the readers of each group and to the logits), what its activation does in the other "
        "model, and how far its weights moved. The first lines say which heads do the work now. A member counts "
        "as changed if it changed by more than --margin, at a false-discovery rate of 5% over all members. "
        "--out writes a spec with claims that hold on both checkpoints, ready to be a gate. With --text, no task "
        "is needed: the command compares the next-token distributions on your text, and says from which layer on "
        "they differ. Exit code 1: a model does not solve the task, or no claim of the new spec judges the second "
        "checkpoint.",
    )
    parser.add_argument(
        "spec", type=Path, nargs="?", metavar="SPEC", help="a spec: its task and its groups"
    )
    parser.add_argument(
        "--task", metavar="FAMILY", help="a task family and its groups, instead of a spec"
    )
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="a setting of --task, its value as in YAML: boxes=7",
    )
    parser.add_argument(
        "--text",
        type=Path,
        metavar="FILE",
        help="plain text in UTF-8, instead of a task; each line is a passage",
    )
    add_model_options(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write a spec for a gate")
    parser.add_argument("--force", action="store_true", help="overwrite the file of --out")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="draw the heads of both models (.svg or .png)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number as JSON")
    parser.add_argument(
        "--margin",
        type=float,
        metavar="X",
        help="the largest change that counts as none, as a share of what exchanging the whole prompt does to the "
        "answer's logit (default: 0.05)",
    )
    parser.add_argument(
        "--rows",
        type=int,
        metavar="N",
        help="pairs of prompts (default: 210, of a model with more than 64 heads 64), or passages of --text "
        "(default: 200)",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the rows")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compare, print and write.

    Raises:
        MechanismError: wrong use, or models that cannot be compared.
    """
    for flag, mark in MARKS.items():  # where this comparison fails, none may stand for it
        if (path := getattr(arguments, flag)) is not None:
            remove_output(path, mark)
    check_arguments(arguments)
    if arguments.text is not None:
        from pytest_mechanism.commands import compare_text

        return compare_text.run(arguments)
    from pytest_mechanism.commands.compare_output import finish
    from pytest_mechanism.commands.compare_work import Work
    from pytest_mechanism.commands.compared_spec import spec_of

    spec = spec_of(arguments)
    session = open_session(arguments, read_config(arguments, [arguments.spec or Path()]))
    check_pair(session.evaluator, arguments)
    work = Work(session.evaluator, spec, arguments.margin, arguments.rows)
    try:
        work.make_preflight()
        if (reason := work.at_chance()) is not None:
            say(reason, err=True)
            if arguments.out is not None:
                say(not_written(arguments.out), err=True)
            print_work(session.evaluator.runner)
            return INCOMPLETE
        work.compare()
        return finish(work, arguments)
    except MechanismError:
        if session.evaluator.runner.done:
            print_work(session.evaluator.runner)
        raise
    finally:
        session.release()


def check_arguments(arguments: argparse.Namespace) -> None:
    """Check what was typed, before anything is loaded.

    Raises:
        MechanismError: it names no task, or two; or a file that cannot be written.
    """
    given = [arguments.spec is not None, arguments.task is not None, arguments.text is not None]
    if sum(given) != 1:
        raise MechanismError(NO_TASK if not any(given) else f"{NO_TASK}, and not two of them")
    check_values(arguments)
    if arguments.out is not None:
        check_spec_name(arguments.out, arguments.force)
        check_writable(arguments.out)
    if arguments.picture is not None and arguments.picture.suffix not in (".svg", ".png"):
        raise MechanismError(f"--picture {arguments.picture}: valid endings: .svg, .png")
    for flag, mark in MARKS.items():
        if (path := getattr(arguments, flag)) is not None:
            try:
                check_output(path, mark)
            except MechanismError as problem:
                raise MechanismError(f"--{flag} {problem.message}") from None


def check_values(arguments: argparse.Namespace) -> None:
    """Check options that need others, and numbers.

    Raises:
        MechanismError: one makes no sense.
    """
    if arguments.set and arguments.task is None:
        raise MechanismError("--set is a setting of --task, and there is none")
    if arguments.margin is not None and not 0 < arguments.margin < 1:
        raise MechanismError(f"--margin {arguments.margin:g}: must be more than 0 and less than 1")
    if arguments.rows is not None and not LEAST_ROWS <= arguments.rows <= MOST_ROWS:
        raise MechanismError(
            f"--rows {arguments.rows}: must lie between {LEAST_ROWS} and {MOST_ROWS:,}"
        )
    if arguments.seed is not None and not 0 <= arguments.seed < 2**31:
        raise MechanismError(f"--seed {arguments.seed}: must lie between 0 and {2**31 - 1}")
    if arguments.text is not None and (wrong := of_text(arguments)):
        raise MechanismError(f"{wrong} needs a task, and --text has none")


def check_spec_name(out: Path, force: bool) -> None:
    """Check that a new spec can have a name.

    Raises:
        MechanismError: it has another ending, or the file exists.
    """
    if out.suffix not in (".yaml", ".yml"):
        raise MechanismError(f"--out {out}: a spec's name ends with .yaml")
    if out.exists() and not force:
        raise MechanismError(
            f"{out} exists already; --force overwrites it, --out takes another name"
        )


def of_text(arguments: argparse.Namespace) -> str:
    """An option that makes no sense with ``--text``."""
    return next(
        (
            f"--{n}"
            for n in ("out", "picture", "margin", "seed")
            if getattr(arguments, n) is not None
        ),
        "",
    )


def check_pair(evaluator: ClaimEvaluator, arguments: argparse.Namespace) -> None:
    """Check that there are two models, of the same sizes.

    Raises:
        MechanismError: there is one, or their parts cannot be compared.
    """
    references, shapes = evaluator.runner.references, evaluator.shapes
    if "ft" not in references:
        raise MechanismError("compare needs two checkpoints: --model-pair A,B")
    base, ft = shapes["base"], shapes["ft"]
    different = [
        f"{name} {getattr(base, name)} and {getattr(ft, name)}"
        for name in SIZES
        if getattr(base, name) != getattr(ft, name)
    ]
    if different:
        raise MechanismError(
            f"{references['base'].label} and {references['ft'].label} differ in {', '.join(different)}, so their "
            "heads, MLPs and layers cannot be compared one by one"
        )
