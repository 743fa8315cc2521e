"""Pickled weights and remote code: refused in one line, used when the user says so, and then known
by content. Nothing else reaches out of a checkpoint's folder."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from pytest_mechanism.checkpoints.fingerprint import fingerprint, of_reference
from pytest_mechanism.checkpoints.hub import offline
from pytest_mechanism.checkpoints.loading.model import LoadedModel, load_model
from pytest_mechanism.checkpoints.reference import ZOO, parse_reference
from pytest_mechanism.checkpoints.trust import Trust
from pytest_mechanism.errors import BadReference, MechanismError
from pytest_mechanism.registry import task_families
from pytest_mechanism.runner.runner import Runner
from pytest_mechanism.settings.model_options import ModelOptions

PICKLE = Trust(pickle=True)
REMOTE = Trust(remote_code=True)

CODE = """\
from transformers import LlamaConfig, LlamaForCausalLM

from .factor import FACTOR


class MineConfig(LlamaConfig):
    model_type = "mine"


class MineForCausalLM(LlamaForCausalLM):
    config_class = MineConfig

    def forward(self, *args, **kwargs):
        found = super().forward(*args, **kwargs)
        found.logits = found.logits * FACTOR
        return found
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of an embedded checkpoint."""
    return Path(shutil.copytree(ZOO / "base", tmp_path / "copy"))


@pytest.fixture
def pickled(folder: Path) -> Path:
    """The same with its weights pickled."""
    path = folder / "model.safetensors"
    torch.save(load_file(path), folder / "pytorch_model.bin")
    path.unlink()
    return folder


@pytest.fixture
def remote(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same with modelling code of its own, which doubles all logits."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", tmp_path / "modules")
    monkeypatch.syspath_prepend(tmp_path / "modules")
    change(
        folder,
        model_type="mine",
        architectures=["MineForCausalLM"],
        auto_map={
            "AutoConfig": "modeling_mine.MineConfig",
            "AutoModelForCausalLM": "modeling_mine.MineForCausalLM",
        },
    )
    (folder / "modeling_mine.py").write_text(CODE)
    (folder / "factor.py").write_text("FACTOR = 2.0\n")
    return folder


def change(folder: Path, name: str = "config.json", **values: Any) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def loaded(folder: Path, trust: Trust = PICKLE, adapter: Path | None = None) -> LoadedModel:
    found = parse_reference(f"{folder}+{adapter}" if adapter else str(folder), {}, folder, trust)
    return load_model(
        "base", found.folder, "cpu", "float32", lambda _: [2, 7, 3], found.adapter, trust=trust
    )


def refused(folder: Path, trust: Trust = Trust(), label: str = "x=") -> str:  # noqa: B008
    """The one line that says no, from a reference; loading says the same."""
    with pytest.raises(BadReference) as typed:
        parse_reference(f"{label}{folder}", {}, folder, trust)
    with pytest.raises(MechanismError) as read:
        load_model("base", folder, "cpu", "float32", lambda _: [2, 7, 3], trust=trust)
    assert typed.value.message == read.value.message
    assert typed.value.message.isprintable()
    return typed.value.message


# -- pickled weights


def test_pickled_weights_are_refused_and_the_option_is_named(pickled: Path) -> None:
    """Without a word from the user no pickle is opened."""
    said = refused(pickled)
    assert "the folder has no *.safetensors file; pickled weights are not loaded" in said
    assert "--mechanism-allow-pickle" in said


def test_pickled_weights_are_the_same_model(pickled: Path) -> None:
    """With the user's word the logits are those of the safetensors, of a fresh copy too."""
    found = loaded(pickled)
    twin = load_model("base", ZOO / "base", "cpu", "float32", lambda _: [2, 7, 3])
    torch.testing.assert_close(found.plain_logits, twin.plain_logits, rtol=0, atol=0)
    with torch.no_grad():
        again = found.read_plain_model(torch.float32)(found.probe).logits
    torch.testing.assert_close(again, twin.plain_logits, rtol=0, atol=1e-5)


def test_the_fingerprint_knows_pickled_weights_where_they_are_used(pickled: Path) -> None:
    """A changed pickle is another model; beside safetensors it is nothing."""
    before = fingerprint(pickled)
    path = pickled / "pytorch_model.bin"
    weights = torch.load(path, weights_only=True)
    weights["model.norm.weight"][0] += 1
    torch.save(weights, path)
    changed = fingerprint(pickled)
    assert before.model != changed.model
    shutil.copy(ZOO / "base" / "model.safetensors", pickled)
    assert fingerprint(pickled) == fingerprint(ZOO / "base")


