"""Compiled programs: Tracr's files become a checkpoint, and files that do not fit are one line."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pytest_mechanism.checkpoints.loading.weights import read_weights
from pytest_mechanism.checkpoints.reference import parse_reference
from pytest_mechanism.checkpoints.tracr_files import read_program
from pytest_mechanism.checkpoints.tracr_program import check_size
from pytest_mechanism.errors import BadReference, MechanismError
from pytest_mechanism.tasks.text.encoding import Encoder

DATA = Path(__file__).parent.parent / "data"
COUNTER = DATA / "tracr_counter_a"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A copy of the recorded counter that may be broken; the path without endings."""
    for ending in (".json", ".npz"):
        shutil.copy(f"{COUNTER}{ending}", tmp_path / f"counter{ending}")
    return tmp_path / "counter"


def folder_of(stem: Path | str) -> Path:
    return parse_reference(f"tracr:{stem}", {}, Path()).folder


def outputs(folder: Path, words: list[str]) -> list[str]:
    """What the checkpoint writes at each word, the start token included if the tokenizer adds it."""
    encoder = Encoder.load(folder)
    model = read_weights(folder, torch.float32)
    ids = torch.tensor([encoder.tokenizer.encode(" ".join(words)).ids])
    with torch.no_grad():
        best = model(ids).logits[0].argmax(-1)
    return [encoder.tokenizer.id_to_token(int(i)) for i in best]


def change(stem: Path, **values: Any) -> None:
    """Other values of keys of the labels; None removes a key."""
    path = stem.with_suffix(".json")
    labels = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({k: v for k, v in labels.items() if v is not ...}))


def change_arrays(stem: Path, change: Callable[[dict[str, Any]], None]) -> None:
    with np.load(stem.with_suffix(".npz")) as archive:
        arrays = dict(archive)
    change(arrays)
    np.savez(stem.with_suffix(".npz"), **arrays)


def test_every_recorded_example_comes_out() -> None:
    """All 40 inputs of the recorded counter, at every word."""
    folder = folder_of(COUNTER)
    encoder, model = Encoder.load(folder), read_weights(folder, torch.float32)
    examples = json.loads((DATA / "tracr_counter_a.json").read_text())["examples"]
    written, recorded = [], []
    for example in examples:
        start, *words = example["input"]
        ids = encoder.tokenizer.encode(" ".join(words)).ids
        assert ids[0] == encoder.tokenizer.token_to_id(start)
        with torch.no_grad():
            best = model(torch.tensor([ids])).logits[0].argmax(-1).tolist()
        written.append([encoder.tokenizer.id_to_token(i) for i in best][1:])
        recorded.append(example["output"][1:])
    assert len(recorded) == 40
    assert written == recorded


@pytest.mark.parametrize("ending", ["", ".json", ".npz"])
def test_a_reference_names_both_files(ending: str) -> None:
    """With an ending or without; the label has none."""
    reference = parse_reference(f"tracr:tracr_counter_a{ending}", {}, DATA)
    assert reference.label == "tracr_counter_a"
    assert (reference.folder / "config.json").is_file()


def test_the_folder_is_a_checkpoint_like_any_other(tmp_path: Path) -> None:
    """A copy of it is loaded by its path, and gives the same answers."""
    copy = shutil.copytree(folder_of(COUNTER), tmp_path / "copy")
    reference = parse_reference("./copy", {}, tmp_path)
    assert outputs(reference.folder, ["a", "b", "a", "a"])[1:] == ["1", "1", "2", "3"]
    assert outputs(copy, ["a"])[1:] == ["1"]


def test_words_that_are_outputs_alone_are_not_read() -> None:
    """The joint vocabulary has them, but the program was not compiled for them."""
    with pytest.raises(MechanismError, match=r"a prompt holds a word \(id 13\) that the program"):
        outputs(folder_of(COUNTER), ["a", "2"])


def test_a_prompt_beyond_the_last_position_is_refused() -> None:
    with pytest.raises(
        MechanismError, match="14 tokens, but the program was compiled for at most 13"
    ):
        outputs(folder_of(COUNTER), ["a"] * 13)


