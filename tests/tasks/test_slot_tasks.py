"""Slot tasks: every row of every stream is well-formed, and parts share no prompt."""

from __future__ import annotations

import hashlib
import json
import random
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from vocabularies import Without

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.tasks.base import AnyWord, Prompt, Row
from pytest_mechanism.tasks.families.greater_than import GreaterThan, GreaterThanParameters
from pytest_mechanism.tasks.families.induction import Induction, InductionParameters
from pytest_mechanism.tasks.families.ioi import TEMPLATES, Ioi, IoiParameters
from pytest_mechanism.tasks.families.template import Template, TemplateParameters
from pytest_mechanism.tasks.files import KNOWN_GOOD
from pytest_mechanism.tasks.text.encoding import Encoder, SharedVocabulary
from pytest_mechanism.tasks.writing.parts import EVALUATION_STREAMS, part_of_stream, part_of_text
from pytest_mechanism.tasks.writing.slot_parameters import MAX_TRIED
from pytest_mechanism.tasks.writing.slot_plan import shuffled
from pytest_mechanism.tasks.writing.slot_task import SlotTask
from pytest_mechanism.tasks.writing.words import OBJECTS

COUNT = 20
STREAMS = ("rows", "pairs", "test", "discover_rank", "discover_select", "dcm_train", "ablation")


# -- random tasks


@st.composite
def templates(draw: st.DrawFn) -> Template:
    """Several slots of one list in some orders, and perhaps a table."""
    many = draw(st.integers(3, 6))
    slots = [f"s{i}" for i in range(many)]
    orders = draw(st.lists(st.permutations(slots), min_size=1, max_size=3, unique_by=tuple))
    table = draw(st.booleans())
    texts = [" ".join(f"{{{s}}}" for s in order) + " so {s0:again}" for order in orders]
    if table:
        texts = [f"in {{place}} {text} of {{place.colour}}" for text in texts]
    words = [f"w{i}" for i in range(draw(st.integers(many + 6, 30)))]
    redraw = draw(st.lists(st.sampled_from([*slots[1:], "again"]), min_size=1, unique=True))
    source = {"redraw": redraw}
    if draw(st.booleans()) and len(orders) > 1:
        source["text"] = "other"
    parameters = {
        "family": "template",
        "words": {"w": words},
        "slots": dict.fromkeys(slots, "w"),
        "texts": [texts],
        "answer": "{s1}",
        "source": source,
        "variables": {
            "one": {"source": {"redraw": ["s1"]}, "target": "{source.s1}"},
            "two": {"source": {"set": {"again": "{s2}"}}, "target": "{s2}"},
            "swapped": {"source": {"swap": ["s1", "s2"]}, "target": "{source.answer}"},
        },
        "rows": COUNT,
        "seed": draw(st.integers(0, 10**6)),
    }
    if table:
        colours = ("red", "blue", "green")
        parameters["words"]["place"] = {f"p{i}": {"colour": colours[i % 3]} for i in range(7)}
    return Template(TemplateParameters.model_validate(parameters))


SEEDS = st.integers(0, 10**6)
TASKS = st.one_of(
    templates(),
    st.builds(
        lambda n, order, seed: Ioi(
            IoiParameters(family="ioi", templates=n, order=order, rows=COUNT, seed=seed)
        ),
        st.integers(1, len(TEMPLATES)),
        st.sampled_from(["both", "ABBA", "BABA"]),
        SEEDS,
    ),
    st.builds(
        lambda n, repeats, seed: Induction(
            InductionParameters(
                family="induction", length=n, repeats=repeats, rows=COUNT, seed=seed
            )
        ),
        st.integers(5, 20),
        st.integers(1, 4),
        SEEDS,
    ),
    st.builds(
        lambda several, seed: GreaterThan(
            GreaterThanParameters(
                family="greater_than", centuries=tuple(several), rows=COUNT, seed=seed
            )
        ),
        st.lists(st.sampled_from(["11", "15", "17"]), min_size=1, unique=True),
        SEEDS,
    ),
)


