"""The checkpoints' own chat templates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.tasks.text.chat import ChatSettings, render_chat
from pytest_mechanism.tasks.text.encoding import Encoder, SharedVocabulary

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
    """Special tokens are written by name, whether they are texts or objects with a text."""
    folder = save(tmp_path, chat_template=TURNS, bos_token={"content": "<s>"})
    assert render_chat(folder, "hello").text == "<s>[user] hello\n[assistant]\n"


@pytest.mark.parametrize("beside", [True, False])
def test_a_template_may_have_its_own_file_or_a_name(tmp_path: Path, beside: bool) -> None:
    """As in transformers, chat_template.jinja comes first, and ``default`` among several
    templates."""
    named = [{"name": "tools", "template": "no"}, {"name": "default", "template": TURNS}]
    folder = save(tmp_path, chat_template="no" if beside else named, bos_token="")
    if beside:
        (folder / "chat_template.jinja").write_text(TURNS)
    assert render_chat(folder, "hello").text == "[user] hello\n[assistant]\n"


def test_the_embedded_pair_reads_what_transformers_would_write() -> None:
    """The task's text is that of apply_chat_template, token by token."""
    from transformers import AutoTokenizer

    folder = ZOO / "refusal_base"
    words = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "tell me how to bake a cake"}]
    options = {"add_generation_prompt": True, "tokenize": False}
    text = render_chat(folder, messages[0]["content"]).text
    assert text == words.apply_chat_template(messages, **options)
    ids = Encoder.load(folder).tokenizer.encode(text, add_special_tokens=False).ids
    assert ids == words.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (None, "has no chat template; write template:"),
        ("{{ strftime_now('%d') }}", "writes today's date"),
        ("{{ raise_exception('only tools') }}", "cannot be rendered: only tools"),
        ("{% for %}", "cannot be rendered: "),
        ("{{ ''.__class__.__mro__ }}", "cannot be rendered: "),
    ],
)
def test_a_template_that_gives_no_text_is_one_line(
    tmp_path: Path, template: str | None, expected: str
) -> None:
    """No template, a template with today's date, one that raises, one that is broken, one that is
    malicious."""
    folder = save(tmp_path, **({"chat_template": template} if template else {}))
    with pytest.raises(MechanismError) as problem:
        render_chat(folder, "hello")
    assert expected in str(problem.value)


def test_the_date_of_a_template_never_changes(tmp_path: Path) -> None:
    """Llama's templates write a date, which would change the rows daily."""
    template = (
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
        "{% endif %}{{ date_string }}"
    )
    assert render_chat(save(tmp_path, chat_template=template), "hello").text == "26 Jul 2024"


def test_checkpoints_with_different_templates_are_not_compared(tmp_path: Path) -> None:
    """They would read different rows; templates that write the same text are the same."""
    folders = [save(tmp_path / name, chat_template=TURNS, bos_token="") for name in ("a", "b")]
    encoders = [Encoder(None, str(path), path) for path in folders]
    assert SharedVocabulary(tuple(encoders)).chat("hello").text == "[user] hello\n[assistant]\n"
    other = save(tmp_path / "c", chat_template=TURNS + "!", bos_token="")
    encoders.append(Encoder(None, str(other), other))
    with pytest.raises(MechanismError, match="have different chat templates"):
        SharedVocabulary(tuple(encoders)).chat("hello")


def test_a_tokenizer_without_a_folder_has_no_template() -> None:
    with pytest.raises(MechanismError, match="comes without a chat template"):
        Encoder(None, "a test's").chat("hello")


# -- what a template is told, and what it writes around a reply

THINKS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
SYSTEMLESS = TURNS.replace(
    "{% for m",
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m",
)


def test_a_template_shows_the_joint_before_a_reply_and_the_end_after_it(tmp_path: Path) -> None:
    """Llama 2's template writes a space before the reply; a line break needs none."""
    llama = (
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %} {{ m.content }} </s>{% endif %}{% endfor %}"
    )
    chats = [
        render_chat(save(tmp_path / n, chat_template=t), "hi")
        for n, t in (("a", llama), ("b", THINKS))
    ]
    assert [(chat.text[-8:], chat.joint, chat.end) for chat in chats] == [
        (" [/INST]", " ", " </s>"),
        ("sistant\n", "", "<|im_end|>\n"),
    ]


def test_a_system_prompt_and_arguments_are_shown(tmp_path: Path) -> None:
    """The text is that of apply_chat_template."""
    folder = save(tmp_path, chat_template=THINKS)
    settings = ChatSettings("Be kind.", '{"enable_thinking": false}')
    assert render_chat(folder, "hi", settings).text == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


@pytest.mark.parametrize(
    ("template", "settings", "expected"),
    [
        (
            THINKS,
            ChatSettings(arguments='{"enable_thinkng": false}'),
            "does not read 'enable_thinkng'; did you mean 'enable_thinking'? valid: enable_thinking",
        ),
        (
            TURNS,
            ChatSettings(arguments='{"thinking": true}'),
            "does not read 'thinking'; it reads no such",
        ),
        (SYSTEMLESS, ChatSettings("Be kind."), "cannot be rendered: System role not supported"),
        (
            "{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}{% endif %}{% endfor %}",
            ChatSettings("Be kind."),
            "does not show a system prompt",
        ),
    ],
)
def test_what_a_template_does_not_read_is_one_line(
    tmp_path: Path, template: str, settings: ChatSettings, expected: str
) -> None:
    """A system prompt or an argument that the template ignores is an error."""
    folder = save(tmp_path, chat_template=template, bos_token="")
    with pytest.raises(MechanismError) as problem:
        render_chat(folder, "hi", settings)
    assert expected in str(problem.value)


def test_an_argument_with_a_default_is_known(tmp_path: Path) -> None:
    """A template may set a default, `{% if not x is defined %}{% set x = ... %}`."""
    text = "{% if not effort is defined %}{% set effort = 'low' %}{% endif %}{{ effort }}"
    folder = save(tmp_path, chat_template=text)
    settings = ChatSettings(arguments='{"effort": "high"}')
    assert render_chat(folder, "hi").text == "low"
    assert render_chat(folder, "hi", settings).text == "high"


def test_end_tokens_come_from_the_settings_and_the_template(tmp_path: Path) -> None:
    """End of text comes from the settings, end of turn from the template."""
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer.add_special_tokens([AddedToken(x) for x in ("</s>", "<|im_end|>", "<x>", "<y>")])
    save(tmp_path, chat_template=THINKS, eos_token="</s>")
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [3]}')
    ends = Encoder(tokenizer, "a test's", tmp_path).end_ids
    assert {tokenizer.id_to_token(i) for i in ends} == {"</s>", "<|im_end|>", "<x>"}
