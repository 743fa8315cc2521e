"""Compiled programs as a family of their own: what Tracr compiles, as a Hugging Face model.

    x_0 = token_embed[w] + pos_embed[i];  x <- x + attention(x);  x <- x + W_2 relu(W_1 x + b_1) + b_2

Tracr (Lindner et al. 2023, arXiv 2301.05062) compiles a RASP program into the weights of a transformer
without norms, whose attention is causal or not. `checkpoints.tracr` writes its files as a checkpoint's
folder, which this model reads. Inputs and outputs share one vocabulary: ids below ``num_input_words``
can be read, and the unembedding gives every output word the logit of its value.

Shapes: R rows, S tokens, K keys, H heads, d width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from pytest_mechanism.errors import MechanismError

TRACR = "tracr"
"""``model_type`` in config.json."""


class TracrConfig(PreTrainedConfig):
    """Sizes of a compiled program.

    Attributes:
        head_dim: numbers of a head's queries, keys and values.
        key_size: by whose square root attention scores are divided.
        max_position_embeddings: tokens of the longest prompt, with its start token.
        num_input_words: how many ids can be read; the ids above are outputs alone.
        causal: whether a token attends to earlier tokens alone.
        residual_labels: what each coordinate of the residual stream means, in order.
        output_label: the labels from which outputs are read: a variable's name.
        output_kind: ``categorical``, a direction for each value, or ``numerical``, a number.
        output_words: the words of the outputs.
    """

    model_type = TRACR

    def __init__(
        self,
        vocab_size: int = 16,
        hidden_size: int = 16,
        intermediate_size: int = 16,
        num_hidden_layers: int = 1,
        num_attention_heads: int = 1,
        head_dim: int = 16,
        key_size: int = 16,
        max_position_embeddings: int = 16,
        num_input_words: int = 16,
        causal: bool = True,
        initializer_range: float = 0.02,
        residual_labels: Sequence[str] = (),
        output_label: str = "",
        output_kind: str = "",
        output_words: Sequence[str] = (),
        **more: Any,
    ) -> None:
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self.intermediate_size, self.num_hidden_layers = intermediate_size, num_hidden_layers
        self.num_attention_heads, self.head_dim = num_attention_heads, head_dim
        self.key_size, self.max_position_embeddings = key_size, max_position_embeddings
        self.num_input_words, self.causal = num_input_words, causal
        self.initializer_range = initializer_range
        self.residual_labels, self.output_words = list(residual_labels), list(output_words)
        self.output_label, self.output_kind = output_label, output_kind
        more.setdefault("tie_word_embeddings", False)
        super().__init__(**more)


class TracrAttention(nn.Module):
    """Attention with biases and no rotation; it takes the softmax in float32, as most families do."""

    num_key_value_groups = 1

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__()
        self.config, self.layer_idx, self.head_dim = config, layer_idx, config.head_dim
        self.scaling = config.key_size**-0.5
        width = config.num_attention_heads * config.head_dim
        self.q_proj, self.k_proj, self.v_proj = (
            nn.Linear(config.hidden_size, width) for _ in range(3)
        )
        self.o_proj = nn.Linear(width, config.hidden_size)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor, past_key_values: Any = None
    ) -> tuple[Tensor, Tensor]:
        rows, tokens, _ = hidden_states.shape
        q, k, v = (
            project(hidden_states).view(rows, tokens, -1, self.head_dim).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer_idx)
        scores = q @ k.transpose(2, 3) * self.scaling + attention_mask
        pattern = scores.softmax(-1, dtype=torch.float32).to(v.dtype)
        z = (pattern @ v).transpose(1, 2).reshape(rows, tokens, -1)
        return self.o_proj(z), pattern


class TracrMlp(nn.Module):
    """Two matrices with a ReLU between them."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.fc_in = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc_out = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        out: Tensor = self.fc_out(self.fc_in(hidden_states).relu())
        return out


