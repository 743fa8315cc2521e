"""``pytest-mechanism history FOLDER`` and ``pytest-mechanism history diff A.json B.json``: scores over runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from pytest_mechanism.commands.output import say
from pytest_mechanism.commands.result import read_result
from pytest_mechanism.errors import MechanismError

WORSE = 1
"""Something got worse."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "history",
        usage="pytest-mechanism history FOLDER [--html PAGE.html]\n"
        "       pytest-mechanism history diff A.json B.json",
        help="show scores over the runs that --mechanism-history kept, or compare two result files",
        description="FOLDER: show each score of each claim over the runs in the folder, with intervals, "
        "baselines and changes of definition. diff A.json B.json: compare two result files; exit code 1 if a score "
        "got worse with confidence, a claim turned red, or a claim of A has no result in B.",
    )
    parser.add_argument("what", nargs="+", type=Path, metavar="FOLDER | diff A.json B.json")
    parser.add_argument(
        "--html", type=Path, metavar="PAGE.html", help="also write the history as a page"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    what: list[Path] = arguments.what
    if str(what[0]) == "diff":
        if len(what) != 3 or arguments.html is not None:
            raise MechanismError(
                "history diff takes two result files, as in: pytest-mechanism history diff A.json B.json"
            )
        return diff(what[1], what[2])
    if len(what) != 1:
        raise MechanismError("history takes one folder, or: diff A.json B.json")
    return show(what[0], arguments.html)


def show(folder: Path, page: Path | None) -> int:
    from pytest_mechanism.report.history.folder import read_history
    from pytest_mechanism.report.history.timeline import lines

    if page is not None:
        from pytest_mechanism.report.page.files import check_path, remove_page

        try:
            check_path(page)
        except MechanismError as problem:
            raise MechanismError(f"--html: {problem.message}") from None
        remove_page(page)  # where there is no history, an earlier page must not stand for it
    runs, notes = read_history(folder)
    for line in lines(runs):
        say(line)
    if page is not None:
        from pytest_mechanism.files import write_text
        from pytest_mechanism.report.history.page import rendered

        write_text(page, rendered(folder.name, runs, notes))
        say(f"wrote {page}")
    for note in notes:
        say(f"pytest-mechanism: {note}", err=True)
    return 0


def diff(a: Path, b: Path) -> int:
    from pytest_mechanism.report.history.comparison import BAD, ORDER, compare_runs

    (old, _, _), (new, _, _) = read_result(a), read_result(b)
    compared = compare_runs(old, new)
    if not compared:
        raise MechanismError(f"{a} and {b} have no claim in common: nothing was compared")
    for entry in sorted(compared, key=lambda entry: ORDER.index(entry.change)):
        name = f"{entry.id} ({entry.score})" if entry.score else entry.id
        say(f"{entry.change}: {name}: {entry.text}")
    bad = sum(entry.change in BAD for entry in compared)
    tested = sum(entry.change in ("worse", "better", "no clear change") for entry in compared)
    say(f"{tested} scores compared; {bad} {'line' if bad == 1 else 'lines'} worse, red or missing")
    if tested:
        say(
            "the test is unpaired (result files hold no rows): one-sided at 2.5 %, corrected for the number of scores"
        )
    if not tested and not bad:
        say("no score could be compared, so this says nothing about a change", err=True)
        return WORSE
    return WORSE if bad else 0
