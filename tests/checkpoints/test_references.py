"""From what a user typed to a checkpoint folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_mechanism.checkpoints import reference
from pytest_mechanism.checkpoints.reference import (
    LABEL,
    Reference,
    default_label,
    parse_pair,
    parse_reference,
)
from pytest_mechanism.errors import BadReference, MechanismError

CONFIG = {
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_size": 8,
    "vocab_size": 9,
}


def checkpoint(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model.safetensors").write_bytes(b"")
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with checkpoints in it, and a zoo of two."""
    for name in ("out/one", "out/two", "a+b", "runs/lr=1e-4", "zoo/base", "zoo/ft"):
        checkpoint(tmp_path / name)
    (tmp_path / "zoo" / "recipes").mkdir()
    (tmp_path / "latest").symlink_to("out/step_900")
    monkeypatch.setattr(reference, "ZOO", tmp_path / "zoo")
    return tmp_path


ALIASES = {
    "base": "zoo:base",
    "tuned": " out/two ",
    "same": "same",
    "chain": "base",
    "gone": "out/three",
    "out": "zoo:ft",
}


@pytest.mark.parametrize(
    ("text", "label", "typed", "folder"),
    [
        ("base", "base", "base", "zoo/base"),
        ("tuned", "tuned", "tuned", "out/two"),
        ("zoo:ft", "ft", "zoo:ft", "zoo/ft"),
        ("out/one", "one", "out/one", "out/one"),
        ("./out/one/", "one", "./out/one/", "out/one"),
        ("out/../out/one", "one", "out/../out/one", "out/one"),
        ("a+b", "a_b", "a+b", "a+b"),
        ("runs/lr=1e-4", "lr_1e-4", "runs/lr=1e-4", "runs/lr=1e-4"),
        ("new=./runs/lr=1e-4", "new", "./runs/lr=1e-4", "runs/lr=1e-4"),
        ("mine=zoo:ft", "mine", "zoo:ft", "zoo/ft"),
        (" v1.2-rc_3 = base ", "v1.2-rc_3", "base", "zoo/base"),
        ("out", "out", "out", "zoo/ft"),
    ],
)
def test_a_reference_is_an_alias_a_folder_or_an_embedded_checkpoint(
    root: Path, text: str, label: str, typed: str, folder: str
) -> None:
    """Each way to name a checkpoint gives its label and its folder; an alias goes first."""
    assert Reference(label, typed, (root / folder).resolve()) == parse_reference(
        text, ALIASES, root
    )


def test_an_absolute_folder_needs_no_root(root: Path) -> None:
    """A full path is taken as it is, wherever pytest runs."""
    assert parse_reference(f"{root}/out/one", {}, Path("/")).folder == root / "out/one"


def test_home_is_expanded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tilde is the user's home, as in a shell."""
    monkeypatch.setenv("HOME", str(root))
    assert parse_reference("~/out/one", {}, Path("/")).folder == root / "out/one"


KNOWN = "valid: base, chain, gone, out, same, tuned, zoo:base, zoo:ft"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tined", f"no alias or folder 'tined'; did you mean 'tuned'? {KNOWN}, or a folder"),
        ("qqq", f"no alias or folder 'qqq'; {KNOWN}, or a folder"),
        ("./qqq", f"no folder './qqq'; {KNOWN}, or a folder"),
        ("gone", "no folder 'out/three'; valid: zoo:base, zoo:ft, or a folder"),
        ("chain", "alias 'chain' names another alias, 'base'"),
        ("same", "no alias or folder 'same'; valid: zoo:base, zoo:ft, or a folder"),
        ("zoo:bse", "no embedded checkpoint 'bse'; did you mean 'base'? valid: base, ft"),
        ("zoo:../out/one", "no embedded checkpoint '../out/one'; valid: base, ft"),
        ("zoo:", "no embedded checkpoint ''; valid: base, ft"),
        ("zoo:recipes", "no embedded checkpoint 'recipes'; valid: base, ft"),
        (
            "hf:org/name@main",
            "hf:org/name@main: org/name at main is not in the cache (HF_HUB_OFFLINE is set)",
        ),
        ("hf:../name", "'hf:../name' is not a hub reference; write hf:org/name@revision"),
        ("base+adapter", "base+adapter: the adapter's folder 'adapter' does not exist"),
        ("base+out/one", "base+out/one: "),
        ("base+", "base+: write BASE+ADAPTER, with the adapter's folder after the plus"),
        ("+adapter", "+adapter: write BASE+ADAPTER, with the adapter's folder after the plus"),
        ("", f"an empty checkpoint reference; {KNOWN}"),
        ("x=", f"an empty checkpoint reference; {KNOWN}"),
        (
            "=base",
            "'' cannot be a label: use up to 100 letters, digits, '_', '.' and '-', as in --model-pair "
            "base=base,...",
        ),
        ("../up=base", f"no folder '../up=base'; {KNOWN}, or a folder"),
        ("latest", "latest is a link to 'out/step_900', which is missing"),
        ("~nobody_at_all/x", "'~nobody_at_all/x' cannot be a folder: Could not determine home"),
        ("a" * 300, f"'{'a' * 60}' cannot be a folder: [Errno 36] File name too long"),
    ],
    ids=lambda value: value[:14],
)
def test_a_reference_that_names_nothing_is_one_line_with_what_would(
    root: Path, text: str, message: str
) -> None:
    """Unknown aliases list the known ones; what cannot be had says what to do instead."""
    with pytest.raises(BadReference) as problem:
        parse_reference(text, ALIASES, root)
    assert str(problem.value).startswith(message)
    assert "\n" not in str(problem.value)


