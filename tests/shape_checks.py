"""Signatures of our functions are checked while tests run, tensor shapes included, on a function's first calls in each
test: checking every call doubles the time of numerical tests, which make thousands."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable
from types import CodeType
from typing import Any

import jaxtyping
from jaxtyping import _decorator

CALLS = 3
"""Of each function in each test."""

calls: dict[CodeType, int] = {}
"""How often a function was checked in this test; by its code, since a closure would keep what it holds alive."""

check_every_call = jaxtyping.jaxtyped


def check_first_calls(fn: Any = None, *, typechecker: Any) -> Any:
    """As `jaxtyping.jaxtyped`, which calls this one for the functions of classes, properties and so on."""
    if fn is None:
        return functools.partial(check_first_calls, typechecker=typechecker)
    checked = check_every_call(fn, typechecker=typechecker)
    if not inspect.isfunction(fn):
        return checked

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        number = calls.get(fn.__code__, 0)
        if number == CALLS:
            return fn(*args, **kwargs)
        calls[fn.__code__] = number + 1
        return checked(*args, **kwargs)

    return wrapped


def check_shapes(packages: Iterable[str]) -> None:
    """In the packages, which are not imported yet."""
    jaxtyping.jaxtyped = _decorator.jaxtyped = check_first_calls
    jaxtyping.install_import_hook(list(packages), "beartype.beartype")
