"""``pytest-mechanism doctor --model-pair A,B [SPEC ...]``: will the gate run on this pair, how long, and
in how much memory?

Loads each checkpoint as the gate would, one at a time, with all its self-checks, tries a few rows
(`trial`), and asks every claim of the specs what it needs. Nothing is judged and nothing is
remembered.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_mechanism.checkpoints.trust import pickled
from pytest_mechanism.commands.config import read_config
from pytest_mechanism.commands.models import add_model_options, open_session
from pytest_mechanism.commands.output import say
from pytest_mechanism.commands.specs import read_specs
from pytest_mechanism.commands.trial import Trial, Watch, held, memory_of, trial
from pytest_mechanism.errors import MechanismError, out_of_memory
from pytest_mechanism.report.progress import spoken

if TYPE_CHECKING:
    from pytest_mechanism.runner.evaluator import ClaimEvaluator
    from pytest_mechanism.spec.spec import Spec
    from pytest_mechanism.types import Measurement

ILL = 1


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "doctor",
        help="say whether a pair can be tested, which claims will run, and about how long",
        description="Load each checkpoint of a pair as the gate would, with its self-checks, and "
        "say which claims of the specs will run, which will be skipped and why, and about how long "
        "they take. Ends with 1 where something cannot run.",
    )
    parser.add_argument("specs", nargs="*", type=Path, metavar="SPEC", help="specs, or folders")
    add_model_options(parser)
    parser.set_defaults(run=run)


@dataclass
class Findings:
    """What was found out about the checkpoints.

    Attributes:
        ill: roles that cannot be loaded, and why.
        tried: role -> what was seen when it ran a few rows.
        wanted: role -> what claims measure on it.
        searched: roles on whose models heads have to be discovered.
    """

    ill: dict[str, str] = field(default_factory=dict)
    tried: dict[str, Trial] = field(default_factory=dict)
    wanted: dict[str, set[Measurement]] = field(default_factory=dict)
    searched: set[str] = field(default_factory=set)


def run(arguments: argparse.Namespace) -> int:
    """0 where everything will run or be skipped for a reason, 1 where something cannot.

    Raises:
        MechanismError: no checkpoint, or a spec that cannot be read.
    """
    config = read_config(arguments, arguments.specs)
    loaded = read_specs(arguments.specs, config)
    evaluator = open_session(arguments, config).evaluator
    evaluator.runner.store = None
    evaluator.runner.check_device()
    found = Findings()
    start = held(memory_of(evaluator.runner.options.device))
    for role in evaluator.runner.references:
        for line in examined(evaluator, role, loaded, found):
            say(line, flush=True)
    evaluator.runner.release()
    broken = bool(found.ill)
    for spec in loaded:
        say("")
        say(spec.path)
        for line, cannot in claims(evaluator, spec, found):
            broken |= cannot
            say(line)
    if found.tried and any(found.wanted.values()):
        say("")
        say(memory(evaluator, found, start))
    return ILL if broken else 0


def examined(
    evaluator: ClaimEvaluator, role: str, loaded: Sequence[Spec], found: Findings
) -> Iterator[str]:
    """A checkpoint: its sizes, and whether it loads and passes its self-checks."""
    runner, shape = evaluator.runner, evaluator.shapes[role]
    reference = runner.references[role]
    adapter = "" if reference.adapter is None else f" with the adapter {reference.adapter}"
    yield f"{role}: {reference.label}, {reference.folder}{adapter}"
    heads = f"{shape.n_heads} heads"
    if shape.n_kv_heads != shape.n_heads:
        heads += f" over {shape.n_kv_heads} key-value heads"
    files = {*reference.folder.glob("*.safetensors"), *pickled(reference.folder)}
    weights = sum(path.stat().st_size for path in files)
    yield (
        f"  {shape.n_layers} layers, {heads}, width {shape.d_model}, {shape.d_vocab:,} words; "
        f"weights {weights / 1e6:,.1f} MB on disk"
    )
    for task in tasks(loaded):
        try:
            started = time.perf_counter()
            device = memory_of(runner.options.device)
            with Watch(device) as loading:
                context = runner.context(role, task)
            seconds = time.perf_counter() - started
            with_engine = runner.options.engine
            if context.without is not None:
                with_engine = f"reference engine ({context.without})"
            yield f"  loads in {seconds:.1f} s and passes its self-checks; engine: {with_engine}"
            if context.model.unmerged:
                yield f"  the adapter runs beside its base, not merged: {context.model.unmerged}"
            found.tried[role] = trial(context, task, device, loading)
            yield f"  {found.tried[role].speed:,.0f} rows a second on {runner.options.device}"
            return
        except MechanismError as problem:
            reason = str(problem)
        except (MemoryError, RuntimeError) as problem:
            if not out_of_memory(problem):
                raise
            reason = "out of memory in a trial of a few rows; a smaller --dtype takes less"
    if not loaded:
        yield "  not loaded: name a spec, whose prompts are used for that"
        return
    found.ill[role] = reason
    yield f"  CANNOT RUN: {reason}"


def tasks(loaded: Sequence[Spec]) -> Iterator[Any]:
    """Each spec's task, those that differ."""
    seen = []
    for spec in loaded:
        if spec.task not in seen:
            seen.append(spec.task)
            yield spec.task