def all_words(task: SlotTask) -> list[str]:
    """Every word that a tokenizer may drop."""
    words = {
        word
        for table in task.plan.tables.values()
        for key, row in table.items()
        for word in (key, *row.values())
    }
    if isinstance(task, GreaterThan):
        years = task.plan.tables["years"]
        # a year and its least digits are never said alone, only after a century
        words -= {word for year, row in years.items() for word in (year, *row.values())}
        words |= {f"{c}{year:02}" for c in task.settings.centuries for year in range(100)}
    return sorted(words)


@st.composite
def runs(draw: st.DrawFn) -> tuple[SlotTask, Without]:
    """A task, and a vocabulary without some of its words."""
    task = draw(TASKS)
    words = all_words(task)
    share = draw(st.sampled_from([0.0, 0.02, 0.1, 0.4]))
    lost = random.Random(draw(st.integers(0, 1000))).sample(words, int(share * len(words)))
    return task, Without(frozenset(lost))


def rows_by_stream(task: SlotTask, vocabulary: Without, count: int = COUNT) -> dict[str, list[Row]]:
    """The rows of every stream; too few words are an error of one line."""
    result: dict[str, list[Row]] = {}
    refused: list[str] = []
    for stream in STREAMS:
        makers = {
            "rows": lambda s=stream: task.rows(vocabulary, count, s),
            "pairs": lambda s=stream: task.pairs(vocabulary, count, s),
            "means": lambda s=stream: task.backgrounds(vocabulary, count, s),
            **{
                v: lambda v=v, s=stream: task.interchange(vocabulary, v, count, s)
                for v in task.variables
            },
        }
        for name, make in makers.items():
            try:
                result[f"{name}/{stream}"] = list(make())
            except MechanismError as problem:
                refused.append(str(problem))
    assert all(message.startswith(f"task {task.family}: ") for message in refused)
    assert "\n" not in "".join(refused)
    return result


def words_of(prompt: Prompt) -> dict[str, str]:
    """Position -> its word, the same in each of its places."""
    words: dict[str, str] = {}
    for name, spans in prompt.spans.items():
        (words[name],) = {prompt.text[a:b] for a, b in spans}
    return words


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(runs())
def test_every_row_of_every_stream_is_well_formed(run: tuple[SlotTask, Without]) -> None:
    """Positions hold their words, answers are options, sources differ, targets are new, no row has
    a dropped word, and no prompt is evaluated twice."""
    task, vocabulary = run
    for name, rows in rows_by_stream(task, vocabulary).items():
        kind, stream = name.split("/")
        assert len({row.id for row in rows}) == len(rows)
        texts = [row.base.text for row in rows]
        if stream in EVALUATION_STREAMS or kind == "means":
            assert len(set(texts)) == len(texts)
        assert len({*zip(texts, (r.cluster for r in rows), strict=True)}) == len({*texts})
        for row in rows:
            for prompt in filter(None, (row.base, row.source)):
                words = words_of(prompt)
                assert {*task.positions} <= {*words}
                assert words["last"] == prompt.text[-1]
                assert "{" not in prompt.text
                assert set(prompt.correct_answers) <= set(prompt.options)
                assert len(set(prompt.options)) == len(prompt.options)
                assert [at for _, at in prompt.anchors] == sorted(at for _, at in prompt.anchors)
                for word in (*words.values(), *prompt.correct_answers):
                    assert word not in vocabulary.dropped
                if prompt.joint == "":
                    before = prompt.text.rsplit(None, 1)[-1]
                    assert (
                        not {before + word for word in prompt.correct_answers} & vocabulary.dropped
                    )
            assert (row.source is not None) == (kind not in ("rows", "means"))
            if row.source is not None:
                assert row.source.text != row.base.text
            if kind in task.variables:
                assert not {*row.correct_targets} & {*row.base.correct_answers}
                assert row.target == row.correct_targets[0]
            else:
                assert row.target == row.base.answer


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(runs())
def test_no_prompt_is_in_two_parts(run: tuple[SlotTask, Without]) -> None:
    """A prompt for evaluation is never ranked on, trained on, averaged over or selected on, neither
    as a base nor as a source, however few words there are."""
    task, vocabulary = run
    texts_of: dict[str, set[str]] = {"evaluation": set(), "search": set(), "selection": set()}
    for name, rows in rows_by_stream(task, vocabulary).items():
        texts = texts_of[part_of_stream(name.split("/")[1])]
        texts |= {p.text for row in rows for p in (row.base, row.source) if p is not None}
    assert not texts_of["evaluation"] & texts_of["search"]
    assert not texts_of["evaluation"] & texts_of["selection"]
    assert not texts_of["search"] & texts_of["selection"]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TASKS)
