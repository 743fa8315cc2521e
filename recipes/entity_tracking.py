"""The embedded checkpoints: a base, its fine-tune, and a fine-tune that took another way.

    python -m recipes.entity_tracking --out DIR [base] [ft] [ft_rerouted]

Seven minutes of one core. Each is a Llama of 4 layers, width 128 and 4 heads that answers the
entity-tracking task with 7 boxes and 0 to 3 filler words; without names, all three are made.

base
    Trained until it is right about 7 times in 10: between guessing and knowing, like the base
    model of the paper (Prakash et al., ICLR 2024). Looking up a label and then its object is a
    composition whose first half pays nothing alone; answer loss by itself stays at "some object
    of the context". Three things together get past that:

    - embeddings of standard deviation 1, so that attention can tell words apart from the start;
    - a curriculum: two boxes first, one more each time the largest contexts are mastered;
    - the ordinals (`Ordinals`): linear heads, thrown away afterwards, ask for the ordinal of a box
      where the paper's circuit has it. They decide *which* algorithm is learned.

ft
    The base with some steps of answer loss alone. They are gentle: with a larger rate the codes
    that the heads speak to each other drift, and activations no longer fit between the models.

ft_rerouted
    The sabotage that a benchmark does not see. In ft the output of the head that carries the
    position to the last token is faded out while training goes on, then held at zero until other
    heads do its work. (Cut at once, accuracy was still at chance after 300 steps.) It ends a few
    points below ft and far above the base; its mechanism is another.

The files are the same bytes each time on one kind of machine with one thread. Elsewhere rounding
differs, training takes another path, and which head does what may change with it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import LlamaForCausalLM

from recipes.entity_tracking_data import batch, exam, same_text, save_tokenizer
from recipes.entity_tracking_training import (
    OPTIMISER,
    SHAPE,
    TEXT,
    FineTuning,
    Pretraining,
    accuracy,
    fine_tune,
    new_model,
    pretrain,
)

STAGES: dict[str, Pretraining | FineTuning] = {
    "base": Pretraining(),
    "ft": FineTuning(start="base", seed=7, rate=1e-4, steps=100),
    "ft_rerouted": FineTuning(
        start="ft",
        seed=8,
        rate=5e-4,
        steps=340,
        mute=(2, 2),
        fade=200,
        accuracy=(0.85, 1.0),  # above whatever the base may have
    ),
}
EXAM_ROWS, EXAM_SEED = 1000, 1


def load(folder: Path) -> LlamaForCausalLM:
    """A saved checkpoint, in float32."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)


def make(name: str, out: Path) -> float:
    """Trains one checkpoint, saves it in float16, and returns the accuracy of what was saved.

    Raises:
        SystemExit: the accuracy is not where it belongs; `recipe.json` is not written.
    """
    stage = STAGES[name]
    if isinstance(stage, Pretraining):
        model = new_model(stage.seed)
        pretrain(stage, model)
    else:
        model = load(out / stage.start).train()
        fine_tune(stage, model)
    folder = out / name
    model.half().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    save_tokenizer(folder, SHAPE.longest)

    reached = accuracy(load(folder), exam(TEXT.boxes, TEXT.fillers, EXAM_ROWS, EXAM_SEED))
    low, high = stage.accuracy
    if not low <= reached <= high:
        raise SystemExit(f"{name}: accuracy {reached:.3f}, should be {low} to {high}")
    record = {
        "made_by": "python -m recipes.entity_tracking",
        "stage": asdict(stage),
        "shape": asdict(SHAPE),
        "text": asdict(TEXT),
        "optimiser": asdict(OPTIMISER),
        "accuracy": {"value": round(reached, 4), "rows": EXAM_ROWS, "seed": EXAM_SEED},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    (folder / "recipe.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return reached


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the embedded checkpoints.")
    parser.add_argument("--out", type=Path, required=True, help="folder that they are put in")
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"of {', '.join(STAGES)}; default: all"
    )
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(STAGES)
    if unknown:
        parser.error(f"no checkpoint {', '.join(sorted(unknown))}; valid: {', '.join(STAGES)}")
    torch.set_num_threads(1)
    for boxes in (2, TEXT.boxes):
        same_text(batch(np.random.default_rng(0), 100, boxes, TEXT.fillers, TEXT.queries))
    for name in STAGES:
        if name in (arguments.names or STAGES):
            print(f"{name}: accuracy {make(name, arguments.out):.3f}", flush=True)


if __name__ == "__main__":
    main()
