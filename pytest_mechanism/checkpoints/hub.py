"""``hf:org/name@revision``: a checkpoint of the Hugging Face hub, from the cache or downloaded.

The network is used for these references alone, and not even for them under ``HF_HUB_OFFLINE=1``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest_mechanism.checkpoints.trust import NONE, Trust
from pytest_mechanism.errors import BadReference, one_line

PREFIX = "hf:"
NAME = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?)(?:@(?P<revision>[\w./-]+))?"
)
FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken"]
"""What is always fetched; pickled weights and code come only where the user allowed them."""
PICKLED = ["pytorch_model*.bin", "adapter_model.bin"]
CODE = ["*.py"]


def fetch(text: str, trust: Trust = NONE, cached: bool = False) -> Path:
    """The folder of a hub reference.

    Args:
        text: as typed.
        trust: what more than weights and words may be fetched.
        cached: from the cache alone, whatever the environment says.

    Raises:
        BadReference: it cannot be meant, or is neither in the cache nor to be had.
    """
    match = NAME.fullmatch(text.removeprefix(PREFIX))
    if match is None:
        raise BadReference(f"{text!r} names no hub checkpoint; write hf:org/name@revision")
    import huggingface_hub
    from huggingface_hub import constants

    repo, revision = match["repo"], match["revision"]
    try:
        patterns = FILES + (CODE if trust.remote_code else [])
        for wanted in (patterns, patterns + PICKLED):
            found = huggingface_hub.snapshot_download(
                repo, revision=revision, allow_patterns=wanted, local_files_only=cached
            )
            if not trust.pickle or any(Path(found).glob("*.safetensors")):
                break
    except Exception as problem:  # offline, not found, no access, a broken cache
        offline = cached or constants.HF_HUB_OFFLINE
        where = "the cache" if offline else "the cache or on the hub"
        hint = " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
        said = "" if offline else f": {one_line(str(problem))[:200]}"
        at = f" at {revision}" if revision else ""
        raise BadReference(f"{text}: {repo}{at} is not in {where}{hint}{said}") from None
    return Path(found)


@contextmanager
def offline() -> Iterator[None]:
    """No network and no kernels from the hub while a checkpoint is read: whatever a file names, only
    what the user named is fetched."""
    os.environ.setdefault("USE_HUB_KERNELS", "0")  # read when transformers is imported
    from huggingface_hub import constants

    before, said = constants.HF_HUB_OFFLINE, os.environ.get("HF_HUB_OFFLINE")
    constants.HF_HUB_OFFLINE = True
    os.environ["HF_HUB_OFFLINE"] = "1"  # where libraries look for themselves
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        if said is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = said
