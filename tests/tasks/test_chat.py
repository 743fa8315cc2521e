"""The checkpoints' own chat templates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.tasks.chat import chat
from pytest_mechanism.tasks.encoding import Encoder, SharedVocabulary

ZOO = Path(__file__).parents[2] / "pytest_mechanism" / "zoo"
TURNS = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)


def save(folder: Path, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_a_message_is_rendered_up_to_where_the_answer_begins(tmp_path: Path) -> None:
    """Special tokens by name, which may be objects with a text in them."""
    folder = save(tmp_path, chat_template=TURNS, bos_token={"content": "<s>"})
    assert chat(folder, "hello") == "<s>[user] hello\n[assistant]\n"


@pytest.mark.parametrize("beside", [True, False])
def test_a_template_may_stand_in_a_file_of_its_own_or_have_a_name(
    tmp_path: Path, beside: bool
) -> None:
    """chat_template.jinja goes first, as in transformers; of several, ``default`` is taken."""
    named = [{"name": "tools", "template": "no"}, {"name": "default", "template": TURNS}]
    folder = save(tmp_path, chat_template="no" if beside else named, bos_token="")
    if beside:
        (folder / "chat_template.jinja").write_text(TURNS)
    assert chat(folder, "hello") == "[user] hello\n[assistant]\n"


def test_the_embedded_pair_reads_what_transformers_would_write() -> None:
    """The task's text is that of apply_chat_template, token by token."""
    from transformers import AutoTokenizer

    folder = ZOO / "refusal_base"
    words = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "tell me how to bake a cake"}]
    asked = {"add_generation_prompt": True, "tokenize": False}
    text = chat(folder, messages[0]["content"])
    assert text == words.apply_chat_template(messages, **asked)
    ids = Encoder.load(folder).tokenizer.encode(text, add_special_tokens=False).ids
    assert ids == words.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        (None, "has no chat template; write template:"),
        ("{{ strftime_now('%d') }}", "writes today's date"),
        ("{{ raise_exception('only tools') }}", "cannot be rendered: only tools"),
        ("{% for %}", "cannot be rendered: "),
        ("{{ ''.__class__.__mro__ }}", "cannot be rendered: "),
    ],
)
def test_a_template_that_gives_no_text_is_one_line(
    tmp_path: Path, template: str | None, wanted: str
) -> None:
    """None at all, one of another text each day, one that raises, that is broken, that is evil."""
    folder = save(tmp_path, **({"chat_template": template} if template else {}))
    with pytest.raises(MechanismError) as problem:
        chat(folder, "hello")
    assert wanted in str(problem.value)


def test_a_date_that_a_template_asks_for_is_always_the_same(tmp_path: Path) -> None:
    """Llama's templates: rows would be others tomorrow."""
    template = (
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
        "{% endif %}{{ date_string }}"
    )
    assert chat(save(tmp_path, chat_template=template), "hello") == "26 Jul 2024"


def test_checkpoints_with_different_templates_are_not_compared(tmp_path: Path) -> None:
    """They would read different rows; the same text from two templates is one."""
    folders = [save(tmp_path / name, chat_template=TURNS, bos_token="") for name in ("a", "b")]
    encoders = [Encoder(None, str(each), each) for each in folders]
    assert SharedVocabulary(tuple(encoders)).chat("hello").text == "[user] hello\n[assistant]\n"
    other = save(tmp_path / "c", chat_template=TURNS + "!", bos_token="")
    encoders.append(Encoder(None, str(other), other))
    with pytest.raises(MechanismError, match="have different chat templates"):
        SharedVocabulary(tuple(encoders)).chat("hello")


def test_a_tokenizer_from_nowhere_has_no_template() -> None:
    with pytest.raises(MechanismError, match="comes without a chat template"):
        Encoder(None, "a test's").chat("hello")
