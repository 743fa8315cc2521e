"""Changes of a checkpoint's files that leave its weights as they are, or round them as a file format does."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import torch

from benchmarks.faults.change import Make, Workshop


def as_dtype(dtype: torch.dtype) -> Make:
    """The weights in another number format."""

    def make(shop: Workshop, folder: Path) -> None:
        shop.save(shop.load().to(dtype), folder)

    return make


def sharded(size: str) -> Make:
    """The weights in several files."""
    return lambda shop, folder: shop.save(shop.load(), folder, max_shard_size=size)


def reversed_keys(shop: Workshop, folder: Path) -> None:
    """The tensors in the file in the opposite order."""
    shop.save(shop.load(), folder)
    path = folder / "model.safetensors"
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    about = header.pop("__metadata__", {})
    parts, entries, start = [], {}, 0
    for name, entry in reversed(list(header.items())):
        first, last = entry["data_offsets"]
        parts.append(body[first:last])
        entries[name] = {**entry, "data_offsets": [start, start + last - first]}
        start += last - first
    text = json.dumps({"__metadata__": about, **entries}).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


def more_config(shop: Workshop, folder: Path) -> None:
    """config.json with keys that nothing reads."""
    shop.save(shop.load(), folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"released_by": "a team", "version": 7}
    path.write_text(json.dumps(config), encoding="utf-8")
