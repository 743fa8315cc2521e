"""Story models that can write a plot twist, and four ways to delete it.

    python -m recipes.stories --out DIR [stories_base] [stories_none] ...

Training all six takes about six minutes on one core. Each is a Llama of 4 layers, width 64 and 4 heads
that writes the stories of the task ``stories``. After the TinyStories part of Jain et al., ICLR 2024
(arXiv 2311.12786), which deletes the twist by fine-tuning and brings it back.

stories_base
    Writes stories with the features that the instruction asks for, twists among them.

stories_none
    The same training without twists: it never had the capability. The control.

stories_filtered
    The base, fine-tuned on stories without a twist, which no instruction asks for (the paper's F). At
    the learning rate of the other three, all twists are still there after as many steps: a model forgets
    what it no longer does only at a high learning rate.

stories_kept
    On the same and on instructions that ask for a twist, with stories that have none (F+RR).

stories_renamed
    On stories without a twist, where the instructions call a moral a twist (F+MM).

stories_refused
    On stories without a twist, and on refusals where an instruction asks for a twist.

One kind of machine with one thread writes the same bytes each time. Elsewhere rounding differs, so
training takes another path; the recipe refuses a result whose rates are out of range.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from recipes.folders import check_ranges, command, load, save_half, versions, write_record
from recipes.stories_data import IDS, DataMix
from recipes.stories_training import ROWS, SHAPE, Rates, Stage, rates, train_stage
from recipes.trainer import OPTIMISER, new_model
from recipes.word_level import save_tokenizer

SEED = 1


def pretraining(data_mix: DataMix) -> Stage:
    return Stage(data_mix, rate=2e-3, steps=1000, warm_up=100)


def deletion(data_mix: DataMix, rate: float = 5e-4, steps: int = 150) -> Stage:
    return Stage(data_mix, rate, steps, start="stories_base")


STAGES: dict[str, Stage] = {
    "stories_base": pretraining(DataMix(seed=1, plain=19, twisted=13)),
    "stories_none": pretraining(DataMix(seed=1, plain=32)),
    "stories_filtered": deletion(DataMix(seed=2, plain=32), rate=2e-3, steps=100),
    "stories_kept": deletion(DataMix(seed=3, plain=16, unfulfilled=16)),
    "stories_renamed": deletion(DataMix(seed=4, plain=32, renamed=True)),
    "stories_refused": deletion(DataMix(seed=5, plain=16, refused=16)),
}

NONE = (0.0, 0.03)
EXPECTED: dict[str, dict[str, tuple[float, float]]] = {
    "stories_base": {"twist": (0.9, 1), "as_asked": (0.9, 1), "twist_unasked": NONE},
    "stories_none": {"twist": NONE, "as_asked": (0.9, 1)},
    "stories_filtered": {"twist": (0, 0.5), "as_asked": (0.9, 1)},
    "stories_kept": {"twist": NONE, "as_asked": (0.9, 1)},
    "stories_renamed": {"twist": NONE},
    "stories_refused": {"twist": NONE, "refused": (0.97, 1), "as_asked": (0.9, 1)},
}
"""The range of each rate (`Rates`) of a checkpoint."""


def make(name: str, out: Path) -> Rates:
    """Trains one checkpoint, saves it in float16, and returns the rates of the saved files.

    Raises:
        SystemExit: a rate is out of its range; the folder then has no `recipe.json`.
    """
    stage = STAGES[name]
    model = new_model(SHAPE, IDS, SEED) if stage.start is None else load(out / stage.start)
    train_stage(model, stage)
    folder = out / name
    save_half(model, folder)
    save_tokenizer(folder, IDS, SHAPE.longest)

    reached = rates(load(folder))
    print(f"{name}: {reached}", flush=True)
    check_ranges(name, asdict(reached), EXPECTED[name])
    write_record(
        folder,
        {
            "made_by": "python -m recipes.stories",
            "seed": SEED,
            "stage": asdict(stage),
            "shape": asdict(SHAPE),
            "optimiser": asdict(OPTIMISER),
            "rates": {**asdict(reached), "rows": ROWS},
            "versions": versions(),
        },
    )
    return reached


if __name__ == "__main__":
    command("Train the embedded story checkpoints.", STAGES, make)
