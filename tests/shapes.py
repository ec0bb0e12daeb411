"""The checker of shapes and types under pytest: beartype, with an int allowed where a float is asked for (PEP 484)."""

import functools
import re
import sys
import types
import typing
from collections.abc import Callable

import jaxtyping
from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
jaxtyped = jaxtyping.jaxtyped


def only_where_arrays_are(*, typechecker: Callable) -> Callable:
    """Decorates as `jaxtyping.jaxtyped` what annotates an array, and nothing else.

    Pyright checks all other types. The wrapper of jaxtyping costs more than most of the functions that it wraps, and
    five milliseconds to make: that of a function is made when it is first called.
    """

    def decorate(wrapped: typing.Any) -> typing.Any:
        if not annotates_an_array(wrapped):
            return wrapped
        watch = jaxtyped(typechecker=typechecker)
        return when_called(watch, wrapped) if isinstance(wrapped, types.FunctionType) else watch(wrapped)

    return decorate


def when_called(watch: Callable, function: Callable) -> Callable:
    made: list[Callable] = []

    @functools.wraps(function)
    def first(*given: typing.Any, **named: typing.Any) -> typing.Any:
        if not made:
            made.append(watch(function))
        return made[0](*given, **named)

    return first


def annotates_an_array(wrapped: typing.Any) -> bool:
    """Whether an argument, a result or a field has a shape; names in an annotation are looked up in its module."""
    function = getattr(wrapped, "__func__", None) or getattr(wrapped, "fget", None) or wrapped
    names = getattr(function, "__globals__", None) or vars(sys.modules[function.__module__])
    return any(holds_an_array(note, names) for note in getattr(function, "__annotations__", {}).values())


def holds_an_array(note: typing.Any, names: dict[str, typing.Any]) -> bool:
    if isinstance(note, str):
        found = (names.get(word) for word in re.findall(r"\w+", note))
        return any(holds_an_array(one, names) for one in found if not isinstance(one, str))
    if isinstance(note, type) and issubclass(note, jaxtyping.AbstractArray | jaxtyping.AbstractDtype):
        return True
    return any(holds_an_array(one, names) for one in typing.get_args(note))
