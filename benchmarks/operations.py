"""Multiply-adds of a forward, and the least that a sweep needs: what no engine can undercut
without changing the question.

Counted: the weight matrices, attention over keys, and the unembedding. Per token of a layer,
with S keys: q, k, v, o and the MLP, and 2 S H d_head for scores and mixing.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.shapes import Setting


@dataclass(frozen=True)
class Cost:
    """Multiply-adds per token.

    Attributes:
        queries: of q and o, each token of a layer.
        keys: of k and v.
        mlp: of the MLP.
        attention: per key that a token sees.
        unembedding: of one answer.
        layers: how many there are.
    """

    queries: int
    keys: int
    mlp: int
    attention: int
    unembedding: int
    layers: int

    @staticmethod
    def of(setting: Setting) -> Cost:
        s = setting.shape
        return Cost(
            queries=2 * s.d_model * s.n_heads * s.d_head,
            keys=2 * s.d_model * s.n_kv_heads * s.d_head,
            mlp=sum(p.numel() for p in setting.layers[0].mlp.parameters() if p.dim() == 2),
            attention=2 * s.n_heads * s.d_head,
            unembedding=s.d_model * s.d_vocab,
            layers=s.n_layers,
        )

    def layer(self, seen: float) -> float:
        """Multiply-adds of one token in one layer, with this number of keys."""
        return self.queries + self.keys + self.mlp + self.attention * seen

    def forward(self, length: int) -> float:
        """A prompt, logits at every token; a token sees half of the prompt on average."""
        return length * (self.layers * self.layer(length / 2) + self.unembedding)

    def last_branch(self, layer: int, length: int) -> float:
        """z of a head of this layer changed at the last token: o and the MLP there, the layers
        above, one position, one unembedding."""
        own = self.queries / 2 + self.mlp
        return own + (self.layers - 1 - layer) * self.layer(length) + self.unembedding

    def everywhere_branch(self, layer: int, length: int) -> float:
        """z of a head of this layer changed at every token. In the last layer only the answer's
        token needs more than its key and value."""
        top = self.layers - 1
        if layer == top:
            return self.last_branch(layer, length)
        own = length * (self.queries / 2 + self.mlp)
        between = length * (top - 1 - layer) * self.layer(length / 2)
        at_top = length * self.keys + self.queries + self.mlp + self.attention * length
        return own + between + at_top + self.unembedding

    def bound(self, everywhere: bool, length: int, heads: int) -> float:
        """A sweep of all heads: operations of one forward a head over the least needed."""
        one = self.everywhere_branch if everywhere else self.last_branch
        least = sum(heads * one(layer, length) for layer in range(self.layers))
        return heads * self.layers * self.forward(length) / least
