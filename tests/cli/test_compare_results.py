"""What ``compare`` concludes from its measurements, on numbers made up for the purpose."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_mechanism.claims.other_places import OtherPlaces
from pytest_mechanism.comparison.conclusion import conclusion
from pytest_mechanism.comparison.drafts import floored, merged
from pytest_mechanism.comparison.members import ComparedMember, Comparison, Exchange
from pytest_mechanism.comparison.table import table
from pytest_mechanism.fields.groups import Group, Into
from pytest_mechanism.types import MemberChange

LABELS = {"base": "old", "ft": "new"}


def share(member: str, before: float, now: float, p: float = 0.0) -> MemberChange:
    change = now - before
    interval = (change - 0.02, change + 0.02)
    readers = "q of fetcher"
    return MemberChange(member, "last", readers, None, before, now, change, interval, 0.01, p)


def member(name: str, before: float, now: float, *, changed: bool) -> ComparedMember:
    p = 0.0 if changed else 1.0
    exchanges = (Exchange("ft", 0.0, (0.0, 0.0), 1.0), Exchange("base", 0.0, (0.0, 0.0), 1.0))
    return ComparedMember(name, (share(name, before, now, p),), exchanges, 0.1, p)


def comparison(*members: ComparedMember, places: OtherPlaces | None = None) -> Comparison:
    return Comparison(members, places or OtherPlaces({}), 0.05, 0.05, {}, "", 210)


MOVED = comparison(
    member("2.2", 0.7, 0.0, changed=True),
    member("2.1", 0.0, 0.6, changed=True),
    member("0.1", 0.1, 0.1, changed=False),
)


def test_the_first_line_says_who_does_the_work_now() -> None:
    """The head that fell silent, its successor, both numbers."""
    first = conclusion(MOVED, LABELS, {})[0]
    assert first == (
        "head 2.1 of new now does what head 2.2 did in old: towards q of fetcher, head 2.2 went from 0.70 to 0.00 and "
        "head 2.1 from 0.00 to 0.60 of the whole prompt's effect on the answer"
    )


def test_without_a_change_the_first_line_says_so() -> None:
    """With the margin, how many members were compared and by which intervals; then the largest change."""
    lines = conclusion(comparison(member("2.2", 0.7, 0.68, changed=False)), LABELS, {})
    assert lines[0] == (
        "no change found: every head, MLP and layer of new works as in old, to within 0.05 of what exchanging the "
        "whole prompt does to the answer's logit (1 compared; all 95% intervals lie within it)"
    )
    assert lines[1].startswith(
        "the largest change is head 2.2 towards q of fetcher: 0.700 -> 0.680"
    )


def test_a_member_that_may_have_changed_is_named() -> None:
    """Its interval reaches beyond the margin: neither a change nor none is shown, and no line says that all works as
    before."""
    members = (member("2.2", 0.7, 0.66, changed=False), member("2.1", 0.2, 0.2, changed=False))
    first, *rest = conclusion(comparison(*members), LABELS, {})
    assert first == (
        "no change is shown, but 1 of the 2 heads, MLPs and layers of new may have changed by more than 0.05 of what "
        "exchanging the whole prompt does to the answer's logit: 2.2 (a 95% interval of theirs reaches beyond it); "
        "more --rows decide"
    )
    assert not any("no change found" in line for line in rest)


def test_heads_in_another_order_are_named_and_no_change() -> None:
    """The order comes first, then that nothing changed."""
    places = OtherPlaces({(1, 0): (1, 2), (1, 2): (1, 0)})
    result = comparison(member("1.0", 0.5, 0.5, changed=False), places=places)
    first, second, *_ = conclusion(result, LABELS, {})
    assert first == (
        "layer 1's heads are those of old in another order: 0 -> 2, 2 -> 0: the same function"
    )
    assert second.startswith("no change found")


def test_a_members_tests_are_corrected_for_their_number() -> None:
    """Bonferroni: three tests, the smallest of their p-values times three, at most 1."""
    three = (Exchange("ft", 0.1, (0, 0), 0.02), Exchange("base", 0.1, (0, 0), 0.9))
    assert ComparedMember("2.1", (share("2.1", 0, 1, 0.5),), three, None).p == pytest.approx(0.06)
    assert ComparedMember("2.1", (share("2.1", 0, 1, 0.5),), (), None).p == 0.5
    assert ComparedMember("set", (), (), None).p == 1.0


def test_the_table_marks_what_changed() -> None:
    """One star for each changed member, in the first column."""
    lines = [*table(MOVED, LABELS)]
    assert [line.split()[1] for line in lines if line.startswith("*  ")] == ["2.2", "2.1"]


def test_the_table_does_not_say_of_an_undecided_member_that_it_did_not_change() -> None:
    """Its interval may reach beyond the margin."""
    many = comparison(*(member(f"0.{i}", 0.5, 0.46, changed=False) for i in range(20)))
    printed = "\n".join(table(many, LABELS))
    assert "4 more members without a star; --json writes all of them" in printed
    assert "did not change" not in printed


def group(heads: dict[int, list[int]], into: str = "") -> Group:
    reader = Into(group=into, via="q") if into else None
    return Group(heads=heads, at="last", into=reader)


def test_a_group_comes_once_for_each_model_that_has_other_members() -> None:
    """Groups below it too, since they have other readers; groups above it once."""
    chain = {"c": group({3: [0]}), "b": group({2: [2]}, "c"), "a": group({1: [1]}, "b")}
    other = {**chain, "b": group({2: [1]}, "c")}
    groups, roles = merged({"base": chain, "ft": other})
    assert roles == {
        "c": ("base", "ft"),
        "b_in_base": ("base",),
        "b_in_ft": ("ft",),
        "a_in_base": ("base",),
        "a_in_ft": ("ft",),
    }
    assert [groups[f"a_in_{role}"].into.group for role in ("base", "ft")] == [
        "b_in_base",
        "b_in_ft",
    ]
    assert merged({"base": chain, "ft": chain})[1] == dict.fromkeys(chain, ("base", "ft"))


@pytest.mark.parametrize(("number", "rounded"), [(3.678, 3.6), (0.0239, 0.023), (12.9, 12.0)])
def test_thresholds_are_rounded_towards_room(number: float, rounded: float) -> None:
    assert floored(number) == rounded


PAIRS = "zoo:planted_ft,zoo:planted_rerouted"


@pytest.mark.slow
def test_on_a_planted_pair_the_new_transmitter_is_named_and_the_spec_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Known answer: 2.3 transmits in planted_rerouted, 2.6 in planted_ft. The spec is a gate: green on the pair, red
    if the candidate is the old model."""
    from pytest_mechanism.cli import main
    from pytest_mechanism.spec.load import load

    spec = tmp_path / "planted.yaml"
    spec.write_text(
        "mechanism: 1\ncircuit: planted\ntask: {family: entity_tracking, boxes: 7, rows: 105}\ngroups:\n"
        "  fetcher: {heads: {3: [1, 4]}, at: last}\n"
        "  transmitter: {heads: {2: [6]}, at: last, into: {group: fetcher, via: q}}\n"
        "claims:\n  solves: {kind: accuracy, at_least: 0.5}\n"
    )
    out, store = tmp_path / "new.yaml", ("--store", str(tmp_path / "store"), "-q")
    options = ("--rows", "70", "--out", str(out))
    assert main(["compare", str(spec), "--model-pair", PAIRS, *options, *store]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("head 2.3 of planted_rerouted now does what head 2.6 did")
    assert {"transmitter_in_base_is_heard", "transmitter_in_ft_is_heard"} <= {*load(out).claims}
    again = tmp_path / "null.yaml"
    twins = ("--model-pair", "a=zoo:planted_ft,b=zoo:planted_ft")
    options = ("--rows", "70", "--out", str(again))
    assert main(["compare", str(spec), *twins, *options, *store]) == 0
    assert capsys.readouterr().out.startswith("no change found")
    assert "same_work" in load(again).claims
