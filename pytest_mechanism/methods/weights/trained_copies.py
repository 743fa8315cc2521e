"""Plain copies of the model under test that were trained first, and what is in them.

Random fine-tuning (Jain et al., ICLR 2024, arXiv 2311.12786, section 4) shows what the real removal of a
capability looks like: a copy is trained on answers that are not the prompt's own, and then probed and
revived like the model itself. The trained weights are kept in the memory of the CPU while the model is
loaded, so that the probe and all revivals begin at the same copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.recipe import Recipe
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.weights.training import Training, dtype_of, merged, trainable_copy
from pytest_mechanism.model_families.rotary import row_lengths
from pytest_mechanism.tasks.base import Row


def trained_copy(context: MeasurementContext, recipe: Recipe) -> Any:
    """A plain copy of the model, trained by a recipe, in eval mode.

    Raises:
        MeasurementError: training broke down.
    """
    weights = context.remember(("trained copy", recipe), lambda: trained_weights(context, recipe))
    copy = context.model.read_plain_model(dtype_of(context.model, recipe))
    copy.load_state_dict(weights)
    return copy


def trained_weights(context: MeasurementContext, recipe: Recipe) -> dict[str, Tensor]:
    """Name -> weight of a copy that has been trained, on the CPU."""
    training = Training(
        context.model,
        context.task,
        context.vocabulary,
        recipe,
        trainable_copy(context.model, recipe),
    )
    # the state's folder is named after the measurement, whose key it must have
    folder = context.scratch and context.scratch / f"{context.scratch.name}-first"
    resumed = training.resume(folder) if folder else None
    for step in training.evaluations(resumed[0] if resumed else 0):
        if folder is not None:
            training.save(folder, step, {})
        context.tick(3 * recipe.batch * recipe.every)  # a backward costs two forwards
    if training.diverged is not None:
        raise MeasurementError(
            f"{context.model.role}: the training of its copy diverged ({training.diverged}); lower the "
            f"rate, {recipe.rate:g}"
        )
    state = merged(training.copy).state_dict()
    return {name: weight.detach().to("cpu", copy=True) for name, weight in state.items()}


@torch.no_grad()
def copy_residuals(
    context: MeasurementContext,
    copy: Any,
    rows: Sequence[Row],
    position: str,
    after: Sequence[int],
) -> Float[Tensor, "layers rows d_model"]:
    """The residual stream of a plain copy after each of these numbers of layers (0 is the embedding), at
    the position's token, in float32 on the CPU.

    Raises:
        MeasurementError: the position has several tokens.
    """
    layers = list(copy.get_submodule(context.model.wrapped.layers_path))
    seen: dict[int, Tensor] = {}

    def keep(k: int, stream: Any) -> None:
        seen[k] = stream[0] if isinstance(stream, tuple) else stream

    hooks = [
        layers[0].register_forward_pre_hook(
            lambda _, inputs, named: keep(0, inputs[0] if inputs else named["hidden_states"]),
            with_kwargs=True,
        )
    ]
    hooks += [
        layer.register_forward_hook(lambda _, __, output, k=k: keep(k, output))
        for k, layer in enumerate(layers, start=1)
    ]
    parts: list[Tensor] = []
    try:
        for batch in context.batches(rows):
            at, tokens = batch.base.token_at(position), batch.base.tokens
            with row_lengths(tokens.lengths):
                copy(
                    input_ids=tokens.ids,
                    attention_mask=tokens.mask_for(copy),
                    use_cache=False,
                )
            here = torch.arange(len(at), device=at.device)
            parts.append(torch.stack([seen[k][here, at] for k in after]).float().cpu())
            context.tick(len(batch.rows))
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(parts, 1)
