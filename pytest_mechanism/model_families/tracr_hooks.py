"""Where transformer-lens finds the parts of a compiled program (`tracr`)."""

from __future__ import annotations

from typing import Any

from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter
from transformer_lens.model_bridge.generalized_components import (
    BlockBridge,
    EmbeddingBridge,
    LinearBridge,
    MLPBridge,
    PosEmbedBridge,
    PositionEmbeddingsAttentionBridge,
    UnembeddingBridge,
)
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent


class NoNorm(GeneralizedComponent):
    """What transformer-lens wants before an MLP, around a module that changes nothing."""


class TracrAdapter(ArchitectureAdapter):
    """The family has no norms. Its attention is computed by transformer-lens, so that scores can be
    cut before the softmax; without position embeddings, nothing is rotated."""

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        self.cfg.normalization_type = None
        self.cfg.positional_embedding_type = "standard"
        self.cfg.final_rms = False
        self.cfg.gated_mlp = False
        self.cfg.attn_only = False
        self.component_mapping = {
            "embed": EmbeddingBridge(name="token_embed"),
            "pos_embed": PosEmbedBridge(name="pos_embed"),
            "blocks": BlockBridge(
                name="layers",
                submodules={
                    "attn": PositionEmbeddingsAttentionBridge(
                        name="attn",
                        config=self.cfg,
                        submodules={
                            "q": LinearBridge(name="q_proj"),
                            "k": LinearBridge(name="k_proj"),
                            "v": LinearBridge(name="v_proj"),
                            "o": LinearBridge(name="o_proj"),
                        },
                    ),
                    "ln2": NoNorm(name="before_mlp"),
                    "mlp": MLPBridge(
                        name="mlp",
                        config=self.cfg,
                        submodules={
                            "in": LinearBridge(name="fc_in"),
                            "out": LinearBridge(name="fc_out"),
                        },
                    ),
                },
            ),
            "unembed": UnembeddingBridge(name="lm_head"),
        }
