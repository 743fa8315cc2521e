"""From what a user typed to a folder: ``[label=]reference``.

A reference is an alias from the ini key ``mechanism_models``, a folder, ``zoo:name`` (embedded),
``hf:org/name@revision`` or ``reference+adapter``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_mechanism.checkpoints.adapter import base_of, beneath, check_adapter, is_adapter
from pytest_mechanism.checkpoints.config import read_config
from pytest_mechanism.checkpoints.contents import counted
from pytest_mechanism.checkpoints.hub import PREFIX, fetch
from pytest_mechanism.checkpoints.trust import NONE, Trust, wrong_weights
from pytest_mechanism.checkpoints.untrusted_config import wrong_reach
from pytest_mechanism.errors import BadReference, MechanismError, choices

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
ZOO = Path(__file__).parent.parent / "zoo"


class Aliases(dict[str, str]):
    """Names for checkpoints.

    Attributes:
        folder: what relative paths in them are relative to: the folder of the ini file that has them.
    """

    def __init__(self, names: Mapping[str, str], folder: Path) -> None:
        super().__init__(names)
        self.folder = folder


@dataclass(frozen=True)
class Reference:
    """A checkpoint that somebody named.

    Attributes:
        label: how reports and score folders call it.
        text: the reference as typed, without the label.
        folder: the checkpoint on disk; the base's where there is an adapter.
        adapter: an adapter that is merged into it, or None.
    """

    label: str
    text: str
    folder: Path
    adapter: Path | None = None

    @property
    def place(self) -> str:
        """Which folders it came to: what was typed may be an alias, or relative to somewhere."""
        inside = self.folder.parent == ZOO
        base = f"zoo:{self.folder.name}" if inside else str(self.folder)
        return base if self.adapter is None else f"{base} + {self.adapter}"

    @property
    def tokenizer(self) -> Path:
        """The folder whose tokenizer is used: an adapter may bring its own."""
        if self.adapter is not None and (self.adapter / "tokenizer.json").exists():
            return self.adapter
        return self.folder


def zoo_names() -> list[str]:
    """Names of the embedded checkpoints."""
    return sorted(p.parent.name for p in ZOO.glob("*/config.json"))


def parse_pair(
    text: str, aliases: Mapping[str, str], root: Path, trust: Trust = NONE
) -> tuple[Reference, Reference]:
    """``base,ft`` -> the references of the roles ``base`` and ``ft``.

    Raises:
        BadReference: not exactly two, equal labels, or one that cannot be resolved.
    """
    sides = [side.strip() for side in text.split(",")]
    if len(sides) != 2 or not all(sides):
        raise BadReference(
            f"--model-pair takes two checkpoints with a comma between them, as in "
            f"--model-pair base,ft; got {text!r}"
        )
    base, ft = (parse_reference(side, aliases, root, trust) for side in sides)
    if base.label == ft.label:
        raise BadReference(
            f"--model-pair: both sides are labelled {base.label!r}; "
            f"tell them apart as in {base.label}_a={base.text},{ft.label}_b={ft.text}"
        )
    return base, ft


def further(texts: Sequence[str]) -> dict[str, str]:
    """``ROLE=[LABEL=]REFERENCE`` of checkpoints beside the pair -> role and reference.

    Raises:
        MechanismError: no role, the pair's, or one twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        role, equals, rest = text.partition("=")
        role = role.strip()
        if not equals or not role.isidentifier():
            raise MechanismError(f"--mechanism-model takes ROLE=REFERENCE, got {text!r}")
        if role in ("base", "ft", "pair"):
            raise MechanismError(
                f"--mechanism-model: the role {role!r} is the pair's; use --model-pair"
            )
        if role in found:
            raise MechanismError(f"--mechanism-model: the role {role!r} is given twice")
        found[role] = rest
    return found


def parse_reference(
    text: str, aliases: Mapping[str, str], root: Path, trust: Trust = NONE
) -> Reference:
    """``[label=]reference`` -> a folder that exists.

    Raises:
        BadReference: unknown alias, missing folder, or something that cannot be loaded.
    """
    label, equals, rest = text.partition("=")
    given = (rest if equals else text).strip()
    label = label.strip() if equals else default_label(given)
    if not LABEL.fullmatch(label):
        raise BadReference(
            f"{label!r} cannot be a label: use letters, digits, '_', '.' and '-', 100 at most, "
            f"as in --model-pair base={given},..."
        )
    return Reference(label, given, *resolve(given, aliases, root, trust))


def default_label(reference: str) -> str:
    """The last name in a reference: ``zoo:ft`` -> ft, ``./out/step_500`` -> step_500."""
    tail = reference.rstrip("/\\").replace("\\", "/").split("/")[-1]
    tail = tail.split(":")[-1].split("@")[0].replace("+", "_")
    return re.sub(r"[^A-Za-z0-9_.-]", "_", tail).lstrip("._-")[:100] or "model"


Resolved = tuple[Path, Path | None]
"""A checkpoint's folder, and an adapter's."""


