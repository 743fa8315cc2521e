"""A GGUF file in the place of a checkpoint's folder."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import huggingface_hub
import numpy as np
import pytest
import torch
from gguf_files import TinyModel
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaForCausalLM,
    StableLmConfig,
)

from pytest_mechanism.checkpoints.fingerprint import fingerprint
from pytest_mechanism.checkpoints.gguf_header import read_header
from pytest_mechanism.checkpoints.loading.gguf import check_numbers_used
from pytest_mechanism.checkpoints.loading.model import LoadedModel, load_model
from pytest_mechanism.checkpoints.loading.placement import Placement
from pytest_mechanism.checkpoints.loading.weights import read_weights
from pytest_mechanism.checkpoints.reference import parse_reference
from pytest_mechanism.checkpoints.shape import loaded_shape, read_shape
from pytest_mechanism.checkpoints.watch import Watch
from pytest_mechanism.commands.doctor import stored_weights
from pytest_mechanism.errors import BadReference, CheckpointChanged, MechanismError
from pytest_mechanism.tasks.text.encoding import Encoder

IDS = torch.tensor([[5, 9, 200, 17, 3, 284]])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``tiny.gguf``, and ``folder``: the same model and tokenizer as other files."""
    place = tmp_path_factory.mktemp("gguf")
    path = TinyModel().write(place / "tiny.gguf")
    read_weights(path, torch.float32).save_pretrained(place / "folder")
    files = Encoder.load(path).folder
    assert files is not None
    for file in files.iterdir():
        shutil.copy(file, place / "folder")
    return place


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(IDS).logits
    return found


def spied(function: Any, note: Any) -> Any:
    def called(*arguments: Any) -> Any:
        note()
        return function(*arguments)

    return called


def load(path: Path, adapter: Path | None = None) -> LoadedModel:
    return load_model("base", path, "cpu", "float32", lambda _: IDS[0].tolist(), adapter)


def test_the_file_is_read_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers asks for its config and for its weights; the library's own reader is back afterwards."""
    read: list[Any] = []
    reader = gguf.GGUFReader
    monkeypatch.setattr(
        reader, "_build_fields", spied(reader._build_fields, lambda: read.append(None))
    )
    read_weights(place / "tiny.gguf", torch.float32)
    assert len(read) == 1
    assert gguf.GGUFReader is reader


# -- references


@pytest.mark.parametrize(
    ("text", "label"), [("tiny.gguf", "tiny"), ("./tiny.gguf", "tiny"), ("a.b=tiny.gguf", "a.b")]
)
def test_a_file_is_a_reference(place: Path, text: str, label: str) -> None:
    """Its label is its name without the ending, unless the user gives another."""
    reference = parse_reference(text, {}, place)
    assert (reference.label, reference.folder) == (label, place / "tiny.gguf")


def test_a_link_is_the_file_it_leads_to(place: Path, tmp_path: Path) -> None:
    """In the hub's cache, a link's name ends in .gguf, and the file it leads to has no ending."""
    (tmp_path / "blob").write_bytes((place / "tiny.gguf").read_bytes())
    (tmp_path / "tiny.gguf").symlink_to("blob")
    path = parse_reference("tiny.gguf", {}, tmp_path).folder
    assert read_shape(path) == read_shape(place / "tiny.gguf")
    assert fingerprint(path).model == fingerprint(place / "tiny.gguf").model


@pytest.mark.parametrize(
    ("files", "text", "message"),
    [
        (["a.gguf"], ".", "has no config.json, so it is not a checkpoint; did you mean a.gguf?"),
        (["a.gguf", "b.gguf"], ".", "not a checkpoint; valid: a.gguf, b.gguf"),
        (["a.gguf", "config.json"], ".", "has no *.safetensors file; did you mean a.gguf?"),
        (["a.Q4_0.gguf", "b.gguf"], "a.Q4.gguf", "did you mean 'a.Q4_0.gguf'? valid: a.Q4_0.gguf, b"),
        ([], "a.gguf", "no file 'a.gguf'"),
        (["a.gguf/x", "b.gguf"], "a.Q4.gguf", "did you mean 'b.gguf'? valid: b.gguf"),
        (["model.bin"], "model.bin", "is a file; a checkpoint is a folder, or one file whose name ends in"),
    ],
)  # fmt: skip
def test_a_name_beside_the_file_says_which_file_to_name(
    tmp_path: Path, files: list[str], text: str, message: str
) -> None:
    """A folder of GGUF files, a misspelt file, or a file of another kind."""
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises(BadReference) as caught:
        parse_reference(text, {}, tmp_path)
    assert message in str(caught.value)


