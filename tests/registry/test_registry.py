"""Claim kinds and task families are found in their folders and in installed packages."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from pytest_mechanism import claims, registry
from pytest_mechanism.claims.base import Claim
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.registry import claim_kinds, classes, task_families, with_plugins


def test_a_kind_is_found_in_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No list names it: a new file of the folder is a new kind."""
    (tmp_path / "brand_new.py").write_text(
        "from typing import Literal\nfrom pytest_mechanism.claims.base import Claim\n\n\n"
        "class BrandNew(Claim):\n    kind: Literal['brand_new']\n"
    )
    before = set(claim_kinds())
    monkeypatch.setattr(claims, "__path__", [*claims.__path__, str(tmp_path)])
    claim_kinds.cache_clear()
    try:
        assert set(claim_kinds()) - before == {"brand_new"}
    finally:
        claim_kinds.cache_clear()


def test_two_classes_of_one_name_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copied file whose author forgot to rename the kind would judge other people's claims."""
    (tmp_path / "copied.py").write_text(
        "from typing import Literal\nfrom pytest_mechanism.claims.base import Claim\n\n\n"
        "class Copied(Claim):\n    kind: Literal['path']\n"
    )
    monkeypatch.setattr(claims, "__path__", [*claims.__path__, str(tmp_path)])
    claim_kinds.cache_clear()
    try:
        with pytest.raises(MechanismError, match="Path and Copied are both called 'path'"):
            claim_kinds()
    finally:
        claim_kinds.cache_clear()


def test_base_classes_of_kinds_are_no_kinds() -> None:
    """The base classes are in the same folder as the kinds."""
    assert "accuracy" in claim_kinds()
    assert "ioi" in task_families()
    assert {"Trained", "Masked"} <= {c.__name__ for c in classes("pytest_mechanism.claims", Claim)}
    assert not {"Trained", "Masked"} & {claim.__name__ for claim in claim_kinds().values()}


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        (
            "accuracy",
            "json:loads",
            "json:loads registers 'accuracy' in group, which exists already",
        ),
        ("lost", "no_such_module:Kind", "lost = no_such_module:Kind of group cannot be loaded"),
        ("lost", "json:Kind", "lost = json:Kind of group cannot be loaded"),
        (
            "half",
            "pytest_mechanism.claims.base:Claim",
            "half = pytest_mechanism.claims.base:Claim of group lacks judge, "
            "required_measurements, roles",
        ),
    ],
)
def test_an_entry_point_that_cannot_be_used_is_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: [EntryPoint(name, value, group)])
    with pytest.raises(MechanismError) as problem:
        with_plugins({"accuracy": Claim}, "group")
    assert says in str(problem.value)
    assert "\n" not in str(problem.value)