def resolve(text: str, aliases: Mapping[str, str], root: Path, trust: Trust = NONE) -> Resolved:
    """The folders of a reference, aliases followed once."""
    if not text:
        raise BadReference(f"an empty checkpoint reference; {choices('', known(aliases))}")
    if text in aliases:
        target = aliases[text].strip()
        if target in aliases and target != text:
            raise BadReference(f"alias {text!r} points to another alias, {target!r}")
        if not isinstance(aliases, Aliases):
            return resolve(target, {}, root, trust)
        try:
            return resolve(target, {}, aliases.folder, trust)
        except BadReference as problem:
            near = aliases.folder
            raise BadReference(f"alias {text!r}, seen from {near}: {problem.message}") from None
    # an existing folder may have '+' in its name, so look before taking it for an adapter
    folder = None if text.startswith(("zoo:", PREFIX)) else existing(text, root)
    if folder is None and "+" in text:
        return with_adapter(text, aliases, root, trust)
    if text.startswith("zoo:"):
        name = text.removeprefix("zoo:")
        if name not in zoo_names():
            raise BadReference(f"no embedded checkpoint {name!r}; {choices(name, zoo_names())}")
        return ZOO / name, None
    if text.startswith(PREFIX):
        folder = fetch(text, trust)
    if folder is None:
        what = "folder" if any(c in text for c in "/\\.~") else "alias or folder"
        raise BadReference(f"no {what} {text!r}; {choices(text, known(aliases))}, or a folder")
    if is_adapter(folder):
        return own_base(folder, text, root, trust)
    check_folder(folder, text, trust)
    return folder, None


def existing(text: str, root: Path) -> Path | None:
    """The folder of that name, if there is one."""
    try:
        folder = (root / Path(text).expanduser()).resolve()
        return folder if folder.is_dir() else None
    except (OSError, ValueError, RuntimeError) as problem:  # too long, ~nobody, a loop of links
        raise BadReference(f"{text[:60]!r} cannot be a folder: {problem}"[:200]) from None


def with_adapter(
    text: str, aliases: Mapping[str, str], root: Path, trust: Trust = NONE
) -> Resolved:
    """``base+adapter``, the adapter a folder or a hub reference."""
    left, _, right = text.rpartition("+")
    if not left or not right:
        raise BadReference(f"{text}: write BASE+ADAPTER, the adapter's folder after the plus")
    base, other = resolve(left, aliases, root, trust)
    if other is not None:
        raise BadReference(f"{text}: one adapter can be merged, here are two")
    adapter = fetch(right, trust) if right.startswith(PREFIX) else existing(right, root)
    if adapter is None:
        raise BadReference(f"{text}: no folder {right!r} for the adapter")
    check_adapter(adapter, text, trust)
    check_files(adapter, text)
    return base, adapter


def own_base(adapter: Path, text: str, root: Path, trust: Trust = NONE) -> Resolved:
    """An adapter's folder alone, with the base that it names: a folder, or in the hub's cache. The
    network is for what a user names, not for what a file does."""
    if (adapter / "config.json").exists():
        # transformers would put the adapter on top without a word
        raise BadReference(
            f"{text} holds both a checkpoint and an adapter; move the adapter to a folder of its own"
        )
    check_adapter(adapter, text, trust)
    check_files(adapter, text)
    named = base_of(adapter, text)
    for near in (adapter, root):
        folder = existing(named, near)
        if folder is not None:
            check_folder(folder, named, trust)
            return folder, adapter
    try:
        folder = fetch(f"{PREFIX}{named}", trust, cached=True)
    except BadReference:
        raise BadReference(
            f"{text} is an adapter of {named!r}, which is neither a folder nor in the hub's cache; "
            f"write BASE+{text}, the base perhaps as hf:org/name"
        ) from None
    check_folder(folder, named, trust)
    return folder, adapter


def known(aliases: Mapping[str, str]) -> list[str]:
    return [*aliases, *(f"zoo:{name}" for name in zoo_names())]


def check_folder(folder: Path, text: str, trust: Trust = NONE) -> None:
    """What can be said about a checkpoint folder without reading its weights."""
    try:
        config = read_config(folder)
    except MechanismError as problem:
        below = "" if (folder / "config.json").exists() else beneath(folder)
        raise BadReference(f"{text}: {problem.message}{below}") from None
    if (wrong := wrong_reach(config, trust) or wrong_weights(folder, trust)) is not None:
        raise BadReference(f"{text}: {wrong}")
    check_files(folder, text)
    if not (folder / "tokenizer.json").exists():
        raise BadReference(
            f"{text} has no tokenizer.json; save a fast tokenizer beside the weights "
            "(AutoTokenizer.from_pretrained(...).save_pretrained(folder))"
        )


def check_files(folder: Path, text: str) -> None:
    """Whether all that will be read are files.

    Raises:
        BadReference: one is not, or is larger than it can be.
    """
    try:
        counted(folder)
    except MechanismError as problem:
        raise BadReference(f"{text}: {problem.message}") from None
    except OSError as problem:
        raise BadReference(f"{text}: {folder} cannot be read: {problem.strerror}") from None
