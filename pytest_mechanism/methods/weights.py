"""The weight matrices of a checkpoint's layers, on a plain copy that may be changed.

Pruning zeroes weights and SNIP needs their gradients. Both work on a Hugging Face model read from
the folder anew: the model that is loaded for the other measurements is frozen, its runs are
remembered, and transformer-lens has split and renamed some of its weights. That costs the memory
of a second copy of the weights, and of a gradient for those of the layers.

Where a family keeps its layers, and which matrix puts the heads' z back into the residual stream,
is transformer-lens' knowledge. Experts that a mixture keeps in one three-dimensional tensor are
not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pytest_mechanism.checkpoints.load import LoadedModel
from pytest_mechanism.errors import MeasurementError


@dataclass(frozen=True, eq=False)
class Matrix:
    """The weights of one linear map x -> W x + b.

    Attributes:
        name: of the module, as Hugging Face calls it.
        weight: the parameter.
        bias: the parameter, or None.
        transposed: whether the parameter is W transposed, as in GPT-2.
    """

    name: str
    weight: Tensor
    bias: Tensor | None
    transposed: bool

    @property
    def parameters(self) -> list[Tensor]:
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    @property
    def rows(self) -> Tensor:
        """W, [outputs, inputs], sharing memory with the parameter."""
        return self.turned(self.weight.detach())

    def turned(self, like_weight: Tensor) -> Tensor:
        """[outputs, inputs] of a tensor that lies as the parameter does."""
        return like_weight.t() if self.transposed else like_weight


@dataclass(frozen=True, eq=False)
class Copy:
    """A plain model of the checkpoint's own, frozen but for its matrices.

    Attributes:
        model: the Hugging Face model, in eval mode and the dtype of the run.
        matrices: of every layer, in the model's order.
        outputs: layer -> the matrix that reads the heads' z.
    """

    model: Any
    matrices: Sequence[Matrix]
    outputs: Sequence[Matrix]

    def forget_gradients(self) -> None:
        for matrix in self.matrices:
            for parameter in matrix.parameters:
                parameter.grad = None


def copy_of(model: LoadedModel) -> Copy:
    """Read the checkpoint's folder again.

    Raises:
        MechanismError: weights missing, damaged, or not matching the config.
        MeasurementError: the layers hold no matrices, or z is read by something else.
    """
    from transformers.pytorch_utils import Conv1D

    bridge = model.bridge
    plain = model.fresh(model.dtype).requires_grad_(False)
    layers = str(bridge.adapter.component_mapping["blocks"].name)
    found: dict[str, Matrix] = {}
    for name, module in plain.named_modules():
        if name.startswith(f"{layers}.") and isinstance(module, (nn.Linear, Conv1D)):
            found[name] = Matrix(name, module.weight, module.bias, isinstance(module, Conv1D))
    outputs = [
        found.get(f"{layers}.{i}.{block.attn.name}.{block.attn.o.name}")
        for i, block in enumerate(bridge.blocks)
    ]
    read_by = [matrix for matrix in outputs if matrix is not None]
    width = model.shape.n_heads * model.shape.d_head
    if not found or len(read_by) < len(outputs) or any(m.rows.shape[1] != width for m in read_by):
        raise MeasurementError(
            f"{model.folder}: no linear layer reads the heads of every {type(plain).__name__} "
            "layer; its weights cannot be told apart"
        )
    for matrix in found.values():
        for parameter in matrix.parameters:
            parameter.requires_grad_(True)
    return Copy(plain, list(found.values()), read_by)


def importance(parameter: Tensor) -> Tensor:
    """Gradient x weight: to first order, what the loss falls by when the weight becomes zero."""
    if parameter.grad is None:
        return torch.zeros_like(parameter)
    return (parameter.grad * parameter).detach()
