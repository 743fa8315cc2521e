"""What the benchmark can test: a release, its changes, and the specs that gate it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults import entity_tracking, real, sizes, stories, wrapper
from benchmarks.faults.change import Change, Workshop
from benchmarks.faults.rules import Measure
from pytest_mechanism.checkpoints.reference import ZOO
from recipes.real import fetch

ROOT = Path(__file__).parents[2]
SPECS = Path(__file__).parent / "specs"


@dataclass(frozen=True)
class Suite:
    """One gate on one release.

    Attributes:
        specs: that the gate runs.
        reference: the pair's first model.
        label: of the candidate, which specs may ask for.
        release: the unharmed candidate: an embedded model, or a folder.
        parent: from which the release was fine-tuned, likewise.
        changes: of the release.
        texts: on which sizes are measured.
        models: further roles of the run.
        curve_on: which size the kill rate is printed over.
        locate: whether the heads behind a red claim are looked for.
    """

    specs: Sequence[Path]
    reference: str
    label: str
    release: str
    parent: str
    changes: Callable[[], list[Change]]
    texts: Callable[[], sizes.Texts]
    models: Mapping[str, str]
    curve_on: Measure = "rows"
    locate: bool = True

    @property
    def shop(self) -> Workshop:
        return Workshop(ZOO / self.release, ZOO / self.parent, ZOO)

    def references(self, candidate: Path) -> dict[str, str]:
        """Role -> checkpoint of a run."""
        return {"base": self.reference, "ft": f"{self.label}={candidate}", **self.models}


SUITES: Mapping[str, Suite] = {
    # the last release and the candidate
    "release": Suite(
        [SPECS / "next_release.yaml", SPECS / "next_release_words.yaml", SPECS / "next_release_parts.yaml"],
        "released=zoo:ft", "ft", "ft", "base", entity_tracking.changes, sizes.boxes, {},
    ),
    # the shipped spec and its accepted scores: the base model and the candidate
    "base": Suite(
        [ROOT / "circuits" / "entity_tracking.yaml"], "base=zoo:base", "ft", "ft", "base",
        entity_tracking.changes, sizes.boxes, {},
    ),
    # the last release of a model that writes stories and the candidate, as text alone: of accuracy see `sizes.Size`
    "stories": Suite(
        [SPECS / "next_stories_text.yaml"], "released=zoo:stories_kept", "ft",
        "stories_kept", "stories_base", stories.changes, stories.texts, {},
        curve_on="text",
    ),
    # the shipped gate of the safety wrapper: the last release and a fine-tune of it
    "wrapper": Suite(
        [ROOT / "circuits" / "safety_wrapper.yaml"], "wrapper_safe=zoo:wrapper_safe", "wrapper_ft",
        "wrapper_ft", "wrapper_safe", wrapper.changes, sizes.counting, {},
    ),
    # a real pretrained model, which `recipes.real.fetch` must have fetched. A sweep over its 300 heads and MLPs takes
    # minutes a change, so no member is looked for
    "real": Suite(
        [SPECS / "next_real.yaml", SPECS / "next_real_text.yaml"], f"smollm2={fetch.folder()}", "candidate",
        str(fetch.folder()), str(fetch.folder()), real.changes, real.texts, {}, locate=False,
    ),
}  # fmt: skip
