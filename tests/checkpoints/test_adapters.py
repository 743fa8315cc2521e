"""Adapters and hub references: the same model as its merged twin in a folder."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pytest_mechanism.checkpoints.adapter import named_otherwise
from pytest_mechanism.checkpoints.fingerprint import of_reference
from pytest_mechanism.checkpoints.loading.model import LoadedModel, load_model
from pytest_mechanism.checkpoints.reference import ZOO, Reference, parse_reference
from pytest_mechanism.checkpoints.watch import Watch
from pytest_mechanism.errors import BadReference, CheckpointChanged, MechanismError

BASE = ZOO / "wrapper_base"
SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter of an embedded checkpoint, ``adapter``, and both merged, ``merged``."""
    folder = tmp_path_factory.mktemp("adapters")
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    torch.manual_seed(0)
    settings = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    with warnings.catch_warnings():  # PEFT asks transformers for what it has renamed
        warnings.simplefilter("ignore")
        adapted = get_peft_model(model, settings)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    adapted.save_pretrained(folder / "adapter")
    adapted.merge_and_unload().save_pretrained(folder / "merged")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BASE / name, folder / "merged" / name)
    return folder


def loaded(reference: Reference) -> LoadedModel:
    return load_model(
        "base", reference.folder, "cpu", "float32", lambda _: [2, 7, 13, 3, 14, 13, 4, 5],
        reference.adapter, reference.tokenizer,
    )  # fmt: skip


def test_a_base_with_an_adapter_is_its_merged_twin(made: Path) -> None:
    """The same logits, other ones than the base's, and a fresh copy for training has it too."""
    with_adapter = loaded(parse_reference(f"zoo:wrapper_base+{made}/adapter", {}, made))
    twin = loaded(parse_reference("merged", {}, made))
    base = loaded(parse_reference("zoo:wrapper_base", {}, made))
    torch.testing.assert_close(with_adapter.plain_logits, twin.plain_logits, rtol=0, atol=1e-4)
    assert (with_adapter.plain_logits - base.plain_logits).abs().max() > 0.05
    fresh = with_adapter.read_plain_model(torch.float32)
    with torch.no_grad():
        logits = fresh(with_adapter.probe).logits
    torch.testing.assert_close(logits, twin.plain_logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("named", ["absolute", "relative to it", "relative to here"])
def test_an_adapter_alone_takes_the_base_that_it_names(
    made: Path, tmp_path: Path, named: str
) -> None:
    """A folder, wherever it is meant from."""
    adapter = tmp_path / "own" / "adapter"
    shutil.copytree(made / "adapter", adapter)
    shutil.copytree(BASE, tmp_path / "own" / "base")
    where = {
        "absolute": str(tmp_path / "own" / "base"),
        "relative to it": "../base",
        "relative to here": "own/base",
    }[named]
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": where})
    )
    found = parse_reference("own/adapter", {}, tmp_path)
    assert (found.folder, found.adapter) == (tmp_path / "own" / "base", adapter)
    assert found.label == "adapter"


def test_the_fingerprint_is_that_of_both(made: Path, tmp_path: Path) -> None:
    """Another adapter, or another base, is another model; the tokenizer is the base's."""
    base = parse_reference("zoo:wrapper_base", {}, made)
    one = parse_reference("zoo:wrapper_base+adapter", {}, made)
    other = parse_reference("zoo:wrapper_none+adapter", {}, made)
    prints = [of_reference(each) for each in (base, one, other)]
    assert len({p.model for p in prints}) == 3
    assert prints[0].tokenizer == prints[1].tokenizer


def test_a_base_of_another_name_than_the_adapters_own_is_known(made: Path) -> None:
    """PEFT merges into any model of the same sizes, so the header of a run has to say it."""
    named = json.loads((made / "adapter" / "adapter_config.json").read_text())
    assert named["base_model_name_or_path"] == str(BASE)
    one = parse_reference("zoo:wrapper_base+adapter", {}, made)
    other = parse_reference("zoo:wrapper_none+adapter", {}, made)
    assert (one.other_base, other.other_base) == (None, str(BASE))
    cached = Path("/cache/models--org--name/snapshots/0123")
    (made / "named").mkdir()
    (made / "named" / "adapter_config.json").write_text('{"base_model_name_or_path": "org/name"}')
    assert named_otherwise(made / "named", cached) is None
    assert named_otherwise(made / "named", Path("/models/other")) == "org/name"


def test_an_adapter_may_bring_its_own_tokenizer(made: Path, tmp_path: Path) -> None:
    """As training scripts save it."""
    shutil.copytree(made / "adapter", tmp_path / "adapter")
    shutil.copy(BASE / "tokenizer.json", tmp_path / "adapter" / "tokenizer.json")
    found = parse_reference("zoo:wrapper_base+adapter", {}, tmp_path)
    assert found.tokenizer == tmp_path / "adapter"


def test_an_adapter_of_another_model_is_one_line(made: Path, tmp_path: Path) -> None:
    """Shapes that do not fit, or weights that are missing, are no silent base."""
    with pytest.raises(MechanismError, match="does not fit its base"):
        loaded(parse_reference(f"zoo:base+{made}/adapter", {}, tmp_path))