def test_a_file_that_is_only_named_so_is_refused(tmp_path: Path) -> None:
    """By its first bytes, when the run begins."""
    (tmp_path / "a.gguf").write_text("weights")
    with pytest.raises(BadReference, match=r"is not a GGUF file: it does not begin with 'GGUF'"):
        parse_reference("a.gguf", {}, tmp_path)


def test_a_hub_reference_fetches_the_one_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder's other files stay where they are."""
    asked: list[Any] = []

    def download(repo: str, **arguments: Any) -> str:
        asked.append((repo, arguments["revision"], arguments["allow_patterns"]))
        return str(place)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    reference = parse_reference("hf:org/name/tiny.gguf@v1", {}, place)
    assert (reference.label, reference.folder) == ("tiny", place / "tiny.gguf")
    assert asked == [("org/name", "v1", ["tiny.gguf"])]
    with pytest.raises(
        BadReference, match=r"org/name has no file tin\.gguf in .*did you mean 'tiny"
    ):
        parse_reference("hf:org/name/tin.gguf", {}, place)


@pytest.mark.parametrize(
    "text", ["hf:org/name/../a.gguf", "hf:org/name/.a.gguf", "hf:org/name/a/b"]
)
def test_a_hub_reference_names_a_gguf_file_below_the_repository(text: str, tmp_path: Path) -> None:
    """No path out of it, and no other file."""
    with pytest.raises(BadReference, match=r"hf:org/name/file\.gguf@revision"):
        parse_reference(text, {}, tmp_path)


# -- the model


def test_a_file_is_the_model_of_its_folder(place: Path) -> None:
    """Equal logits, sizes, and tokens; and the weights are ordinary ones, for training and pruning."""
    file, folder = load(place / "tiny.gguf"), load(place / "folder")
    assert torch.equal(file.plain_logits, folder.plain_logits)
    assert file.shape == folder.shape
    again = file.read_plain_model(torch.float32)
    assert {type(p.dtype) for p in again.parameters()} == {torch.dtype}
    assert torch.equal(logits(again), folder.plain_logits)


def test_the_tokenizer_comes_from_the_file(place: Path) -> None:
    """Tokens, chat template and the end of a reply; errors name the file."""
    encoder, twin = Encoder.load(place / "tiny.gguf"), Encoder.load(place / "folder")
    assert encoder.name == str(place / "tiny.gguf")
    assert encoder.chat("hi") == twin.chat("hi")
    assert encoder.end_ids == twin.end_ids == frozenset({2})
    for text in ("one apple", "<|im_start|>x", "1732 äé"):
        assert encoder.tokenizer.encode(text).ids == twin.tokenizer.encode(text).ids


def test_files_beside_it_are_no_part_of_it(place: Path, tmp_path: Path) -> None:
    """An adapter or a config of the same folder changes nothing."""
    shutil.copy(place / "tiny.gguf", tmp_path)
    for name in ("adapter_config.json", "config.json", "generation_config.json"):
        (tmp_path / name).write_text('{"peft_type": "LORA", "auto_map": {"AutoConfig": "x.Y"}}')
    expected = logits(read_weights(place / "folder", torch.float32))
    assert torch.equal(logits(read_weights(tmp_path / "tiny.gguf", torch.float32)), expected)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q4_1", "Q8_0"])
def test_weights_are_dequantised_by_the_library(tmp_path: Path, kind: str) -> None:
    """Each number is the one that the library gguf gives."""
    path = TinyModel(layers=1, kind=kind).write(tmp_path / "tiny.gguf")
    model = read_weights(path, torch.float32)
    down = next(t for t in gguf.GGUFReader(path).tensors if t.name == "blk.0.ffn_down.weight")
    right = torch.tensor(gguf.dequantize(down.data, down.tensor_type).copy())
    assert torch.equal(model.model.layers[0].mlp.down_proj.weight, right)


