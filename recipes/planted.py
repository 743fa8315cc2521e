"""Models whose weights are set by hand, so that their circuit is known exactly.

    python -m recipes.planted --out DIR [names]

Each is a GPT-2 of 4 layers with 8 heads of width 16 that answers the entity-tracking task with 7
boxes and 0 to 3 fillers. GPT-2 has position embeddings that we can choose, its heads match by
content without a rotation, and its norm can be made the identity (`planted_residual`). The MLPs are
zero. Every weight is a small multiple of a power of two, which float16 stores exactly.

planted_base, planted_ft
    The positional circuit of Prakash et al. (ICLR 2024): struct_reader tells a label the ordinal
    of its segment, pos_detector brings it to the query's label, pos_transmitter to the last token,
    where value_fetcher attends to the object of that ordinal. The two models differ in one number:
    the transmitter's signal is half as strong in planted_base, so that the fetcher misses three
    objects in ten and the model answers "objects".

planted_shared
    planted_ft with two copies of each of the two value fetchers. Each copy writes half of the
    object, less than the 14/18 that the answer needs.

planted_rerouted
    planted_ft with another transmitter, 2.3, which names the ordinal to the fetchers in another code.
    2.6 is a distractor. So the circuit of planted_base does not work here.

planted_object
    The groups of planted_ft at the same heads and with the same readers, but what they pass on is the
    object in the queried box and no ordinal: struct_reader has the object of its segment, and
    value_fetcher looks for that object. The circuit is the same, its functionality another.

planted_mute
    planted_ft with an output matrix that knows three objects in ten too weakly: the fetchers bring
    them, and the model answers "objects". Trained further into planted_ft, it would be better for a
    reason outside its heads.

planted_label
    Answers by label: object_reader tells a label which object is in its box, label_transmitter
    tells the last token which label the query names, value_fetcher attends to that label. No head
    reads an ordinal.

All heads outside the groups are distractors: they attend and write, and nothing reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from pytest_mechanism.types import Head as HeadId
from recipes.entity_tracking_data import IDS, VOCABULARY, save_tokenizer
from recipes.folders import command, save_half, write_record
from recipes.planted_distractors import DISTRACTORS
from recipes.planted_heads import (
    SCALES,
    Head,
    label_transmitter,
    label_value_fetcher,
    object_detector,
    object_reader,
    object_transmitter,
    object_value_fetcher,
    pos_detector,
    pos_transmitter,
    struct_reader,
    value_fetcher,
)
from recipes.planted_residual import (
    NORM_EPSILON,
    NORM_WEIGHT,
    PLACES,
    WIDTH,
    balanced,
    place_embeddings,
    unembedding,
    word_embeddings,
)
from recipes.word_level import BOS, PAD

LAYERS, HEADS = 4, 8
PER_HEAD = WIDTH // HEADS
MLP = 8
"""Hidden units of the MLPs, whose weights are zero: the number is arbitrary."""


@dataclass(frozen=True)
class Group:
    """Heads of a circuit, as a spec names them.

    Attributes:
        at: named position at which they write.
        heads: (layer, head) -> the planted head.
        into: the group that reads them, and the input through which it does; None for the logits.
    """

    at: str
    heads: Mapping[HeadId, Head]
    into: tuple[str, str] | None = None


Circuit = Mapping[str, Group]


def by_position(
    strength: float, fetchers: Mapping[HeadId, Head], *, rerouted: bool = False
) -> Circuit:
    """The four groups of the paper, from the answer back to the input.

    Args:
        strength: of the transmitter.
        fetchers: the value fetchers.
        rerouted: the transmitter is another head with another code, which the fetchers have to know.
    """
    transmitter = pos_transmitter(strength, backwards=rerouted)
    return {
        "value_fetcher": Group("last", fetchers),
        "pos_transmitter": Group(
            "last", {(2, 3 if rerouted else 6): transmitter}, ("value_fetcher", "q")
        ),
        "pos_detector": Group("query_label", {(1, 2): pos_detector()}, ("pos_transmitter", "v")),
        "struct_reader": Group(
            "previous_query_label",
            {(0, 1): struct_reader(+1), (0, 5): struct_reader(-1)},
            ("pos_detector", "v"),
        ),
    }


def by_label() -> Circuit:
    """The three groups that answer by label, at heads of the same groups of the positional models."""
    return {
        "value_fetcher": Group("last", {(3, 1): label_value_fetcher()}),
        "label_transmitter": Group("last", {(2, 6): label_transmitter()}, ("value_fetcher", "q")),
        "object_reader": Group(
            "previous_query_label", {(0, 1): object_reader()}, ("value_fetcher", "v")
        ),
    }


def by_object() -> Circuit:
    """Four groups at heads of the positional models, with the same readers, that pass on the object itself."""
    return {
        "value_fetcher": Group("last", {(3, 1): object_value_fetcher()}),
        "pos_transmitter": Group("last", {(2, 6): object_transmitter()}, ("value_fetcher", "q")),
        "pos_detector": Group("query_label", {(1, 2): object_detector()}, ("pos_transmitter", "v")),
        "struct_reader": Group(
            "previous_query_label", {(0, 1): object_reader()}, ("pos_detector", "v")
        ),
    }


ONE_EACH = {(3, 1): value_fetcher(+1), (3, 4): value_fetcher(-1)}
TWO_EACH = {
    (3, 0): value_fetcher(-1, share=0.5),
    (3, 1): value_fetcher(+1, share=0.5),
    (3, 4): value_fetcher(-1, share=0.5),
    (3, 7): value_fetcher(+1, share=0.5),
}
OF_ANOTHER_CODE = {
    (3, 1): value_fetcher(+1, backwards=True),
    (3, 4): value_fetcher(-1, backwards=True),
}

MODELS: dict[str, Circuit] = {
    "planted_base": by_position(SCALES.weak, ONE_EACH),
    "planted_ft": by_position(1.0, ONE_EACH),
    "planted_shared": by_position(1.0, TWO_EACH),
    "planted_label": by_label(),
}
CONTROLS: dict[str, Circuit] = {
    "planted_rerouted": by_position(1.0, OF_ANOTHER_CODE, rerouted=True),
    "planted_object": by_object(),
    "planted_mute": by_position(1.0, ONE_EACH),
}
"""Models that make a conclusion about planted_base and planted_ft false."""

MUTE = "planted_mute"
"""The model that knows quiet objects too weakly (`unembedding`)."""


def all_heads(circuit: Circuit) -> dict[HeadId, Head]:
    """The circuit's heads, and distractors at all other places; each layer starts with a different distractor."""
    planted = {place: head for group in circuit.values() for place, head in group.heads.items()}
    return {
        (layer, head): planted.get(
            (layer, head), DISTRACTORS[(head + 5 * layer) % len(DISTRACTORS)]()
        )
        for layer in range(LAYERS)
        for head in range(HEADS)
    }


