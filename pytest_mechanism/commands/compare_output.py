"""What ``compare`` prints and writes: the conclusion and the table, a spec, a picture, JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_mechanism.commands.compare_work import Work, on_stream
from pytest_mechanism.commands.models import print_work
from pytest_mechanism.commands.output import BAD_USE, appeared, not_written, say
from pytest_mechanism.files import write_text

if TYPE_CHECKING:
    from pytest_mechanism.claims.base import Claim
    from pytest_mechanism.runner.evaluator import ClaimEvaluator
    from pytest_mechanism.spec.spec import Spec
    from pytest_mechanism.types import Verdict

INCOMPLETE = 1
"""Exit code: no claim about heads or MLPs holds."""


def finish(work: Work, arguments: argparse.Namespace) -> int:
    """Print the conclusion and the table, and write the files."""
    from pytest_mechanism.comparison.as_json import as_json
    from pytest_mechanism.comparison.table import table

    result = work.result
    for line in (*work.lines, "", *table(result, work.labels)):
        say(line)
    code = 0
    if arguments.out is not None:
        code = write_spec(work, arguments.out, arguments.force)
    print_work(work.evaluator.runner)
    if arguments.picture is not None:
        draw(work, arguments.picture)
    if arguments.json is not None:
        data = as_json(result, work.lines, identities(work.evaluator))
        write_text(arguments.json, json.dumps(data, indent=2) + "\n")
        say(f"wrote {arguments.json}")
    return code


def identities(evaluator: ClaimEvaluator) -> dict[str, dict[str, str]]:
    """Role -> label, reference and fingerprint."""
    runner = evaluator.runner
    return {
        role: {
            "label": runner.references[role].label,
            "reference": runner.references[role].text,
            "fingerprint": runner.fingerprints[role].model,
        }
        for role in ("base", "ft")
    }


def write_spec(work: Work, out: Path, force: bool) -> int:
    """Write the spec with the claims that hold, after a run of all of them; ``force`` replaces any file.

    Returns:
        The exit code.
    """
    from pytest_mechanism.commands.new import load_text
    from pytest_mechanism.comparison.drafts import Drafts, drafts, unmeasured
    from pytest_mechanism.comparison.written import holding, spec_text
    from pytest_mechanism.discovery.discover import THRESHOLD, Effort

    runner = work.evaluator.runner
    first = Drafts(*unmeasured(work.circuits, bool(work.result.changed)))
    work.evaluator.plan(items_of(load_text(out, spec_text(work.spec, first, ("", ""), (), {}))))
    made = drafts(
        work.context,
        work.circuits,
        bool(work.result.changed),
        lambda measurement: runner.measure(on_stream(measurement, THRESHOLD)),
        work.asked or Effort().threshold_rows,
    )
    base, ft = (
        f"{work.labels[role]} ({runner.fingerprints[role].short})" for role in ("base", "ft")
    )
    write = partial(spec_text, work.spec, made, (base, ft), work.lines)
    trial = load_text(out, write({}))
    work.evaluator.plan(items_of(trial))
    verdicts: dict[str, Mapping[str, Verdict]] = {
        name: {role: work.evaluator.judge(trial, claim, role) for role in claim.roles()}
        for name, claim in trial.claims.items()
    }
    kept = holding(made, verdicts)
    total = sum(len(of) for of in verdicts.values())
    green = sum(not v.red for name in kept for v in verdicts[name].values())
    if not kept:
        say(f"no claim holds on both checkpoints, so {not_written(out)}", err=True)
        return INCOMPLETE
    if appeared(out, force):
        return BAD_USE
    load_text(out, write(verdicts), keep=True)
    say(f"wrote {out}: {green} of {total} claims hold on rows that chose none of them")
    for name in made.claims:
        if name not in kept:
            say(f"  without {name}, which does not hold")
    judging = [name for name in kept if made.claims[name].get("kind") != "accuracy"]
    if not judging:
        say("no claim about heads or MLPs holds, so a gate on it sees the task alone", err=True)
        return INCOMPLETE
    return 0


def items_of(spec: Spec) -> list[tuple[Spec, Claim, str]]:
    """Every claim of a spec on every role that it judges."""
    return [(spec, claim, role) for claim in spec.claims.values() for role in claim.roles()]


def draw(work: Work, path: Path) -> None:
    """Draw the picture."""
    from pytest_mechanism.commands.compare_picture import maps, save

    save(maps(work.spec, work.result, work.labels, work.evaluator.shapes["base"]), path)
    say(f"wrote {path}")