class Program:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("forced", [False, True])
def test_a_pickle_that_is_a_program_is_not_run(
    pickled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forced: bool
) -> None:
    """Only tensors are taken, even where torch's environment variable asks for more."""
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    proof = tmp_path / "proof"
    weights = torch.load(pickled / "pytorch_model.bin", weights_only=True)
    torch.save({**weights, "x": Program(proof)}, pickled / "pytorch_model.bin")
    with pytest.raises(MechanismError, match="cannot be loaded") as said:
        loaded(pickled)
    assert (proof.exists(), str(said.value).isprintable()) == (False, True)
    with (pickled / "pytorch_model.bin").open("rb") as file:
        torch.load(file, weights_only=False)  # it is one indeed
    assert proof.exists()


def test_a_bare_pickle_is_not_run(pickled: Path, tmp_path: Path) -> None:
    """Nor one that torch has not written."""
    proof = tmp_path / "proof"
    (pickled / "pytorch_model.bin").write_bytes(pickle.dumps(Program(proof)))
    with pytest.raises(MechanismError, match="cannot be loaded"):
        loaded(pickled)
    assert not proof.exists()


@pytest.mark.parametrize("trust", [Trust(), PICKLE])
def test_a_config_cannot_ask_for_a_pickle(folder: Path, trust: Trust) -> None:
    """transformers would read the file of that name, beside safetensors and unasked."""
    change(folder, transformers_weights="adapter_model.bin")
    assert "transformers_weights in config.json is not supported" in refused(folder, trust)


def test_other_pickles_are_no_weights(folder: Path) -> None:
    """What trainers leave behind is not taken for weights."""
    (folder / "model.safetensors").rename(folder / "training_args.bin")
    assert "must be named pytorch_model.bin" in refused(folder, PICKLE)
    assert "pickled weights are not loaded" in refused(folder)


# -- pickled adapters


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small adapter that changes something."""
    import warnings

    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    made = tmp_path_factory.mktemp("made") / "adapter"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(ZOO / "base", dtype=torch.float32)
        adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    adapted.save_pretrained(made)
    return made


@pytest.mark.parametrize("beside", [None, "other.safetensors"])
def test_pickled_adapters_are_refused_unless_allowed(
    adapter: Path, tmp_path: Path, beside: str | None
) -> None:
    """PEFT reads a pickled adapter whatever it is told; another file of safetensors is no excuse."""
    copy = Path(shutil.copytree(adapter, tmp_path / "pickled"))
    safe = copy / "adapter_model.safetensors"
    torch.save(load_file(safe), copy / "adapter_model.bin")
    safe.unlink()
    if beside:
        shutil.copy(ZOO / "base" / "model.safetensors", copy / beside)
    with pytest.raises(BadReference, match="pickled adapters are not loaded") as said:
        parse_reference(f"zoo:base+{copy}", {}, tmp_path)
    assert "--mechanism-allow-pickle" in str(said.value)
    with pytest.raises(MechanismError, match="pickled adapters are not loaded"):
        load_model("base", ZOO / "base", "cpu", "float32", lambda _: [2, 7, 3], copy)
    if beside:
        return
    found, twin = (loaded(ZOO / "base", PICKLE, each) for each in (copy, adapter))
    torch.testing.assert_close(found.plain_logits, twin.plain_logits, rtol=0, atol=0)


def test_the_fingerprint_knows_pickled_adapters(adapter: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(adapter, tmp_path / "pickled"))
    weights = load_file(copy / "adapter_model.safetensors")
    (copy / "adapter_model.safetensors").unlink()
    prints = set()
    for factor in (1.0, 2.0):
        changed = {n: w * factor for n, w in weights.items()}
        torch.save(changed, copy / "adapter_model.bin")
        prints.add(of_reference(parse_reference(f"zoo:base+{copy}", {}, tmp_path, PICKLE)).model)
    assert len(prints) == 2


@pytest.mark.parametrize("kind", ["XLORA", "prompt_tuning", "SHADOW", "of tomorrow"])
def test_adapters_that_read_elsewhere_are_refused(adapter: Path, tmp_path: Path, kind: str) -> None:
    """Mixtures name further adapters and prompts name tokenizers, here or on the hub."""
    copy = Path(shutil.copytree(adapter, tmp_path / "other"))
    change(copy, "adapter_config.json", peft_type=kind)
    with pytest.raises(BadReference, match=f"of type {kind} cannot be merged"):
        parse_reference(f"zoo:base+{copy}", {}, tmp_path)


def test_an_adapter_imports_nothing_that_it_names(adapter: Path, tmp_path: Path) -> None:
    """PEFT's LoRA would import its ``megatron_core``."""
    copy = Path(shutil.copytree(adapter, tmp_path / "other"))
    (copy / "evil.py").write_text("raise SystemExit('ran')\n")
    change(copy, "adapter_config.json", megatron_config={"a": 1}, megatron_core="other.evil")
    with pytest.raises(BadReference, match=r"megatron_config in adapter_config\.json"):
        parse_reference(f"zoo:base+{copy}", {}, tmp_path)


