"""Checks, when a checkpoint is loaded, that prompts get the token ids of transformers' AutoTokenizer.

The package reads tokenizer.json without transformers, since AutoTokenizer imports torch. A tokenizer
class may do more than its file says (another pre-tokenizer, extra tokens), so the prompts of the
first rows are compared.
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
from pytest_mechanism.files import alone
from pytest_mechanism.tasks.base import Prompt
from pytest_mechanism.tasks.text.chat import DATE
from pytest_mechanism.tasks.text.encoding import Encoder
from pytest_mechanism.tasks.text.gguf_once import read_once
from pytest_mechanism.tasks.text.gguf_tokenizer import NAME

MESSAGE = "Who are you?"
"""The message with which chat templates are compared."""


def check_tokens(encoder: Encoder, prompts: Iterable[Prompt], code: bool = False) -> None:
    """Compares the token ids of prompts with those of AutoTokenizer.

    Args:
        encoder: of the checkpoint.
        prompts: of rows to be measured.
        code: whether the folder's own code may run.

    Raises:
        SelfCheckError: ids differ, or the chat template is rendered differently.
    """
    if encoder.folder is None:
        return
    if (theirs := auto_tokenizer(encoder.folder, encoder.file, code)) is None:
        return
    chats = False
    for prompt in prompts:
        text, special = prompt.text, prompt.add_special_tokens
        chats |= not special
        ours = encoder.tokenizer.encode(text, add_special_tokens=special).ids
        with quiet():  # no warning about long texts
            right = theirs(text, add_special_tokens=special)["input_ids"]
        if list(ours) != list(right):
            at = next((i for i, (a, b) in enumerate(zip(ours, right, strict=False)) if a != b), -1)
            raise SelfCheckError(
                f"{encoder.name}: tokenizer.json and AutoTokenizer split {text[:60]!r} differently "
                f"({len(ours)} and {len(right)} tokens, first difference at {at}: "
                f"{token_at(theirs, ours, at)} and {token_at(theirs, right, at)}); save the tokenizer "
                "again: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
            )
    if chats and getattr(theirs, "chat_template", None):
        check_template(encoder, theirs)


def check_template(encoder: Encoder, theirs: Any) -> None:
    """Compares the rendered chat template with that of apply_chat_template."""
    try:
        ours = encoder.chat(MESSAGE).text
        right = theirs.apply_chat_template(
            [{"role": "user", "content": MESSAGE}],
            tokenize=False,
            add_generation_prompt=True,
            date_string=DATE,
        )
    except Exception:  # a task that brings a template does not need the checkpoint's
        return
    if ours != right:
        raise SelfCheckError(
            f"{encoder.name}: the chat template renders {ours[:200]!r}, but AutoTokenizer's "
            f"apply_chat_template renders {right[:200]!r}"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Context without warnings of transformers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.utils import logging

        before = logging.get_verbosity()
        logging.set_verbosity_error()
        try:
            yield
        finally:
            logging.set_verbosity(before)


def token_at(theirs: Any, ids: list[int], at: int) -> str:
    return repr(theirs.convert_ids_to_tokens(ids[at])) if 0 <= at < len(ids) else "the end"


@lru_cache(maxsize=8)
def auto_tokenizer(folder: Path, file: Path | None, code: bool) -> Any | None:
    """AutoTokenizer's tokenizer of a folder, or of the GGUF file that the folder was made from; None if it
    fails, or if its model is of another kind than the file's (byte-level instead of word-level, say), with
    which no model can have been trained."""
    with quiet():
        from transformers import AutoTokenizer

        try:
            if file is None:
                tokenizer = AutoTokenizer.from_pretrained(
                    folder, local_files_only=True, trust_remote_code=code
                )
            else:
                with alone(file, NAME) as place, read_once():
                    tokenizer = AutoTokenizer.from_pretrained(
                        place, gguf_file=NAME, local_files_only=True
                    )
            kind = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
        except Exception:  # it needs missing files, or code that is not trusted
            return None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or type(backend.model).__name__ != kind.get("type", "BPE"):
        return None
    return tokenizer
