"""transformer-lens is imported without the libraries that a run does not need."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from pytest_mechanism.model_families import lens_imports
from pytest_mechanism.model_families.lens_imports import LateModule, import_lens, without_data_sets

IN_A_PROCESS = """
import sys
from pytest_mechanism.model_families.lens_imports import import_lens
patching = import_lens("transformer_lens.patching")
print({"datasets", "pandas", "pyarrow"} & sys.modules.keys())
print(patching.pd.DataFrame([1, 2]).shape, "pandas" in sys.modules)
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


@pytest.fixture
def postponed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that is imported, a library that is not yet, and a library that is not installed."""
    import fractions  # noqa: F401

    monkeypatch.setattr(lens_imports, "POSTPONED", ("fractions", "colorsys", "not_installed"))
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)


@pytest.mark.usefixtures("postponed")
def test_a_library_that_is_imported_already_stays() -> None:
    """In the block, too; a placeholder is gone after it."""
    import fractions

    with without_data_sets():
        assert sys.modules["fractions"] is fractions
        assert isinstance(sys.modules["colorsys"], LateModule)
    assert "colorsys" not in sys.modules


@pytest.mark.usefixtures("postponed")
def test_a_library_that_is_not_installed_is_missing_in_the_block_too() -> None:
    """Whoever asks whether it is there, as transformers does once for all, gets the truth."""
    with without_data_sets():
        assert find_spec("colorsys") is not None
        assert find_spec("not_installed") is None
        with pytest.raises(ModuleNotFoundError):
            import not_installed  # noqa: F401


@pytest.mark.usefixtures("postponed")
@pytest.mark.parametrize(
    "line", ["import colorsys.part", "colorsys.__file__", "class Sub(colorsys.Base): pass"]
)
def test_a_module_that_needs_more_than_a_placeholder_gets_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    """A package, a version, a base class."""
    (tmp_path / "colorsys").mkdir()
    (tmp_path / "colorsys" / "__init__.py").write_text("class Base: pass")
    (tmp_path / "colorsys" / "part.py").touch()
    (tmp_path / "needs_more.py").write_text(f"import colorsys\n{line}\n")
    monkeypatch.syspath_prepend(tmp_path)

    try:
        assert import_lens("needs_more").colorsys is sys.modules["colorsys"]
    finally:
        for name in ("needs_more", "colorsys", "colorsys.part"):
            sys.modules.pop(name, None)
