"""Where a checkpoint's weights are placed, and in how many bits.

``spread`` leaves the placement to accelerate: it spreads layers over all GPUs, then main memory, then
the disk, from which every forward reads them. bitsandbytes quantises weights to 8 or 4 bits on
loading.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from dataclasses import dataclass
from functools import cached_property
from typing import Any

LAYOUT: Any = "auto"
"""The ``device_map`` of spread layers."""


@dataclass(eq=False)
class Placement:
    """The placement of a checkpoint.

    Attributes:
        spread: whether accelerate spreads the layers.
        quantize: ``8bit``, ``4bit`` or None.
        device: device of quantised weights that are not spread.
    """

    spread: bool = False
    quantize: str | None = None
    device: str = "cpu"

    @cached_property
    def disk(self) -> str:
        """A folder for offloaded weights, which exists as long as this object."""
        folder = tempfile.mkdtemp(prefix="mechanism-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder

    def arguments(self) -> dict[str, Any]:
        """Arguments of ``from_pretrained``."""
        arguments: dict[str, Any] = {}
        if self.spread:
            arguments = {"device_map": LAYOUT, "offload_folder": self.disk}
        if self.quantize is not None:
            from transformers import BitsAndBytesConfig

            # with a threshold, the columns that 8 bits leave out hang on all rows of a batch, and a row's numbers on
            # its neighbours (Dettmers et al. 2022, section 3.2)
            arguments["quantization_config"] = BitsAndBytesConfig(
                **{f"load_in_{self.quantize}": True}, llm_int8_threshold=0.0
            )
            arguments.setdefault("device_map", {"": self.device})
        return arguments


def offloaded(model: Any) -> bool:
    """Whether every forward has to fetch some weights from elsewhere."""
    return any(parameter.is_meta for parameter in model.parameters())
