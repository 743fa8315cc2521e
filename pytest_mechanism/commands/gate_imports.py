# ruff: noqa: F401
"""The libraries of a gate that measures. A process that has imported this module forks for each gate of a sweep, so
that they are imported once: 4 seconds of a processor for each candidate."""

import scipy.optimize
import scipy.stats
import transformers.modeling_utils
import transformers.models.auto.modeling_auto
import transformers.models.auto.tokenization_auto
import transformers.models.llama.modeling_llama  # brings what the models of other families import too

import pytest_mechanism.methods.context
import pytest_mechanism.model_families.tracr
import pytest_mechanism.plugin.items
from pytest_mechanism.model_families.lens_imports import import_lens

import_lens("transformer_lens.factories.architecture_adapter_factory")
import_lens("transformer_lens.model_bridge.sources._bridge_builder")
