"""The heads and MLPs behind a red claim: in the failure's text, the terminal, the summary page and the result file."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_mechanism.measurements.member_weights import ChangedRows, MemberWeightResult
from pytest_mechanism.report.failure import failure_text
from pytest_mechanism.report.from_json import result_from
from pytest_mechanism.report.json_file import claim_data
from pytest_mechanism.report.markdown import markdown
from pytest_mechanism.report.run_report import ClaimResult, Row
from pytest_mechanism.report.terminal import notes
from pytest_mechanism.report.wording import first_member
from pytest_mechanism.runner.edited_weights import about_weights, with_weights
from pytest_mechanism.runner.grafts import Grafted
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
    document = SimpleNamespace(
        line=lambda _: 1, quoted=lambda _: [(1, "heard: ...")], path="a.yaml"
    )
    spec: Any = SimpleNamespace(document=document)
    verdict = Verdict("fail", reason, "drops")
    return failure_text(spec, "heard", "ft", verdict, None, "", located).split("\n")


def test_the_first_lines_of_a_failure_name_the_members() -> None:
    """Directly below the reason, with the time that it took and how to leave it out."""
    assert text(FOUND)[:4] == [
        "heard on ft: no effect",
        "  head 2.2 of sender fell silent",
        "  head 2.1 (in no group) took over",
        "  (a comparison of all heads and MLPs, 12 s; --mechanism-no-locate leaves it out)",
    ]
    assert text(None)[1] == ""


def test_what_the_reason_says_is_not_said_again() -> None:
    """Kind same_profile names the members in its reason."""
    assert text(FOUND, f"2 changed: {'; '.join(LINES)}")[1].startswith("  (a comparison")


def test_terminal_and_summary_page_say_each_sentence_once() -> None:
    """Two red claims of one spec have one sweep."""
    results = [RED, replace(RED, id="a.yaml::other::ft", claim="other")]
    lines = [f"ioi: {line}" for line in LINES]
    assert notes(results) == lines
    page = markdown(results, "a+b").splitlines()
    assert [line for line in page if line.startswith("- ")] == [
        "- **fail** ioi.heard on ft: no effect",
        "- **fail** ioi.other on ft: no effect",
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


def weights(base: float = 0.0, **moved: float) -> MemberWeightResult:
    """Three layers of four heads and an MLP, an embedding, and changes such as ``h2_1=0.5``."""
    names = [f"{layer}.{part}" for layer in range(3) for part in (0, 1, 2, 3, "mlp")]
    changes = dict.fromkeys(names, base) | {"embed": base}
    changes |= {name.lstrip("h").replace("_", "."): change for name, change in moved.items()}
    layers = {f"layer {k}": max(c for n, c in changes.items() if n[0] == str(k)) for k in range(3)}
    return MemberWeightResult((), (), {}, changes=tuple((layers | changes).items()))


NOWHERE = "and nowhere else"


@pytest.mark.parametrize(
    ("result", "found", "first", "sentence"),
    [
        (weights(h2_2=0.5), (), True, f"weights changed in head 2.2 (50.0% of its norm), {NOWHERE}"),
        (weights(h2_2=0.3, h2_1=1.5), (MEMBER,), True,
         f"weights changed in head 2.2 (30.0% of its norm), head 2.1 (150.0%), {NOWHERE}"),
        (weights(embed=0.01), (), True, f"weights changed in embed (1.0% of its norm), {NOWHERE}"),
        (weights(**{f"h1_{p}": 0.1 for p in (0, 1, 2, 3, "mlp")}), (), True,
         f"weights changed in the attention and the MLP of layer 1 (10.0% of its norm), {NOWHERE}"),
        (weights(0.002, h2_2=0.5), (), True, "weights changed most in head 2.2 (50.0% of its norm); "
         "the median of the 15 heads and MLPs is 0.2%"),
        (weights(0.2, h2_2=0.5), (), False, "weights changed throughout, the median of the 15 heads and MLPs by "
         "20.0%; most in head 2.2 (50.0% of its norm), head 0.0 (20.0%), head 0.1 (20.0%), head 0.2 (20.0%)"),
        (weights(0.1, h2_2=0.5), (), True, "weights changed most in head 2.2 (50.0% of its norm); the median of the 15 "
         "heads and MLPs is 10.0%"),
        (weights(0.0001, h2_2=0.5, h2_1=0.4, h1_1=0.3, h1_2=0.2, h0_0=0.1), (), False,
         "weights changed throughout, the median of the 15 heads and MLPs by less than 0.1%; most in head 2.2 "
         "(50.0% of its norm), head 2.1 (40.0%), head 1.1 (30.0%), head 1.2 (20.0%)"),
        (weights(h2_2=0.5, h2_1=0.4, h1_1=0.3, h1_2=0.2, h0_0=0.1), (), False, "weights changed in 5 of the 15 heads "
         "and MLPs; most in head 2.2 (50.0% of its norm), head 2.1 (40.0%), head 1.1 (30.0%), head 1.2 (20.0%)"),
        (weights(h2_2=0.1, h2_1=0.4, h1_1=0.3, h1_2=0.2, h0_0=0.5), (MEMBER,), False, "weights changed in 5 of the 15 "
         "heads and MLPs; most in head 0.0 (50.0% of its norm), head 2.1 (40.0%), head 1.1 (30.0%), head 1.2 (20.0%)"),
        (weights(), (), True,
         "every weight is that of base: a setting (config.json) or the tokenizer differs"),
        (MemberWeightResult((), (), {}, changes=(("embed", 0.1),)), (), False, ""),
    ],
    ids=["head", "moved", "embedding", "layer", "rounded too", "fine-tune", "trained around", "a little", "some",
         "lost among some", "setting", "no heads"],
)  # fmt: skip
def test_weights_of_few_parts_that_changed_stand_out(
    result: MemberWeightResult, found: tuple[MemberChange, ...], first: bool, sentence: str
) -> None:
    """A part stands out if its weights changed by ten times the median, or a head by three times the next; of few,
    one that lost work is first, and of many those that changed most are named."""
    said = about_weights(result, found)
    assert (said.first, said.line) == (first, sentence)


def test_the_one_edited_head_comes_first_with_its_own_work() -> None:
    """Although the MLP that reads from it lost more: its weights are the only ones that changed."""
    mlp = replace(MEMBER, member="3.mlp", group=None, change=-0.8, readers="the logits")
    found = with_weights(Located(("...",), (mlp, MEMBER), 1.0), weights(h2_2=0.518), 1.0)
    line = (
        "head 2.2 of sender was changed (51.8% of its norm, nowhere else) and fell silent towards q of fetcher: 0.70 "
        "-> 0.00 of the whole prompt's effect on the answer; the work of 1 more changed with it"
    )
    assert found is not None
    assert (found.lines[0], found.edited) == (line, ("2.2",))
    assert first_member([replace(RED, located=found)]) == [f"H{line[1:]}."]
    both = with_weights(Located(("...",), (mlp, MEMBER), 1.0), weights(h2_2=0.5, h2_3=0.4), 1.0)
    (sentence,) = first_member([replace(RED, located=both)])
    assert sentence.startswith(
        "Weights changed in head 2.2 (50.0% of its norm), head 2.3 (40.0%), and nowhere else; "
    )
    assert (
        "nowhere else; head 2.2 of sender fell silent towards q of fetcher (0.70 -> 0.00"
        in sentence
    )


def test_words_whose_rows_changed_are_named() -> None:
    """At most three, escaped, and the others counted."""
    rows = (ChangedRows("embed", "output", 5, ("fish", "\x1b[2J", "pot")),)
    result = replace(weights(embed=0.05), rows=rows)
    assert about_weights(result).line == (
        f"weights changed in the output rows of the words fish, \\x1b[2J, pot and 2 more (5.0% of its norm), {NOWHERE}"
    )


def test_weights_come_first_only_where_they_stand_out() -> None:
    """After a fine-tune every weight has changed, which is the last thing to know."""
    few, many = (with_weights(FOUND, weights(base, h2_2=0.5), 1.0) for base in (0.0, 0.2))
    assert few is not None
    assert many is not None
    assert (few.lines[1:], many.lines[:-1], few.seconds) == (LINES, LINES, 13.3)
    assert with_weights(None, None, 0.0) is None


BACK = Grafted(("with head 1.3 of base in its place, ft regains 90%",), ("1.3",), 2.0)


def test_what_grafts_bring_back_comes_before_the_sweep_and_after_few_edited_weights() -> None:
    """And is asked for only where weights do not name one part; grafts that name nobody come last."""
    asked: list[str] = []

    def grafts() -> Grafted:
        asked.append("once")
        return BACK

    tuned = with_weights(FOUND, weights(0.1), 1.0, grafts=grafts)
    assert tuned is not None
    assert (tuned.lines[:3], tuned.restored) == ((*BACK.lines, *LINES), ("1.3",))
    assert tuned.lines[3].startswith("weights changed throughout")
    assert tuned.seconds == 15.3
    assert first_member([replace(RED, located=tuned)]) == [
        "With head 1.3 of base in its place, ft regains 90%."
    ]
    two = with_weights(FOUND, weights(h2_2=0.5, h1_3=0.4), 1.0, grafts=grafts)
    assert two is not None
    assert two.lines[1:] == (*BACK.lines, *LINES)
    assert len(asked) == 2
    around = with_weights(FOUND, weights(0.1, h2_2=0.5), 1.0, grafts=grafts)
    assert around is not None
    assert around.lines[0] == BACK.lines[0]
    assert around.lines[1].startswith("head 2.2 of sender was changed (50.0% of its norm")
    one = with_weights(FOUND, weights(h2_2=0.5), 1.0, grafts=grafts)
    assert (one is not None and one.restored, len(asked)) == ((), 3)
    nobody = with_weights(FOUND, weights(0.1), 1.0, grafts=lambda: Grafted(("no head",), ()))
    assert nobody is not None
    assert (nobody.lines[:2], nobody.lines[3:]) == (LINES, ("no head",))
    assert nobody.lines[2].startswith("weights changed throughout")


def test_a_claim_about_the_task_alone_has_grafts() -> None:
    """It has no sweep."""
    found = with_weights(None, weights(0.1), 1.0, grafts=lambda: BACK)
    assert first_member([replace(RED, located=found)]) == [
        "With head 1.3 of base in its place, ft regains 90%."
    ]


def test_the_conclusion_names_the_edited_part_of_a_model_that_only_guesses() -> None:
    """Its heads have no work to compare, and a claim about accuracy has no sweep."""
    guessing = replace(RED, located=with_weights(None, weights(h2_2=0.5), 1.0))
    assert first_member([replace(RED, located=None), guessing]) == [
        f"Weights changed in head 2.2 (50.0% of its norm), {NOWHERE}."
    ]
