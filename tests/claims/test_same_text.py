"""``same_text``: what it calls alike, what it refuses to judge, and a fault that the task's prompts do not show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluators import open_evaluator
from transformers import LlamaForCausalLM

from pytest_mechanism.causes import Cause
from pytest_mechanism.claims.same_text import SameText
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.spec.load import load
from pytest_mechanism.statistics.honesty import require_safeguards
from pytest_mechanism.types import Evidence, Verdict
from recipes.simulation.setting import context_of
from recipes.simulation.world import measured
from recipes.stories_data import IDS
from recipes.stories_training import SHAPE
from recipes.trainer import new_model
from recipes.word_level import save_tokenizer

ZOO = Path(__file__).parents[2] / "pytest_mechanism" / "zoo"
LINES = [f"once a fox {i}" for i in range(10)]
N = 70
NAMES = ("Leo", "Hugo", "Mia", "Tom", "Nina")
STORY = (
    "features : FEATURE words : fox ball lion STRONG story : once a fox named NAME wanted a red ball . NAME met a lion "
    "at the river . everyone said the lion was STRONG . they found the red ball at the hill . then NAME went home "
    "with the ball . MORAL the end"
)


def judged(divergence: Any, **columns: Any) -> Verdict:
    """The verdict on lines of 10 tokens that are so far apart, in nats a token."""
    nats = {"divergence": divergence, "surprise_from": 1.0, "surprise_to": 1.1, "free_divergence": 2.0,
            "free_surprise": 3.0, "uniform": 4.0} | columns  # fmt: skip
    sums = {name: np.broadcast_to(10.0 * np.asarray(each), N) for name, each in nats.items()}
    sums |= {"predictions": np.full(N, 10.0), "unknown": sums.get("unknown", np.zeros(N))}
    claim = SameText.model_validate({"kind": "same_text", "text": LINES, "at_most": 0.02})
    verdict = claim.judge(context_of(N), measured({"TextDivergence": sums}, {}))
    return require_safeguards(verdict, claim.kind)


SPREAD = np.linspace(0.5, 1.5, N)


def test_the_whole_interval_decides() -> None:
    """Below, above, and on the threshold; the reason says how many lines would decide."""
    below, above, on = (judged(mean * SPREAD) for mean in (0.01, 0.03, 0.0195))
    assert [v.status for v in (below, above, on)] == ["pass", "fail", "inconclusive"]
    assert above.reason == (
        "KL(base || ft) 0.03 [0.0237, 0.0363] nats a token on the text of the claim (70 lines, 700 tokens); "
        "claimed: at most 0.02; perplexity base 2.718, ft 3.004; worst: row-69, 0.045"
    )
    assert "lines in all would decide (lines: of the claim, now 70); perplexity" in on.reason
    assert [score.name for score in on.scores] == [
        "KL(base || ft) on text",
        "log-perplexity of ft minus that of base",
    ]


def test_a_text_that_the_reference_cannot_predict_is_not_judged() -> None:
    """Word frequencies of its own, or guessing among all words: the better of the two counts, and the cause is the
    reference model."""
    frequencies = judged(0.0, free_surprise=1.0)
    words = judged(0.0, uniform=0.9)
    assert {(v.status, v.cause) for v in (frequencies, words)} == {
        ("inconclusive", Cause.REFERENCE_FAILS)
    }
    assert "no better than its own word frequencies do (perplexity 2.718 against 2.718)" in (
        frequencies.reason
    )
    assert "no better than guessing among all words does (perplexity 2.718 against 2.46)" in (
        words.reason
    )


def test_a_text_of_unknown_words_is_not_judged() -> None:
    """2 of 11 tokens of each line."""
    verdict = judged(0.0, unknown=0.2)
    assert (verdict.status, verdict.cause) == ("inconclusive", Cause.REFERENCE_FAILS)
    assert verdict.reason.startswith("18% of the tokens of the text of the claim are unknown")


def test_a_threshold_that_word_frequencies_meet_does_not_pass() -> None:
    """A model whose words hardly depend on the text is near anything like it."""
    verdict = judged(0.0, free_divergence=0.015)
    assert (verdict.status, verdict.cause) == ("inconclusive", Cause.CONTROL_AS_GOOD)


def spec(folder: Path, claims: str, **texts: str) -> Path:
    """A spec with text files beside it."""
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    path = folder / "spec.yaml"
    head = "mechanism: 1\ncircuit: x\ntask: {family: stories, feature: twist, rows: 20}\nclaims:\n"
    path.write_text(f"{head}{claims}\n", encoding="utf-8")
    return path


def test_empty_lines_part_a_file_into_paragraphs(tmp_path: Path) -> None:
    """Lines keep their numbers in the file, and no more are read than the claim says."""
    text = "a a\nb b\n\n\nc c\n" + "".join(f"d {i}\n" for i in range(20))
    path = spec(tmp_path, "  a: {kind: same_text, text: x.txt, at_most: 0.1, lines: 12}", x=text)
    claim = load(path).claims["a"]
    assert isinstance(claim, SameText)
    assert claim.passages[:3] == (
        ("line 1", "a a", "1"),
        ("line 2", "b b", "1"),
        ("line 5", "c c", "2"),
    )
    assert len(claim.passages) == 12


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        (
            "text: copies.txt",
            "copies.txt has 2 different lines that are not empty, and an interval needs 10",
        ),
        ("text: x.txt", "x.txt has 3 different lines that are not empty, and an interval needs 10"),
        ("text: y.txt", "no file y.txt; did you mean 'x.txt'"),
        ("text: ../x.txt", "../x.txt lies outside the spec's folder"),
        ("text: [a, b]", "must have at least 10 items"),
        ("text: {file: x.txt, sha256: '0'}", "x.txt is not the file that was pinned"),
        ("text: x.txt, from: ft", "from and to must be two roles"),
    ],
)
def test_a_text_that_is_missing_or_too_short_is_one_line(
    tmp_path: Path, claim: str, said: str
) -> None:
    """With the line of the spec."""
    texts = {"x": "a\n\nb\nc\n", "copies": "a a\n" * 30 + "b b\n"}
    path = spec(tmp_path, f"  a: {{kind: same_text, {claim}, at_most: 0.1}}", **texts)
    with pytest.raises(MechanismError, match=r"spec.yaml:5: ") as problem:
        load(path)
    assert said in str(problem.value)


def written(folder: Path, model: LlamaForCausalLM) -> Path:
    model.save_pretrained(folder)
    save_tokenizer(folder, IDS, SHAPE.longest)
    return folder


def stories(feature: str, moral: str) -> str:
    """Twenty stories that hardly differ."""
    told = (
        STORY.replace("NAME", name).replace("STRONG", word)
        for name in NAMES
        for word in ("strong", "tiny", "slow", "brave")
    )
    return "\n".join(s.replace("FEATURE", feature).replace("MORAL", moral) for s in told)


def verdicts(folder: Path, base: Path, ft: Path) -> dict[str, tuple[Verdict, Evidence | None]]:
    """Of two texts, with and without a moral, as a run judges them."""
    path = spec(
        folder,
        "  morals: {kind: same_text, text: morals.txt, at_most: 0.01}\n"
        "  others: {kind: same_text, text: others.txt, at_most: 0.01}",
        morals=stories("moral", "moral : share what you find ."),
        others=stories("conflict", ""),
    )
    gate = open_evaluator("--model-pair", f"a={base},b={ft}", "--store", folder / "store")
    loaded = load(path)
    found = {}
    for name, claim in loaded.claims.items():
        verdict = gate.judge(loaded, claim, "pair")
        shown = gate.evidence(loaded, claim, "pair", verdict.cause) if verdict.red else None
        found[name] = (verdict, shown)
    gate.runner.checkpoint.release()
    return found


def test_a_fault_is_found_on_the_text_that_shows_it(tmp_path: Path) -> None:
    """Planted: the model says the word "moral" no more. A text of morals is red, and names where; of another text the
    same claim holds."""
    model = LlamaForCausalLM.from_pretrained(ZOO / "stories_base").float()
    model.get_output_embeddings().weight.data[IDS["moral"]] *= 0.2
    found = verdicts(tmp_path, ZOO / "stories_base", written(tmp_path / "mute", model))
    assert {name: verdict.status for name, (verdict, _) in found.items()} == {
        "morals": "fail",
        "others": "pass",
    }
    shown = found["morals"][1]
    assert shown is not None
    assert (shown.examples[0].expected, shown.examples[0].answers["base"]) == ("moral", "moral")
    assert shown.examples[0].answers["ft"] != "moral"
    assert shown.examples[0].prompt.endswith("went home with the ball .")


def test_a_model_without_training_is_not_alike_to_itself(tmp_path: Path) -> None:
    """Null: random weights, saved twice, are at 0 and do not pass."""
    once, again = (written(tmp_path / name, new_model(SHAPE, IDS, 0)) for name in ("a", "b"))
    for verdict, _ in verdicts(tmp_path, once, again).values():
        assert (verdict.status, verdict.cause) == ("inconclusive", Cause.REFERENCE_FAILS)
        assert verdict.score is not None
        assert verdict.score.value == pytest.approx(0, abs=1e-6)
