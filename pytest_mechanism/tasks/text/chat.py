"""What a chat model reads before it answers: the checkpoint's own chat template around a message.

transformers' helper renders it: its sandbox is made for templates of strangers. Since a sandbox
does not end a loop, the template runs in a separate process. Imports no torch.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from pytest_mechanism.errors import MechanismError, choices, one_line
from pytest_mechanism.files import read_json, read_text
from pytest_mechanism.tasks.text import chat_child
from pytest_mechanism.tasks.text.added_tokens import CONFIG, special_tokens
from pytest_mechanism.tasks.text.child_process import ChildError, ChildLimitError, run_child

MAX_BYTES = 1 << 26
"""Of a tokenizer's config or a template."""

DATE = "26 Jul 2024"
"""The default of Llama's templates, which write a date. Today's date would change the rows daily."""

WRITE_TEMPLATE = "write template: in the task instead, as in '<user> {instruction} <assistant>'"

SECONDS = 5
"""Of computing that a template may take; published ones take milliseconds."""

MEMORY = 1 << 30
"""Bytes of address space that the process may take, libraries included."""

MAX_RENDERED = 1_000_000
"""Characters that a template may write around a message."""

MAX_HARMLESS = 20_000
"""Characters of a template that may be rendered in this process."""

REPLY = "REPLY-OF-THE-MODEL"
"""Stands for a reply, to see what a template writes around it."""

RESERVED_ARGUMENTS = (
    "messages", "add_generation_prompt", "tools", "documents", "conversations", "chat_template",
)  # fmt: skip
"""Variables of a template that a task must not set."""

BUILTINS = frozenset(
    "range lipsum dict cycler joiner namespace raise_exception strftime_now".split()  # noqa: SIM905
)
"""Names in a template that are no argument of it."""


@dataclass(frozen=True)
class ChatSettings:
    """A system prompt, or none, and JSON of further arguments such as ``enable_thinking``."""

    system: str = ""
    arguments: str = "{}"


DEFAULT_CHAT = ChatSettings()


@dataclass(frozen=True)
class ChatPrompt:
    """A message in a chat template.

    Attributes:
        text: up to where the answer begins.
        joint: what the template writes between ``text`` and an answer; None where that is not
            known.
        end: what the template writes after an answer.
    """

    text: str
    joint: str | None = None
    end: str = ""


class ChatTemplate(NamedTuple):
    """A checkpoint's template, and the special tokens that it may write by their names."""

    text: str
    special_tokens: dict[str, str]


def render_chat(
    folder: Path,
    message: str,
    settings: ChatSettings = DEFAULT_CHAT,
    template: ChatTemplate | None = None,
) -> ChatPrompt:
    """A user's message in the chat template of a checkpoint, which may have been read already.

    Raises:
        MechanismError: the checkpoint has no template, or one that cannot be rendered, does not
            show the system prompt, or does not read an argument.
    """
    template = template or read_template(folder)
    if "strftime_now" in template.text and "date_string" not in template.text:
        raise MechanismError(
            f"the chat template of {folder} writes today's date, so that rows would differ from "
            f"day to day; {WRITE_TEMPLATE}"
        )
    answer = _render(template.text, json.dumps(template.special_tokens), message, settings)
    if "error" in answer:
        reason = one_line(answer["error"])[:200]
        raise MechanismError(f"the chat template of {folder} cannot be rendered: {reason}")
    (text, with_reply), variables = answer["texts"], answer["variables"]
    for name in json.loads(settings.arguments):
        if name not in variables:
            tokens = {variable for variable in variables if variable.endswith("_token")}
            no_arguments = {*RESERVED_ARGUMENTS, *BUILTINS, *template.special_tokens, *tokens}
            valid = {*variables} - no_arguments
            raise MechanismError(
                f"chat: the chat template of {folder} does not read {name!r}; "
                + (choices(name, valid) if valid else "it reads no such arguments")
            )
    if settings.system and settings.system.strip() not in text:
        raise MechanismError(f"system: the chat template of {folder} does not show a system prompt")
    if with_reply is None or with_reply.count(REPLY) != 1:
        return ChatPrompt(text)
    before, _, end = with_reply.partition(REPLY)
    joint = before.removeprefix(text)
    shared = before.startswith(text) and not joint.strip(" ")
    return ChatPrompt(text, joint if shared else None, end)


