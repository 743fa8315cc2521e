"""The result file of ``--mechanism-json``: an interface that other programs read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_mechanism.checkpoints.fingerprint import Fingerprint
from pytest_mechanism.checkpoints.reference import Reference
from pytest_mechanism.errors import visible
from pytest_mechanism.plugin.outcomes import Outcomes
from pytest_mechanism.report.result import shown
from pytest_mechanism.runner.keys import versions

FORMAT = 1


def result_file(
    references: Mapping[str, Reference],
    fingerprints: Mapping[str, Fingerprint],
    outcomes: Outcomes,
    counts: Mapping[str, int],
    exit_code: int,
) -> dict[str, Any]:
    """Shape ``mechanism_json: 1``; docs/result-file.md describes it."""
    models = {
        role: {
            "label": reference.label,
            "reference": reference.text,
            "folder": visible(str(reference.folder)),
            "adapter": None if reference.adapter is None else visible(str(reference.adapter)),
            "fingerprint": fingerprints[role].model,
        }
        for role, reference in references.items()
    }
    return {
        "mechanism_json": FORMAT,
        "pair": models,
        "claims": outcomes.results,
        "not_run": shown(outcomes.not_run),
        "deselected": shown(list(outcomes.deselected)),
        "reasons": shown(list(dict.fromkeys(outcomes.reasons))),
        "checkpoints_loaded": counts["loaded"],
        "measurements": {"done": counts["done"], "from_store": counts["from_store"]},
        "versions": versions(),
        "exit_code": exit_code,
    }
