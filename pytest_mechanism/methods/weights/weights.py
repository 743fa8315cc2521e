"""The weight matrices of a checkpoint's layers, on a plain copy that may be changed.

Pruning zeroes weights and SNIP needs their gradients. Both work on a Hugging Face model read from
the folder anew: the model that is loaded for the other measurements is frozen, its runs are
remembered, and transformer-lens has split and renamed some of its weights. That costs the memory
of a second copy of the weights, and of a gradient for those of the layers.

Where a family keeps its layers, and which matrix puts the heads' z back into the residual stream,
is transformer-lens' knowledge. Experts that a mixture keeps in one three-dimensional tensor are a
matrix each, and so is what chooses among them.

Embeddings, norms and the matrix that gives logits are no layer's matrices: no score, pruning or
change is measured of them, though a fine-tune may have changed them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pytest_mechanism.checkpoints.loading.model import LoadedModel
from pytest_mechanism.errors import MeasurementError


@dataclass(frozen=True, eq=False)
class Matrix:
    """The weights of one linear map x -> W x + b.

    Attributes:
        name: of the module, as Hugging Face calls it; of the tensor and the expert, in a mixture.
        weight: the parameter that holds it.
        bias: the parameter that holds it, or None.
        transposed: whether what is held is W transposed, as in GPT-2.
        expert: which part of the parameters, where they hold those of several experts; else None.
    """

    name: str
    weight: Tensor
    bias: Tensor | None
    transposed: bool
    expert: int | None = None

    @property
    def parameters(self) -> list[Tensor]:
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    def part(self, parameter: Tensor) -> Tensor:
        """What of a parameter is this matrix's, sharing memory with it."""
        return parameter if self.expert is None else parameter[self.expert]

    @property
    def values(self) -> Tensor:
        """W as the checkpoint keeps it."""
        return self.part(self.weight.detach())

    @property
    def offsets(self) -> Tensor | None:
        """b, [outputs]."""
        return None if self.bias is None else self.part(self.bias.detach())

    @property
    def rows(self) -> Tensor:
        """W, [outputs, inputs], sharing memory with the parameter."""
        return self.turned(self.values)

    def turned(self, like_weight: Tensor) -> Tensor:
        """[outputs, inputs] of a tensor that lies as `values` does."""
        return like_weight.t() if self.transposed else like_weight

    def importance(self) -> Tensor:
        """Of W, as it lies: see `importance`."""
        return importance(self.weight, self.part)

    def bias_importance(self) -> Tensor | None:
        """Of b, [outputs]."""
        return None if self.bias is None else importance(self.bias, self.part)


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

    plain = model.read_plain_model(model.dtype).requires_grad_(False)
    layers = model.wrapped.layers_path
    found: dict[str, Matrix] = {}
    for name, module in plain.named_modules():
        if not name.startswith(f"{layers}."):
            continue
        if isinstance(module, (nn.Linear, Conv1D)):
            found[name] = Matrix(name, module.weight, module.bias, isinstance(module, Conv1D))
        elif not isinstance(module, (nn.Conv1d, nn.Conv2d)):
            found |= {each.name: each for each in mixed(name, module, model)}
    outputs = [
        found.get(f"{layers}.{i}.{layer.output_projection}")
        for i, layer in enumerate(model.wrapped.layers)
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


def mixed(name: str, module: Any, model: LoadedModel) -> Iterator[Matrix]:
    """The experts of a mixture, and what chooses among them: modules that are no linear layers.

    Raises:
        MeasurementError: it is not known how the experts' weights lie.
    """
    own = dict(module.named_parameters(recurse=False))
    if "Router" in type(module).__name__ and "weight" in own and own["weight"].dim() == 2:
        yield Matrix(name, own["weight"], own.get("bias"), transposed=False)
    for which, weight in own.items():
        if weight.dim() != 3:
            continue
        transposed = getattr(module, "is_transposed", None)  # transformers' own mark
        if transposed is None:
            raise MeasurementError(
                f"{model.folder}: which way round a {type(module).__name__} keeps its experts' "
                f"weights ({which}) is not known, so they cannot be told apart"
            )
        for expert in range(weight.shape[0]):
            yield Matrix(
                f"{name}.{which} expert {expert}",
                weight,
                own.get(f"{which}_bias"),
                transposed,
                expert,
            )


def finite_scores(name: str, scores: Tensor) -> Tensor:
    """The importance of a matrix's weights, all of it numbers: of NaN, some is the most.

    Raises:
        MeasurementError: it is not.
    """
    if not bool(scores.isfinite().all()):
        raise MeasurementError(
            f"the importance of {name} is not a finite number (NaN or infinity) on every weight, so "
            "none can be ranked; --mechanism-dtype float32 has more room than half precision"
        )
    return scores


def importance(parameter: Tensor, part: Callable[[Tensor], Tensor] = lambda whole: whole) -> Tensor:
    """Gradient x weight: to first order, what the loss falls by when the weight becomes zero."""
    if parameter.grad is None:
        return torch.zeros_like(part(parameter.detach()))
    return (part(parameter.grad) * part(parameter)).detach()