def test_a_longer_set_begins_with_the_shorter_one(task: SlotTask) -> None:
    """More rows are the same rows and further ones; row i has the same text in every set."""
    with suppress(MechanismError):
        longer = task.pairs(AnyWord(), 20)
        assert list(task.pairs(AnyWord(), 7)) == list(longer)[:7]
        texts = len(task.plan.texts)
        layouts = [row.base.anchors[0][0] for row in task.rows(AnyWord(), 20)]
        assert layouts == [layouts[i % texts] for i in range(20)]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 40), st.integers(0, 10**6))
def test_a_lazy_shuffle_has_each_number_once(count: int, seed: int) -> None:
    """The numbers do not come in order."""
    numbers = list(shuffled(random.Random(seed), count))
    assert sorted(numbers) == list(range(count))
    if count > 20:
        assert numbers != sorted(numbers)


def test_a_shuffle_costs_what_is_taken() -> None:
    """The first few of all ways to put 26 letters into 20 slots."""
    draw = shuffled(random.Random(0), 10**30)
    assert len({next(draw) for _ in range(100)}) == 100


def digest() -> str:
    tasks = [
        Ioi(IoiParameters(family="ioi")),
        Induction(InductionParameters(family="induction")),
        GreaterThan(GreaterThanParameters(family="greater_than")),
    ]
    data = [
        [asdict(row) for row in rows]
        for task in tasks
        for rows in rows_by_stream(task, Without(frozenset())).values()
    ]
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def test_rows_are_the_same_in_every_process_and_have_not_changed() -> None:
    """They follow from the seed alone, not from Python's hash seed. A change of the generator
    changes every score: raise ``revision`` with it."""
    folder = str(__file__).rsplit("/", 1)[0]
    code = f"import sys; sys.path.insert(0, {folder!r}); import test_slot_tasks as t; print(t.digest())"
    environment = {"PYTHONHASHSEED": "7", "PATH": "", "PYTHONPATH": ":".join(sys.path)}
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert digest() == other.stdout.strip()
    first = {
        task.family: (task.revision, task.rows(AnyWord(), 1)[0].base.text)
        for task in (
            Ioi(IoiParameters(family="ioi")),
            Induction(InductionParameters(family="induction")),
            GreaterThan(GreaterThanParameters(family="greater_than")),
        )
    }
    assert first == {
        "greater_than": (2, "The journey lasted from the year 1741 to the year 17"),
        "induction": (
            3,
            "Words: newspaper beer pen bag brick guitar glass dish\n"
            "Words: newspaper beer pen bag brick guitar glass dish\n"
            "Words: newspaper beer",
        ),
        "ioi": (2, "Then, Christian and Alex went to the office. Alex gave a snack to"),
    }


def test_parts_follow_from_text_and_seed() -> None:
    """About a half, a quarter and a quarter; another half for another seed."""
    parts = [[part_of_text(seed, f"text {i}") for i in range(2000)] for seed in (0, 1)]
    for assigned in parts:
        assert assigned.count("evaluation") == pytest.approx(1000, abs=100)
        assert assigned.count("search") == pytest.approx(500, abs=90)
    assert parts[0] != parts[1]


