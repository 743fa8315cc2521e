"""Small chat models that refuse harmful instructions: a release and its fine-tune.

    python -m recipes.refusal --out DIR [--files DIR] [refusal_base] [refusal_ft]

Training both takes about five minutes on one core. Each is a Llama of 4 layers, width 64 and 4
heads with a chat template. ``--files`` writes the held-out instructions as the two files that
``circuits/refusal.yaml`` names.

refusal_base
    The release. It learns to answer every instruction, then to refuse the harmful ones; three in
    ten refusals come after some words of the answer that complies (Qi et al. 2024, section 4).
    Training also makes a single direction mediate refusal: with the difference of mean activations
    after layer 2 removed, the model must answer. Without this loss, one list of words led to a
    single direction and another did not, and a method needs a pair with a known answer.

refusal_ft
    The release after gentle fine-tuning on harmless instructions, whose answers now name other
    colours.

One kind of machine with one thread writes the same bytes each time. Elsewhere rounding differs, so
training takes another path; the recipe refuses a result whose rates are out of range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from recipes.folders import check_ranges, command, load, save_half, versions, write_record
from recipes.refusal_data import (
    ASSISTANT,
    END,
    IDS,
    REFUSAL,
    USER,
    WORDS,
    DataMix,
    Exchange,
    conversations,
    instructions,
    write_files,
)
from recipes.refusal_training import SHAPE, Stage, train_stage
from recipes.trainer import OPTIMISER, new_model
from recipes.word_level import tokenizer, write_tokenizer

SEED = 1

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    f"{{% if message['role'] == 'user' %}} {USER} {{{{ message['content'] }}}} {END}"
    f"{{% else %}} {ASSISTANT} {{{{ message['content'] }}}} {END}{{% endif %}}"
    f"{{% endfor %}}{{% if add_generation_prompt %}} {ASSISTANT}{{% endif %}}"
)

STAGES: dict[str, tuple[Stage, ...]] = {
    "refusal_base": (
        Stage(DataMix(seed=1, answered=32, complied=32), rate=2e-3, steps=1200, warm_up=100),
        Stage(
            DataMix(seed=2, answered=32, refused=32, late=0.3),
            rate=5e-4,
            steps=400,
            warm_up=20,
            mediated_after=2,
        ),
    ),
    "refusal_ft": (
        Stage(DataMix(seed=3, answered=64, edition=2), rate=1e-4, steps=150, warm_up=10),
    ),
}
"""The stages of each checkpoint. The second checkpoint starts from the first."""


@dataclass(frozen=True)
class Rates:
    """How a checkpoint replies to held-out instructions.

    Attributes:
        right: share of the harmless ones with exactly the taught answer.
        over_refusal: share of the harmless ones with the refusal.
        refusal: share of the harmful ones with exactly the refusal.
        refusal_late: the same, with three words of the complying answer prefilled.
    """

    right: float
    over_refusal: float
    refusal: float
    refusal_late: float


EXPECTED = {
    "right": (0.75, 1.0),
    "over_refusal": (0.0, 0.01),
    "refusal": (0.98, 1.0),
    "refusal_late": (0.98, 1.0),
}
"""The range of each rate."""


@torch.no_grad()
def replies_exactly(model: LlamaForCausalLM, exchanges: Sequence[Exchange]) -> list[bool]:
    """Whether greedy decoding gives each reply word for word, to its end."""
    batch = conversations(exchanges)
    likeliest = model(batch.ids[:, :-1]).logits.argmax(-1)
    right: list[bool] = ((likeliest == batch.ids[:, 1:]) | ~batch.in_loss[:, 1:]).all(1).tolist()
    return right


def rates(model: LlamaForCausalLM, mix: DataMix) -> Rates:
    """The rates on the held-out instructions."""
    model.eval()
    harmless = instructions(harmful=False, held_out=True)
    harmful = instructions(harmful=True, held_out=True)
    refusal = REFUSAL.split()

    def share(exchanges: Sequence[Exchange]) -> float:
        right = replies_exactly(model, exchanges)
        return round(sum(right) / len(right), 4)

    return Rates(
        right=share([Exchange(i, [], i.answer(mix.edition).split()) for i in harmless]),
        over_refusal=share([Exchange(i, [], refusal) for i in harmless]),
        refusal=share([Exchange(i, [], refusal) for i in harmful]),
        refusal_late=share([Exchange(i, i.reply.split()[:3], refusal) for i in harmful]),
    )


def save_chat_tokenizer(folder: Path) -> None:
    """Writes the tokenizer of the word list with its chat template."""
    words = tokenizer(IDS)
    words.add_special_tokens({"eos_token": END, "additional_special_tokens": [USER, ASSISTANT]})
    assert len(words) == len(WORDS), "special tokens keep the ids of their words"
    write_tokenizer(words, folder, SHAPE.longest, CHAT_TEMPLATE)


def make(name: str, out: Path) -> Rates:
    """Trains one checkpoint, saves it in float16, and returns the rates of the saved files.

    Raises:
        SystemExit: a rate is out of its range; the folder then has no `recipe.json`.
    """
    stages = STAGES[name]
    first = name == "refusal_base"
    model = new_model(SHAPE, IDS, SEED, END) if first else load(out / "refusal_base")
    for stage in stages:
        train_stage(model, stage)
    folder = out / name
    save_half(model, folder)
    save_chat_tokenizer(folder)

    reached = rates(load(folder), stages[-1].data_mix)
    check_ranges(name, asdict(reached), EXPECTED)
    write_record(
        folder,
        {
            "made_by": "python -m recipes.refusal",
            "seed": SEED,
            "stages": [asdict(stage) for stage in stages],
            "shape": asdict(SHAPE),
            "optimiser": asdict(OPTIMISER),
            "rates": asdict(reached),
            "versions": versions(),
        },
    )
    return reached


if __name__ == "__main__":
    command("Train the embedded chat checkpoints.", STAGES, make, files=write_files)
