"""Self-checks that a checkpoint has passed, kept beside the measurements so that the next process need not repeat them.

`doctor` and the gate that follows load the same checkpoints, and the checks of a small model take longer than its
loading. That they passed is a result like any other: it has the key of a measurement (`runner.keys`), and further the
prompts that were checked, this machine since it was started, and this package's own code. Only a pass in full is kept.
A check that failed, and a model that needs the reference engine, are looked at again each time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.request import Request
from pytest_mechanism.registry import resolve
from pytest_mechanism.runner.store import Store
from pytest_mechanism.settings.model_options import ModelOptions
from pytest_mechanism.types import Observations

FOLDER = "self_checks"
"""In the store."""

PASSED = "passed"

Known = tuple[str | None, float | None]
"""``fallback_reason`` and ``rounding`` of a checkpoint's context that has passed."""


class SelfCheck(Request):
    """That a checkpoint passed `engine.selfcheck` with both engines.

    Attributes:
        prompts: that it passed on, base and source of each row.
        machine: `engine.selfcheck.machine`.
        code: hash of this package's sources, in which an engine may have changed without a new version.
    """

    implementation = "pytest_mechanism.methods.context:make_context"

    prompts: tuple[str, ...]
    machine: str
    code: str


@dataclass(frozen=True)
class KeptChecks:
    """The self-checks in a store.

    Attributes:
        store: of a run.
        options: how it runs models.
        key: `runner.Runner.key`.
    """

    store: Store
    options: ModelOptions
    key: Callable[[Measurement], str]

    def entry(self, role: str, prompts: tuple[str, ...]) -> str | None:
        """The key of a checkpoint's check; None where a pass says nothing about the next process: where the free
        memory decides which weights are where, or a checkpoint brings its own code."""
        if self.options.device == "spread" or self.options.trust.remote_code:
            return None
        machine: Callable[[], str] = resolve("pytest_mechanism.engine.selfcheck:machine")
        request = SelfCheck(prompts=prompts, machine=machine(), code=hash_of_code())
        return self.key(Measurement(request, role, ""))

    def get(self, key: str | None) -> Known | None:
        """What is known of a checkpoint that has passed; None of one that has not, or whose entry is damaged."""
        found = None
        with suppress(MechanismError):  # a store that cannot be read costs time alone
            found = None if key is None else self._folder.get(key, Observations)
        if found is None or found.fallback is not None or [*found.values.get(PASSED, ())] != [1.0]:
            return None
        return None, found.rounding

    def put(self, key: str | None, known: Known) -> None:
        """Keeps a pass in full."""
        fallback, rounding = known
        if key is not None and fallback is None:
            passed = Observations((PASSED,), (PASSED,), {PASSED: [1.0]}, rounding=rounding)
            with suppress(MechanismError):
                self._folder.put(key, passed)

    @property
    def _folder(self) -> Store:
        return Store(self.store.folder / FOLDER)


@cache
def hash_of_code() -> str:
    """sha256 of this package's modules."""
    root = Path(__file__).parents[1]
    whole = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content = path.read_bytes()
        whole.update(f"{path.relative_to(root)} {len(content)}\n".encode() + content)
    return whole.hexdigest()
