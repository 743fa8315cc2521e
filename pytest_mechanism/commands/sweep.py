"""``pytest-mechanism sweep SPEC ... --base REF --candidates REF ...``: gate many candidates against one base.

Each candidate has the gate that ``pytest SPEC --model-pair BASE,CANDIDATE`` would run, with its own result
file. All gates share a store, so the base is measured once, and so are candidates with equal files.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pytest_mechanism.checkpoints.fingerprint import of_reference
from pytest_mechanism.checkpoints.reference import Reference, labelled, parse_reference
from pytest_mechanism.commands.config import add_config_options, config_arguments, read_config
from pytest_mechanism.commands.gates import Finished, Gate, Gates, last_line
from pytest_mechanism.commands.output import INTERRUPTED, say
from pytest_mechanism.commands.specs import read_specs
from pytest_mechanism.errors import BadReference, MechanismError, without_choices
from pytest_mechanism.files import check_output, read_bytes, remove_output, write_json, write_text
from pytest_mechanism.report.candidates import (
    HEADING,
    Candidate,
    claims_of,
    content,
    markdown,
    outcome_of,
    table_lines,
)
from pytest_mechanism.report.json_file import MARK
from pytest_mechanism.report.page.files import remove_page
from pytest_mechanism.report.progress import duration_text
from pytest_mechanism.session import make_session, read_aliases
from pytest_mechanism.settings import table
from pytest_mechanism.settings.command_options import add_settings, pytest_arguments
from pytest_mechanism.settings.pytest_options import read, read_trust

NOT_GREEN = 1
"""Exit code: a candidate is not green."""

SETTINGS = (
    table.MODELS, table.DEVICE, table.DTYPE, table.QUANTIZE, table.BATCH_SIZE, table.ENGINE,
    table.CONFIDENCE, table.STORE, *table.TRUST, table.REQUIRE_ACCEPTED, table.NO_SKIPS, table.NO_LOCATE, table.RAY,
)  # fmt: skip

CANDIDATES = "candidates"
"""The folder of the candidates' results, in that of the sweep."""

MAX_LIST = 1 << 22
"""Bytes of a file of candidates."""

