"""A user's pair: a small Qwen3 that is trained on an induction task, and an adapter."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

WORDS = [
    "ant",
    "bat",
    "bear",
    "bee",
    "bird",
    "bull",
    "calf",
    "cat",
    "clam",
    "colt",
    "cow",
    "crab",
    "crow",
    "deer",
    "dog",
    "dove",
    "duck",
    "elk",
    "emu",
    "fish",
    "fly",
    "fox",
    "frog",
    "goat",
    "gull",
    "hare",
    "hawk",
    "hen",
    "ibis",
    "jay",
    "kid",
    "lamb",
    "lark",
    "lion",
    "lynx",
    "mole",
    "moth",
    "mouse",
    "mule",
    "newt",
]
SPECIAL = ("<pad>", "<unk>", "<bos>")


def make_pair(folder: Path) -> None:
    """``base``, its LoRA fine-tune ``lora``, and ``cut``: base without the attention of layer 0."""
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(SPECIAL) + len(WORDS),
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=64,
            tie_word_embeddings=False,
        )
    )
    generator = torch.Generator().manual_seed(1)
    learn(model, generator, steps=300, rate=3e-3)
    save(model, folder / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
        learn(adapted, generator, steps=50, rate=1e-3)
        adapted.peft_config["default"].base_model_name_or_path = str(folder / "base")
        adapted.save_pretrained(folder / "lora")
    cut = Qwen3ForCausalLM.from_pretrained(folder / "base")
    torch.nn.init.zeros_(cut.model.layers[0].self_attn.o_proj.weight)
    save(cut, folder / "cut")


def learn(model: torch.nn.Module, generator: torch.Generator, steps: int, rate: float) -> None:
    """Train on sequences of different words that occur twice, in the same order."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=rate, weight_decay=0.01)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 50) * max(0.05, 1 - step / steps)
        n = int(torch.randint(3, 7, (1,), generator=generator))
        words = torch.stack(
            [torch.randperm(len(WORDS), generator=generator)[:n] for _ in range(64)]
        )
        words += len(SPECIAL)
        ids = torch.cat([torch.full((64, 1), SPECIAL.index("<bos>")), words, words], dim=1)
        logits = model(ids).logits[:, n + 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, n + 2 :].flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()


def save(model: Qwen3ForCausalLM, folder: Path) -> None:
    """Save the model and its tokenizer."""
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<bos>"
    ).save_pretrained(folder)
