"""Runtime type checks that remember: what has passed once with the same types, shapes and dtypes is not checked again.

jaxtyping's import hook decorates every function with `jaxtyping.jaxtyped`, and the tests put `checked_once` in its
place. The first call goes through jaxtyping and beartype as always; so does every call of which the answer may rest
on more than types, shapes and dtypes: on values (`Literal`), attributes (protocols), or the element that beartype
draws from a container of unlike ones. A check costs a hundred microseconds, small functions of a control loop a few.
"""

from __future__ import annotations

import collections
import collections.abc
import contextlib
import dataclasses
import functools
import inspect
import sys
import threading
import types
import typing
from collections.abc import Callable, Hashable, Iterator
from itertools import islice
from typing import Annotated, Any, Literal, NewType, TypeVar

import jaxtyping
import numpy as np

checked_each_time = jaxtyping.jaxtyped
MOST_CALLS = 2000
"""What one function remembers at most."""
MOST_ELEMENTS = 64
"""Longer containers are not walked through: beartype looks at one element only, which is cheaper."""


class UnlikeError(Exception):
    """A value of which type, shape and dtype do not say all that a check may look at."""


def checked_once(fn: Any = None, *, typechecker: Any) -> Any:
    """The decorator: functions are wrapped, of dataclasses `__init__` is, other classes stay as they are."""
    if fn is None:
        return functools.partial(checked_once, typechecker=typechecker)
    if not inspect.isclass(fn):
        return remembering(fn, typechecker)
    if dataclasses.is_dataclass(fn) and not hasattr(fn.__init__, "checked_once"):
        fn.__init__ = remembering(fn.__init__, typechecker)
    return fn


def remembering(fn: Callable[..., Any], typechecker: Any) -> Callable[..., Any]:
    """`fn` with arguments and result checked."""
    known: list[Memory] = []  # made by the first call: most functions are never called in one test process

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if not known:
            known.append(memory_of(fn, typechecker))
        memory = known[0]
        key = memory.key_of_arguments(args, kwargs)
        results = memory.passed.get(key)
        if results is None:
            result = memory.check(fn, args, kwargs)
            if key is not None:
                memory.remember(key, result)
            return result
        result = fn(*args, **kwargs)
        if memory.has_result:
            memory.check_result(results, result, args, kwargs)
        return result

    wrapped.checked_once = True  # pyright: ignore[reportFunctionMemberAccess]
    return wrapped


