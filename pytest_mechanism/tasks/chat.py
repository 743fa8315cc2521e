"""What a chat model reads before it answers: the checkpoint's own template around a message.

Rendered by transformers' helper, whose sandbox is made for templates that strangers wrote. It
imports no torch.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from pytest_mechanism.errors import MechanismError, one_line
from pytest_mechanism.tasks.added import named as special_tokens

DATE = "26 Jul 2024"
"""Llama's templates write a date, this one unless told otherwise; today's would make other rows
of each day."""

INSTEAD = "write template: in the task instead, as in '<user> {instruction} <assistant>'"


def chat(folder: Path, message: str) -> str:
    """A user's message in the template of a checkpoint, up to where the answer begins.

    Raises:
        MechanismError: the checkpoint has no template, or one that cannot be rendered.
    """
    template, specials = template_of(folder)
    if "strftime_now" in template and "date_string" not in template:
        raise MechanismError(
            f"the chat template of {folder} writes today's date, so that rows would differ from "
            f"day to day; {INSTEAD}"
        )
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        rendered, _ = render_jinja_template(
            conversations=[[{"role": "user", "content": message}]],
            chat_template=template,
            add_generation_prompt=True,
            date_string=DATE,
            **specials,
        )
    except Exception as problem:  # whatever a template raises
        raise MechanismError(
            f"the chat template of {folder} cannot be rendered: {one_line(str(problem))[:200]}"
        ) from None
    return str(rendered[0])


@lru_cache(maxsize=64)
def template_of(folder: Path) -> tuple[str, dict[str, str]]:
    """The template, and the special tokens that it may write by name.

    Raises:
        MechanismError: there is none, or a file is damaged.
    """
    path = folder / "tokenizer_config.json"
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        beside = folder / "chat_template.jinja"
        template: Any = beside.read_text(encoding="utf-8") if beside.exists() else None
    except (OSError, ValueError, RecursionError) as problem:
        raise MechanismError(f"{path} cannot be read: {problem}") from None
    config = config if isinstance(config, dict) else {}
    template = template or config.get("chat_template")
    if isinstance(template, list):  # several by name, in older checkpoints
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    if not isinstance(template, str) or not template:
        raise MechanismError(f"{folder} has no chat template; {INSTEAD}")
    return template, special_tokens(folder)
