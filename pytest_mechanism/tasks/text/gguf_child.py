"""Writes the tokenizer in a GGUF file as the files that a checkpoint's folder has, in a separate process
(`child_process`).

transformers' own reader makes the tokenizer. It imports torch, which the process of a test run must not
before it loads a model, and the file is a stranger's. Imports nothing of this package.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def run(arguments: dict[str, Any], limit: Callable[[], None]) -> dict[str, Any]:
    """Writes tokenizer.json, its config, the chat template, and the ids that end a reply.

    ``arguments`` are the ``folder`` that holds nothing but the file, its ``name`` there, and the folder
    ``out``. The answer is empty, or an ``error``.
    """
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    limit()
    out = Path(arguments["out"])
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            arguments["folder"], gguf_file=arguments["name"], local_files_only=True
        )
        tokenizer.save_pretrained(out)
    except Exception as problem:  # whatever a damaged file makes the libraries raise
        lines = str(problem).strip().splitlines()
        return {"error": f"{type(problem).__name__}: {lines[0] if lines else ''}"}
    ends = {"eos_token_id": tokenizer.eos_token_id}
    (out / "generation_config.json").write_text(json.dumps(ends), encoding="utf-8")
    return {}


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parent))
    from child_main import main  # type: ignore[import-not-found] # beside it
    from gguf_once import read_once  # type: ignore[import-not-found] # beside it

    with read_once():
        main(run)
