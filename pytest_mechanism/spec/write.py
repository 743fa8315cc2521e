"""Plain data as YAML text that `spec.yaml` reads back unchanged, whatever characters it holds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""Texts that need no quotes, except `WORDS`."""
WORDS = ("true", "false", "null")

ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}


def flow(value: Any) -> str:
    """A YAML flow value; keys whose value is None are left out."""
    if isinstance(value, Mapping):
        inside = ", ".join(f"{flow(k)}: {flow(v)}" for k, v in value.items() if v is not None)
        return f"{{{inside}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(flow(v) for v in value)}]"
    if isinstance(value, str):
        return value if PLAIN.fullmatch(value) and value not in WORDS else quoted(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def quoted(text: str) -> str:
    """A double-quoted scalar of one line, with unprintable characters escaped."""
    return f'"{"".join(ESCAPES.get(c) or (c if c.isprintable() else escape(c)) for c in text)}"'


def escape(character: str) -> str:
    number = ord(character)
    if number <= 0xFF:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"
