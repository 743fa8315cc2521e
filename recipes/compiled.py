"""Compiled counters, before and after fine-tuning: the models of circuits/paper_two/compiled.yaml.

    python -m recipes.compiled --out circuits/paper_two/models

`recipes.compiled_rates` makes the other learning rates, the max-identifier and other seeds.

``counter``
    compiled to count ``a`` (recipes/programs/counter.*), with blocks without weights and noise: the
    pre-trained model.
``counter_high``
    fine-tuned to count ``b``, at the highest of the paper's learning rates, 1e-1.
``counter_none``
    never compiled: random weights with the same embeddings, trained to count ``b`` for as long.
"""

from __future__ import annotations

from pathlib import Path

from pytest_mechanism.checkpoints.tracr import compiled_folder
from pytest_mechanism.tasks.families.program import Program, ProgramParameters
from pytest_mechanism.tasks.text.encoding import Encoder
from recipes.compiled_training import Training, accuracies, started, write
from recipes.folders import check_ranges, command

PROGRAMS = Path(__file__).parent / "programs"
TASK = Program(ProgramParameters(family="program", of="a", instead="b", rows=300))
SEED = 1
TRAININGS: dict[str, Training | None] = {
    "counter": None,
    "counter_high": Training(1e-1),
    "counter_none": Training(1e-1),
}
EXPECTED: dict[str, dict[str, tuple[float, float]]] = {
    "counter": {"of": (0.99, 1.0), "instead": (0.0, 0.45)},
    "counter_high": {"of": (0.0, 0.5), "instead": (0.9, 1.0)},
    "counter_none": {"of": (0.0, 0.5), "instead": (0.4, 1.0)},
}
"""Accuracies on the letters ``a`` (of) and ``b`` (instead)."""


def make(name: str, below: Path) -> str:
    """Makes one checkpoint below a folder; returns its accuracies.

    Raises:
        SystemExit: it did not come out as promised.
    """
    folder = compiled_folder(f"tracr:{PROGRAMS / 'counter'}", Path())
    training = TRAININGS[name]
    model = started(folder, TASK, training, SEED, compiled=name != "counter_none")
    reached = accuracies(model, TASK, Encoder.load(folder))
    check_ranges(name, reached, EXPECTED[name])
    write(
        model, folder, below / name, recipe="recipes.compiled", name="counter", seed=SEED,
        training=training, reached=reached,
    )  # fmt: skip
    return ", ".join(f"{key} {value:.3f}" for key, value in reached.items())


if __name__ == "__main__":
    command(__doc__ or "", TRAININGS, make)
