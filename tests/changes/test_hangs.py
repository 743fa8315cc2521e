"""What is no file, or no config of a model, is one line at once: no hang, no gigabytes."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
from mounting import run_with_mounts

from pytest_mechanism.checkpoints.fingerprint import fingerprint
from pytest_mechanism.checkpoints.reference import ZOO, parse_reference
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.runner.store import Store
from pytest_mechanism.types import Observations

LIMIT = 120
"""Seconds in which a process must have said its line: far more than it takes, far less than for ever."""

FEW = 6 << 30
"""Bytes of address space: torch and its libraries take half of it before anything is done."""


def run(code: str, *arguments: object, memory: int = FEW) -> list[str]:
    """What a process prints in which reading or allocating too much fails."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, timeout=LIMIT, check=False, preexec_fn=limited,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def missing(path: Path) -> None:
    path.symlink_to("nowhere")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 36)


KINDS: list[Callable[[Path], None]] = [pipe, zeros, missing, loop, sparse]

FILES = (
    "model.safetensors",
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
    "other.safetensors",
)

REFERENCES = """
import sys
from pathlib import Path
from pytest_mechanism.checkpoints.reference import parse_reference
from pytest_mechanism.checkpoints.fingerprint import of_reference
from pytest_mechanism.errors import MechanismError

for text in sys.argv[1:]:
    try:
        of_reference(parse_reference(text, {}, Path.cwd()))
        print("nothing is said")
    except MechanismError as problem:
        print(problem)
"""


def test_checkpoints_with_what_is_no_file_are_one_line_each(tmp_path: Path) -> None:
    """Every file of a checkpoint and of an adapter is replaced by everything that is not a regular file."""
    folders = []
    for name in FILES:
        for make in KINDS:
            folder = tmp_path / f"{name}-{make.__name__}"
            shutil.copytree(ZOO / "base", folder)
            (folder / name).unlink(missing_ok=True)
            make(folder / name)
            folders.append(folder)
    for make in KINDS:
        folder = tmp_path / f"adapter_config.json-{make.__name__}"
        folder.mkdir()
        make(folder / "adapter_config.json")
        folders.append(folder)
    lines = run(REFERENCES, *folders)
    assert len(lines) == len(folders)
    for folder, line in zip(folders, lines, strict=True):
        assert folder.name.rpartition("-")[0] in line.replace(str(folder), ""), line


ENCODE = """
import sys
from pathlib import Path
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.tasks.text.encoding import Encoder

for folder in map(Path, sys.argv[1:]):
    try:
        Encoder.load(folder).chat("hello")
        print("nothing is said")
    except MechanismError as problem:
        print(problem)
"""


def test_tokenizers_and_templates_that_are_no_files(tmp_path: Path) -> None:
    """They are read apart from the weights, and perhaps after a file was replaced by something."""
    folders = []
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        for make in KINDS:
            folder = tmp_path / f"{name}-{make.__name__}"
            shutil.copytree(ZOO / "base", folder)
            (folder / name).unlink(missing_ok=True)
            make(folder / name)
            folders.append(folder)
    for folder, line in zip(folders, run(ENCODE, *folders), strict=True):
        assert folder.name.rpartition("-")[0] in line.replace(str(folder), ""), line