# -- remote code


def test_remote_code_is_refused_and_the_option_is_named(remote: Path) -> None:
    """Without a word from the user no code of a folder is run."""
    (remote / "modeling_mine.py").write_text("raise SystemExit('code of the folder was run')")
    said = refused(remote)
    assert "its config.json names Python code of its own (auto_map), which is not run" in said
    assert "--mechanism-trust-remote-code" in said


def test_remote_code_is_run_and_measured_when_trusted(remote: Path) -> None:
    """The folder's own forward gives the logits, and the wrapped model passes its self-checks."""
    found = loaded(remote, REMOTE)
    twin = load_model("base", ZOO / "base", "cpu", "float32", lambda _: [2, 7, 3])
    torch.testing.assert_close(found.plain_logits, 2 * twin.plain_logits, rtol=0, atol=1e-5)
    reference = parse_reference(f"mine={remote}", {}, remote, REMOTE)
    runner = Runner(
        {"base": reference}, {"base": of_reference(reference)}, ModelOptions(trust=REMOTE)
    )
    kind = task_families()["entity_tracking"]
    task = kind(kind.parameters.model_validate({"family": "entity_tracking", "rows": 20}))
    assert type(runner.checkpoint.context("base", task).model.wrapped.plain).__name__ == (
        "MineForCausalLM"
    )


def test_the_fingerprint_knows_code_where_it_is_run(remote: Path) -> None:
    """A changed line in any file of the folder is another model; unused code is nothing."""
    before = fingerprint(remote)
    (remote / "factor.py").write_text("FACTOR = 3.0\n")
    assert fingerprint(remote).model != before.model
    shutil.copy(ZOO / "base" / "config.json", remote)
    assert fingerprint(remote) == fingerprint(ZOO / "base")


@pytest.mark.parametrize(
    "named", ["org/other--modeling.Mine", "/tmp/x.Mine", "../x.Mine", "a.b.c", 3, {"a": "b"}]
)
def test_remote_code_comes_from_the_folder_alone(remote: Path, named: Any) -> None:
    """Code of another repository has no fingerprint here."""
    change(remote, auto_map={"AutoModelForCausalLM": named})
    assert "code must be in the folder itself" in refused(remote, REMOTE)


def test_broken_remote_code_is_one_line(remote: Path) -> None:
    """Whatever the code raises."""
    (remote / "modeling_mine.py").write_text("raise RuntimeError('\\x1b[31mno\\nmore')\n")
    with pytest.raises(MechanismError, match="cannot be loaded") as said:
        loaded(remote, REMOTE)
    assert str(said.value).isprintable()


# -- shards


@pytest.mark.parametrize(
    ("shard", "says"),
    [
        ("gone.safetensors", "names 'gone.safetensors', which is missing"),
        ("../elsewhere.safetensors", "names a shard outside the folder"),
        ("/etc/passwd", "names a shard outside the folder"),
        ("w.bin", "names 'w.bin', which is not a *.safetensors file"),
    ],
)
def test_shards_are_files_of_the_folder(folder: Path, shard: str, says: str) -> None:
    """No index leads out of the folder, where the fingerprint does not look."""
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": {"model.norm.weight": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "w.bin").write_bytes(b"")
    assert says in refused(folder)
    (folder / "pytorch_model.bin").write_bytes(b"")  # is not what would be loaded
    assert says in refused(folder)
    assert says in refused(folder, PICKLE)


def test_every_pickled_shard_counts(folder: Path) -> None:
    """Another shard, another fingerprint; so with a pickled adapter beside other safetensors."""
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model-1.bin").write_bytes(b"a")
    (folder / "rest.bin").write_bytes(b"b")
    weights = {"x": "pytorch_model-1.bin", "y": "rest.bin"}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weights}))
    one = fingerprint(folder).model
    (folder / "rest.bin").write_bytes(b"c")
    assert fingerprint(folder).model != one


def test_a_pickled_adapter_counts_whatever_lies_beside_it(tmp_path: Path) -> None:
    """PEFT looks for one name."""
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "extra.safetensors").write_bytes(b"")
    (tmp_path / "adapter_model.bin").write_bytes(b"a")
    one = fingerprint(tmp_path).model
    (tmp_path / "adapter_model.bin").write_bytes(b"b")
    assert fingerprint(tmp_path).model != one


# -- the network

OFFLINE = """
import socket
def connect(*_, **__):
    raise AssertionError("the network was used")
socket.socket.connect = socket.socket.connect_ex = socket.create_connection = connect
socket.getaddrinfo = connect
import sys
from pytest_mechanism import cli
import huggingface_hub.constants
assert not huggingface_hub.constants.HF_HUB_OFFLINE
sys.exit(cli.main(sys.argv[1:]))
"""

