"""``pytest-mechanism doctor --model-pair A,B [SPEC ...]``: will the gate run on this pair, how long will
it take, and how much memory?

The command loads each checkpoint as the gate would, one at a time and with all self-checks, runs a few
rows on it (`trial`), tries whether it does the tasks better than chance (`solving`), and asks every
claim of the specs what it needs. It judges nothing, and stores nothing but that the checks passed, so that the
gate need not repeat them. What it found goes to standard output; what
it is about to do, which may take minutes for a large checkpoint, goes to standard error.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_mechanism.checkpoints.config import read_config as checkpoint_config
from pytest_mechanism.checkpoints.gguf_file import quantisation
from pytest_mechanism.checkpoints.quantisers import quantiser
from pytest_mechanism.checkpoints.trust import weight_bytes
from pytest_mechanism.commands.config import read_config
from pytest_mechanism.commands.models import add_model_options, open_session
from pytest_mechanism.commands.output import say
from pytest_mechanism.commands.search_time import search_lines
from pytest_mechanism.commands.solving import solving_lines
from pytest_mechanism.commands.specs import read_specs
from pytest_mechanism.commands.trial import (
    MemoryWatch,
    Trial,
    memory_device,
    memory_in_use,
    run_trial,
)
from pytest_mechanism.errors import MechanismError, out_of_memory
from pytest_mechanism.files import is_gguf
from pytest_mechanism.progress import Silent
from pytest_mechanism.report.progress import InSteps, duration_text
from pytest_mechanism.runner.runner import check_device

if TYPE_CHECKING:
    from pytest_mechanism.checkpoints.reference import Reference
    from pytest_mechanism.claims.base import Claim
    from pytest_mechanism.measurements.measurement import Measurement
    from pytest_mechanism.runner.evaluator import ClaimEvaluator
    from pytest_mechanism.session import Session
    from pytest_mechanism.spec.spec import Spec
    from pytest_mechanism.tasks.base import Task

CANNOT_RUN = 1
"""Exit code: a checkpoint or a claim cannot run."""

SELF_CHECKED = {False: "passes its self-checks", True: "passed its self-checks before"}
"""Whether the checks of a checkpoint were recalled from the store -> what became of them."""

STEPS = 4
"""Steps of the work on a checkpoint: read, load, time, ask."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "doctor",
        help="print whether a pair can be tested, which claims will run, and about how long they take",
        description="Load each checkpoint of a pair as the gate would, with its self-checks, and "
        "print which claims of the specs will run, which will be skipped and why, and about how long "
        "they take. Exit code 1: a checkpoint cannot be loaded, a claim cannot run, or the gate cannot keep its "
        "measurements here.",
    )
    parser.add_argument(
        "specs", nargs="*", type=Path, metavar="SPEC", help="specs, or folders of specs"
    )
    add_model_options(parser)
    parser.set_defaults(run=run)


