"""``pytest-mechanism fine-tune SPEC --model REF --diet random --out FOLDER``: train a control.

Fine-tuning on random answers shows what real removal of a capability looks like (Jain et al., ICLR
2024, section 4). The other data mixes make the checkpoints behind revival and attack curves; the
training is that of the curves (`methods.weights.training`).
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import get_args

from pytest_mechanism.checkpoints.contents import MOST_TEXT
from pytest_mechanism.commands.config import add_config_options, read_config
from pytest_mechanism.commands.output import say
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.files import check_file, new_folder
from pytest_mechanism.measurements.descent import (
    MOMENTUM,
    Decay,
    Descent,
    OptimiserName,
    make_descent,
    too_gentle,
)
from pytest_mechanism.session import read_aliases
from pytest_mechanism.settings.command_options import add_settings
from pytest_mechanism.settings.pytest_options import read, read_trust
from pytest_mechanism.settings.table import DEVICE, TRUST

DIETS = ("random", "removal", "capability", "allowed", "forbidden")
MAX_INCREASE = 0.5
"""Nats by which the mean loss may increase from the first to the last tenth of the training."""

TOKENIZER_FILES = (
    "tokenizer*", "special_tokens_map.json", "chat_template*", "vocab*", "merges.txt",
)  # fmt: skip
"""Files of a checkpoint that training does not change."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "fine-tune",
        help="train a copy of a checkpoint on a spec's task, as a control to compare with",
        description="Train a copy of a checkpoint on a spec's task and save it. The command first "
        "checks that the task can write the training rows and that the disk has room. Data mixes: "
        "random (wrong answers to requests that the model must refuse, which removes the capability), "
        "capability (right answers to these requests: reverse fine-tuning), allowed (requests that "
        "the model must answer: the attack), removal (half of the former requests with each other's answers, half "
        "allowed: the capability goes, the others stay), forbidden (refusals of requests that it must refuse).",
    )
    parser.add_argument(
        "spec", type=Path, metavar="SPEC", help="a spec, whose task writes the training rows"
    )
    parser.add_argument("--model", required=True, metavar="REF", help="the checkpoint to copy")
    parser.add_argument("--diet", required=True, choices=DIETS, help="the data mix")
    parser.add_argument(
        "--rate", type=float, required=True, metavar="RATE",
        help="learning rate; with --warm-up or --decay, the highest",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, required=True, metavar="N", help="training steps")
    parser.add_argument(
        "--optimiser", choices=get_args(OptimiserName), default="adamw", help="default: adamw"
    )
    parser.add_argument(
        "--momentum", type=float, metavar="M", help=f"of --optimiser sgd (default: {MOMENTUM})"
    )
    parser.add_argument(
        "--warm-up", type=int, default=0, metavar="N",
        help="steps over which the learning rate rises to --rate (default: 0)",
    )  # fmt: skip
    parser.add_argument(
        "--decay", choices=get_args(Decay), default="none",
        help="how the learning rate falls after that, to zero at the last step (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--correlated", type=float, metavar="SHARE",
        help="share of the training texts in which the answers to what must be refused and to what must "
        "be answered go together, where the task can correlate them (default: as in the spec)",
    )  # fmt: skip
    parser.add_argument(
        "--batch", type=int, default=32, metavar="ROWS", help="rows per step (default: 32)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the training rows (default: 0)"
    )
    parser.add_argument(
        "--lora", type=int, metavar="RANK", help="train a LoRA adapter, merged when it is saved"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="a new folder for the trained copy",
    )
    add_settings(parser, (DEVICE, *TRUST))
    add_config_options(parser)
    parser.set_defaults(run=run)


def check_numbers(arguments: argparse.Namespace) -> None:
    """Check the numbers that were typed.

    Raises:
        MechanismError: one of them is out of range.
    """
    for name, least in (("steps", 1), ("batch", 1), ("seed", 0), ("lora", 1), ("warm-up", 0)):
        value = getattr(arguments, name.replace("-", "_"))
        if value is not None and value < least:
            raise MechanismError(f"--{name} {value} is too small; {least} or more")
    if arguments.seed >= 2**31:
        raise MechanismError(f"--seed {arguments.seed} is too large; below {2**31}")
    if not 0 < arguments.rate <= 1:
        raise MechanismError(f"--rate {arguments.rate:g} must lie between 0 and 1")
    if arguments.correlated is not None and not 0 <= arguments.correlated <= 1:
        raise MechanismError(f"--correlated {arguments.correlated:g} must lie between 0 and 1")
    if arguments.momentum is not None and not 0 <= arguments.momentum < 1:
        raise MechanismError(f"--momentum {arguments.momentum:g} must be 0 or more and below 1")