RANGE = re.compile(r"hf:.*@.*\.\.")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "sweep",
        help="gate many candidates against one base, and print one table with the worst first",
        description="Run the gate of the specs on each candidate, with the same base. The base, and "
        "candidates with equal files, are measured once. The output folder gets a result file for each "
        "candidate, sweep.json and sweep.md. Exit code 0: every candidate is green; 1: one is not.",
    )
    parser.add_argument(
        "specs", nargs="+", type=Path, metavar="SPEC", help="specs, or folders of specs"
    )
    parser.add_argument("--base", required=True, metavar="[LABEL=]REF", help="the base checkpoint")
    parser.add_argument(
        "--candidates", nargs="+", action="extend", default=[], metavar="[LABEL=]REF",
        help="checkpoints to gate; put the specs before this option",
    )  # fmt: skip
    parser.add_argument(
        "--candidates-from", type=Path, metavar="FILE",
        help="a text file with one [LABEL=]REF a line; relative paths count from the working directory",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=Path("mechanism-sweep"), metavar="FOLDER",
        help="folder for the results (default: mechanism-sweep)",
    )  # fmt: skip
    parser.add_argument(
        "-n", "--processes", type=int, default=1, metavar="N",
        help="number of gates that run at the same time (default: 1). Each has a checkpoint in memory; with "
        "--mechanism-device cuda, they use different GPUs as long as there are enough",
    )  # fmt: skip
    add_settings(parser, SETTINGS)
    add_config_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Gate every candidate; 0 if all are green, 1 if not, 130 after Ctrl-C.

    Raises:
        MechanismError: the base, a spec, a setting or the list of candidates is wrong.
    """
    remove_earlier(arguments.out)
    if not 1 <= arguments.processes <= 1000:
        raise MechanismError(f"-n {arguments.processes}: a number of processes from 1 to 1,000")
    typed = [*arguments.candidates, *listed(arguments.candidates_from)]
    if not typed:
        raise MechanismError("no candidate: add --candidates REF ... or --candidates-from FILE")
    config = read_config(arguments, arguments.specs)
    specs = resolved_specs(arguments.specs, config)
    session = make_session(config, arguments.base)
    base = session.references["base"]
    labels = labels_of(typed, base.label)
    store = session.store_folder
    if read(config, table.NO_STORE) or store is None:
        raise MechanismError(
            "a sweep keeps its measurements, because the base is measured once for all candidates, and this "
            "project turns the store off; name an empty folder with --mechanism-store"
        )
    files = prepare_output(arguments.out, labels)
    aliases, trust = read_aliases(config), read_trust(config)
    memory = store / "fingerprints.json"
    mark = session.fingerprints["base"]
    say(f"base: {base.label}, fingerprint {mark.short}")

    found: dict[str, Candidate] = {}
    gates: list[Gate] = []
    first: dict[str, str] = {}
    for label, text in labels.items():
        try:
            reference = parse_reference(f"{label}={text}", aliases, Path.cwd(), trust)
            if "," in text:
                raise BadReference(f"{text!r} has a comma; link it under another name")
            fingerprint = of_reference(reference, memory).model
        except MechanismError as problem:
            found[label] = Candidate(
                label, text, None, "error", f"cannot be read: {without_choices(str(problem))}"
            )
            continue
        same = first.setdefault(fingerprint, label)
        result = files / f"{label}.json"
        page = f"{table.REPORT.flag}={files / f'{label}.html'}"
        pages = [page] if read(config, table.REPORT) else []  # of the ini file, for every gate
        found[label] = Candidate(
            label, text, fingerprint, "not run", "the sweep was interrupted before its gate ended",
            same_as=None if same == label else same,
        )  # fmt: skip
        gates.append(
            Gate(
                label,
                (
                    *gate_arguments(arguments, base, reference, store),
                    f"{table.JSON.flag}={result}",
                    *pages,
                ),
                files / f"{label}.log",
                after=found[label].same_as,
            )
        )
    announce(found)
    runs = Gates(arguments.processes)
    for number, finished in enumerate(runs.run(gates), 1):
        label = finished.gate.label
        found[label] = judged(
            found[label], finished, files / f"{label}.json", runs.interrupted, mark.model,
            unchanged(specs, arguments.specs, config),
        )  # fmt: skip
        took = duration_text(finished.seconds)
        outcome = found[label].outcome
        say(f"[{number}/{len(gates)}] {label}: {outcome}, {took}", err=True, flush=True)
    return conclude(arguments.out, base, mark.model, list(found.values()), runs.interrupted)


def tables(out: Path) -> tuple[tuple[Path, str], ...]:
    """The files about all candidates, and what tells each from other files in its first bytes."""
    return (out / "sweep.json", '"mechanism_sweep"'), (out / "sweep.md", HEADING)


def remove_earlier(out: Path) -> None:
    """Remove tables, results and pages of an earlier sweep, which must not stand for one that does not start, nor
    beside this one's; other files stay.

    Raises:
        MechanismError: the folder cannot be read.
    """
    for path, mark in tables(out):
        remove_output(path, mark)
    try:
        for path in (out / CANDIDATES).glob("*.json"):
            remove_output(path, MARK)
        for path in (out / CANDIDATES).glob("*.html"):
            remove_page(path)
    except OSError as problem:
        raise MechanismError(f"--out {out}: {problem.strerror}") from None


def prepare_output(out: Path, labels: Iterable[str]) -> Path:
    """The folder for the candidates' results.

    Raises:
        MechanismError: the folder cannot be written, or a result would replace another file.
    """
    files = out / CANDIDATES
    try:
        files.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise MechanismError(f"--out {out}: {problem.strerror}") from None
    for path, mark in tables(out):
        check_output(path, mark)
    for label in labels:
        if (path := files / f"{label}.json").exists():
            raise MechanismError(
                f"--out {out}: {path} exists and is no result file; choose another folder"
            )
    return files


def listed(path: Path | None) -> list[str]:
    """The references in a file, without empty lines and comments.

    Raises:
        MechanismError: the file cannot be read, or names nothing.
    """
    if path is None:
        return []
    try:
        lines = read_bytes(path, MAX_LIST).decode().splitlines()
    except FileNotFoundError:
        raise MechanismError(f"--candidates-from: {path} does not exist") from None
    except UnicodeDecodeError:
        raise MechanismError(f"--candidates-from: {path} is no UTF-8 text") from None
    found = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    if not found:
        raise MechanismError(f"--candidates-from: {path} names no checkpoint")
    return found


def labels_of(typed: Sequence[str], base: str) -> dict[str, str]:
    """Label -> reference of each candidate.

    Raises:
        BadReference: two candidates have one label, one has the base's, or a reference is a range.
    """
    labels: dict[str, str] = {}
    for text in typed:
        label, reference = labelled(text)
        if RANGE.match(reference):
            raise BadReference(
                f"{reference}: a range of revisions needs the hub's history; name each revision, as in "
                "--candidates a=hf:org/name@REVISION b=hf:org/name@REVISION, or one a line in "
                "--candidates-from FILE"
            )
        if label == base or label in labels:
            owner = "the base" if label == base else f"the candidate {labels[label]}"
            raise BadReference(
                f"{reference} has the label {label!r} of {owner}; label it, as in {label}_b={reference}"
            )
        labels[label] = reference
    return labels


def gate_arguments(
    arguments: argparse.Namespace, base: Reference, candidate: Reference, store: Path
) -> tuple[str, ...]:
    """pytest's arguments for the gate of a candidate."""
    settings = [
        argument
        for argument in pytest_arguments(arguments)
        if not argument.startswith(f"{table.STORE.flag}=")
    ]
    return (
        *map(str, arguments.specs),
        *config_arguments(arguments),
        *settings,
        f"{table.STORE.flag}={store.absolute()}",
        f"{table.MODEL_PAIR.flag}={base.label}={base.text},{candidate.label}={candidate.text}",
    )