class Memory:
    """The checks of one function, and the types and shapes with which it passed them.

    is_of_types: whether types, shapes and dtypes decide. draws: whether it takes sequences of any length, of which one
    element is looked at, drawn anew each time. passed: from arguments to the results that passed with them.
    """

    def __init__(self, fn: Callable[..., Any], typechecker: Any) -> None:
        hints = [part for hint in hints_of(fn) for part in parts_of(hint)]
        self.is_of_types = all(map(is_decided_by_types, hints))
        self.draws = any(map(takes_any_length, hints))
        self.has_result = "return" in fn.__annotations__
        self.passed: dict[Hashable, set[Hashable]] = {}
        self._next = threading.local()
        self._checked = checked_each_time(self._calling_the_next(fn), typechecker=typechecker)

    def check(self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What `call` returns, as the function's; with all checks. A trace of torch sees the call, and no check."""
        __tracebackhide__ = True
        with tracing_paused() as traced:
            self._next.call = traced(call)
            return self._checked(*args, **kwargs)

    def key_of_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable | None:
        """None where it would not say all."""
        if not self.is_of_types:
            return None
        try:
            key = tuple([key_of(value, self.draws) for value in args])
            if kwargs:
                key += tuple([(name, key_of(value, self.draws)) for name, value in kwargs.items()])
        except UnlikeError:
            return None
        return key

    def remember(self, key: Hashable, result: Any) -> None:
        """The arguments with that key and the result have passed."""
        if len(self.passed) < MOST_CALLS:
            results = self.passed.setdefault(key, set())
            with contextlib.suppress(UnlikeError):
                results.add(key_of(result, self.draws))

    def check_result(self, results: set[Hashable], result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Unless it is one of the `results` that have passed with such arguments."""
        __tracebackhide__ = True
        try:
            key = key_of(result, self.draws)
        except UnlikeError:
            key = None
        if key is None or key not in results:
            self.check(lambda *_, **__: result, args, kwargs)
            if key is not None and len(results) < MOST_CALLS:
                results.add(key)

    def _calling_the_next(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """A function with the signature of `fn`, and with its globals, in which jaxtyping looks up the annotations."""
        following = self._next

        def call_the_next(*args: Any, **kwargs: Any) -> Any:
            return following.call(*args, **kwargs)

        code, closure = call_the_next.__code__, call_the_next.__closure__
        return functools.wraps(fn)(types.FunctionType(code, fn.__globals__, fn.__name__, None, closure))


MEMORIES: dict[int, tuple[types.CodeType, Memory]] = {}
"""By the identity of the code: a function inside of another is made anew with each call of that."""


def memory_of(fn: Callable[..., Any], typechecker: Any) -> Memory:
    if not all(isinstance(annotation, str) for annotation in fn.__annotations__.values()):
        return Memory(fn, typechecker)  # they may be others for the same code
    if id(fn.__code__) not in MEMORIES:
        MEMORIES[id(fn.__code__)] = fn.__code__, Memory(fn, typechecker)
    return MEMORIES[id(fn.__code__)][1]


def hints_of(fn: Callable[..., Any]) -> Iterator[Any]:
    """The annotations, evaluated; those that cannot be are not checked either."""
    for annotation in fn.__annotations__.values():
        holder = types.SimpleNamespace(__annotations__={"value": annotation})
        try:
            yield typing.get_type_hints(holder, fn.__globals__, include_extras=True)["value"]
        except Exception:  # whatever jaxtyping cannot evaluate, it takes for Any
            continue


def parts_of(hint: Any) -> Iterator[Any]:
    """A hint and all hints that it is made of."""
    yield hint
    inner = list(typing.get_args(hint)) if typing.get_origin(hint) is not Literal else []
    if isinstance(hint, NewType):
        inner.append(hint.__supertype__)
    if isinstance(hint, TypeVar):
        inner += [*hint.__constraints__, *([] if hint.__bound__ is None else [hint.__bound__])]
    for each in inner:
        for part in each if isinstance(each, list) else [each]:  # the arguments of a Callable
            yield from parts_of(part)


def is_decided_by_types(hint: Any) -> bool:
    """Whether types of values, shapes and dtypes decide; not so for values, attributes and keys."""
    if typing.get_origin(hint) in (Literal, Annotated) or isinstance(hint, str | typing.ForwardRef):
        return False
    if getattr(hint, "_is_protocol", False) and getattr(hint, "_is_runtime_protocol", False):
        return hint.__module__ in ("typing", "collections.abc")
    dims = getattr(hint, "dim_str", "")
    return not typing.is_typeddict(hint) and not (isinstance(dims, str) and "{" in dims)


def takes_any_length(hint: Any) -> bool:
    """`tuple[X, ...]` and the abstract kinds of sequence, which a tuple is as well."""
    origin = typing.get_origin(hint)
    return (origin is tuple and Ellipsis in typing.get_args(hint)) or (
        inspect.isclass(origin) and origin is not tuple and issubclass(tuple, origin)
    )


def key_of(value: Any, draws: bool) -> Hashable:
    """Equal keys, equal answers of a check. Raises UnlikeError where types, shapes and dtypes do not say it."""
    kind = type(value)
    if kind is np.ndarray:
        return kind, value.dtype, value.shape
    read = READERS.get(kind)
    if read is None:
        read = READERS[kind] = reader_of(kind)
    return read(value, draws)


def reader_of(kind: type) -> Callable[[Any, bool], Hashable]:
    """What makes a key of values of that kind."""
    if issubclass(kind, type):
        return lambda value, _: (kind, value)
    if issubclass(kind, np.ndarray) or (torch := sys.modules.get("torch")) and issubclass(kind, torch.Tensor):
        return of_array
    if issubclass(kind, tuple):
        return of_tuple
    if issubclass(kind, dict):
        return of_dict
    if issubclass(kind, list | set | frozenset | collections.deque):
        return of_elements
    if issubclass(kind, collections.abc.Collection) and not issubclass(kind, str | bytes | range | np.generic):
        return of_no_known_container
    return lambda _, __: kind


def of_array(value: Any, draws: bool) -> Hashable:
    torch = sys.modules.get("torch")
    if torch is None or torch._C._get_tracing_state() is None:  # noqa: SLF001
        return type(value), value.dtype, tuple(value.shape)
    with tracing_paused():
        return type(value), value.dtype, tuple(value.shape)


@contextlib.contextmanager
def tracing_paused() -> Iterator[Callable[[Callable[..., Any]], Callable[..., Any]]]:
    """While torch traces, sizes are tensors and comparing them becomes part of the trace. What is yielded makes a
    function trace again.
    """
    torch = sys.modules.get("torch")
    state = None if torch is None else torch._C._get_tracing_state()  # noqa: SLF001
    if torch is None or state is None:
        yield lambda call: call
        return

    def traced(call: Callable[..., Any]) -> Callable[..., Any]:
        def resumed(*args: Any, **kwargs: Any) -> Any:
            torch._C._set_tracing_state(state)  # noqa: SLF001
            try:
                return call(*args, **kwargs)
            finally:
                torch._C._set_tracing_state(None)  # noqa: SLF001

        return resumed

    torch._C._set_tracing_state(None)  # noqa: SLF001
    try:
        yield traced
    finally:
        torch._C._set_tracing_state(state)  # noqa: SLF001


def of_tuple(value: tuple[Any, ...], draws: bool) -> Hashable:
    if len(value) > MOST_ELEMENTS:
        raise UnlikeError
    keys = tuple([key_of(element, draws) for element in value])
    if draws and len(set(keys)) > 1:
        raise UnlikeError
    return type(value), keys


def of_elements(value: Any, draws: bool) -> Hashable:
    """Of like elements one stands for all."""
    if len(value) > MOST_ELEMENTS:
        raise UnlikeError
    keys = {key_of(element, draws) for element in value}
    if len(keys) > 1:
        raise UnlikeError
    return type(value), *keys


def of_dict(value: dict[Any, Any], draws: bool) -> Hashable:
    """beartype looks at the first entry of a mapping, and never at another."""
    return type(value), *[(key_of(key, draws), key_of(entry, draws)) for key, entry in islice(value.items(), 1)]


def of_no_known_container(value: Any, draws: bool) -> Hashable:
    raise UnlikeError


READERS: dict[type, Callable[[Any, bool], Hashable]] = {}
"""By the kind of value; filled as kinds come."""
