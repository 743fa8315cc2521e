"""Rows from a plan (`tasks.plans`): which scenes are drawn, and into which set of rows each may come.

Which part of the prompts a scene belongs to, judged, searched on or chosen on, follows from its text and the seed (`tasks.parts`), so sets that must not meet cannot, however
few words there are; the source of a row belongs to the same part. No row is judged on twice. What
is searched on is read again where a method asks for more rows than there are; rows whose
slots have the same words are one cluster, in whichever text they are told, so no interval takes one
fact in ten wordings for ten. Texts take turns, so that row i
of any set is told in the same text, and a mean over a set has as many of each.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from pytest_mechanism.errors import MechanismError, choices
from pytest_mechanism.tasks.base import Prompt, Row, Task, Vocabulary
from pytest_mechanism.tasks.text.joints import between
from pytest_mechanism.tasks.text.left_out import Tally, words_left_out
from pytest_mechanism.tasks.writing.parts import part_of_stream, part_of_text
from pytest_mechanism.tasks.writing.patterns import Word
from pytest_mechanism.tasks.writing.plans import Change, Plan, Scene, shuffled
from pytest_mechanism.tasks.writing.word_lists import Table

Tables = Mapping[str, Table]

TRIES = 40
"""Sources that are drawn for a base before it is said to have none."""

PATIENCE = 5_000
"""Scenes in a row that will not do before it is said that there are no more."""


@dataclass(frozen=True)
class Made:
    """A row without its name, and the scene that its base tells."""

    scene: Scene
    base: Prompt
    source: Prompt | None = None
    targets: tuple[str, ...] = ()


class Drawn(Task):
    """A task that a plan describes."""

    revision = 2

    @cached_property
    def plan(self) -> Plan:
        """What is drawn from; follows from the settings alone."""
        raise NotImplementedError

    @cached_property
    def positions(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of the texts, the same in each."""
        return ("last", *self.plan.told[0].pattern.names)

    @cached_property
    def variables(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self.plan.variables)

    @property
    def chance(self) -> float:
        return float(self.plan.chance)

    # -- words

    def tables(self, vocabulary: Vocabulary) -> Tables:
        """The words that every tokenizer keeps whole.

        Raises:
            MechanismError: fewer are left than a prompt and its source need.
        """
        found: dict[str, Table] = {}
        for name, table in self.plan.tables.items():
            found[name] = self.kept(vocabulary, name, table)
            need = self.plan.needed(name)
            if len(found[name]) < need:
                lost = [word for word in table if word not in found[name]]
                raise MechanismError(
                    f"task {self.family}: the tokenizers keep {len(found[name])} of {len(table)} "
                    f"words of {name} whole, {need} are needed (not whole: "
                    f"{', '.join(lost[:8])}{', ...' if len(lost) > 8 else ''}); use other words or "
                    "a tokenizer that knows these"
                )
        literals = [word for word in self.plan.literals if self.apart(word)]
        whole = vocabulary.whole(literals)
        if lost := [word for word in literals if word not in whole]:
            raise MechanismError(
                f"task {self.family}: the tokenizers do not keep whole: {', '.join(lost)}"
            )
        return found

    def apart(self, word: str) -> bool:
        """Whether a word that is an answer ever stands after a space."""
        return any(between(told.pattern.ending, word) for told in self.plan.told)

    def kept(self, vocabulary: Vocabulary, name: str, table: Table) -> Table:
        """Words of a list whose every spelling is one token. What only ever follows a text at once is
        looked at there (`follows`)."""
        if {*self.plan.sharing[name]} & self.plan.split:
            return table
        written = self.plan.written(name)

        def spelled(word: str, row: Mapping[str, str]) -> list[str]:
            columns = {"": word, **row}
            return [w for key, w in columns.items() if key in written or self.apart(w)]

        every = {each for word, row in table.items() for each in spelled(word, row)}
        whole = {*vocabulary.whole(sorted(every))}
        return {w: row for w, row in table.items() if whole.issuperset(spelled(w, row))}

    def follows(self, vocabulary: Vocabulary, made: Made) -> bool:
        """Whether every tokenizer writes a row's answers as one token of their own."""
        said = [(made.base, word) for word in (*made.base.right, *made.targets)]
        if made.source is not None:
            said += [(made.source, word) for word in made.source.right]
        return all(vocabulary.answers(prompt, [word]) for prompt, word in said)

    @cached_property
    def edition(self) -> int:
        """1 where an answer follows its text at once: all once followed after a space."""
        told = self.plan.told
        return int(any(not between(t.pattern.ending, w) for t in told for w in self.plan.saying(t)))

    def left_out(self, vocabulary: Vocabulary) -> str:
        """Where an answer follows at once, it hangs on the prompt whether it is one token, so that
        every row is looked at."""
        if not self.edition:
            return super().left_out(vocabulary)
        return words_left_out(self, vocabulary, self.settings.rows, "rows")

    # -- prompts

    def prompt(self, tables: Tables, scene: Scene) -> Prompt:
        """The text of a scene."""
        plan = self.plan
        told = plan.told[scene.told]

        def say(word: Word, names: tuple[str, ...]) -> str:
            changed = [scene.changed[name] for name in names if name in scene.changed]
            return changed[0] if changed else plan.say(tables, word, scene)

        text, spans, anchors = told.pattern.write(say, plan.split.__contains__)
        several = len({each.layout for each in plan.told}) > 1
        lead = f"text_{told.layout}/" if several else ""
        return Prompt(
            text=text,
            spans=spans,
            answer=plan.say(tables, told.answer, scene),
            options=plan.guesses(tables, scene),
            anchors=tuple((lead + name, at) for name, at in [("start", 0), *anchors]),
        )

    def targets(self, tables: Tables, variable: str, base: Scene, source: Scene) -> tuple[str, ...]:
        """What may come out if the variable is moved; none where these two do not tell."""
        _, word = self.plan.variables[variable]
        return (self.plan.say(tables, word, base, source),)

    def sources(
        self, tables: Tables, base: Scene, change: Change, rng: random.Random
    ) -> Iterator[tuple[Scene, Prompt]]:
        """Changed scenes of the part that the base belongs to, with another text."""
        text = self.prompt(tables, base).text
        part = part_of_text(self.settings.seed, text)
        for _ in range(TRIES if change.redraw or change.order else 1):
            scene = self.plan.change(tables, base, change, rng)
            prompt = self.prompt(tables, scene)
            if prompt.text != text and part_of_text(self.settings.seed, prompt.text) == part:
                yield scene, prompt

    # -- sets of rows

    def made(
        self,
        vocabulary: Vocabulary,
        tables: Tables,
        told: int,
        stream: str,
        make: Callable[[Scene, Prompt, random.Random], Made | None],
        seen: set[str],
    ) -> Iterator[Made]:
        """Rows of a stream in one of the texts, each base once."""
        wanted, misses = part_of_stream(stream), 0
        for number in shuffled(self.stream(f"{stream}/{told}"), self.plan.size(tables)):
            scene = self.plan.scene(tables, told, number)
            base = self.prompt(tables, scene)
            made = None
            if part_of_text(self.settings.seed, base.text) == wanted:
                # its own random numbers: what one base takes does not move the next one's
                made = make(scene, base, self.stream(f"{stream}/{told}/{number}"))
            if made is not None and made.base.text in seen:
                made = None
            if made is not None and self.follows(vocabulary, made):
                seen.add(made.base.text)
                misses = 0
                yield made
            elif (misses := misses + 1) > PATIENCE:
                return

    def collect(
        self,
        vocabulary: Vocabulary,
        tables: Tables,
        count: int,
        stream: str,
        make: Callable[[Scene, Prompt, random.Random], Made | None],
        what: str = "prompts",
        fewer: bool = False,
    ) -> list[Made]:
        """So many rows, the texts in turns. No row is judged on twice.

        Raises:
            MechanismError: there are not so many, and ``fewer`` will not do.
        """
        seen: set[str] = set()
        texts, tally = len(self.plan.told), Tally(vocabulary)
        draws = [self.made(tally, tables, told, stream, make, seen) for told in range(texts)]
        kept: list[list[Made]] = [[] for _ in draws]
        again = part_of_stream(stream) != "judged" and not fewer
        found: list[Made] = []
        out = ""
        for i in range(count):
            mine = kept[i % texts]
            if (one := next(draws[i % texts], None)) is not None:
                mine.append(one)
            elif again and mine:
                one = mine[i // texts % len(mine)]
            else:
                if texts > 1:
                    out = (
                        f", since text {i % texts + 1} of {texts} has no more and texts take turns"
                    )
                break
            found.append(one)
        if len(found) < count and not (fewer and found):
            share = "half" if part_of_stream(stream) == "judged" else "a quarter"
            raise MechanismError(
                f"task {self.family}: {count} different {what} are asked for, {len(found)} are "
                f"possible with these words{out} ({share} of all prompts is kept for stream "
                f"{stream}); {f'{tally}; ' if tally.lost else ''}add words, or lower rows"
            )
        return found

    def row(self, made: Made, name: str) -> Row:
        said = sorted(made.scene.words.items()), sorted(made.scene.changed.items())
        cluster = hashlib.sha256(repr(said).encode()).hexdigest()[:16]
        targets = made.targets or (made.base.answer,)
        return Row(
            name, cluster, made.base, made.source, targets[0], targets if len(targets) > 1 else ()
        )

    def rows(self, vocabulary: Vocabulary, count: int, stream: str = "rows") -> Sequence[Row]:
        tables = self.tables(vocabulary)
        found = self.collect(
            vocabulary, tables, count, stream, lambda scene, base, _rng: Made(scene, base)
        )
        return [self.row(made, f"{stream}-{i}") for i, made in enumerate(found)]

    def pairs(self, vocabulary: Vocabulary, count: int, stream: str = "pairs") -> Sequence[Row]:
        """Prompts beside what the plan's corruption makes of them.

        Raises:
            MechanismError: the plan has none.
        """
        if self.plan.corrupted is None:
            raise self.has_no("source beside its prompts")
        tables = self.tables(vocabulary)
        make = partial(self.pair, tables, self.plan.corrupted)
        found = self.collect(vocabulary, tables, count, stream, make, "pairs")
        return [self.row(made, f"{stream}-{i}") for i, made in enumerate(found)]

    def pair(
        self, tables: Tables, change: Change, scene: Scene, base: Prompt, rng: random.Random
    ) -> Made | None:
        source = next(self.sources(tables, scene, change, rng), None)
        return Made(scene, base, source[1]) if source else None

    def interchange(
        self, vocabulary: Vocabulary, variable: str, count: int, stream: str
    ) -> Sequence[Row]:
        """Pairs whose target tells whether a patch moved the variable: it is none of the base's
        right answers.

        Raises:
            MechanismError: no such variable.
        """
        if variable not in self.plan.variables:
            raise MechanismError(
                f"task {self.family}: no variable {variable!r}; "
                f"{choices(variable, self.plan.variables)}"
            )
        tables = self.tables(vocabulary)
        make = partial(self.exchange, tables, variable)
        found = self.collect(vocabulary, tables, count, stream, make, f"pairs for {variable}")
        return [self.row(made, f"{stream}-{variable}-{i}") for i, made in enumerate(found)]

    def exchange(
        self, tables: Tables, variable: str, scene: Scene, base: Prompt, rng: random.Random
    ) -> Made | None:
        change, _ = self.plan.variables[variable]
        for other, source in self.sources(tables, scene, change, rng):
            targets = self.targets(tables, variable, scene, other)
            if targets and not {*targets} & {*base.right}:
                return Made(scene, base, source, targets)
        return None

    def backgrounds(
        self, vocabulary: Vocabulary, count: int, stream: str = "ablation"
    ) -> Sequence[Row]:
        """Corrupted prompts, which do not say what the answer hangs on (Wang et al. 2022, 2.1: the
        mean over ABC); prompts as they are where the plan has no corruption. A mean has each of
        them once, so there may be fewer."""
        tables = self.tables(vocabulary)

        def make(scene: Scene, base: Prompt, rng: random.Random) -> Made | None:
            if self.plan.corrupted is None:
                return Made(scene, base)
            found = next(self.sources(tables, scene, self.plan.corrupted, rng), None)
            return Made(*found) if found else None

        found = self.collect(vocabulary, tables, count, stream, make, fewer=stream != "resample")
        return [self.row(made, f"{stream}-{i}") for i, made in enumerate(found)]
