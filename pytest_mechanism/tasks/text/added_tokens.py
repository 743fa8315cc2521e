"""Tokens that files beside tokenizer.json add: tokenizer_config.json, special_tokens_map.json and
added_tokens.json, read as transformers' AutoTokenizer reads them. No torch.

Such a token is cut out of a text as a whole, whether tokenizer.json knows it or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_mechanism.files import read_json

MAX_BYTES = 1 << 26
"""Of such a file: it may add a whole vocabulary."""

CONFIG, SPECIALS, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"

NAMED = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
"""Named special tokens, in the order in which transformers adds them."""

LISTS = ("extra_special_tokens", "additional_special_tokens")
"""Lists of further special tokens, as newer and older versions name them."""

FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def special_tokens(folder: Path) -> dict[str, str]:
    """Special tokens by name, as a chat template writes them."""
    texts = {name: _text(token) for name, token in _settings(folder).items()}
    return {n: t for n, t in texts.items() if n.endswith("_token") and t is not None}


def add_tokens(tokenizer: Any, folder: Path) -> None:
    """Add the tokens of a folder's files to a ``tokenizers.Tokenizer``."""
    config = _settings(folder)
    special = [config[name] for name in NAMED if _text(config.get(name))]
    for name in LISTS:
        tokens = config.get(name)
        listed = tokens.values() if isinstance(tokens, dict) else tokens or []
        special += [token for token in listed if _text(token)]
    by_id = config.get("added_tokens_decoder")
    if not isinstance(by_id, dict):
        texts = {_text(token) for token in special}
        ids = {i: text for text, i in _read(folder / ADDED).items() if isinstance(i, int)}
        by_id = {i: {"content": text, "special": text in texts} for i, text in ids.items()}
    in_order = [token for _, token in sorted(by_id.items(), key=lambda item: int(item[0]))]
    tokenizer.add_tokens([_added_token(token) for token in in_order if _text(token)])
    tokenizer.add_special_tokens([_added_token(token, special=True) for token in special])


def _settings(folder: Path) -> Mapping[str, Any]:
    """tokenizer_config.json; with special_tokens_map.json where it does not list its tokens."""
    config = _read(folder / CONFIG)
    return config if "added_tokens_decoder" in config else {**config, **_read(folder / SPECIALS)}


def _read(path: Path) -> dict[str, Any]:
    """A file with a JSON object; empty where there is none."""
    try:
        content = read_json(path, MAX_BYTES)
    except FileNotFoundError:
        return {}
    return content if isinstance(content, dict) else {}


def _text(token: Any) -> str | None:
    """The text of a token, which may be an object with a text in it."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) and text else None


def _added_token(token: Any, special: bool = False) -> Any:
    """A ``tokenizers.AddedToken``."""
    from tokenizers import AddedToken

    flags = {f: bool(token[f]) for f in FLAGS if f in token} if isinstance(token, dict) else {}
    flags["special"] = special or flags.get("special", False)
    flags.setdefault("normalized", not flags["special"])
    return AddedToken(_text(token), **flags)
