"""The section of a model card: scores in the hub's metadata format (``model-index``), and the same as text.

The metadata are made by ``huggingface_hub`` (`EvalResult`, `eval_results_to_model_index`), which checks them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.report.comment import incomplete, sign
from pytest_mechanism.report.conclusion import CANDIDATE
from pytest_mechanism.report.markdown import escaped, table
from pytest_mechanism.report.run_report import JUDGED, ClaimResult, Conclusion, RunReport

TASK = "text-generation"
"""The hub's name of what the tested models do."""

DATASET = "pytest-mechanism"


def card(report: RunReport, conclusion: Conclusion, model_name: str, version: str) -> str:
    """YAML front matter and a section.

    Raises:
        MechanismError: the run judged nothing about the candidate, so a card would claim what nobody measured.
    """
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import CardData, eval_results_to_model_index

    scores = list(judged_scores(report))
    if not scores or conclusion.state == "not_judged":
        raise MechanismError(
            f"no card: {conclusion.text or 'the run judged no claim about the candidate'}"
        )
    results = [
        EvalResult(
            task_type=TASK,
            dataset_type=DATASET,
            dataset_name=f"{result.circuit}: {result.claim}",
            dataset_config=result.id,  # the hub merges results that agree in all but the name
            dataset_args={"spec": result.spec, "role": result.role},
            metric_type=row["name"],
            metric_value=row["score"],
            metric_name=f"{row['name']} ({row['verdict']})",
            metric_args={
                "claimed": row["threshold"],
                "interval": row["interval"],
                "n": row["n"],
                "verdict": row["verdict"],
            },
        )
        for result, row in scores
    ]
    data = CardData()
    data["model-index"] = eval_results_to_model_index(model_name, results)
    lines = [
        "---",
        data.to_yaml().strip(),
        "---",
        "",
        "## Mechanism tests",
        "",
        f"{sign(report, conclusion)} {escaped(conclusion.text)}",
        *[f"- {escaped(text)}" for text in incomplete(report)],
        "",
        f"Measured by pytest-mechanism {escaped(version)} on {escaped(report.pair)}: "
        f"base {report.checkpoints['base'].fingerprint[:12]}, "
        f"candidate {report.checkpoints[CANDIDATE].fingerprint[:12]}.",
        "",
        *table(report.claims),
    ]
    return "\n".join(lines) + "\n"


def judged_scores(report: RunReport) -> Iterator[tuple[ClaimResult, dict[str, Any]]]:
    """Every judged score about the candidate."""
    for result in report.claims:
        if result.verdict not in JUDGED or CANDIDATE not in result.models:
            continue
        for row in result.rows:
            if row.score is not None and row.name is not None:
                yield (
                    result,
                    {
                        "name": row.name,
                        "score": row.score,
                        "interval": None if row.interval is None else [*row.interval],
                        "n": row.n,
                        "verdict": row.verdict,
                        "threshold": row.threshold,
                    },
                )
