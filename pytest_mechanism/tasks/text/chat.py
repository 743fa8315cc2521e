"""What a chat model reads before it answers: the checkpoint's own template around a message.

Rendered by transformers' helper, whose sandbox is made for templates that strangers wrote, and in a
process of its own, since a sandbox does not keep a template from running without end. It imports
no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pytest_mechanism.errors import MechanismError, choices, one_line
from pytest_mechanism.files import read_json, read_text
from pytest_mechanism.tasks.text import render_child
from pytest_mechanism.tasks.text.added import named as special_tokens
from pytest_mechanism.tasks.text.child_process import run_module

MOST = 1 << 26
"""Bytes of a tokenizer's config or a template."""

DATE = "26 Jul 2024"
"""Llama's templates write a date, this one unless told otherwise; today's would make other rows
of each day."""

INSTEAD = "write template: in the task instead, as in '<user> {instruction} <assistant>'"

SECONDS = 5
"""Of computing that a template may take; real ones take milliseconds."""

Template = tuple[str, dict[str, str]]
"""A template, and the special tokens that it may write by name."""

BYTES = 1 << 30
"""Of address space that the process may have, libraries and all."""

LONGEST = 1_000_000
"""Characters that a template may write around a message."""

SHORT = 20_000
"""Characters of a template that is looked at for whether it is harmless."""

REPLY = "REPLY-OF-THE-MODEL"
"""Stands for a reply, to see what a template writes around it."""

OURS = ("messages", "add_generation_prompt", "tools", "documents", "conversations", "chat_template")
"""What a template reads and a task does not set."""

SET_BY = "range lipsum dict cycler joiner namespace raise_exception strftime_now".split()  # noqa: SIM905
"""What a template reads that is no argument of it."""


@dataclass(frozen=True)
class Asking:
    """How messages are put to a chat model.

    Attributes:
        system: the system prompt; none where empty.
        arguments: JSON of what else the template is told, ``enable_thinking`` and the like.
    """

    system: str = ""
    arguments: str = "{}"


PLAIN = Asking()


@dataclass(frozen=True)
class Turn:
    """A message in a template.

    Attributes:
        text: up to where the answer begins.
        joint: what the template writes between that and an answer; None where it does not tell.
        end: what it writes after an answer.
    """

    text: str
    joint: str | None = None
    end: str = ""


def chat(folder: Path, message: str, asking: Asking = PLAIN, known: Template | None = None) -> str:
    """A user's message in the template of a checkpoint, up to where the answer begins.

    Args:
        folder: the checkpoint's.
        message: the user's.
        known: the template, where it has been read.

    Raises:
        MechanismError: the checkpoint has no template, or one that cannot be rendered.
    """
    return turn(folder, message, asking, known).text


def turn(folder: Path, message: str, asking: Asking = PLAIN, known: Template | None = None) -> Turn:
    """A user's message in the template of a checkpoint, and what comes after it.

    Raises:
        MechanismError: the checkpoint has no template, one that cannot be rendered, or one that does
            not know what it is told.
    """
    template, specials = known or template_of(folder)
    if "strftime_now" in template and "date_string" not in template:
        raise MechanismError(
            f"the chat template of {folder} writes today's date, so that rows would differ from "
            f"day to day; {INSTEAD}"
        )
    found = _rendered(template, json.dumps(specials), message, asking)
    if "error" in found:
        raise MechanismError(
            f"the chat template of {folder} cannot be rendered: {one_line(found['error'])[:200]}"
        )
    wanted, read = json.loads(asking.arguments), found["known"]
    for name in wanted:
        if name not in read:
            named = {each for each in read if each.endswith("_token")}
            valid = sorted({*read} - {*OURS, *SET_BY, *specials} - named)
            raise MechanismError(
                f"chat: the chat template of {folder} does not read {name!r}; "
                + (choices(name, valid) if valid else "it reads no such arguments")
            )
    text, whole = found["texts"]
    if asking.system and asking.system.strip() not in text:
        raise MechanismError(f"system: the chat template of {folder} does not show a system prompt")
    joint, end = None, ""
    if whole is not None and whole.count(REPLY) == 1:
        before, _, end = whole.partition(REPLY)
        if before.startswith(text) and not before[len(text) :].strip(" "):
            joint = before[len(text) :]
    return Turn(text, joint, end)