def is_harmless(template: str) -> bool:
    """Whether a template writes messages and fixed texts in one loop over the messages and nothing
    else. Its own length limits such a template, so that it needs no separate process."""
    if len(template) > MAX_HARMLESS:
        return False
    from jinja2 import Environment, TemplateError, nodes

    simple = (
        nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Getattr, nodes.Getitem,
        nodes.If, nodes.Compare, nodes.Operand, nodes.Test, nodes.Const, nodes.And, nodes.Or,
        nodes.Not, nodes.Call,
    )  # fmt: skip
    try:
        tree = Environment(autoescape=False).parse(template)  # noqa: S701 - nothing is rendered
    except (TemplateError, RecursionError):
        return False
    pending: list[tuple[nodes.Node, bool]] = [(tree, False)]
    while pending:
        node, in_loop = pending.pop()
        if isinstance(node, nodes.For):
            over = node.iter
            messages = isinstance(over, nodes.Name) and over.name == "messages"
            if in_loop or node.recursive or not messages:
                return False
            in_loop = True
        elif not isinstance(node, simple):
            return False
        if isinstance(node, nodes.Call) and not (
            isinstance(node.node, nodes.Name) and node.node.name == "raise_exception"
        ):
            return False
        pending += [(child, in_loop) for child in node.iter_child_nodes()]
    return True


@lru_cache(maxsize=256)
def _render(template: str, special: str, message: str, settings: ChatSettings) -> dict[str, Any]:
    """The answer of `chat_child.run`: a message without and with a reply, or an ``error``.

    ``special`` are the special tokens by name, as JSON. Errors are cached like texts.
    """
    system = [{"role": "system", "content": settings.system}] if settings.system else []
    messages = [*system, {"role": "user", "content": message}]
    reply = {"role": "assistant", "content": REPLY}
    variables = {"date_string": DATE, **json.loads(special), **json.loads(settings.arguments)}
    arguments = {
        "template": template,
        "conversations": [[messages, True], [[*messages, reply], False]],
        "variables": variables,
        "longest": MAX_RENDERED,
    }
    answer: dict[str, Any]
    try:
        if is_harmless(template):
            answer = chat_child.run(arguments, limit=lambda: None)
        else:
            answer = run_child(chat_child, arguments, SECONDS, MEMORY)
    except ChildLimitError:
        too_much = f"does not end within {SECONDS} seconds, or takes more memory than it may"
        return {"error": too_much}
    except ChildError as problem:
        return {"error": str(problem)}
    except OSError as problem:
        return {"error": f"no process can be started: {problem.strerror}"}
    return answer


# -- a checkpoint's files


def read_template(folder: Path, name: str = "") -> ChatTemplate:
    """Read a checkpoint's chat template; ``name`` is the checkpoint's in errors, if not the folder's.

    Raises:
        MechanismError: there is none, or a file is damaged.
    """
    config: Any = {}
    template: Any = None
    with suppress(FileNotFoundError):
        config = read_json(folder / CONFIG, MAX_BYTES)
    with suppress(FileNotFoundError):
        template = read_text(folder / "chat_template.jinja", MAX_BYTES)
    if not template and isinstance(config, dict):
        template = config.get("chat_template")
    if isinstance(template, list):  # several by name, in older checkpoints
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    if not isinstance(template, str) or not template:
        raise MechanismError(f"{name or folder} has no chat template; {WRITE_TEMPLATE}")
    return ChatTemplate(template, special_tokens(folder))


def ending_tokens(folder: Path) -> set[str]:
    """The tokens that the tokenizer's settings name as an end."""
    with suppress(MechanismError):
        tokens = read_template(folder).special_tokens
        return {token for name, token in tokens.items() if name in ("eos_token", "eot_token")}
    return set()


def ending_ids(folder: Path) -> set[int]:
    """The ids that the checkpoint's settings name as an end."""
    all_ids: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        with suppress(FileNotFoundError, MechanismError):
            config = read_json(folder / name, MAX_BYTES)
            ids = config.get("eos_token_id") if isinstance(config, dict) else None
            all_ids |= {i for i in (ids if isinstance(ids, list) else [ids]) if type(i) is int}
    return all_ids
