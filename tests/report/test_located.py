"""The heads and MLPs behind a red claim: in the failure's text, the terminal, the summary page and the result file."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

from pytest_mechanism.report.failure import failure_text
from pytest_mechanism.report.from_json import result_from
from pytest_mechanism.report.json_file import claim_data
from pytest_mechanism.report.markdown import markdown
from pytest_mechanism.report.run_report import ClaimResult, Row
from pytest_mechanism.report.terminal import notes
from pytest_mechanism.types import Located, MemberChange, Verdict

MEMBER = MemberChange(
    "2.2", "last", "q of fetcher", "sender", 0.7, 0.0, -0.7, (-0.75, -0.65), 0.02, 0.0001
)
LINES = ("head 2.2 of sender fell silent", "head 2.1 (in no group) took over")
FOUND = Located(LINES, (MEMBER,), 12.3)
RED = ClaimResult(
    id="a.yaml::heard::ft", circuit="ioi", claim="heard", kind="path", role="ft", models=("ft",), verdict="fail",
    cause=None, meaning=None, reason="no effect", score=0.0, interval=(0.0, 0.1), n=84, threshold="drops", control=None,
    baseline=None, drift=None, drift_state=None, accepted_now=False, seconds=1.0,
    rows=(Row("fail", None, "path", 0.0, (0.0, 0.1), 84, "drops"),), scores=(), notes=(), located=FOUND,
)  # fmt: skip


def text(located: Located | None, reason: str = "no effect") -> list[str]:
    document = SimpleNamespace(block=lambda _: (1, 1), path="a.yaml", text=("heard: ...",))
    spec: Any = SimpleNamespace(document=document)
    verdict = Verdict("fail", reason, "drops")
    return failure_text(spec, "heard", "ft", verdict, None, "", located).split("\n")


def test_the_first_lines_of_a_failure_name_the_members() -> None:
    """Directly below the reason, with the time that it took and how to leave it out."""
    assert text(FOUND)[:4] == [
        "heard on ft: no effect",
        "  head 2.2 of sender fell silent",
        "  head 2.1 (in no group) took over",
        "  (a sweep over all heads and MLPs, 12 s; --mechanism-no-locate leaves it out)",
    ]
    assert text(None)[1] == ""


def test_what_the_reason_says_is_not_said_again() -> None:
    """Kind same_profile names the members in its reason."""
    assert text(FOUND, f"2 changed: {'; '.join(LINES)}")[1].startswith("  (a sweep")


def test_terminal_and_summary_page_say_each_sentence_once() -> None:
    """Two red claims of one spec have one sweep."""
    results = [RED, replace(RED, id="a.yaml::other::ft", claim="other")]
    lines = [f"ioi: {line}" for line in LINES]
    assert notes(results) == lines
    page = markdown(results, "a+b").splitlines()
    assert [line for line in page if line.startswith("- ")] == [
        "- ioi\\: head 2.2 of sender fell silent",
        "- ioi\\: head 2.1 (in no group) took over",
    ]


def test_the_result_file_has_members_with_their_numbers() -> None:
    """And null where nothing was looked for."""
    data = json.loads(json.dumps(claim_data(RED)))["located"]
    assert (data["lines"], data["seconds"]) == (list(LINES), 12.3)
    assert data["members"][0] == {**asdict(MEMBER), "interval": [-0.75, -0.65]}
    assert claim_data(replace(RED, located=None))["located"] is None


def test_it_crosses_from_process_to_process() -> None:
    """As plain JSON, for xdist."""
    assert result_from(json.loads(json.dumps(asdict(RED)))) == RED
