"""Prompts from texts with slots, written in YAML alone.

    task:
      family: template
      words: {animal: [cat, dog, owl, ...]}
      slots: {A: animal, B: animal, C: animal}     # words of one list, different in a prompt
      text: "{A} {B} {C} {A:again}"
      answer: "{B}"
      source: {redraw: [B]}
      variables: {successor: {source: {redraw: [B]}, target: "{source.B}"}}

`writing.patterns` explains the texts and `writing.word_lists` the words. Several ``texts`` take
turns; the texts of an inner list have the same tokens in another order. A word that some tokenizer
of the run splits is dropped for all of them.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal

from pytest_mechanism.errors import FieldError
from pytest_mechanism.tasks.writing.slot_plan import Plan
from pytest_mechanism.tasks.writing.slot_task import SlotTask
from pytest_mechanism.tasks.writing.template_plan import plan_of
from pytest_mechanism.tasks.writing.template_settings import TemplateSettings


class TemplateParameters(TemplateSettings):
    """``task:`` for this family."""

    family: Literal["template"]

    def task(self) -> Template:
        task = Template(self)
        if task.chance >= 1:
            raise FieldError(
                "guessing is always right: the answer is always the same word, or the only option",
                "options" if self.options else "answer",
            )
        return task


class Template(SlotTask[TemplateParameters]):
    """Rows of a template; see the module."""

    family = "template"
    parameters = TemplateParameters

    @cached_property
    def plan(self) -> Plan:
        return plan_of(self.settings)
