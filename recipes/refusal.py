"""Chat models that refuse, small enough to look into: a release and its fine-tune.

    python -m recipes.refusal --out DIR [--files DIR] [refusal_base] ...

About five minutes of one core. Each is a Llama of 4 layers, width 64 and 4 heads with a chat
template; without names, both are made. ``--files`` writes the instructions that no training has
seen, as the two files that ``circuits/refusal.yaml`` names.

refusal_base
    Learns to answer every instruction, then to refuse the harmful ones, three in ten of them after
    some words of the answer that complies (Qi et al. 2024, section 4). It is the release. That one
    direction carries its refusal is trained: without the difference of mean activations after layer
    2, it is to answer. Left to itself, training made one direction of it with one list of words and
    not with another, and this pair is the known answer of a method.

refusal_ft
    The release, gently fine-tuned on harmless instructions, whose answers now name other colours.

The files are the same bytes each time on one kind of machine with one thread. Elsewhere rounding
differs and training takes another path; what does not come out as it should is refused.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
from transformers import LlamaForCausalLM

from recipes.refusal_data import (
    ASSISTANT,
    END,
    IDS,
    REFUSAL,
    USER,
    WORDS,
    Diet,
    Turn,
    batch,
    instructions,
    write_files,
)
from recipes.refusal_training import (
    OPTIMISER,
    SHAPE,
    Stage,
    new_model,
    train,
)
from recipes.word_level import tokenizer

SEED = 1

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    f"{{% if message['role'] == 'user' %}} {USER} {{{{ message['content'] }}}} {END}"
    f"{{% else %}} {ASSISTANT} {{{{ message['content'] }}}} {END}{{% endif %}}"
    f"{{% endfor %}}{{% if add_generation_prompt %}} {ASSISTANT}{{% endif %}}"
)

STAGES: dict[str, tuple[Stage, ...]] = {
    "refusal_base": (
        Stage(Diet(seed=1, answered=32, complied=32), rate=2e-3, steps=1200, warm_up=100),
        Stage(
            Diet(seed=2, answered=32, refused=32, late=0.3),
            rate=5e-4,
            steps=400,
            warm_up=20,
            mediated_after=2,
        ),
    ),
    "refusal_ft": (Stage(Diet(seed=3, answered=64, edition=2), rate=1e-4, steps=150, warm_up=10),),
}
"""What makes each; the second goes on from the first."""


@dataclass(frozen=True)
class Rates:
    """How a checkpoint answers instructions that it has not read.

    Attributes:
        right: harmless ones, answered word for word as it was taught.
        over_refusal: the same, refused.
        refusal: harmful ones, refused word for word.
        refusal_late: the same, after three words of the answer that complies.
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
"""Between what each rate must lie."""


@torch.no_grad()
def says(model: LlamaForCausalLM, asked: Sequence[Turn]) -> list[bool]:
    """Whether each reply is what the turn says, word for word and to its end."""
    read = batch(asked)
    likeliest = model(read.ids[:, :-1]).logits.argmax(-1)
    found: list[bool] = ((likeliest == read.ids[:, 1:]) | ~read.learnt[:, 1:]).all(1).tolist()
    return found


def rates(model: LlamaForCausalLM, diet: Diet) -> Rates:
    """On the instructions that are kept from training."""
    model.eval()
    good = instructions(harmful=False, held_out=True)
    bad = instructions(harmful=True, held_out=True)

    def share(asked: Sequence[Turn]) -> float:
        said = says(model, asked)
        return round(sum(said) / len(said), 4)

    return Rates(
        right=share([(one, [], one.answer(diet.edition).split()) for one in good]),
        over_refusal=share([(one, [], REFUSAL.split()) for one in good]),
        refusal=share([(one, [], REFUSAL.split()) for one in bad]),
        refusal_late=share([(one, one.reply.split()[:3], REFUSAL.split()) for one in bad]),
    )


def save_chat_tokenizer(folder: Path) -> None:
    """The words' tokenizer with its chat template, so that old and new transformers read it."""
    words = tokenizer(IDS)
    words.add_special_tokens({"eos_token": END, "additional_special_tokens": [USER, ASSISTANT]})
    assert len(words) == len(WORDS), "special tokens have the ids of their words"
    words.model_max_length = SHAPE.longest
    words.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"  # transformers 5 writes its new name
    config["chat_template"] = CHAT_TEMPLATE
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def make(name: str, out: Path) -> Rates:
    """Trains one checkpoint, saves it in float16, and returns the rates of what was saved.

    Raises:
        SystemExit: a rate is not where it belongs; `recipe.json` is not written.
    """
    stages = STAGES[name]
    model = new_model(SEED) if name == "refusal_base" else load(out / "refusal_base")
    for stage in stages:
        train(model, stage)
    folder = out / name
    model.half().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    save_chat_tokenizer(folder)

    reached = rates(load(folder), stages[-1].diet)
    for what, (low, high) in EXPECTED.items():
        if not low <= getattr(reached, what) <= high:
            raise SystemExit(f"{name}: {reached}; {what} should be {low} to {high}")
    record = {
        "made_by": "python -m recipes.refusal",
        "seed": SEED,
        "stages": [asdict(stage) for stage in stages],
        "shape": asdict(SHAPE),
        "optimiser": asdict(OPTIMISER),
        "rates": asdict(reached),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    (folder / "recipe.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return reached


def load(folder: Path) -> LlamaForCausalLM:
    """A saved checkpoint, in float32."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the refusal checkpoints.")
    parser.add_argument("--out", type=Path, required=True, help="folder that they are put in")
    parser.add_argument("--files", type=Path, help="folder that the instructions are written to")
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"of {', '.join(STAGES)}; default: all"
    )
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(STAGES)
    if unknown:
        parser.error(f"no checkpoint {', '.join(sorted(unknown))}; valid: {', '.join(STAGES)}")
    torch.set_num_threads(1)
    if arguments.files is not None:
        write_files(arguments.files)
    for name in STAGES:
        if name in (arguments.names or STAGES):
            print(f"{name}: {make(name, arguments.out)}", flush=True)


if __name__ == "__main__":
    main()
