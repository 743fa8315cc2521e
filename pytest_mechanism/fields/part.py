"""The base class of every piece of a spec."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A piece of a spec: frozen, unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def plain(part: Part) -> Any:
    """JSON data of a part."""
    return part.model_dump(mode="json")
