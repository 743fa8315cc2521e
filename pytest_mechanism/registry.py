"""The claim kinds and task families: those in our folders, and those of installed packages.

A kind is a subclass of `Claim` in a module of ``pytest_mechanism.claims`` whose field ``kind`` is a
constant; a family is a subclass of `Task` in a module of ``pytest_mechanism.tasks.families``. Other
packages register theirs as entry points of the groups ``pytest_mechanism.claims`` and
``pytest_mechanism.tasks``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from typing import Any, Literal, get_args, get_origin

from pytest_mechanism.errors import MechanismError


def resolve(dotted: str) -> Any:
    """Import ``package.module:name``."""
    module, _, name = dotted.partition(":")
    return getattr(import_module(module), name)


@cache
def claim_kinds() -> dict[str, Any]:
    """Kind -> subclass of `Claim`."""
    kinds = []
    for claim in classes("pytest_mechanism.claims", resolve("pytest_mechanism.claims.base:Claim")):
        annotation = claim.model_fields["kind"].annotation
        if get_origin(annotation) is Literal:  # the base classes of kinds have no constant
            (kind,) = get_args(annotation)
            kinds.append((kind, claim))
    return with_plugins(by_name(kinds), "pytest_mechanism.claims")


@cache
def task_families() -> dict[str, Any]:
    """Family -> subclass of `Task`."""
    base = resolve("pytest_mechanism.tasks.base:Task")
    families = ((task.family, task) for task in classes("pytest_mechanism.tasks.families", base))
    return with_plugins(by_name(families), "pytest_mechanism.tasks")


def by_name(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The classes by name.

    Raises:
        MechanismError: two classes have one name, so that a spec would not say which judges it.
    """
    named: dict[str, Any] = {}
    for name, value in pairs:
        if name in named:
            both = f"{named[name].__qualname__} and {value.__qualname__}"
            raise MechanismError(f"{both} are both called {name!r}")
        named[name] = value
    return named


def classes(package: str, base: type) -> Iterator[Any]:
    """Subclasses of ``base`` that the modules of a package define."""
    for found in iter_modules(import_module(package).__path__):
        module = import_module(f"{package}.{found.name}")
        for value in vars(module).values():
            ours = isinstance(value, type) and value.__module__ == module.__name__
            if ours and issubclass(value, base) and value is not base:
                yield value


def with_plugins(ours: dict[str, Any], group: str) -> dict[str, Any]:
    """The classes by name, with those that entry points of a group name.

    Raises:
        MechanismError: an entry point cannot be loaded, takes a name of ours, or lacks a method.
    """
    known = dict(ours)
    for point in entry_points(group=group):
        if point.name in known:
            raise MechanismError(
                f"{point.value} registers {point.name!r} in {group}, which exists already"
            )
        try:
            loaded = point.load()
        except Exception as problem:
            raise MechanismError(
                f"the entry point {point.name} = {point.value} of {group} cannot be loaded: {problem}"
            ) from problem
        if missing := sorted(getattr(loaded, "__abstractmethods__", ())):
            raise MechanismError(
                f"the entry point {point.name} = {point.value} of {group} lacks {', '.join(missing)}"
            )
        known[point.name] = loaded
    return known
