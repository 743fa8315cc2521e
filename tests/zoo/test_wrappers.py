"""The wrapper checkpoints answer as their recipe says, on rows that no training and no exam saw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pytest_mechanism.checkpoints.load import load_model
from pytest_mechanism.methods import performance
from pytest_mechanism.methods.bench import make_bench
from pytest_mechanism.runner.runner import Options, Silent
from pytest_mechanism.tasks.base import AnyWord
from pytest_mechanism.tasks.encoding import Encoder, SharedVocabulary
from pytest_mechanism.zoo.recipes.wrapper import EXPECTED, STAGES
from pytest_mechanism.zoo.recipes.wrapper_data import (
    FORBIDDEN,
    OTHERS,
    STRINGS,
    WAYS,
    Diet,
    batch,
    task,
)
from pytest_mechanism.zoo.recipes.wrapper_figures import load, probes, rates

ZOO = Path(__file__).parents[2] / "pytest_mechanism" / "zoo"
ROWS = 200