def test_an_adapter_is_merged_into_the_dequantised_weights(place: Path, tmp_path: Path) -> None:
    """As into those of the folder."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = LlamaForCausalLM.from_pretrained(place / "folder", dtype=torch.float32)
        adapted = get_peft_model(
            base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
        )
        adapted.save_pretrained(tmp_path / "adapter")
    file = load(place / "tiny.gguf", tmp_path / "adapter")
    assert file.unmerged == ""
    torch.testing.assert_close(file.plain_logits, logits(adapted), rtol=0, atol=1e-5)


def test_factors_divide_the_rotary_frequencies(tmp_path: Path) -> None:
    """As llama.cpp does; transformers would leave them out."""
    factors = np.linspace(1, 8, 8, dtype=np.float32)
    with_factors = TinyModel(extra={"rope_freqs.weight": factors}).write(tmp_path / "a.gguf")
    scaled = read_weights(with_factors, torch.float32).model.rotary_emb.inv_freq
    plain = read_weights(TinyModel().write(tmp_path / "b.gguf"), torch.float32)
    torch.testing.assert_close(scaled, plain.model.rotary_emb.inv_freq / torch.tensor(factors))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (TinyModel(metadata={"llama.rope.scaling.type": "yarn"}), "its rotary positions are scaled"),
        (TinyModel(metadata={"llama.rope.scaling.factor": 4.0}), "llama.rope.scaling.factor is '4.0'"),
        (TinyModel(metadata={"llama.rope.scale_linear": 4.0}), "llama.rope.scale_linear is '4.0'"),
        (TinyModel(extra={"blk.0.attn_q_norm.weight": np.ones(16, np.float32)}), "would leave out the rest"),
        (TinyModel(extra={"rope_freqs.weight": np.ones(3, np.float32)}), "rope_freqs.weight does not fit"),
        (TinyModel(metadata={"llama.vocab_size": 300}), "1 weights have another shape than its metadata"),
    ],
    ids=["scaling", "factor", "older factor", "surplus", "factors", "vocabulary"],
)  # fmt: skip
def test_what_would_be_another_model_is_refused(
    tmp_path: Path, model: TinyModel, message: str
) -> None:
    """Where transformers would load it without a word."""
    path = model.write(tmp_path / "tiny.gguf")
    with pytest.raises(MechanismError) as caught:
        read_weights(path, torch.float32)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "metadata",
    [
        {"llama.rope.scaling.factor": 1.0},
        {"llama.rope.scaling.factor": 4.0, "llama.rope.scaling.type": "none"},
    ],
)
def test_positions_that_are_not_scaled_are_read(
    tmp_path: Path, metadata: dict[str, float | str]
) -> None:
    """A factor of 1 is none, and of the type none no factor counts."""
    read_weights(TinyModel(metadata=metadata).write(tmp_path / "a.gguf"), torch.float32)


ROTARY = {"rope_theta": 10_000.0, "rope_type": "default"}


def numbers(model: Any, architecture: str, tmp_path: Path) -> str:
    """What is said of a model that was made from a file with a base of 10,000, of which heads of width
    16 are rotated."""
    path = TinyModel(architecture=architecture).write(tmp_path / "a.gguf")
    try:
        check_numbers_used(model, read_header(path))
    except MechanismError as problem:
        return str(problem)
    return ""


@pytest.mark.parametrize(
    ("rotary", "message"),
    [
        (ROTARY, ""),
        (ROTARY | {"rope_theta": 5e5}, "rope.freq_base is 10000, but transformers makes a model with 500000 of"),
        (ROTARY | {"partial_rotary_factor": 0.25}, "dimension_count is 16, but transformers makes a model with 4 of"),
    ],
    ids=["same", "base", "width"],
)  # fmt: skip
def test_numbers_that_transformers_does_not_read_are_compared(
    tmp_path: Path, rotary: dict[str, Any], message: str
) -> None:
    """Its table of an architecture may leave out the base and the width of rotary positions."""
    config = StableLmConfig(
        vocab_size=9, hidden_size=64, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=8, num_hidden_layers=1,
        rope_parameters={"partial_rotary_factor": 1.0, **rotary},
    )  # fmt: skip
    said = numbers(AutoModelForCausalLM.from_config(config), "stablelm", tmp_path)
    assert (message in said, bool(said)) == (True, bool(message))


def test_a_base_that_transformers_ignores_is_refused(tmp_path: Path) -> None:
    """transformers gives starcoder2 a base of 10,000, whatever the file says."""
    path = tmp_path / "a.gguf"
    with_base(999_999.0, TinyModel(architecture="starcoder2"), path)
    config = AutoConfig.from_pretrained(tmp_path, gguf_file="a.gguf")
    model = SimpleNamespace(config=config, modules=list)
    with pytest.raises(MechanismError, match=r"starcoder2\.rope\.freq_base is 999999, but"):
        check_numbers_used(model, read_header(path))


def with_base(base: float, model: TinyModel, path: Path) -> None:
    """Writes a file with another base of rotary positions."""
    with pytest.MonkeyPatch.context() as patch:
        add = gguf.GGUFWriter.add_rope_freq_base
        patch.setattr(gguf.GGUFWriter, "add_rope_freq_base", lambda writer, _: add(writer, base))
        model.write(path)


@pytest.mark.parametrize(
    ("layers", "scalar", "message"),
    [(2, 16, ""), (2, 256, "by the root of 16, but"), (46, 24, ""), (46, 16, "by the root of 24, but")],
)  # fmt: skip
def test_gemmas_attention_scores_are_divided_as_in_llama_cpp(
    tmp_path: Path, layers: int, scalar: int, message: str
) -> None:
    """By the root of a head's width; in the model of 27 billion weights, of width / heads."""
    config = Gemma2Config(
        hidden_size=96, num_attention_heads=4, head_dim=16, num_hidden_layers=layers,
        query_pre_attn_scalar=scalar,
    )  # fmt: skip
    said = numbers(SimpleNamespace(config=config, modules=list), "gemma2", tmp_path)
    assert (message in said, bool(said)) == (True, bool(message))


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("block_count", 3, "9 weights missing against its metadata, first model.layers.2."),
        ("block_count", 1, "would leave out the rest"),
        ("block_count", 1_000, "num_hidden_layers is 1,000, but the checkpoint has 20 tensors"),
        ("block_count", 2**31, "num_hidden_layers is 2,147,483,648, but the checkpoint has"),
        ("feed_forward_length", 96, "6 weights have another shape than its metadata says, first "),
        ("feed_forward_length", 2**31, "intermediate_size is 2,147,483,648, which no model has"),
        ("feed_forward_length", 2**23, "describes a model of"),
        ("attention.head_count", 3, "tiny.gguf"),
    ],
)
def test_sizes_that_do_not_fit_the_weights_are_one_line(
    tmp_path: Path, entry: str, value: int, message: str
) -> None:
    """Before a model of that size is built."""
    path = Sized(entry, value).write(tmp_path / "tiny.gguf")
    with pytest.raises(MechanismError) as caught:
        loaded_shape(read_weights(path, torch.float32).config, path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


class Sized(TinyModel):
    """A file whose metadata say another size than its tensors have."""

    def __init__(self, entry: str, value: int) -> None:
        super().__init__()
        self.entry, self.value = entry, value

    def write(self, path: Path) -> Path:
        content = super().write(path).read_bytes()
        at = content.index(f"llama.{self.entry}".encode()) + len(f"llama.{self.entry}") + 4
        path.write_bytes(content[:at] + self.value.to_bytes(4, "little") + content[at + 4 :])
        return path


# -- options and changes


def test_weights_are_not_quantised_twice(place: Path) -> None:
    """--mechanism-quantize does not apply; the line says how they are stored."""
    with pytest.raises(MechanismError, match="stores its weights as Q8_0 already"):
        read_weights(place / "tiny.gguf", torch.float32, placement=Placement(quantize="8bit"))


def test_doctor_names_the_quantisation(place: Path) -> None:
    """And what the weights become."""
    text = stored_weights(place / "tiny.gguf", "bfloat16")
    assert text == (
        "weights 0.1 MB on disk; GGUF, Q8_0 (weights dequantised to bfloat16 when loaded)"
    )


def test_the_fingerprint_is_that_of_the_bytes(place: Path, tmp_path: Path) -> None:
    """A copy under another name has the same; other weights have another, and the same tokenizer."""
    (tmp_path / "copy.gguf").write_bytes((place / "tiny.gguf").read_bytes())
    one, copy = fingerprint(place / "tiny.gguf"), fingerprint(tmp_path / "copy.gguf")
    other = fingerprint(TinyModel(seed=1).write(tmp_path / "other.gguf"))
    assert (one.model, one.tokenizer) == (copy.model, copy.tokenizer)
    assert (one.model == other.model, one.tokenizer == other.tokenizer) == (False, True)


@pytest.mark.parametrize("names", [None, ["tokenizer.json"]])
def test_a_file_that_was_replaced_during_a_run_is_noticed(
    tmp_path: Path, names: list[str] | None
) -> None:
    """Also where only the tokenizer in it counts."""
    path = TinyModel().write(tmp_path / "tiny.gguf")
    watch = Watch("ft", fingerprint(path))
    check = watch.check if names is None else lambda: watch.check_named(names)
    check()
    TinyModel(seed=1).write(tmp_path / "new").replace(path)
    with pytest.raises(CheckpointChanged, match="was changed, replaced or touched"):
        check()


def test_what_a_run_hands_to_its_reports_is_the_file(place: Path) -> None:
    """The place of the checkpoint is the file's."""
    reference = parse_reference("tiny.gguf", {}, place)
    assert json.loads(json.dumps(reference.place)) == str(place / "tiny.gguf")
