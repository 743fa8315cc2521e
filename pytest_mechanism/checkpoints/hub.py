"""``hf:org/name@revision``: a checkpoint of the Hugging Face hub, from the cache or downloaded.
``hf:org/name/file.gguf@revision`` is one GGUF file of it.

Only these references use the network, and under ``HF_HUB_OFFLINE=1`` not even they do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest_mechanism.checkpoints.gguf_file import files_in
from pytest_mechanism.checkpoints.trust import TRUST_NOTHING, Trust
from pytest_mechanism.errors import BadReference, choices, one_line

PREFIX = "hf:"
NAME = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?)"
    r"(?P<file>(?:/[A-Za-z0-9_][\w.-]*)+\.gguf)?(?:@(?P<revision>[\w./-]+))?"
)
FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken"]
"""Files that are always fetched; pickled weights and code only if the user allows them."""
PICKLED = ["pytorch_model*.bin", "adapter_model.bin"]
CODE = ["*.py"]


def fetch(text: str, trust: Trust = TRUST_NOTHING, cached: bool = False) -> Path:
    """The folder, or the GGUF file, of a hub reference.

    Args:
        text: as typed.
        trust: whether pickled weights and code may be fetched.
        cached: uses the cache alone, whatever the environment says.

    Raises:
        BadReference: it is malformed, or neither in the cache nor on the hub.
    """
    match = NAME.fullmatch(text.removeprefix(PREFIX))
    if match is None:
        raise BadReference(
            f"{text!r} is not a hub reference; write hf:org/name@revision, or "
            "hf:org/name/file.gguf@revision"
        )
    import huggingface_hub
    from huggingface_hub import constants

    offline = cached or constants.HF_HUB_OFFLINE
    where = "the cache" if offline else "the cache or on the hub"
    repo, revision = match["repo"], match["revision"]
    file = (match["file"] or "").removeprefix("/")
    patterns = FILES + (CODE if trust.remote_code else [])
    steps = [[file]] if file else [patterns, patterns + PICKLED]
    try:
        for wanted in steps:
            folder = huggingface_hub.snapshot_download(
                repo, revision=revision, allow_patterns=wanted, local_files_only=cached
            )
            if not trust.pickle or any(Path(folder).glob("*.safetensors")):
                break
    except Exception as problem:  # offline, not found, no access, a broken cache
        hint = " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
        cause = "" if offline else f": {one_line(str(problem))[:200]}"
        at = f" at {revision}" if revision else ""
        raise BadReference(f"{text}: {repo}{at} is not in {where}{hint}{cause}") from None
    if file and not (Path(folder) / file).is_file():
        # the cache may hold other files of this revision
        here = files_in(Path(folder))
        others = f"; {choices(file, here)}" if here else ""
        raise BadReference(f"{text}: {repo} has no file {file} in {where}{others}")
    return Path(folder) / file


@contextmanager
def offline() -> Iterator[None]:
    """Context without network and without kernels from the hub: only the user's references are fetched,
    never what a checkpoint's files name."""
    os.environ.setdefault("USE_HUB_KERNELS", "0")  # read when transformers is imported
    from huggingface_hub import constants

    before, variable = constants.HF_HUB_OFFLINE, os.environ.get("HF_HUB_OFFLINE")
    constants.HF_HUB_OFFLINE = True
    os.environ["HF_HUB_OFFLINE"] = "1"  # some libraries read the variable themselves
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        if variable is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = variable