def test_a_pair_is_base_and_ft(root: Path) -> None:
    """The first side plays ``base``, the second ``ft``, whatever their labels."""
    base, ft = parse_pair(" out/one , new=base ", ALIASES, root)
    assert (("one", root / "out/one"), ("new", root / "zoo/base")) == (
        (base.label, base.folder),
        (ft.label, ft.folder),
    )


@pytest.mark.parametrize("text", ["", "base", "base,", ",base", "base,tuned,tuned", ",", " , "])
def test_a_pair_has_two_sides(root: Path, text: str) -> None:
    """One side, three sides and empty sides are refused with an example."""
    with pytest.raises(BadReference) as problem:
        parse_pair(text, ALIASES, root)
    assert str(problem.value) == (
        "--model-pair takes two checkpoints, separated by a comma, as in --model-pair "
        f"base,ft; got {text!r}"
    )


@pytest.mark.parametrize("text", ["base,base", "base,zoo:base", "x=base,x=tuned"])
def test_two_sides_have_two_labels(root: Path, text: str) -> None:
    """Accepted scores are kept by label, so equal ones are refused with a way out."""
    with pytest.raises(BadReference, match="label them, as in "):
        parse_pair(text, ALIASES, root)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("zoo:ft", "ft"),
        ("./out/step_500", "step_500"),
        ("out/step 500/", "step_500"),
        ("hf:org/name@v1", "name"),
        ("C:\\models\\mine", "mine"),
        ("base+adapter", "base_adapter"),
        (".hidden", "hidden"),
        ("/", "model"),
        ("..", "model"),
        ("модель", "model"),
    ],
)
def test_a_label_is_the_last_name_of_a_reference(text: str, label: str) -> None:
    """Reports and folders call a checkpoint by a short name that is safe in a path."""
    assert label == default_label(text)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30))
def test_a_default_label_is_always_a_label(text: str) -> None:
    """Whatever was typed, the label that is made of it would be accepted as one."""
    assert LABEL.fullmatch(default_label(text)) is not None


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=40) | st.sampled_from(["~", "zoo:", "\0", "a\0b", "=", "~a", "+", "//"]))
def test_whatever_is_typed_is_a_checkpoint_or_one_line(text: str) -> None:
    """A folder that loads, or an error of one printable line."""
    try:
        found = str(parse_reference(text, ALIASES, Path("/nowhere")).folder)
    except MechanismError as problem:
        found = str(problem)
    assert (found.isprintable(), found == "") == (True, False)


def without(name: str):
    return lambda folder: (folder / name).unlink()


DAMAGE = {
    "no config": (without("config.json"), "has no config.json, so it is not a checkpoint"),
    "no weights": (without("model.safetensors"), "has no *.safetensors file"),
    "no tokenizer": (without("tokenizer.json"), "has no tokenizer.json; save a fast tokenizer"),
    "config is no JSON": (
        lambda f: (f / "config.json").write_text("{"),
        "config.json cannot be read as JSON",
    ),
    "config is nested": (
        lambda f: (f / "config.json").write_text("[" * 100_000),
        "config.json cannot be read as JSON",
    ),
    "pickle": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "pickled weights are not loaded, save them as safetensors",
    ),
    "adapter": (
        lambda f: (f / "adapter_config.json").write_text("{}"),
        "holds both a checkpoint and an adapter; move the adapter to its own folder",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_folder_that_cannot_be_loaded_is_refused_before_it_is(
    root: Path, damage, message: str
) -> None:
    """What is missing in a folder is named when the reference is read."""
    damage(root / "out/one")
    with pytest.raises(BadReference) as problem:
        parse_reference("out/one", {}, root)
    assert str(problem.value).startswith("out/one")
    assert message in str(problem.value)


def test_the_zoo_of_this_package_is_offered() -> None:
    """Every embedded checkpoint is a reference, and the recipes are none."""
    names = reference.zoo_names()
    assert ({"base", "ft"} <= set(names), "recipes" in names) == (True, False)
    assert {name: reference.ZOO / name for name in names} == {
        name: parse_reference(f"zoo:{name}", {}, Path()).folder for name in names
    }