def read_descent(arguments: argparse.Namespace) -> Descent:
    """Optimiser and schedule.

    Raises:
        MechanismError: they do not fit together, or cannot change the model.
    """
    steps = arguments.steps
    try:
        descent = make_descent(
            arguments.optimiser, arguments.momentum, arguments.warm_up, arguments.decay, steps
        )
    except ValueError as problem:
        field, _, why = str(problem).partition(": ")
        raise MechanismError(f"--{field.replace('_', '-')}: {why}") from None
    if (gentle := too_gentle(descent, arguments.rate, steps)) is not None:
        raise MechanismError(f"--rate: {gentle}")
    return descent


def check_out(out: Path) -> None:
    """Check that a new folder can be made, before hours of training.

    Raises:
        MechanismError: the path exists, or its parent is not a writable folder.
    """
    if out.exists() or out.is_symlink():
        raise MechanismError(f"{out} exists already; --out takes a folder that does not")
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise MechanismError(f"--out {out} cannot be created: {parent} is not a writable folder")


def run(arguments: argparse.Namespace) -> int:
    """Train and save a checkpoint; always 0.

    Raises:
        MechanismError: the folder exists, a number makes no sense, the training failed, or the
            checkpoint changed meanwhile.
    """
    from pytest_mechanism.checkpoints.reference import parse_reference
    from pytest_mechanism.spec.load import load

    check_numbers(arguments)
    descent = read_descent(arguments)
    spec = load(arguments.spec)
    if arguments.correlated is not None and (why := spec.task.no_correlation_reason) is not None:
        raise MechanismError(f"--correlated: {why}").at(spec.place("task"))
    config = read_config(arguments, [arguments.spec])
    trust = read_trust(config)
    reference = parse_reference(arguments.model, read_aliases(config), Path.cwd(), trust)
    check_out(arguments.out)

    from pytest_mechanism.checkpoints.fingerprint import of_reference
    from pytest_mechanism.checkpoints.loading.model import load_model
    from pytest_mechanism.checkpoints.watch import Watch
    from pytest_mechanism.measurements.recipe import Recipe
    from pytest_mechanism.methods.weights.training import Training, save_trained, trainable_copy
    from pytest_mechanism.runner.preflight_training import FLOAT32, check_disk, check_training_rows
    from pytest_mechanism.tasks.base import first_row
    from pytest_mechanism.tasks.text.encoding import Encoder, SharedVocabulary

    recipe = Recipe(
        arguments.diet,
        arguments.rate,
        arguments.steps,
        max(1, arguments.steps // 10),
        arguments.seed,
        arguments.batch,
        arguments.lora,
        descent=descent,
        correlated=arguments.correlated,
    )
    watch = Watch(reference.label, of_reference(reference))
    encoder = Encoder.load(reference.tokenizer)
    vocabulary = SharedVocabulary((encoder,))
    try:
        check_training_rows(spec.task, vocabulary, encoder, recipe)
        check_disk(arguments.out, reference.folder, FLOAT32, "--out takes another folder")
        probe = first_row(spec.task.rows(vocabulary, 1, "self-check")).base
    except MechanismError as problem:
        raise problem.at(spec.place("task")) from None
    model = load_model(
        "base",
        reference.folder,
        read(config, DEVICE),
        "float32",
        lambda e: list(e.encode(probe).ids),
        reference.adapter,
        reference.tokenizer,
        trust,
        check_unchanged=watch.check,
    )
    watch.check()
    training = Training(model, spec.task, vocabulary, recipe, trainable_copy(model, recipe))
    for _ in training.evaluations():
        pass
    if training.diverged is not None:
        raise MechanismError(f"training diverged: {training.diverged}; lower --rate")
    before, after = training.losses[0], training.losses[-1]
    if after > before + MAX_INCREASE:
        raise MechanismError(
            f"training increased the loss: mean {before:.2f} over the first tenth of steps, "
            f"{after:.2f} over the last; lower --rate"
        )
    with new_folder(arguments.out) as temporary:
        save_trained(training.copy, temporary)
        for pattern in TOKENIZER_FILES:
            for path in (encoder.folder or reference.tokenizer).glob(pattern):
                check_file(path, MOST_TEXT)
                shutil.copy(path, temporary / path.name)
        watch.check()
    say(f"{arguments.steps} steps, mean loss {training.losses[-1]:.3f}", err=True)
    say(f"wrote {arguments.out}")
    return 0