@pytest.mark.parametrize("whose", ["adapter", "base"])
def test_weights_that_are_no_numbers_are_blamed_on_the_folder_that_has_them(
    made: Path, tmp_path: Path, whose: str
) -> None:
    """An adapter's training that diverged is not its base's fault, nor the other way round."""
    shutil.copytree(made / "adapter", tmp_path / "adapter")
    shutil.copytree(BASE, tmp_path / "base")
    path = next((tmp_path / whose).glob("*.safetensors"))
    weights = load_file(path)
    weights[min(weights)][...] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    merged = f", merged into {tmp_path}/base" if whose == "adapter" else ""
    says = f"{tmp_path}/{whose}{merged}: weight [a-z0-9_.]+ has NaN or infinite values"
    with pytest.raises(MechanismError, match=says):
        loaded(parse_reference("base+adapter", {}, tmp_path))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: (f / "adapter_config.json").unlink(), "has no adapter_config.json"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
    ],
)
def test_a_damaged_adapter_is_refused_before_it_is_read(
    made: Path, tmp_path: Path, damage, says: str
) -> None:
    shutil.copytree(made / "adapter", tmp_path / "adapter")
    damage(tmp_path / "adapter")
    with pytest.raises(BadReference, match=says):
        parse_reference("zoo:wrapper_base+adapter", {}, tmp_path)


@pytest.mark.parametrize(
    "config", ["{}", "[]", "{", '{"peft_type": "LORA", "base_model_name_or_path": ""}']
)
def test_an_adapter_that_names_no_base_asks_for_one(
    made: Path, tmp_path: Path, config: str
) -> None:
    shutil.copytree(made / "adapter", tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_config.json").write_text(config)
    with pytest.raises(
        BadReference, match=r"BASE\+adapter|cannot be read as JSON|has no peft_type"
    ):
        parse_reference("adapter", {}, tmp_path)


# -- the hub


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache with one checkpoint, laid out as the library lays it out."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    repo = folder / "models--org--counter"
    snapshot = repo / "snapshots" / SHA
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    for path in BASE.iterdir():
        blob = repo / "blobs" / f"blob-{path.name}"
        shutil.copy(path, blob)
        (snapshot / path.name).symlink_to(f"../../blobs/{blob.name}")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(SHA)
    return snapshot


@pytest.mark.parametrize("revision", ["", "@main", f"@{SHA}"])
def test_a_hub_reference_is_its_cached_snapshot(cache: Path, revision: str) -> None:
    """By branch, by commit, or the default; labelled by its name."""
    found = parse_reference(f"hf:org/counter{revision}", {}, Path("/nowhere"))
    assert found.folder == cache
    assert found.label == "counter"
    assert of_reference(found) == of_reference(parse_reference("zoo:wrapper_base", {}, Path()))
    assert loaded(found).shape.n_layers == 6


def test_a_hub_base_takes_an_adapter(cache: Path, made: Path) -> None:
    found = parse_reference(f"hf:org/counter@main+{made}/adapter", {}, made)
    assert (found.folder, found.adapter) == (cache, made / "adapter")


@pytest.mark.parametrize("text", ["hf:org/counter@gone", "hf:org/nobody", "hf:", "hf:a/b/c"])
def test_what_is_not_in_the_cache_is_one_line(cache: Path, text: str) -> None:
    with pytest.raises(BadReference) as problem:
        parse_reference(text, {}, Path("/nowhere"))
    assert "\n" not in str(problem.value)


def test_an_adapter_half_of_which_fits_nothing_is_one_line(made: Path, tmp_path: Path) -> None:
    """A name in the config gone wrong: PEFT would merge the other half without a word."""
    from safetensors.torch import load_file, save_file

    other = Path(shutil.copytree(made / "adapter", tmp_path / "other"))
    weights = load_file(other / "adapter_model.safetensors")
    name = min(weights)
    weights[name.replace(name.split(".")[-3], "zz_proj")] = weights[name].clone()
    save_file(weights, other / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MechanismError, match="1 of the adapter's weights have no place"):
        load_model("ft", BASE, "cpu", "float32", lambda _: [1, 2, 3], other)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"r": 1_000_000_000},
            "the rank of r is 1,000,000,000, but the adapter's weights have no dimension",
        ),
        ({"rank_pattern": {"q_proj": 10_000_000}}, "the rank of q_proj is 10,000,000"),
        (
            {"layer_replication": [[0, 1_000_000_000]]},
            "layer_replication gives 1,000,000,000 layers",
        ),
    ],
    ids=["rank", "pattern", "layers"],
)
def test_an_adapter_of_an_absurd_size_is_one_line(
    made: Path, tmp_path: Path, values: dict[str, object], message: str
) -> None:
    """Its matrices are not made first."""
    shutil.copytree(made / "adapter", tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(MechanismError, match=message):
        loaded(parse_reference("zoo:wrapper_base+adapter", {}, tmp_path))


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_an_adapter_that_changes_during_a_run_is_noticed(
    made: Path, tmp_path: Path, name: str
) -> None:
    """An adapter inside its base's folder is watched as well as the base."""
    shutil.copytree(BASE, tmp_path / "base")
    adapter = Path(shutil.copytree(made / "adapter", tmp_path / "base" / "adapter"))
    watch = Watch("base", of_reference(parse_reference("base+base/adapter", {}, tmp_path)))
    watch.check()
    path = adapter / name
    times = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(CheckpointChanged, match=name):
        watch.check()