class TracrLayer(nn.Module):
    """Attention, then the MLP; each adds to the residual stream."""

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__()
        self.attn = TracrAttention(config, layer_idx)
        self.before_mlp = nn.Identity()  # where hooks see the stream between attention and MLP
        self.mlp = TracrMlp(config)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
    ) -> Tensor:
        attended, _ = self.attn(
            hidden_states=hidden_states,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
        )
        hidden_states = hidden_states + attended
        out: Tensor = hidden_states + self.mlp(self.before_mlp(hidden_states))
        return out


class TracrForCausalLM(PreTrainedModel, GenerationMixin):
    """A compiled program; see the module. Adapters look for what `GenerationMixin` gives."""

    config_class = TracrConfig
    base_model_prefix = "model"
    _supports_sdpa = False

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.token_embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.pos_embed = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(
            TracrLayer(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.token_embed

    def set_input_embeddings(self, value: Any) -> None:
        self.token_embed = value

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: Any) -> None:
        self.lm_head = new_embeddings

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """Logits, [R, S, V].

        Args:
            input_ids: [R, S].
            attention_mask: [R, S], 0 where a key is hidden from every query.
            labels: [R, S], -100 elsewhere; then the last column is not read, since nothing follows it.
            past_key_values: a cache, which gets the keys and values.
            use_cache: without effect; taken since every family takes it.

        Raises:
            MechanismError: a prompt is too long, or holds a word that is an output alone.
        """
        if labels is not None:
            input_ids = input_ids[:, :-1]
        seen = 0 if past_key_values is None else past_key_values.get_seq_length()
        length = seen + input_ids.shape[1]
        if length > self.config.max_position_embeddings:
            raise MechanismError(
                f"a prompt has {length} tokens, but the program was compiled for at most "
                f"{self.config.max_position_embeddings}, with its start token"
            )
        if labels is None:  # the reply of a training row is written, not read
            self.check_words(input_ids)
        at = torch.arange(seen, length, device=input_ids.device)
        hidden = self.token_embed(input_ids) + self.pos_embed(at)
        mask = self.hidden_keys(attention_mask, at, length, hidden.dtype)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask=mask, past_key_values=past_key_values)
        logits = self.lm_head(hidden)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(
                logits.flatten(0, 1).float(), labels[:, 1:].flatten()
            )
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)

    def check_words(self, ids: Tensor) -> None:
        largest = int(ids.max())
        if largest >= self.config.num_input_words:
            words = self.config.output_words
            raise MechanismError(
                f"a prompt holds a word (id {largest}) that the program cannot read; it reads "
                f"{self.config.num_input_words} words, and writes {', '.join(words[:20])}"
            )

    def hidden_keys(
        self, attention_mask: Tensor | None, at: Tensor, length: int, dtype: torch.dtype
    ) -> Tensor:
        """What to add to scores, [1 or R, 1, S, K]: 0, or the lowest number where a key is hidden."""
        keys = torch.arange(length, device=at.device)
        visible = torch.ones(1, 1, len(at), length, dtype=torch.bool, device=at.device)
        if self.config.causal:
            visible = (keys <= at[:, None])[None, None]
        if attention_mask is not None:
            kept = attention_mask[:, :length].bool()
            visible = visible & kept[:, None, None]
        lowest = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=at.device)
        return torch.where(visible, lowest.new_zeros(()), lowest)


def register() -> None:
    """Make transformers and transformer-lens know the family; without effect the second time."""
    AutoConfig.register(TRACR, TracrConfig, exist_ok=True)
    AutoModelForCausalLM.register(TracrConfig, TracrForCausalLM, exist_ok=True)


def register_hooks() -> None:
    """Make transformer-lens know the parts of the family."""
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory

    from pytest_mechanism.model_families.tracr_hooks import TracrAdapter

    ArchitectureAdapterFactory.register_adapter(TracrForCausalLM.__name__, TracrAdapter)