def announce(found: dict[str, Candidate]) -> None:
    """Say how many candidates there are, and which have equal files."""
    copies = Counter(c.same_as for c in found.values() if c.same_as is not None)
    unreadable = sum(c.outcome == "error" for c in found.values())
    different = len(found) - unreadable - copies.total()
    say(f"{len(found)} candidates, {different} different checkpoints")
    for label, count in copies.items():
        names = ", ".join(c.label for c in found.values() if c.same_as == label)
        verb = "has" if count == 1 else "have"
        say(f"{names} {verb} the same files as {label} and will take its measurements")


def resolved_specs(paths: Sequence[Path], config: pytest.Config) -> list[dict[str, Any]]:
    """The specs as data, with the hashes of the files that they name.

    Raises:
        MechanismError: a path or a spec is wrong.
    """
    return [spec.resolved() for spec in read_specs(paths, config)]


def unchanged(specs: list[dict[str, Any]], paths: Sequence[Path], config: pytest.Config) -> bool:
    """Whether the specs are still these."""
    try:
        return resolved_specs(paths, config) == specs
    except MechanismError:
        return False


def judged(
    candidate: Candidate,
    finished: Finished,
    path: Path,
    interrupted: bool,
    base: str,
    same_specs: bool,
) -> Candidate:
    """The candidate after its gate.

    Args:
        candidate: what was known before.
        finished: its gate.
        path: of its result file.
        interrupted: whether Ctrl-C ended the sweep early.
        base: the base's fingerprint when the sweep began.
        same_specs: whether the specs are those with which the sweep began.
    """
    result: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        result = json.loads(path.read_bytes())
    outcome, reason = outcome_of(finished.exit_code, result)
    if interrupted and finished.exit_code in (2, None):
        outcome, reason = "not run", candidate.reason
    elif changed := changed_role(result, {"base": base, "ft": candidate.fingerprint}):
        outcome, reason = "error", f"the files of {changed} changed during the sweep"
    elif not same_specs:
        outcome, reason = "error", "a spec changed during the sweep, so its claims may be others"
    elif not result:
        reason = f"{reason}: {last_line(finished.gate.log)}; its output is in {finished.gate.log}"
    return Candidate(
        candidate.label, candidate.reference, candidate.fingerprint, outcome, reason,
        exit_code=finished.exit_code,
        result=f"{CANDIDATES}/{path.name}" if result else None,
        same_as=candidate.same_as,
        measured=result.get("measurements", {}).get("done", 0),
        claims=claims_of(result),
    )  # fmt: skip


def changed_role(result: Mapping[str, Any], expected: Mapping[str, str | None]) -> str | None:
    """The role whose checkpoint the gate saw with another content than the sweep, or None."""
    for role, fingerprint in expected.items():
        seen = result.get("pair", {}).get(role, {}).get("fingerprint")
        if result.get("pair") and seen != fingerprint:
            return role
    return None


def conclude(
    out: Path, base: Reference, fingerprint: str, found: Sequence[Candidate], interrupted: bool
) -> int:
    """Write the files, print the table, and return the exit code."""
    green = all(candidate.outcome == "green" for candidate in found)
    code = INTERRUPTED if interrupted else 0 if green else NOT_GREEN
    about = {"label": base.label, "reference": base.text, "fingerprint": fingerprint}
    text = markdown(base.label, found)
    write_json(out / "sweep.json", content(about, found, code))
    write_text(out / "sweep.md", text)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with suppress(OSError), Path(summary).open("a", encoding="utf-8") as file:
            file.write(text)
    say("")
    for line in table_lines(found):
        say(line)
    measured = sum(candidate.measured for candidate in found)
    say(f"{measured} measurements made; results in {out}")
    return code
