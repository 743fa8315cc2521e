"""The evaluator that a command with these options would use."""

import argparse

from pytest_mechanism.commands.config import read_config
from pytest_mechanism.commands.models import add_model_options, open_session
from pytest_mechanism.runner.evaluator import ClaimEvaluator


def open_evaluator(*options: object) -> ClaimEvaluator:
    """Over the checkpoints of ``--model`` or ``--model-pair``."""
    parser = argparse.ArgumentParser()
    add_model_options(parser)
    arguments = parser.parse_args([str(option) for option in options])
    return open_session(arguments, read_config(arguments)).evaluator
