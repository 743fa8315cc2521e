"""The weight matrices of a checkpoint's layers, on a separate copy that methods may change.

Pruning zeroes weights and SNIP needs their gradients. Both read the folder again as a plain Hugging
Face model, since the model of the other measurements is frozen, its runs are cached, and
transformer-lens has split and renamed some of its weights. This costs the memory of a second copy of
the weights and of a gradient for the layers' weights.

transformer-lens knows where a family has its layers, and which matrix writes the heads' z to the
residual stream. In a mixture of experts, each expert in a three-dimensional tensor is a matrix, and
so is the router.

Embeddings, norms and the unembedding belong to no layer. Methods do not score, prune or compare them,
though a fine-tune may have changed them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pytest_mechanism.checkpoints.loading.model import LoadedModel
from pytest_mechanism.errors import MeasurementError


@dataclass(frozen=True, eq=False)
class Matrix:
    """The weights of one linear map x -> W x + b.

    Attributes:
        name: the module's name in Hugging Face; in a mixture, with the tensor and the expert.
        weight: the parameter with W.
        bias: the parameter with b, or None.
        transposed: whether the parameter is W transposed, as in GPT-2.
        expert: index into parameters of several experts, or None.
    """

    name: str
    weight: Float[Tensor, ...]
    bias: Float[Tensor, ...] | None
    transposed: bool
    expert: int | None = None

    @property
    def parameters(self) -> list[Float[Tensor, ...]]:
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    def part(self, parameter: Float[Tensor, ...]) -> Float[Tensor, ...]:
        """The part of a parameter that belongs to this matrix, sharing its memory."""
        return parameter if self.expert is None else parameter[self.expert]

    @property
    def values(self) -> Float[Tensor, "height width"]:
        """W in the checkpoint's layout."""
        return self.part(self.weight.detach())

    @property
    def offsets(self) -> Float[Tensor, " outputs"] | None:
        """b."""
        return None if self.bias is None else self.part(self.bias.detach())

    @property
    def rows(self) -> Float[Tensor, "outputs inputs"]:
        """W, sharing memory with the parameter."""
        return self.oriented(self.values)

    def oriented(
        self, like_weight: Float[Tensor, "height width"]
    ) -> Float[Tensor, "outputs inputs"]:
        """The same numbers as a tensor in the layout of `values`, with a row for each output."""
        return like_weight.t() if self.transposed else like_weight

    def importance(self) -> Float[Tensor, "height width"]:
        """Of W, in the checkpoint's layout: see `importance`."""
        return importance(self.weight, self.part)

    def bias_importance(self) -> Float[Tensor, " outputs"] | None:
        """Of b: see `importance`."""
        return None if self.bias is None else importance(self.bias, self.part)


@dataclass(frozen=True, eq=False)
class EditableCopy:
    """A plain Hugging Face copy of a checkpoint, frozen except for its matrices.

    Attributes:
        model: the model, in eval mode and the dtype of the run.
        matrices: of all layers, in the model's order.
        outputs: layer -> the matrix that reads the heads' z.
    """

    model: Any
    matrices: Sequence[Matrix]
    outputs: Sequence[Matrix]

    def clear_gradients(self) -> None:
        for matrix in self.matrices:
            for parameter in matrix.parameters:
                parameter.grad = None


def editable_copy(model: LoadedModel) -> EditableCopy:
    """Reads the checkpoint's folder again.

    Raises:
        MechanismError: weights are missing, damaged, or do not match the config.
        MeasurementError: the layers have no matrices, or no matrix reads z.
    """
    from transformers.pytorch_utils import Conv1D

    plain = model.read_plain_model(model.dtype).requires_grad_(False)
    layers = model.wrapped.layers_path
    matrices: dict[str, Matrix] = {}
    for name, module in plain.named_modules():
        if not name.startswith(f"{layers}."):
            continue
        if isinstance(module, (nn.Linear, Conv1D)):
            matrices[name] = Matrix(name, module.weight, module.bias, isinstance(module, Conv1D))
        elif not isinstance(module, (nn.Conv1d, nn.Conv2d)):
            matrices |= {m.name: m for m in expert_matrices(name, module, model)}
    outputs = [
        matrices.get(f"{layers}.{i}.{layer.output_projection}")
        for i, layer in enumerate(model.wrapped.layers)
    ]
    present = [matrix for matrix in outputs if matrix is not None]
    width = model.shape.n_heads * model.shape.d_head
    complete = matrices and len(present) == len(outputs)
    if not complete or any(matrix.rows.shape[1] != width for matrix in present):
        raise MeasurementError(
            f"{model.folder}: some layer of a {type(plain).__name__} has no linear map that reads its "
            "heads, so weights of this family cannot be ranked"
        )
    for matrix in matrices.values():
        for parameter in matrix.parameters:
            parameter.requires_grad_(True)
    return EditableCopy(plain, list(matrices.values()), present)


def expert_matrices(name: str, module: Any, model: LoadedModel) -> Iterator[Matrix]:
    """The experts and the router of a mixture, which are not linear layers of torch.

    Raises:
        MeasurementError: the layout of the experts' weights is unknown.
    """
    own = dict(module.named_parameters(recurse=False))
    if "Router" in type(module).__name__ and "weight" in own and own["weight"].dim() == 2:
        yield Matrix(name, own["weight"], own.get("bias"), transposed=False)
    for key, weight in own.items():
        if weight.dim() != 3:
            continue
        transposed = getattr(module, "is_transposed", None)  # set by transformers
        if transposed is None:
            raise MeasurementError(
                f"{model.folder}: a {type(module).__name__} does not say whether its experts' weights "
                f"({key}) are transposed, so they cannot be ranked"
            )
        for expert in range(weight.shape[0]):
            yield Matrix(
                f"{name}.{key} expert {expert}",
                weight,
                own.get(f"{key}_bias"),
                transposed,
                expert,
            )


def finite_scores(
    name: str, scores: Float[Tensor, "outputs inputs"]
) -> Float[Tensor, "outputs inputs"]:
    """The importance of a matrix's weights, after a check, since a ranking would put NaN first.

    Raises:
        MeasurementError: a score is NaN or infinite.
    """
    if not bool(scores.isfinite().all()):
        raise MeasurementError(
            f"the importance of some weights of {name} is not a finite number (NaN or "
            "infinity), so they cannot be ranked; use --mechanism-dtype float32"
        )
    return scores


def importance(
    parameter: Float[Tensor, ...], part: Callable[[Tensor], Tensor] = lambda whole: whole
) -> Float[Tensor, ...]:
    """Gradient x weight: to first order, by how much the loss falls when the weight becomes zero."""
    if parameter.grad is None:
        return torch.zeros_like(part(parameter.detach()))
    return (part(parameter.grad) * part(parameter)).detach()
