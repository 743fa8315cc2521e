"""Texts become the token ids that transformers' own tokenizer gives; checked when a checkpoint is
loaded, on the prompts of its first rows.

tokenizer.json is read without transformers, whose AutoTokenizer takes torch. A class may do more
than its file says (another pre-tokenizer, tokens of its own); the product does not guess what.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from pytest_mechanism.errors import SelfCheckError
from pytest_mechanism.tasks.base import Prompt
from pytest_mechanism.tasks.text.chat import DATE
from pytest_mechanism.tasks.text.encoding import Encoder

MESSAGE = "Who are you?"
"""What a chat template is rendered with."""


def same_tokens(encoder: Encoder, prompts: Iterable[Prompt], code: bool = False) -> None:
    """Every prompt has the ids that AutoTokenizer gives it.

    Args:
        encoder: of the checkpoint.
        prompts: of the rows to come.
        code: whether the folder's own code may be run.

    Raises:
        SelfCheckError: one has others, or the chat template is rendered to another text.
    """
    if encoder.folder is None or (theirs := automatic(encoder.folder, code)) is None:
        return
    chats = False
    for prompt in prompts:
        text, special = prompt.text, prompt.add_special_tokens
        chats |= not special
        mine = encoder.tokenizer.encode(text, add_special_tokens=special).ids
        with quiet():  # about lengths, say
            right = theirs(text, add_special_tokens=special)["input_ids"]
        if list(mine) != list(right):
            at = next((i for i, (a, b) in enumerate(zip(mine, right, strict=False)) if a != b), -1)
            raise SelfCheckError(
                f"{encoder.folder}: tokenizer.json gives {text[:60]!r} other tokens than AutoTokenizer "
                f"({len(mine)} and {len(right)}, first at {at}: {shown(theirs, mine, at)} and "
                f"{shown(theirs, right, at)}); write the one file by the other: "
                "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
            )
    if chats and getattr(theirs, "chat_template", None):
        same_template(encoder, theirs)


def same_template(encoder: Encoder, theirs: Any) -> None:
    """A message is rendered as apply_chat_template renders it."""
    try:
        mine = encoder.chat(MESSAGE).text
        right = theirs.apply_chat_template(
            [{"role": "user", "content": MESSAGE}],
            tokenize=False,
            add_generation_prompt=True,
            date_string=DATE,
        )
    except Exception:  # a task with a template of its own does not need the checkpoint's
        return
    if mine != right:
        raise SelfCheckError(
            f"{encoder.folder}: the chat template gives {mine[:200]!r}, and AutoTokenizer's "
            f"apply_chat_template {right[:200]!r}"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Context in which transformers says nothing of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.utils import logging

        before = logging.get_verbosity()
        logging.set_verbosity_error()
        try:
            yield
        finally:
            logging.set_verbosity(before)


def shown(theirs: Any, ids: list[int], at: int) -> str:
    return repr(theirs.convert_ids_to_tokens(ids[at])) if 0 <= at < len(ids) else "the end"


@lru_cache(maxsize=8)
def automatic(folder: Path, code: bool) -> Any | None:
    """What AutoTokenizer makes of a folder; None where it makes nothing of it, or a tokenizer of
    another kind than the file's (a byte-level one of a list of words, say), which no model can have
    been trained with."""
    with quiet():
        from transformers import AutoTokenizer

        try:
            found = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=code
            )
            kind = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
        except Exception:  # it needs what is not there, or is not trusted
            return None
    backend = getattr(found, "backend_tokenizer", None)
    if backend is None or type(backend.model).__name__ != kind.get("type", "BPE"):
        return None
    return found