@pytest.mark.parametrize("make", KINDS)
def test_a_memory_that_is_no_file_is_done_without(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    """fingerprints.json costs time and nothing else."""
    make(tmp_path / "fingerprints.json")
    code = (
        "import sys; from pathlib import Path;"
        "from pytest_mechanism.checkpoints.fingerprint import fingerprint;"
        "print(fingerprint(Path(sys.argv[1]), Path(sys.argv[2])).model)"
    )
    lines = run(code, ZOO / "base", tmp_path / "fingerprints.json")
    assert lines == [fingerprint(ZOO / "base").model]


STORED = """
import sys
from pathlib import Path
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.runner.store import Store
from pytest_mechanism.types import Observations

store, key = Store(Path(sys.argv[1])), "ab" * 32
print(store.get(key, Observations))
try:
    store.put(key, Observations(("a",), ("b",), {"x": [1.0]}))
    print(store.get(key, Observations).values["x"])
except MechanismError as problem:
    print(problem)
"""


@pytest.mark.parametrize("make", [*KINDS, Path.mkdir])
def test_an_entry_that_is_no_file_is_none(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A store entry that is not a regular file is replaced by a new measurement; a folder, which cannot be
    removed, is an error of one line."""
    store = Store(tmp_path / "store")
    make(store.path("ab" * 32))
    before = "None"
    after = "[1.]"
    if make is Path.mkdir:
        after = f"the store {store.folder} cannot be written: Is a directory"
    assert run(STORED, store.folder) == [before, after]


def test_a_store_whose_own_files_are_pipes_is_opened(tmp_path: Path) -> None:
    """Neither .gitignore nor a lock is waited for."""
    (tmp_path / "locks").mkdir()
    for name in (".gitignore", f"locks/{'ab' * 32}.lock"):
        os.mkfifo(tmp_path / name)
    assert run(STORED, tmp_path) == ["None", "[1.]"]


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from pathlib import Path
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.runner.store import Store
from pytest_mechanism.types import Observations

store, key = Store(Path(sys.argv[1])), "ab" * 32
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    store.put(key, Observations(("a",), ("b",), {"x": [1.0]}))
except MechanismError as problem:
    print(problem)
print(sorted(p.name for p in Path(sys.argv[1]).iterdir()))
"""


def test_a_store_that_cannot_grow_is_one_line(tmp_path: Path) -> None:
    """No part of an entry is left behind."""
    assert run(FULL, tmp_path) == [
        f"the store {tmp_path} cannot be written: File too large",
        "['.gitignore', 'locks']",
    ]


MOUNTED = """
mount -t tmpfs -o size=64k none "$1" || exit 77
"$2" -c "$3" "$1"
mount -o remount,ro "$1"
"$2" -c "$4" "$1"
"""

FILLED = """
import sys
from pathlib import Path
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.runner.store import Store
from pytest_mechanism.types import Observations

store = Store(Path(sys.argv[1]))
store.put("ab" * 32, Observations(("a",), ("b",), {"x": [1.0]}))
(Path(sys.argv[1]) / "fill").write_bytes(b"")
try:
    with open(Path(sys.argv[1]) / "fill", "wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
except OSError:
    pass
try:
    store.put("cd" * 32, Observations(("a",), ("b",), {"x": [1.0]}))
except MechanismError as problem:
    print(problem)
left = sorted(Path(sys.argv[1]).glob("*.tmp"))
print(store.get("ab" * 32, Observations).values["x"], store.get("cd" * 32, Observations), left)
"""

OPENED = """
import sys
from pathlib import Path
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.runner.store import Store
from pytest_mechanism.types import Observations

try:
    Store(Path(sys.argv[1])).put("cd" * 32, Observations(("a",), ("b",), {"x": [1.0]}))
except MechanismError as problem:
    print(problem)
"""


def test_a_store_on_a_full_and_on_a_read_only_file_system(tmp_path: Path) -> None:
    """Each gives one line, and existing entries are still read."""
    done = run_with_mounts(MOUNTED, tmp_path, sys.executable, FILLED, OPENED)
    assert done.returncode == 0, done.stderr
    full, left, read_only = done.stdout.splitlines()
    assert full == f"the store {tmp_path} cannot be written: No space left on device"
    assert left == "[1.] None []"
    assert read_only.startswith(f"the store {tmp_path} cannot be written: Read-only file system")


def test_the_clean_up_spares_what_a_live_process_writes(tmp_path: Path) -> None:
    """Temporary files of killed processes go; those whose measurement is being made stay."""
    store = Store(tmp_path)
    dead, live = "ab" * 32, "cd" * 32
    store.put(dead, Observations(("a",), ("b",), {"x": [1.0]}))
    for key in (dead, live):
        (tmp_path / f"{key}.measurement.123.tmp").write_bytes(b"half")
        store.scratch(key).mkdir(parents=True)
        (store.scratch(key) / "training.123.tmp").write_bytes(b"half")
    (tmp_path / "fingerprints.json.123.tmp").write_bytes(b"being written")
    with store.lock(live):
        Store(tmp_path)
    left = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.tmp"))
    assert left == [
        f"{live}.measurement.123.tmp",
        "fingerprints.json.123.tmp",
        f"unfinished/{live}/training.123.tmp",
    ]
    assert Store(tmp_path).get(dead, Observations) is not None
    assert not (tmp_path / f"{live}.measurement.123.tmp").exists()


def test_old_locks_go_unless_they_are_held(tmp_path: Path) -> None:
    """A lock file of long ago is removed, one that somebody holds is not."""
    store = Store(tmp_path)
    for key in ("ab" * 32, "cd" * 32):
        with store.lock(key):
            pass
        os.utime(tmp_path / "locks" / f"{key}.lock", (1, 1))
    with store.lock("cd" * 32):
        os.utime(tmp_path / "locks" / f"{'cd' * 32}.lock", (1, 1))
        Store(tmp_path)
    assert [p.stem for p in (tmp_path / "locks").iterdir()] == ["cd" * 32]


# -- configs

LOAD = """
import resource, sys, torch, transformers, transformer_lens
from pathlib import Path
from pytest_mechanism.checkpoints.loading.model import load_model
from pytest_mechanism.errors import MechanismError

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for folder in map(Path, sys.argv[1:]):
    try:
        load_model("base", folder, "cpu", "float32", lambda _: [1, 2, 3])
        print("nothing is said")
    except MechanismError as problem:
        print(problem)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000)
"""

HUGE = 1_000_000_000
ABSURD: list[dict[str, object]] = [
    {"num_hidden_layers": HUGE},
    {"num_hidden_layers": 1e9},
    {"num_hidden_layers": 1500},
    {"num_attention_heads": HUGE},
    {"num_attention_heads": 1999, "num_hidden_layers": 1999},
    {"hidden_size": HUGE},
    {"hidden_size": 1_000_000},
    {"vocab_size": HUGE},
    {"vocab_size": 9_999_999},
    {"head_dim": 1_000_000},
    {"num_key_value_heads": 1_000_000},
    {"intermediate_size": HUGE},
    {"intermediate_size": 9_999_999},
    {"num_labels": HUGE},
    {"text_config": {"num_hidden_layers": HUGE, "num_attention_heads": 4, "hidden_size": 128,
                     "vocab_size": 300}},
    {"vision_config": {"num_hidden_layers": HUGE}},
    {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "max_position_embeddings": 9_000_000},
    {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 9_000_000},
]  # fmt: skip


def changed(folder: Path, values: dict[str, object]) -> Path:
    shutil.copytree(ZOO / "base", folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


def test_absurd_shapes_are_one_line_and_take_no_memory(tmp_path: Path) -> None:
    """Layers, heads, widths, words, labels, nested or not: nothing of the kind is built."""
    folders = [changed(tmp_path / str(i), values) for i, values in enumerate(ABSURD)]
    *lines, small = run(LOAD, *folders, memory=12 << 30)
    assert (len(lines), small) == (len(ABSURD), "True")
    for line, folder in zip(lines, folders, strict=True):
        assert line.startswith(str(folder)), line


REACHING: list[dict[str, object]] = [
    {"auto_map": {"AutoConfig": "mine.Config"}},
    {"text_config": {"auto_map": {"AutoConfig": "mine.Config"}}},
    {"configuration_files": ["config.9.9.9.json"]},
    {"transformers_weights": "else.bin"},
    {"attn_implementation": "kernels-community/flash-attn2"},
    {"_attn_implementation": "someone/kernel@main:fn"},
    {"_attn_implementation_internal": "someone/kernel"},
    {"_attn_implementation": {"text_config": "someone/kernel"}},
    {"text_config": {"_attn_implementation": "paged|someone/kernel"}},
    {"experts_implementation": "someone/kernel"},
    {"quantization_config": {"quant_method": "gptq", "bits": 4}},
    {"quantization_config": {"quant_method": "mxfp4"}},
    {"text_config": {"quantization_config": {"quant_method": "awq"}}},
    {"vision_config": {"use_pretrained_backbone": True, "backbone": "someone/backbone"}},
    {"vision_config": {"model_type": "timm_wrapper", "architecture": "hf-hub:someone/model"}},
    {"vision_config": {"model_type": "timm_wrapper", "model_args": {"checkpoint_path": "/x.pth"}}},
]  # fmt: skip


@pytest.mark.parametrize("values", REACHING, ids=lambda values: json.dumps(values)[:60])
def test_what_reaches_beyond_the_folder_is_refused(
    tmp_path: Path, values: dict[str, object]
) -> None:
    """Kernels of the hub, imported code, other files: one line, before anything is loaded."""
    folder = changed(tmp_path / "copy", values)
    with pytest.raises(MechanismError, match=r"config\.json") as caught:
        parse_reference(str(folder), {}, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"_attn_implementation": "sdpa", "attn_implementation": None},
        {"_attn_implementation_autoset": True},
        {"quantization_config": {"load_in_4bit": True, "quant_method": "bitsandbytes"}},
        {
            "rope_theta": 1_000_000_000,
            "eos_token_id": 128_009,
            "max_position_embeddings": 10_485_760,
        },
    ],
    ids=lambda values: next(iter(values)),
)
def test_what_stays_in_the_folder_is_not(
    tmp_path: Path, values: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Common settings of checkpoints are no reason to refuse them, where the library that they name is installed."""
    monkeypatch.setitem(sys.modules, "bitsandbytes", library := ModuleType("bitsandbytes"))
    library.__spec__ = ModuleSpec("bitsandbytes", None)
    folder = changed(tmp_path / "copy", values)
    assert parse_reference(str(folder), {}, tmp_path).folder == folder