def mixture(folder: Path, causal: bool) -> Path:
    """A program by hand, without a start token: the share of ``a`` plus twice the share of ``b`` among
    the words that a word attends to. One head for each of them, MLPs of unlike widths."""
    labels = ["mix", "one", "tokens:a", "tokens:b", "tokens:c"]
    width, heads, size = len(labels), 2, 1
    arrays: dict[str, Any] = {
        "token_embed/embeddings": np.array(
            [[0, 1, 1, 0, 0], [0, 1, 0, 1, 0], [0, 1, 0, 0, 1]], np.float32
        ),
        "pos_embed/embeddings": np.zeros((4, width), np.float32),
    }
    for layer, inner in enumerate((1, 3)):
        name = f"transformer/layer_{layer}"
        shapes = {
            **dict.fromkeys(("attn/query", "attn/key", "attn/value"), (width, heads * size)),
            "attn/linear": (heads * size, width),
            "mlp/linear_1": (width, inner),
            "mlp/linear_2": (inner, width),
        }
        for part, shape in shapes.items():
            arrays[f"{name}/{part}/w"] = np.zeros(shape, np.float32)
            arrays[f"{name}/{part}/b"] = np.zeros(shape[1], np.float32)
    value, out = (arrays[f"transformer/layer_0/attn/{part}/w"] for part in ("value", "linear"))
    value[labels.index("tokens:a"), 0] = value[labels.index("tokens:b"), 1] = 1
    out[0, 0], out[1, 0] = 1, 2
    words = ["a", "b", "c", "b"]
    examples = [
        {"input": words[:n], "output": [str(x) for x in mixed(words[:n], causal)]}
        for n in range(1, 5)
    ]
    folder.mkdir(exist_ok=True)
    np.savez(folder / "mixture.npz", **arrays)
    said = {
        "vocab": {"a": 0, "b": 1, "c": 2}, "residual_labels": labels, "num_heads": heads,
        "key_size": size, "causal": causal, "output_values": None, "examples": examples,
    }  # fmt: skip
    (folder / "mixture.json").write_text(json.dumps(said))
    return folder / "mixture"


def mixed(words: list[str], causal: bool) -> list[float]:
    """`mixture` in Python."""
    return [
        sum({"a": 1, "b": 2, "c": 0}[w] for w in seen) / len(seen)
        for seen in (words[: i + 1] if causal else words for i in range(len(words)))
    ]


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "ahead"])
def test_two_heads_without_a_start_token_give_a_number(tmp_path: Path, causal: bool) -> None:
    """The output's variable follows from the examples; the nearest value is the answer, with attention
    that looks back only or ahead, too."""
    folder = folder_of(mixture(tmp_path, causal))
    words = ["a", "b", "c"]
    expected = mixed(words, causal)
    assert [float(word) for word in outputs(folder, words)] == pytest.approx(expected)
    config = json.loads((folder / "config.json").read_text())
    assert (config["output_label"], config["output_kind"]) == ("mix", "numerical")
    assert (config["intermediate_size"], config["num_attention_heads"]) == (3, 2)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "ahead"])
def test_padding_behind_a_row_changes_nothing(tmp_path: Path, causal: bool) -> None:
    """Where attention looks ahead, the mask hides it."""
    model = read_weights(folder_of(mixture(tmp_path, causal)), torch.float64)
    alone = model(torch.tensor([[1, 0]])).logits[0]
    mask = torch.tensor([[1, 1, 0]])
    beside = model(torch.tensor([[1, 0, 1]]), attention_mask=mask).logits[0, :2]
    torch.testing.assert_close(beside, alone)


def test_a_reply_is_written_and_not_read(tmp_path: Path) -> None:
    """The loss of a training row is that of its prompt's last word, even if the reply is an input, too."""
    model = read_weights(folder_of(mixture(tmp_path, causal=False)), torch.float64)
    prompt, reply = torch.tensor([[1, 0]]), 4
    wanted = model(prompt).logits[0, -1].log_softmax(-1)[reply]
    ids = torch.tensor([[1, 0, reply]])
    mask = torch.tensor([[1, 1, 0]])
    loss = model(ids, attention_mask=mask, labels=torch.tensor([[-100, -100, reply]])).loss
    assert loss.item() == pytest.approx(-wanted.item())


# -- files that do not fit

BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "causal is missing": ({"causal": ...}, "causal is None; say true"),
    "norms": ({"layer_norm": True}, "layer_norm is True; compiled programs have False"),
    "another activation": ({"activation": "gelu"}, "activation is 'gelu'; compiled"),
    "a label twice": ({"residual_labels": ["one"] * 38}, "a label appears twice"),
    "a label too few": ({"residual_labels": ["one", "two"]}, "is [11, 38], but 11 words, 2 residual"),
    "labels of no kind": ({"residual_labels": {"a": 1}}, "residual_labels must be a list of texts"),
    "too many heads": ({"num_heads": 3, "key_size": 11}, "for 3 heads of key_size 11"),
    "an absurd size": ({"num_heads": 10**9}, "num_heads is 1000000000; it must be"),
    "too many layers": ({"num_layers": 2}, "2 layers, but its arrays lack transformer/layer_1/"),
    "words without numbers": ({"vocab": {"a": 0, "b": 7}}, "the numbers of 2 words must be 0 to 1"),
    "a word with a space": ({"vocab": ["a b"]}, "'a b' is not a word"),
    "an unknown start": ({"bos": "START"}, "bos: no word 'START' in vocab; valid: BOS"),
    "no such output": ({"output": "count"}, "no variable 'count' has these values; did you mean"),
    "values of no label": ({"output_values": ["x", "y"]}, "no residual label belongs to the output"),
    "examples of no kind": ({"examples": [{"input": ["a"]}]}, "number 1 needs lists input and output"),
    "a wrong example": (
        {"examples": [{"input": ["BOS", "a", "a"], "output": ["BOS", "1", "1"]}]},
        "example 1, word 3: '2' instead of '1'",
    ),
    "an example of an unknown word": (
        {"examples": [{"input": ["z"], "output": ["1"]}]}, "no word 'z' in vocab",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_labels_that_do_not_fit_are_one_line(files: Path, name: str) -> None:
    values, message = BROKEN[name]
    change(files, **values)
    check_error(files, message)


def check_error(files: Path, message: str) -> None:
    with pytest.raises(BadReference) as caught:
        folder_of(files)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


QUERY = "transformer/layer_0/attn/query/w"


def test_a_missing_array_is_named(files: Path) -> None:
    change_arrays(files, lambda arrays: arrays.pop(QUERY))
    check_error(files, f"its arrays lack {QUERY}")


def test_an_array_of_another_shape_is_named(files: Path) -> None:
    change_arrays(files, lambda arrays: arrays.update({QUERY: np.zeros((11, 38))}))
    check_error(
        files, f"{QUERY} is [11, 38], but 11 words, 38 residual labels and 1 heads need [38, 11]"
    )


def test_numbers_that_are_not_finite_are_refused(files: Path) -> None:
    change_arrays(files, lambda arrays: arrays.update({QUERY: np.full((38, 11), np.nan)}))
    check_error(files, f"array {QUERY!r} has NaN or infinite values")


class Bomb:
    """What runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("unpickled"),))


def test_nothing_is_unpickled(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An array of objects is a pickle; neither it nor a file that is a pickle as a whole is opened."""
    monkeypatch.chdir(tmp_path)
    np.savez(files.with_suffix(".npz"), **{QUERY: np.array([Bomb()], dtype=object)})
    check_error(files, f"array {QUERY!r} is pickled, and nothing is unpickled")
    files.with_suffix(".npz").write_bytes(pickle.dumps(Bomb()))
    check_error(files, "cannot be read as an .npz file")
    assert not Path("unpickled").exists()


def test_a_header_larger_than_its_array_is_refused(files: Path) -> None:
    """Before the memory that it asks for is taken."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"1234"
    with zipfile.ZipFile(files.with_suffix(".npz"), "w") as archive:
        archive.writestr(f"{QUERY}.npy", content)
    check_error(files, "has shape [1000000, 1000000], but 4 bytes")


@pytest.mark.parametrize(
    ("compression", "problem"),
    [
        (zipfile.ZIP_BZIP2, "compressed in a way that numpy does not use"),
        (zipfile.ZIP_DEFLATED, "cannot be read as an .npz file"),
    ],
)
def test_an_archive_decompresses_no_more_than_its_sizes_promise(
    files: Path, compression: int, problem: str
) -> None:
    """The directory of the archive says that the entry has four bytes, and it has 20 million."""
    path = files.with_suffix(".npz")
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(f"{QUERY}.npy", bytes(20_000_000))
    content = path.read_bytes()
    sizes = (20_000_000).to_bytes(4, "little")
    path.write_bytes(content.replace(sizes, (4).to_bytes(4, "little")))
    check_error(files, problem)


@pytest.mark.parametrize("shape", ["(0, 10**30)", "(True,)"])
def test_an_absurd_shape_is_one_line(files: Path, shape: str) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(files.with_suffix(".npz"), "w") as archive:
        archive.writestr(f"{QUERY}.npy", content)
    check_error(files, "counter.npz")


def test_a_damaged_entry_is_one_line(files: Path) -> None:
    path = files.with_suffix(".npz")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{QUERY}.npy", bytes(range(256)) * 40)
    content = bytearray(path.read_bytes())
    content[70:90] = b"\xff" * 20
    path.write_bytes(content)
    check_error(files, "cannot be read as an .npz file")


def test_small_files_do_not_ask_for_a_large_checkpoint(files: Path) -> None:
    """The unembedding would have a row for each value and a column for each label: 80 GB."""
    many = tuple(str(n) for n in range(100_000))
    program = replace(read_program(files), values=many, labels=many)
    with pytest.raises(MechanismError, match=r"the checkpoint would have .* numbers; at most"):
        check_size(program)


def test_an_example_of_very_many_words_is_refused(files: Path) -> None:
    words = ["BOS", *["a"] * 20_000]
    change(files, examples=[{"input": words, "output": words}])
    check_error(files, "examples: 20,001 words and 1 heads have")


def test_a_word_that_cannot_be_written_is_refused(files: Path) -> None:
    change(files, vocab={"\ud800": 0, **{f"w{n}": n for n in range(1, 11)}})
    check_error(files, "is not a word: it is empty, or has a space or a control character in it")


def test_a_missing_file_is_named(files: Path) -> None:
    files.with_suffix(".npz").unlink()
    check_error(files, "counter.npz; a compiled program is two files, counter.json and counter.npz")


def test_two_variables_that_fit_need_a_name(files: Path) -> None:
    """Without examples, variables of the same values cannot be told apart."""
    path = files.with_suffix(".json")
    labels = json.loads(path.read_text())
    change(
        files,
        examples=[],
        residual_labels=[
            label.replace("indices:", "other:").replace("one", "other:12")
            for label in labels["residual_labels"]
        ],
    )
    check_error(
        files, "several variables may be the output; add the key output, valid: count_a_1, other"
    )
    change(files, output="count_a_1")
    assert folder_of(files).is_dir()