@dataclass
class Findings:
    """What the command finds out about the checkpoints.

    Attributes:
        broken: roles whose checkpoints cannot be loaded.
        trials: role -> speed and memory.
        loading: role -> seconds that loading takes, with the self-checks.
        needed: role -> the measurements that claims need on it.
        searched: roles on whose models heads have to be discovered.
    """

    broken: set[str] = field(default_factory=set)
    trials: dict[str, Trial] = field(default_factory=dict)
    loading: dict[str, float] = field(default_factory=dict)
    needed: dict[str, set[Measurement]] = field(default_factory=dict)
    searched: set[str] = field(default_factory=set)


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; 0 if everything will run or be skipped for a reason, else 1.

    Raises:
        MechanismError: no checkpoint was named, or a spec is invalid.
    """
    config = read_config(arguments, arguments.specs)
    specs = read_specs(arguments.specs, config)
    session = open_session(arguments, config)
    steps = InSteps(session.progress or Silent())
    session.progress = steps
    check_device(session.options.device)
    steps.begin(len(session.references) * STEPS + 1 if specs else 1)
    no_store = unusable_store(session)
    if no_store is not None:
        say(f"the gate CANNOT RUN in this folder: {no_store}")
    first = next(iter(session.references.values()))
    steps.step(f"read {stored_files(first)} for its fingerprint")
    evaluator = session.evaluator
    runner = evaluator.runner
    runner.store = None
    findings = Findings()
    libraries = memory_in_use(memory_device(runner.options.device))
    for role in runner.references:
        for line in checkpoint_lines(evaluator, role, specs, findings, steps):
            say(line, flush=True)
    runner.checkpoint.release()
    fails = bool(findings.broken) or no_store is not None
    if specs:
        steps.step("write and check the rows of every claim")
    for spec in specs:
        say("")
        say(spec.path)
        for line, can_run in claim_lines(evaluator, spec, findings):
            fails |= not can_run
            say(line)
    if findings.trials and any(findings.needed.values()):
        say("")
        say(memory_line(evaluator, findings, libraries))
    return CANNOT_RUN if fails else 0


def unusable_store(session: Session) -> str | None:
    """Why a gate has no place to keep measurements, as in a read-only folder; this command then does without."""
    try:
        _ = session.store_folder
    except MechanismError as problem:
        session.store_folder = None
        return problem.message
    return None


def stored_files(reference: Reference) -> str:
    """A checkpoint and the size of its weights, for the announcement of a step."""
    return f"{reference.label} ({weight_bytes(reference.folder) / 1e6:,.1f} MB)"


def checkpoint_lines(
    evaluator: ClaimEvaluator,
    role: str,
    specs: Sequence[Spec],
    findings: Findings,
    steps: InSteps,
) -> Iterator[str]:
    """A checkpoint: its sizes, and whether it loads and passes its self-checks."""
    runner, shape = evaluator.runner, evaluator.shapes[role]
    reference = runner.references[role]
    adapter = "" if reference.adapter is None else f" with the adapter {reference.adapter}"
    yield f"{role}: {reference.label}, {reference.folder}{adapter}"
    heads = f"{shape.n_heads} heads"
    if shape.n_kv_heads != shape.n_heads:
        heads += f" over {shape.n_kv_heads} key-value heads"
    yield (
        f"  {shape.n_layers} layers, {heads}, width {shape.d_model}, vocabulary {shape.d_vocab:,}; "
        f"{stored_weights(reference.folder, runner.options.dtype)}"
    )
    if not specs:
        yield "  not loaded, because the self-checks need the prompts of a spec: name a spec"
        return
    tasks = unique_tasks(specs)
    if role != next(iter(runner.references)):  # that of the first was read for the first step
        steps.step(f"read {stored_files(reference)} for its fingerprint")
    for i, task in enumerate(tasks):
        try:
            _ = runner.fingerprints[role].model  # beside the time that loading takes
            device = memory_device(runner.options.device)
            steps.step(f"load {stored_files(reference)}, and run its self-checks")
            started = time.perf_counter()
            with MemoryWatch(device) as loading:
                context = runner.checkpoint.context(role, task)
            seconds = findings.loading[role] = time.perf_counter() - started
            engine = runner.options.engine
            if context.fallback_reason is not None:
                engine = f"reference engine ({context.fallback_reason})"
            checked = SELF_CHECKED[runner.checkpoint.recalled]
            yield f"  loads in {seconds:.1f} s and {checked}; engine: {engine}"
            if context.model.unmerged:
                yield f"  the adapter runs beside its base, not merged: {context.model.unmerged}"
            steps.step(f"time a few rows on {reference.label}")
            trial = run_trial(context, tasks[i:], device, loading)
            findings.trials[role] = trial
            yield f"  {trial.speed:,.0f} rows a second on {runner.options.device}"
            steps.step(f"ask {reference.label} questions of the specs' tasks")
            yield from solving_lines(evaluator, role, specs)
            return  # noqa: TRY300 - the return belongs to the attempt
        except MechanismError as problem:
            reason = str(problem)
        except (MemoryError, RuntimeError) as problem:
            if not out_of_memory(problem):
                raise
            reason = "out of memory in a trial of a few rows; a smaller --dtype takes less"
    findings.broken.add(role)
    yield f"  CANNOT RUN: {reason}"


def stored_weights(folder: Path, dtype: str) -> str:
    """How large the weights on disk are, and how they are quantised."""
    how = ""
    if is_gguf(folder):
        how = f"; GGUF, {quantisation(folder)} (weights dequantised to {dtype} when loaded)"
    elif (kind := quantiser(checkpoint_config(folder))) is not None:
        how = f"; quantised by {kind}"
    return f"weights {weight_bytes(folder) / 1e6:,.1f} MB on disk{how}"


def unique_tasks(specs: Sequence[Spec]) -> list[Task]:
    """The tasks of the specs, without repetitions."""
    tasks: list[Task] = []
    for spec in specs:
        if spec.task not in tasks:
            tasks.append(spec.task)
    return tasks


def claim_lines(
    evaluator: ClaimEvaluator, spec: Spec, findings: Findings
) -> Iterator[tuple[str, bool]]:
    """A line for each claim and role of a spec, and whether it can run."""
    reason = evaluator.skip_reason(spec)
    if reason is not None:
        yield f"  skipped: {reason}", True
        return
    counted: set[Measurement] = set()
    recorded: dict[str, set[Any]] = {}
    total = 0.0
    if lost := spec.task.dropped_words(evaluator.runner.checkpoint.vocabulary):
        yield f"  {lost}", True
    for name, claim in spec.claims.items():
        for role in claim.roles():
            title = f"{name}::{role}"
            try:
                needed = needed_measurements(evaluator, spec, claim, role, findings)
            except MechanismError as problem:
                yield f"  {title:<40} CANNOT RUN: {problem}", False
                continue
            if needed is None:
                yield f"  {title:<40} runs, after its heads have been discovered", True
                continue
            new = needed - counted
            counted |= new
            seconds = 0.0
            for on in {measurement.on for measurement in new}:
                there = {measurement for measurement in new if measurement.on == on}
                findings.needed.setdefault(on, set()).update(there)
                if on in findings.trials:
                    run = recorded.setdefault(on, set())
                    seconds += findings.trials[on].seconds(there, run)
            total += seconds
            lacks = evaluator.blocking_reason(spec, claim, role)
            hint = f"; {lacks}" if lacks else ""
            yield f"  {title:<40} runs, about {duration_text(seconds)}{hint}", True
    searches = tuple(search_lines(evaluator, spec, findings.trials))
    for line in searches:
        yield f"  {'':<40} {line}", True
    search = " and a search for heads" if searches else ""
    loading = sum(findings.loading[role] for role in recorded)
    more = f" and {duration_text(loading)} for loading" if loading else ""
    yield (
        f"  {'':<40} about {duration_text(total)}{search} in total{more}, if this machine stays as busy as it is now",
        True,
    )


def needed_measurements(
    evaluator: ClaimEvaluator, spec: Spec, claim: Claim, role: str, findings: Findings
) -> set[Measurement] | None:
    """What a claim measures; None if its heads have to be discovered first.

    Raises:
        MechanismError: the claim cannot run.
    """
    context = evaluator.context(spec, claim, role)
    broken = [model for model in claim.models(role) if model in findings.broken]
    if broken:
        raise MechanismError(f"{broken[0]} cannot be loaded")
    if (refusal := evaluator.obstacle(spec, claim, role)) is not None:
        raise refusal
    searches = claim.required_searches(role, spec.groups)
    if searches or (spec.discovers_heads and claim.needs_groups):
        findings.searched |= {*claim.models(role)}
        return None
    return {*with_inputs(claim.required_measurements(context))}


def with_inputs(measurements: Iterable[Measurement]) -> Iterator[Measurement]:
    """The measurements and the measurements on other models that they take in."""
    for measurement in measurements:
        yield from with_inputs(measurement.inputs)
        yield measurement


def memory_line(evaluator: ClaimEvaluator, findings: Findings, at_start: int) -> str:
    """The gate's peak memory: libraries, one checkpoint, and what its claims need.

    Args:
        evaluator: knows the options of the run.
        findings: of all checkpoints.
        at_start: bytes in use before the first checkpoint was loaded.
    """
    from pytest_mechanism.discovery.discover import Effort

    options = evaluator.runner.options
    first = next(iter(findings.trials.values()))
    libraries = at_start + max(0.0, first.loaded - first.weights)
    peak, parts = 0.0, ""
    for role, trial in findings.trials.items():
        search_prompts = 2 * Effort().rank_rows if role in findings.searched else 0
        work = trial.needs(findings.needed.get(role, ()), options.batch_size, search_prompts)
        loading = trial.loading - trial.loaded
        total = libraries + trial.weights + max(work, loading)
        if total > peak:
            peak = total
            purpose = (
                f"activations, gradients and copies with batches of {options.batch_size} rows"
                if work >= loading
                else "reading its files"
            )
            parts = (
                f"{giga(libraries)} for Python and libraries, {giga(trial.weights)} for the weights of "
                f"{evaluator.runner.references[role].label}, {giga(max(work, loading))} for {purpose}"
            )
    return f"memory of {memory_device(options.device)}: about {giga(peak)} at most; {parts}"


def giga(size: float) -> str:
    return f"{size / 1e9:.2f} GB"