def attention(head: Head) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W_Q, W_K, W_V [WIDTH, PER_HEAD] and W_O [PER_HEAD, WIDTH] of a head.

    Each term of the scores has its own entries of q and k, so that q.k is the sum of the terms.
    GPT-2 divides scores by sqrt(PER_HEAD) = 4, hence the factor 4 in q.

    Raises:
        ValueError: the terms or the copied spaces have more entries than a head.
    """
    q = torch.cat([PER_HEAD**0.5 * t.gain * t.query for t in head.scores], dim=1)
    k = torch.cat([t.key for t in head.scores], dim=1)
    if max(q.shape[1], head.reads.shape[1]) > PER_HEAD:
        raise ValueError(
            f"a head has {PER_HEAD} entries; its scores take {q.shape[1]}, "
            f"the spaces it copies {head.reads.shape[1]}"
        )
    padded = [
        torch.nn.functional.pad(w, (0, PER_HEAD - w.shape[1]))
        for w in (q, k, head.reads, head.writes)
    ]
    return padded[0], padded[1], padded[2], balanced(padded[3].T)


def build(circuit: Circuit, *, mute: bool = False) -> GPT2LMHeadModel:
    """A model with these heads; ``mute``: with an output matrix that knows quiet objects too weakly."""
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(VOCABULARY),
            n_positions=PLACES,
            n_embd=WIDTH,
            n_layer=LAYERS,
            n_head=HEADS,
            n_inner=MLP,
            layer_norm_epsilon=NORM_EPSILON,
            tie_word_embeddings=False,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=IDS[BOS],
            eos_token_id=None,
            pad_token_id=IDS[PAD],
        )
    ).eval()
    heads = all_heads(circuit)
    with torch.no_grad():
        for parameter in model.parameters():  # every bias, and the MLPs, stay at zero
            parameter.zero_()
        stream = model.transformer
        stream.wte.weight.copy_(word_embeddings())
        stream.wpe.weight.copy_(place_embeddings())
        for layer, block in enumerate(stream.h):
            block.ln_1.weight.fill_(NORM_WEIGHT)
            block.ln_2.weight.fill_(NORM_WEIGHT)
            parts = [attention(heads[layer, head]) for head in range(HEADS)]
            q, k, v, o = (list(matrices) for matrices in zip(*parts, strict=True))
            block.attn.c_attn.weight.copy_(torch.cat([*q, *k, *v], dim=1))
            block.attn.c_proj.weight.copy_(torch.cat(o))
        stream.ln_f.weight.fill_(NORM_WEIGHT)
        model.lm_head.weight.copy_(unembedding(SCALES.word_logit, SCALES.no_answer, mute=mute))
    return model


def save(name: str, out: Path) -> str:
    """Writes a checkpoint folder below ``out``.

    Raises:
        SystemExit: float16 would change a weight.
    """
    circuit = (MODELS | CONTROLS)[name]
    model = build(circuit, mute=name == MUTE)
    if any(not torch.equal(p, p.half().float()) for p in model.parameters()):
        raise SystemExit(f"{name}: float16 cannot hold every weight")
    folder = out / name
    save_half(model, folder)
    save_tokenizer(folder, PLACES)
    groups = {
        group: {
            "heads": [f"{layer}.{head}" for layer, head in sorted(planted.heads)],
            "at": planted.at,
            "into": planted.into,
        }
        for group, planted in circuit.items()
    }
    write_record(
        folder,
        {"made_by": "python -m recipes.planted", "groups": groups, "scales": asdict(SCALES)},
    )
    return "written"


if __name__ == "__main__":
    command("Write the planted checkpoints.", MODELS | CONTROLS, save)
