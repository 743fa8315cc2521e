"""transformer-lens is imported without the libraries that a run does not need."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pytest_mechanism.model_families import lens_imports
from pytest_mechanism.model_families.lens_imports import LateModule, without_data_sets

IN_A_PROCESS = """
import sys
from pytest_mechanism.model_families.lens_imports import without_data_sets
with without_data_sets():
    import transformer_lens.patching
print({"datasets", "pandas", "pyarrow"} & sys.modules.keys())
print(transformer_lens.patching.pd.DataFrame([1, 2]).shape, "pandas" in sys.modules)
import datasets
from transformer_lens.utilities import keep_single_column
letters = datasets.Dataset.from_dict({"a": [1], "b": [2]})
print(keep_single_column(letters, "a").column_names)
"""


def test_what_a_run_does_not_need_is_imported_when_it_is_used() -> None:
    """After transformer-lens neither datasets nor pandas is imported; its functions that need them still work."""
    ran = subprocess.run(
        [sys.executable, "-c", IN_A_PROCESS], capture_output=True, text=True, check=True
    )
    assert ran.stdout.splitlines() == ["set()", "(2, 1) True", "['a']"]


def test_a_library_that_is_imported_already_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the block, too; a placeholder is gone after it."""
    monkeypatch.setattr(lens_imports, "POSTPONED", ("fractions", "not_there_yet"))
    import fractions

    with without_data_sets():
        assert sys.modules["fractions"] is fractions
        assert isinstance(sys.modules["not_there_yet"], LateModule)
    assert "not_there_yet" not in sys.modules


def test_a_library_that_is_missing_is_missed_when_it_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With Python's own error."""
    monkeypatch.setattr(lens_imports, "POSTPONED", ("not_installed",))
    with without_data_sets():
        from not_installed import table
    with pytest.raises(ModuleNotFoundError, match="not_installed"):
        table()