SPEC = """\
mechanism: 1
circuit: tiny
task: {family: entity_tracking, boxes: 2, rows: 40, seed: 0}
claims:
  knows_it: {kind: accuracy, at_least: 0.5}
"""


def test_no_socket_is_opened_for_folders_and_embedded_models(tmp_path: Path, pickled: Path) -> None:
    """Loading, wrapping and measuring need no network, though nothing forbids it."""
    (tmp_path / "tiny.yaml").write_text(SPEC)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    done = subprocess.run(
        [
            sys.executable, "-c", OFFLINE, "doctor", "tiny.yaml",
            "--model-pair", f"zoo:base,copy={pickled}", "--mechanism-allow-pickle",
        ],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert (done.returncode, "network" in done.stdout + done.stderr) == (0, False), done.stderr
    assert done.stdout.count("passes its self-checks") == 2


def test_an_adapter_does_not_send_anybody_to_the_hub(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its config names a base of the hub: taken from the cache, and downloaded only if the user
    names it."""

    def connect(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was used")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    copy = Path(shutil.copytree(adapter, tmp_path / "own"))
    change(copy, "adapter_config.json", base_model_name_or_path="org/name")
    with pytest.raises(BadReference, match="neither a folder nor in the hub's cache") as said:
        parse_reference("own", {}, tmp_path)
    assert "BASE+own" in str(said.value)


@pytest.mark.parametrize(
    ("trust", "safe", "fetched"),
    [
        (Trust(), False, [set()]),
        (PICKLE, True, [set()]),
        (PICKLE, False, [set(), {"pytorch_model*.bin", "adapter_model.bin"}]),
        (REMOTE, True, [{"*.py"}]),
        (Trust(True, True), False, [{"*.py"}, {"*.py", "pytorch_model*.bin", "adapter_model.bin"}]),
    ],
)  # fmt: skip
def test_pickles_and_code_are_fetched_only_where_they_are_trusted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trust: Trust,
    safe: bool,
    fetched: list[set[str]],
) -> None:
    """And pickles only where the hub has no safetensors."""
    import huggingface_hub

    from pytest_mechanism.checkpoints.hub import FILES, fetch

    asked: list[set[str]] = []

    def download(repo: str, allow_patterns: list[str], **_: Any) -> str:
        asked.append(set(allow_patterns) - set(FILES))
        if safe:
            (tmp_path / "model.safetensors").write_text("")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert (fetch("hf:org/name", trust), asked) == (tmp_path, fetched)
    assert not {p for p in FILES if p.endswith(("bin", "py", "pt", "pkl"))}


# -- the options


def test_commands_take_the_options_and_the_ini_keys(
    pickled: Path, remote: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`doctor` loads what was allowed, on the command line or in pyproject.toml."""
    from pytest_mechanism.cli import main

    # both fixtures damage one folder: pickled weights and code of its own
    monkeypatch.chdir(pickled.parent)
    Path("tiny.yaml").write_text(SPEC.replace("at_least", "on: base, at_least"))
    given = ["doctor", "tiny.yaml", "--model", f"copy={remote}"]
    assert main(given) == 2
    assert "--mechanism-trust-remote-code" in capsys.readouterr().err
    assert main([*given, "--mechanism-trust-remote-code"]) == 2
    assert "--mechanism-allow-pickle" in capsys.readouterr().err
    assert main([*given, "--mechanism-trust-remote-code", "--mechanism-allow-pickle"]) == 0
    Path("pyproject.toml").write_text(
        "[tool.pytest]\nmechanism_allow_pickle = true\nmechanism_trust_remote_code = true\n"
    )
    assert main(given) == 0
    assert capsys.readouterr().out.count("passes its self-checks") == 2


def test_code_that_no_config_names_is_not_run(folder: Path, tmp_path: Path) -> None:
    """Neither a function that generates nor a tokenizer's class, even where code is trusted: their
    files are in no fingerprint."""
    ran = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    (folder / "custom_generate").mkdir()
    for name in ("custom_generate/generate.py", "mine.py"):
        (folder / name).write_text(ran + "def generate(model, *a, **k): ...\n")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"auto_map": {"AutoTokenizer": ["mine.Mine", None]}}))
    load_model("base", folder, "cpu", "float32", lambda _: [1, 2, 3], trust=REMOTE)
    assert not (tmp_path / "ran").exists()


def test_the_network_is_off_while_a_checkpoint_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a run may fetch before and after."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with offline():
        during = (constants.HF_HUB_OFFLINE, os.environ.get("HF_HUB_OFFLINE"))
    after = (constants.HF_HUB_OFFLINE, os.environ.get("HF_HUB_OFFLINE"))
    assert (during, after) == ((True, "1"), (False, None))
