"""Compiles the RASP programs of `recipes/programs` with Tracr (`pip install 'pytest-mechanism[tracr]'`).

    python -m recipes.rasp --out recipes/programs largest

`compiled` writes any other program as the two files that a ``tracr:`` reference reads, with examples on which
the import runs it.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

LETTERS = "abcdefghi"
EXAMPLES = 20


def compiled(
    program: Any,
    vocabulary: Sequence[Any],
    longest: int,
    causal: bool,
    inputs: Sequence[Sequence[Any]],
    out: Path,
) -> None:
    """Writes a compiled program as OUT.json and OUT.npz.

    Args:
        program: an S-Op of RASP.
        vocabulary: the words that it reads.
        longest: words of the longest input.
        causal: whether attention looks back only.
        inputs: on which the program is recorded.
        out: path of the two files, without their endings.
    """  # fmt: skip
    compiling = import_module("tracr.compiler.compiling")
    model = compiling.compile_rasp_to_model(
        program,
        vocab={*vocabulary},
        max_seq_len=longest,
        causal=causal,
        compiler_bos="BOS",
        compiler_pad="PAD",
    )
    given = [["BOS", *words] for words in inputs]
    values = getattr(model.output_encoder, "encoding_map", None)
    config = model.model_config
    said = {
        "num_heads": config.num_heads,
        "num_layers": config.num_layers,
        "key_size": config.key_size,
        "mlp_hidden_size": config.mlp_hidden_size,
        "layer_norm": config.layer_norm,
        "causal": config.causal,
        "max_seq_len": longest,
        "vocab": {str(word): n for word, n in model.input_encoder.encoding_map.items()},
        "bos": "BOS",
        "residual_labels": list(model.residual_labels),
        "output_values": None if values is None else {str(v): n for v, n in values.items()},
        "examples": [
            {"input": [*map(str, words)], "output": [*map(str, model.apply(words).decoded)]}
            for words in given
        ],
    }
    arrays: dict[str, Any] = {
        f"{module}/{name}": np.asarray(array)
        for module, parameters in model.params.items()
        for name, array in parameters.items()
    }
    np.savez_compressed(out.with_name(f"{out.name}.npz"), **arrays)
    out.with_name(f"{out.name}.json").write_text(
        json.dumps(said, indent=1) + "\n", encoding="utf-8"
    )


def counter(out: Path) -> None:
    """How often the letter a occurs up to and with each word."""
    lib, rasp = import_module("tracr.compiler.lib"), import_module("tracr.rasp.rasp")
    rng = random.Random(0)
    inputs = [rng.choices(LETTERS, k=rng.randint(3, 12)) for _ in range(EXAMPLES)]
    compiled(lib.make_count(rasp.tokens, "a"), LETTERS, 12, True, inputs, out)


def largest(out: Path, rank: int = 5) -> None:
    """The letter at a rank, of letters that differ: the one that ``rank - 1`` others exceed."""
    rasp = import_module("tracr.rasp.rasp")
    larger = rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.GT))
    here = rasp.Select(larger.named("larger"), rasp.tokens, lambda key, _: key == rank - 1)
    program = rasp.Aggregate(here, rasp.tokens).named(f"largest_{rank}")
    rng = random.Random(0)
    inputs = [rng.sample(LETTERS, rng.randint(rank + 1, 9)) for _ in range(EXAMPLES)]
    compiled(program, LETTERS, 9, False, inputs, out)


PROGRAMS: dict[str, Callable[[Path], None]] = {"counter": counter, "largest": largest}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(PROGRAMS))
    arguments = parser.parse_args()
    if unknown := sorted({*arguments.names} - {*PROGRAMS}):
        parser.error(f"no program {unknown[0]!r}; valid: {', '.join(PROGRAMS)}")
    for name in arguments.names or PROGRAMS:
        PROGRAMS[name](arguments.out / name)