def claims(evaluator: ClaimEvaluator, spec: Spec, found: Findings) -> Iterator[tuple[str, bool]]:
    """(line, whether the claim cannot run) of each claim and role."""
    skipped = evaluator.skip_reason(spec)
    if skipped is not None:
        yield f"  skipped: {skipped}", False
        return
    counted: set[Any] = set()
    run: dict[str, set[Any]] = {}
    total = 0.0
    if lost := spec.task.dropped_words(evaluator.runner.vocabulary):
        yield f"  {lost}", False
    for name, claim in spec.claims.items():
        for role in claim.roles():
            title = f"{name}::{role}"
            try:
                context = evaluator.context(spec, claim, role)
                ill = [r for r in claim.models(role) if r in found.ill]
                if ill:
                    raise MechanismError(f"{ill[0]} cannot be loaded")
                if (refused := evaluator.refusal(spec, claim, role)) is not None:
                    raise refused
                if spec.sought and claim.needs_groups:
                    found.searched |= {*claim.models(role)}
                    yield f"  {title:<40} runs, after its heads have been discovered", False
                    continue
                wanted = {m for m in claim.needs(context) if m not in counted}
            except MechanismError as problem:
                yield f"  {title:<40} CANNOT RUN: {problem}", True
                continue
            counted |= wanted
            for each in wanted:
                found.wanted.setdefault(each.on, set()).add(each)
            seconds = sum(
                found.tried[on].seconds(
                    [m for m in wanted if m.on == on], run.setdefault(on, set())
                )
                for on in {m.on for m in wanted} & found.tried.keys()
            )
            total += seconds
            lacks = evaluator.lacks(spec, claim, role)
            hint = f"; {lacks}" if lacks else ""
            yield f"  {title:<40} runs, about {spoken(seconds)}{hint}", False
    searched = " and a search for heads" if spec.sought and found.searched else ""
    yield (
        f"  {'':<40} about {spoken(total)}{searched} in all, as busy as this machine is now",
        False,
    )


def memory(evaluator: ClaimEvaluator, found: Findings, start: int) -> str:
    """What a gate holds at its peak: libraries, one checkpoint, and what its claims need."""
    from pytest_mechanism.discovery.discover import Effort

    options = evaluator.runner.options
    libraries = start + next(max(0.0, t.loaded - t.weights) for t in found.tried.values())
    most, at = 0.0, ""
    for role, tried in found.tried.items():
        search = 2 * Effort().rank_rows if role in found.searched else 0
        work = tried.needs(found.wanted.get(role, ()), options.batch_size, search)
        above = libraries + tried.weights + max(work, tried.loading - tried.loaded)
        if above > most:
            most, at = (
                above,
                (
                    f"{giga(libraries)} of Python and libraries, {giga(tried.weights)} of weights "
                    f"({evaluator.runner.references[role].label}), {giga(work)} of activations, gradients "
                    f"and copies with batches of {options.batch_size} rows"
                ),
            )
    return f"memory of {memory_of(options.device)}: about {giga(most)} at most; {at}"


def giga(size: float) -> str:
    return f"{size / 1e9:.2f} GB"
