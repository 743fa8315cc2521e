"""Tokens that stand beside tokenizer.json: in tokenizer_config.json, special_tokens_map.json and
added_tokens.json. Read as transformers' AutoTokenizer reads them, without torch.

A token of these files is cut out of a text as a whole, whether tokenizer.json knows it or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_mechanism.files import read_json

MOST = 1 << 26
"""Bytes of such a file: a vocabulary may be added whole."""

CONFIG, SPECIALS, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"

NAMED = tuple(f"{each}_token" for each in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
"""Special tokens that have a name of their own, in the order in which they are added."""

EXTRA = ("extra_special_tokens", "additional_special_tokens")
"""Lists of others, by the names that newer and older versions give them."""

FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def settings(folder: Path) -> Mapping[str, Any]:
    """tokenizer_config.json; special_tokens_map.json counts where that does not list its tokens.

    Raises:
        MechanismError: a file is damaged.
    """
    config = read(folder / CONFIG)
    return config if "added_tokens_decoder" in config else {**config, **read(folder / SPECIALS)}


def read(path: Path) -> dict[str, Any]:
    """A file with a JSON object; empty where there is none.

    Raises:
        MechanismError: it is damaged.
    """
    try:
        found = read_json(path, MOST)
    except FileNotFoundError:
        return {}
    return found if isinstance(found, dict) else {}


def content(token: Any) -> str | None:
    """The text of a token, which may be an object with a text in it."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) and found else None


def named(folder: Path) -> dict[str, str]:
    """Special tokens by name, as a chat template writes them.

    Raises:
        MechanismError: a file is damaged.
    """
    found = {name: content(token) for name, token in settings(folder).items()}
    return {n: t for n, t in found.items() if n.endswith("_token") and t is not None}


def add(tokenizer: Any, folder: Path) -> None:
    """Gives a ``tokenizers.Tokenizer`` the tokens of a folder that stand beside it.

    Raises:
        MechanismError: a file is damaged.
    """
    config = settings(folder)
    special = [config[name] for name in NAMED if content(config.get(name))]
    for name in EXTRA:
        given = config.get(name)
        several = given.values() if isinstance(given, dict) else given or []
        special += [token for token in several if content(token)]
    texts = {content(token) for token in special}
    listed = config.get("added_tokens_decoder")
    if not isinstance(listed, dict):
        by_id = {i: text for text, i in read(folder / ADDED).items() if isinstance(i, int)}
        listed = {i: {"content": t, "special": t in texts} for i, t in by_id.items()}
    tokenizer.add_tokens(
        [made(t) for _, t in sorted(listed.items(), key=lambda at: int(at[0])) if content(t)]
    )
    tokenizer.add_special_tokens([made(token, special=True) for token in special])


def made(token: Any, special: bool = False) -> Any:
    """A ``tokenizers.AddedToken``."""
    from tokenizers import AddedToken

    flags = {f: bool(token[f]) for f in FLAGS if f in token} if isinstance(token, dict) else {}
    flags["special"] = special or flags.get("special", False)
    flags.setdefault("normalized", not flags["special"])
    return AddedToken(content(token), **flags)
