"""What work launches on a device, and the least that it needs: operations, and bytes that have to be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.discovery import Device
    from benchmarks.operations import Cost
    from benchmarks.shapes import Setting


def count_launches(device: Device, work: Callable[[], Any]) -> tuple[int, float]:
    """Kernels that work launches on a GPU, and their seconds; on a CPU, operations that compute, and 0."""
    if not device.gpu:
        return count_operations(work), 0.0
    from torch.autograd import DeviceType  # type: ignore[attr-defined]  # not in its __all__
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        work()
        device.wait()
    kernels = [event for event in profiler.events() if event.device_type == DeviceType.CUDA]
    return len(kernels), sum(event.device_time for event in kernels) / 1e6


def count_operations(work: Callable[[], Any]) -> int:
    """Operations that torch dispatches and that are no views."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counter(TorchDispatchMode):
        count: int = 0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.count += not func.is_view
            return func(*args, **(kwargs or {}))

    counter = Counter()  # type: ignore[no-untyped-call]
    with counter:
        work()
    return counter.count


@dataclass(frozen=True)
class Limit:
    """The least that some work needs.

    Attributes:
        operations: multiply-adds.
        bytes: that have to be read.
    """

    operations: float
    bytes: float

    def shares(self, rates: Mapping[str, float], dtype: str, seconds: float) -> dict[str, float]:
        """Of what the device can do, what was done.

        Args:
            rates: dtype -> multiply-adds a second that the device can do, and ``bytes``.
            dtype: of the arithmetic.
            seconds: that the work took.
        """
        return {
            "operations_share": self.operations / rates[dtype] / seconds,
            "bytes_share": self.bytes / rates["bytes"] / seconds,
        }


def limit_of(
    setting: Setting,
    cost: Cost,
    rows: int,
    everywhere: bool,
    batches: int = 1,
    attention: bool = True,
) -> Limit:
    """Of one branch for each head of the model and each row.

    Args:
        setting: model and prompts.
        cost: its multiply-adds.
        rows: of all batches.
        everywhere: whether heads are changed at all positions, or at the last.
        batches: how many there are.
        attention: whether layers above compute attention; with frozen attention they compute their MLP alone.
    """
    shape, length = setting.shape, setting.batch.base.tokens.ids.shape[1]
    if everywhere:
        operations = sum(cost.everywhere_branch(layer, length) for layer in range(cost.layers))
    elif attention:
        operations = sum(cost.last_branch(layer, length) for layer in range(cost.layers))
    else:
        operations = sum(
            cost.queries / 2 + (cost.layers - layer) * cost.mlp + cost.unembedding
            for layer in range(cost.layers)
        )
    width = element_size(setting)
    weights = cost.layers * (cost.queries + cost.keys + cost.mlp) + cost.unembedding
    seen = (
        2 * shape.n_kv_heads * shape.d_head * length * (cost.layers - 1) / 2
    )  # layers above a head
    reads = len(shape.heads()) * rows * seen if attention else 0
    return Limit(operations * shape.n_heads * rows, width * (batches * weights + reads))


def element_size(setting: Setting) -> int:
    """Bytes of a weight."""
    return int(next(iter(setting.wrapped.parameters())).element_size())