def harmless(template: str) -> bool:
    """Whether a template only writes messages and fixed texts, in one loop over them: what it does is
    bounded by its own length, and it needs no process of its own."""
    if len(template) > SHORT:
        return False
    from jinja2 import Environment, TemplateError, nodes

    plain = (
        nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Getattr, nodes.Getitem,
        nodes.If, nodes.Compare, nodes.Operand, nodes.Test, nodes.Const, nodes.And, nodes.Or,
        nodes.Not, nodes.Call,
    )  # fmt: skip
    try:
        tree = Environment(autoescape=False).parse(template)  # noqa: S701 - nothing is rendered
    except (TemplateError, RecursionError):
        return False
    waiting: list[tuple[nodes.Node, bool]] = [(tree, False)]
    while waiting:
        node, inside = waiting.pop()
        if isinstance(node, nodes.For):
            over = node.iter
            messages = isinstance(over, nodes.Name) and over.name == "messages"
            if inside or node.recursive or not messages:
                return False
            inside = True
        elif not isinstance(node, plain):
            return False
        if isinstance(node, nodes.Call) and not (
            isinstance(node.node, nodes.Name) and node.node.name == "raise_exception"
        ):
            return False
        waiting += [(each, inside) for each in node.iter_child_nodes()]
    return True


@lru_cache(maxsize=256)
def _rendered(template: str, specials: str, message: str, asking: Asking) -> Mapping[str, Any]:
    system = [{"role": "system", "content": asking.system}] if asking.system else []
    messages = [*system, {"role": "user", "content": message}]
    reply = {"role": "assistant", "content": REPLY}
    given = {
        "template": template,
        "turns": [[messages, True], [[*messages, reply], False]],
        "more": {"date_string": DATE, **json.loads(specials), **json.loads(asking.arguments)},
        "seconds": SECONDS,
        "bytes": BYTES,
        "longest": LONGEST,
    }
    if harmless(template):
        return render_child.rendered(given, limited=False)
    endless = {"error": f"does not end within {SECONDS} seconds, or takes more memory than it may"}
    try:
        done = run_module(render_child, given)
    except OSError as problem:
        return {"error": f"no process can be started: {problem.strerror}"}
    if done is None:
        return endless
    _, mark, answer = done.stdout.rpartition(render_child.MARK)
    if mark:
        found: dict[str, Any] = json.loads(answer)
        return found
    said = done.stderr.strip().splitlines()
    if done.returncode < 0 or not said or "MemoryError" in said[-1]:
        return endless
    return {"error": said[-1]}


def template_of(folder: Path) -> Template:
    """Read a checkpoint's template.

    Raises:
        MechanismError: there is none, or a file is damaged.
    """
    path = folder / "tokenizer_config.json"
    try:
        config: Any = read_json(path, MOST)
    except FileNotFoundError:
        config = {}
    try:
        template: Any = read_text(folder / "chat_template.jinja", MOST)
    except FileNotFoundError:
        template = None
    config = config if isinstance(config, dict) else {}
    template = template or config.get("chat_template")
    if isinstance(template, list):  # several by name, in older checkpoints
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    if not isinstance(template, str) or not template:
        raise MechanismError(f"{folder} has no chat template; {INSTEAD}")
    return template, special_tokens(folder)


def ending_tokens(folder: Path) -> set[str]:
    """The tokens that the tokenizer's settings call an end."""
    with suppress(MechanismError):
        _, specials = template_of(folder)
        return {token for name, token in specials.items() if name in ("eos_token", "eot_token")}
    return set()


def ending_ids(folder: Path) -> set[int]:
    """The ids that the checkpoint's settings call an end."""
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        with suppress(FileNotFoundError, MechanismError):
            given = read_json(folder / name, MOST)
            ids = given.get("eos_token_id") if isinstance(given, dict) else None
            found |= {i for i in (ids if isinstance(ids, list) else [ids]) if type(i) is int}
    return found
