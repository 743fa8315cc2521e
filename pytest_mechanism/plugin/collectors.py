"""Specs as collectors of pytest: a spec holds its claims, and a claim an item for each role.

Node ids are ``circuits/x.yaml::claim::role``. Brackets in an item's name would break ``--lf``, and syrupy
would take the scores of one role for leftovers of another.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pytest_mechanism.claims.base import Claim
from pytest_mechanism.errors import SpecError, visible
from pytest_mechanism.plugin.items import ClaimItem, run_claim
from pytest_mechanism.plugin.score_file import score_file
from pytest_mechanism.plugin.snapshot import ScoreExtension
from pytest_mechanism.spec.find import read_spec
from pytest_mechanism.spec.load import SpecErrors
from pytest_mechanism.spec.spec import Spec


class SpecFile(pytest.Module):
    """A spec. Fixtures that read ``request.module``, and fixtures of module scope, get an empty module
    that is named after the spec.

    Attributes:
        spec: the content, once collected.
        wrong: why the file cannot be a spec at this place, or nothing.
    """

    spec: Spec
    wrong: str = ""

    @classmethod
    def at(cls, parent: pytest.Collector, path: Path, wrong: str = "") -> SpecFile:
        try:
            shown = path.relative_to(parent.config.rootpath).as_posix()
        except ValueError:
            shown = path.as_posix()
        if shown.isprintable():
            collector = cls.from_parent(parent, path=path)
        else:  # a terminal would obey the control characters in such a node id
            name = visible(path.name)
            collector = cls.from_parent(parent, path=path, name=name, nodeid=visible(shown))
        collector.wrong = wrong
        return collector

    def _getobj(self) -> ModuleType:
        module = ModuleType(self.path.stem, f"The spec {self.nodeid}.")
        module.__file__ = str(self.path)
        return module

    def collect(self) -> Iterator[pytest.Collector]:
        shown = self.path
        with contextlib.suppress(ValueError):
            shown = self.path.relative_to(Path.cwd())
        try:
            if self.wrong:
                raise SpecError(self.wrong, f"{shown}:1")  # noqa: TRY301 - raised here to be reported below
            self.spec = read_spec(self.path, shown, self.config.rootpath)
        except SpecErrors as problems:
            raise self.CollectError("\n".join(map(str, problems.problems))) from None
        except SpecError as problem:
            raise self.CollectError(str(problem)) from None
        ScoreExtension.claims[score_file(self.path, ScoreExtension.pair)] = {
            f"{name}.{role}" for name, claim in self.spec.claims.items() for role in claim.roles()
        }
        for name, claim in self.spec.claims.items():
            yield ClaimCollector.from_parent(self, name=name, spec=self.spec, claim=claim)


class ClaimCollector(pytest.Collector):
    """A claim of a spec."""

    def __init__(self, *, spec: Spec, claim: Claim, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.spec, self.claim = spec, claim

    def collect(self) -> Iterator[pytest.Item]:
        for role in self.claim.roles():
            yield ClaimItem.from_parent(
                self,
                name=role,
                callobj=run_claim,
                spec=self.spec,
                claim_name=self.name,
                claim=self.claim,
            )