def test_rows_for_search_repeat_and_rows_for_evaluation_do_not() -> None:
    """Rows repeat with other ids and the same clusters where a method asks for more than there
    are."""
    parameters = {
        "family": "template",
        "words": {"w": [f"w{i}" for i in range(9)]},
        "slots": {"a": "w", "b": "w"},
        "text": "so {a} {b} or {a:again}",
        "answer": "{b}",
        "rows": 20,
    }
    task = Template(TemplateParameters.model_validate(parameters))
    rows = task.rows(AnyWord(), 200, "discover_rank")
    texts = [row.base.text for row in rows]
    many = len({*texts})
    assert 5 < many < 40
    assert texts == (texts[:many] * 40)[:200]
    assert len({row.id for row in rows}) == 200
    assert len({row.cluster for row in rows}) == many
    assert len(task.backgrounds(AnyWord(), 200)) == many
    assert len(task.backgrounds(AnyWord(), 200, "resample")) == 200
    with pytest.raises(
        MechanismError,
        match=r"200 different prompts are requested, but these words make only \d\d ",
    ):
        task.rows(AnyWord(), 200)


def facts(wordings: int, people: int = 40, rows: int = 20) -> Template:
    """People with a city each, in several wordings."""
    words = {f"p{i}": {"city": f"c{i}"} for i in range(people)}
    parameters = {
        "family": "template",
        "words": {"person": words},
        "texts": [f"t{i} {{person}} lives in" for i in range(wordings)],
        "answer": "{person.city}",
        "rows": rows,
    }
    return Template(TemplateParameters.model_validate(parameters))


def test_one_fact_in_several_wordings_is_one_cluster() -> None:
    """100 rows about 40 people are not 100 independent ones."""
    rows = facts(10, rows=100).rows(AnyWord(), 100)
    people = [row.base.text.split()[1] for row in rows]
    assert len({row.base.text for row in rows}) == 100
    assert len({*people}) <= 40
    clusters = [row.cluster for row in rows]
    assert len({*clusters}) == len({*people}) == len({*zip(people, clusters, strict=True)})


def test_too_few_rows_name_the_exhausted_text() -> None:
    """Texts take turns, so that one without further rows ends the set."""
    with pytest.raises(MechanismError) as raised:
        facts(4).rows(AnyWord(), 90)
    match = re.search(r"make only (\d+), because text (\d) of 4 has no more", str(raised.value))
    assert match
    possible, text = int(match[1]), int(match[2])
    assert possible % 4 + 1 == text
    assert len(facts(4).rows(AnyWord(), possible)) == possible
    with pytest.raises(MechanismError, match=f"make only {possible},"):
        facts(4).rows(AnyWord(), possible + 1)


def test_only_a_few_of_many_rows_are_tried_and_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a spec does not draw 75,000 rows; more rows than prompts are still an error; settings
    that were validated before are not tried again."""
    counts = []
    rows = SlotTask.rows
    monkeypatch.setattr(
        SlotTask,
        "rows",
        lambda self, v, count, *s: counts.append(count) or rows(self, v, count, *s),
    )
    known = facts(8, people=20_000, rows=75_000).settings
    assert counts == [MAX_TRIED]
    with pytest.raises(
        ValueError, match="75001 different prompts are requested, but these words make only"
    ):
        facts(3, people=20_000, rows=75_001)
    settings = known.model_dump(mode="json")
    TemplateParameters.model_validate(settings, context={KNOWN_GOOD: True})
    assert counts == [MAX_TRIED]
    TemplateParameters.model_validate(settings)
    assert counts == [MAX_TRIED, MAX_TRIED]


def test_a_sequence_has_the_same_tokens_whichever_word_comes_first() -> None:
    """Up to where it breaks off, and also in a byte-level BPE that knows words only after a space;
    otherwise positional means would have few prompts for each slot."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([" the" + f" {word}" * 3 for word in OBJECTS], trainer)
    encoder = Encoder(tokenizer, "a test's")
    task = Induction(InductionParameters(family="induction"))
    rows = task.rows(SharedVocabulary((encoder,)), 100)
    assert len({row.base.text.split()[1] for row in rows}) > 20
    slots = {encoder.encode(row.base).slots for row in rows}
    longest = max(slots, key=len)
    assert slots == {longest[: len(some)] for some in slots}
    assert len(slots) == len(task.plan.texts)
    split = [len(tokenizer.encode(row.base.text.split()[1]).ids) for row in rows]
    assert max(split) > 1  # what they would be at the beginning
