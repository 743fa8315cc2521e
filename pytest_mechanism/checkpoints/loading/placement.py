"""Where a checkpoint's weights go, and in how many bits.

``auto`` leaves it to accelerate: layers are spread over all GPUs, what they cannot hold stays in
memory, and what that cannot hold on disk, from where it is read in each forward. 8 and 4 bits are
made by bitsandbytes while weights are read.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from dataclasses import dataclass
from functools import cached_property
from typing import Any

LAYOUT: Any = "auto"
"""Which layers go where, for accelerate."""


@dataclass(eq=False)
class Placement:
    """See the module.

    Attributes:
        spread: whether layers are spread.
        quantize: ``8bit``, ``4bit`` or None.
        device: where quantised weights go that are not spread.
    """

    spread: bool = False
    quantize: str | None = None
    device: str = "cpu"

    @cached_property
    def disk(self) -> str:
        """A folder for what memory cannot hold, as long as this object is."""
        folder = tempfile.mkdtemp(prefix="mechanism-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder

    def arguments(self) -> dict[str, Any]:
        """For ``from_pretrained``."""
        found: dict[str, Any] = {}
        if self.spread:
            found = {"device_map": LAYOUT, "offload_folder": self.disk}
        if self.quantize is not None:
            from transformers import BitsAndBytesConfig

            found["quantization_config"] = BitsAndBytesConfig(**{f"load_in_{self.quantize}": True})
            found.setdefault("device_map", {"": self.device})
        return found


def offloaded(model: Any) -> bool:
    """Whether some weights are not where they are multiplied, but are fetched for each forward."""
    return any(parameter.is_meta for parameter in model.parameters())
