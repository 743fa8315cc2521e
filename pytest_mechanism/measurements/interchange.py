"""Request of `methods.circuits.interchange`."""

from __future__ import annotations

from pytest_mechanism.measurements.request import Cost, Request, RowSet, TaskSettings
from pytest_mechanism.types import Head


class Interchange(Request):
    """Does patching heads from a source prompt move a variable?

    Attributes:
        heads: that are patched.
        control: other heads, patched instead; may be none.
        mlps: layers whose MLPs' outputs are patched, too.
        control_mlps: the same with the control.
        at: their named position.
        variable: of the task.
        rows: how many pairs of prompts, of the stream ``test``.
    """

    implementation = "pytest_mechanism.methods.circuits.interchange:measure"
    revision = 2

    heads: tuple[Head, ...]
    control: tuple[Head, ...]
    at: str
    variable: str
    rows: int
    mlps: tuple[int, ...] = ()
    control_mlps: tuple[int, ...] = ()

    @property
    def has_control(self) -> bool:
        return bool(self.control or self.control_mlps)

    def cost(self, task: TaskSettings) -> Cost:
        return Cost(
            rows=self.rows * (3 + self.has_control),
            prompts=f"interchange of {self.variable}",
            prompt_count=2 * self.rows,
        )

    def row_sets(self) -> tuple[RowSet, ...]:
        return (
            RowSet(
                "interchange", self.rows, "test", (self.at,), self.variable, one_token_answers=True
            ),
        )
