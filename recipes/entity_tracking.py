"""The embedded entity-tracking checkpoints: a base, its fine-tune, and a rerouted fine-tune.

    python -m recipes.entity_tracking --out DIR [base] [ft] [ft_rerouted] [ft_mute]

Training the first three takes seven minutes on one core. Each is a Llama of 4 layers, width 128 and 4
heads that answers the entity-tracking task with 7 boxes and 0 to 3 filler words.

base
    Training stops when the model is right about 7 times in 10, between guessing and knowing, like
    the base model of the paper (Prakash et al., ICLR 2024). The model must look up a label and then
    its object, and the first half of this composition does not lower the loss alone: with the loss
    on answers alone, training gets stuck at "some object of the context". Three measures together
    get past that:

    - word embeddings of standard deviation 1, so that attention can tell words apart from the start;
    - a curriculum: two boxes first, one more whenever the model masters the largest contexts;
    - auxiliary linear heads (`Ordinals`), discarded afterwards, that read the ordinal of a box
      where the paper's circuit has it. They decide *which* algorithm the model learns.

ft
    The base after some steps on the loss on answers alone. The learning rate is low: at a higher one
    the codes that heads use among each other drift, and activations of one model no longer work in
    the other.

ft_rerouted
    The sabotage that a benchmark does not see. The output of the head that carries the position to
    the last token is faded out during training and then kept at zero until other heads do its work.
    (Ablated at once, accuracy was still at chance after 300 steps.) Accuracy ends a few points below
    ft and far above the base; the mechanism is a different one.

ft_mute
    ft, whose output matrix knows three objects in ten too weakly: their rows are a quarter of what they
    were. Every head is that of ft, bit for bit. A model that learns these words again (ft) is better than
    ft_mute for a reason outside its heads.

One kind of machine with one thread writes the same bytes each time. Elsewhere rounding differs, so
training takes another path, and other heads may do the work.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from recipes.entity_tracking_data import IDS, batch, check_text, exam, save_tokenizer
from recipes.entity_tracking_training import (
    SHAPE,
    TEXT,
    FineTuning,
    Muting,
    Pretraining,
    accuracy,
    fine_tune,
    mute,
    pretrain,
)
from recipes.folders import check_ranges, command, load, save_half, versions, write_record
from recipes.trainer import OPTIMISER, new_model

STAGES: dict[str, Pretraining | FineTuning | Muting] = {
    "base": Pretraining(),
    "ft": FineTuning(start="base", seed=7, rate=1e-4, steps=100),
    "ft_rerouted": FineTuning(
        start="ft",
        seed=8,
        rate=5e-4,
        steps=340,
        ablate=(2, 2),
        fade=200,
        accuracy=(0.85, 1.0),  # above the whole range of the base
    ),
    "ft_mute": Muting(start="ft"),
}
EXAM_ROWS, EXAM_SEED = 1000, 1


def make(name: str, out: Path) -> str:
    """Trains one checkpoint, saves it in float16, and returns the accuracy of the saved files.

    Raises:
        SystemExit: the accuracy is out of its range; the folder then has no `recipe.json`.
    """
    stage = STAGES[name]
    if isinstance(stage, Pretraining):
        model = new_model(SHAPE, IDS, stage.seed)
        pretrain(stage, model)
    elif isinstance(stage, Muting):
        model = load(out / stage.start)
        mute(stage, model)
    else:
        model = load(out / stage.start).train()
        fine_tune(stage, model)
    folder = out / name
    save_half(model, folder)
    save_tokenizer(folder, SHAPE.longest)

    reached = accuracy(load(folder), exam(TEXT.boxes, TEXT.fillers, EXAM_ROWS, EXAM_SEED))
    check_ranges(name, {"accuracy": reached}, {"accuracy": stage.accuracy})
    write_record(
        folder,
        {
            "made_by": "python -m recipes.entity_tracking",
            "stage": asdict(stage),
            "shape": asdict(SHAPE),
            "text": asdict(TEXT),
            "optimiser": asdict(OPTIMISER),
            "accuracy": {"value": round(reached, 4), "rows": EXAM_ROWS, "seed": EXAM_SEED},
            "versions": versions(),
        },
    )
    return f"accuracy {reached:.3f}"


if __name__ == "__main__":
    for boxes in (2, TEXT.boxes):
        check_text(batch(np.random.default_rng(0), 100, boxes, TEXT.fillers, TEXT.queries))
    command("Train the embedded entity-tracking checkpoints.", STAGES, make)
