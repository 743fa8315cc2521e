"""Is the old count gone, hidden or still there, after fine-tuning at each learning rate? A table of docs/paper-two.md.

    python -m recipes.compiled_revival --out DIR [--seed 1 2 3] [--rates 1e-1 1e-2 1e-3 1e-4]

Judges the claim of circuits/paper_two/counter_removed.yaml on the counters of `recipes.compiled_rates`, each with the
control and the pre-trained counter of its seed; makes those that are missing below the folder. Prints the evidence, and
writes it to ``DIR/revival.json``. A counter takes about a minute.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pytest_mechanism.commands.config import read_config
from pytest_mechanism.commands.models import add_model_options, open_session
from pytest_mechanism.spec.load import load
from pytest_mechanism.types import Verdict
from recipes.compiled_rates import RATES, make

SPEC = Path(__file__).parent.parent / "circuits" / "paper_two" / "counter_removed.yaml"
CLAIM = "count_of_a_is_removed"


def judged(model: Path, control: Path, pretrained: Path, store: Path) -> Verdict:
    """The verdict on one counter.

    Args:
        model: the fine-tuned counter.
        control: one that was never compiled.
        pretrained: the one from which the fine-tuned counter was made.
        store: where measurements are kept.
    """
    parser = argparse.ArgumentParser()
    add_model_options(parser)
    arguments = parser.parse_args(
        [
            "--model-pair", f"{pretrained},{model}", "--store", str(store), "--quiet",
            "--mechanism-model", f"control={control}", "--mechanism-model", f"pretrained={pretrained}",
        ]
    )  # fmt: skip
    evaluator = open_session(arguments, read_config(arguments)).evaluator
    spec = load(SPEC)
    claim = spec.claims[CLAIM]
    evaluator.plan([(spec, claim, "ft")])
    return evaluator.judge(spec, claim, "ft")


def as_data(verdict: Verdict) -> dict[str, Any]:
    scores = {
        score.name: {"value": round(score.value, 4), "interval": [round(b, 4) for b in score.interval]}
        for score in verdict.scores
    }  # fmt: skip
    return {"reason": verdict.reason, "scores": scores}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.compiled_revival")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoints")
    parser.add_argument("--seed", type=int, nargs="+", default=[1], help="of weights and texts")
    parser.add_argument("--rates", nargs="+", choices=RATES, default=RATES, help="of fine-tuning")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for seed in given.seed:
        names = ["counter_none", "counter", *(f"counter_{rate}" for rate in given.rates)]
        control, pretrained, *models = (make(name, "counter", seed, given.out) for name in names)
        for model in models:
            verdict = judged(model, control, pretrained, given.out / "store")
            found[model.name] = as_data(verdict)
            print(f"{model.name}: {verdict.reason}", flush=True)
            text = json.dumps(found, indent=1) + "\n"
            (given.out / "revival.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
