"""Type checks that remember answer as those that do not, call after call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import beartype
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float, Int, Shaped, TypeCheckError
from torch import Tensor

from tests.type_checks import checked_each_time, checked_once, memory_of


@runtime_checkable
class Named(Protocol):
    name: str


class Thing:
    """May have a name or not: a protocol asks the value, not its type."""

    def __init__(self, name: str | None) -> None:
        if name is not None:
            self.name = name


def of_one_length(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    return a


def given_back(result: Any) -> Float[np.ndarray, " 2"]:
    return result


def of_the_length_given(rows: Float[np.ndarray, "n 2"], result: Any) -> Int[np.ndarray, " n"]:
    return result


def two_results(first: Any, second: Any) -> tuple[Float[np.ndarray, " 2"], str | None]:
    return first, second


def of_values(word: Literal["ab", "c"], more: int = 0) -> None: ...


def of_attributes(thing: Named) -> None: ...


def of_containers(
    numbers: list[int] | Sequence[str], table: Mapping[str, float] | None, *, kind: type[int] = int
) -> None: ...


def of_tensors(x: Float[Tensor, "B 3"], y: Shaped[Tensor, " B"] | None = None) -> Float[Tensor, "B 3"]:
    return x


def of_a_later_class(x: Later | int) -> None: ...


class Later:
    pass


class Bool(int):
    pass


FUNCTIONS = (
    of_one_length,
    given_back,
    of_the_length_given,
    two_results,
    of_values,
    of_attributes,
    of_containers,
    of_tensors,
)
VALUES: tuple[Any, ...] = (
    *(np.zeros(shape, dtype) for shape in ((), (2,), (3,), (2, 2)) for dtype in (np.float64, np.float32, np.int64)),
    *(torch.zeros(shape, dtype=dtype) for shape in ((2, 3), (2,), (1, 3)) for dtype in (torch.float32, torch.int64)),
    *("ab", "c", "ba", b"ab", 0, True, 1.5, None, Bool(1), np.float64(1), int, bool, str, Later()),
    *(Thing(None), Thing("one"), [], [1, 2], ["ab"], (), ("ab", "c"), (1, 2), [1.0]),
    *({}, {"ab": 1.0}, {"ab": 1}, {1: 1.0}, {"ab": 1.0, "c": 2.0}, frozenset({1}), range(2)),
)


def answer(call: Callable[..., Any], args: tuple[Any, ...]) -> str:
    try:
        call(*args)
    except (TypeCheckError, TypeError) as error:
        return type(error).__name__
    return "passed"


PAIRS = {
    function.__name__: tuple(
        decorate(function, typechecker=beartype.beartype) for decorate in (checked_each_time, checked_once)
    )
    for function in FUNCTIONS
}


@pytest.mark.parametrize("name", PAIRS)
def test_each_pair_of_arguments_is_answered_as_by_jaxtyping_however_often_it_comes(name: str) -> None:
    """In this order, and once more when all of it is remembered."""
    plain, remembering = PAIRS[name]
    pairs = np.random.default_rng(0).integers(len(VALUES), size=(30, 2))
    calls = [(one,) for one in VALUES] + [(VALUES[one], VALUES[other]) for one, other in pairs]
    expected = [answer(plain, args) for args in calls]
    assert len(set(expected)) > 1
    for _ in range(2):
        assert [answer(remembering, args) for args in calls] == expected


@given(st.sampled_from(sorted(PAIRS)), st.lists(st.lists(st.sampled_from(VALUES), min_size=1, max_size=2), max_size=30))
def test_the_order_of_calls_does_not_matter(name: str, calls: list[list[Any]]) -> None:
    plain, _ = PAIRS[name]
    fresh = checked_once(
        _copy(FUNCTIONS[[one.__name__ for one in FUNCTIONS].index(name)]), typechecker=beartype.beartype
    )
    assert [answer(fresh, tuple(args)) for args in calls] == [answer(plain, tuple(args)) for args in calls]


def test_a_container_of_unlike_elements_is_looked_at_each_time() -> None:
    """beartype draws one element; remembered, a wrong one that was not drawn would never be seen."""

    def of_list(numbers: list[int]) -> None: ...

    def of_tuple(numbers: tuple[int, ...]) -> None: ...

    for function in (of_list, of_tuple):
        wrapped = checked_once(function, typechecker=beartype.beartype)
        for elements in ([1, 2, 3, "x"], [1, "x"]):
            value = elements if function is of_list else tuple(elements)
            answers = {answer(wrapped, (value,)) for _ in range(60)}
            assert answers == {"passed", "TypeCheckError"}


def test_what_passed_is_not_checked_again() -> None:
    checks = []

    def typechecker(function: Callable[..., Any]) -> Callable[..., Any]:
        checked = beartype.beartype(function)
        return lambda *args, **kwargs: (checks.append(1), checked(*args, **kwargs))[1]

    wrapped = checked_once(_copy(of_one_length), typechecker=typechecker)
    for _ in range(5):
        wrapped(np.zeros(2), np.ones(2))
    assert len(checks) == 2  # the arguments, and both with the result
    wrapped(np.zeros(3), np.ones(3))
    assert len(checks) == 4


def test_dataclasses_are_checked_and_so_are_those_that_inherit() -> None:
    @dataclass(frozen=True)
    class Point:
        xy: Float[np.ndarray, " 2"]

    @dataclass(frozen=True)
    class Named(Point):
        name: str

    for kind in (Point, Named):
        checked_once(kind, typechecker=beartype.beartype)
    for _ in range(2):
        Point(np.zeros(2))
        Named(np.zeros(2), "a")
        for wrong in (lambda: Point(np.zeros(3)), lambda: Named(np.zeros(2), 3), lambda: Named(np.zeros(3), "a")):
            with pytest.raises(TypeCheckError):
                wrong()


def test_functions_inside_of_others_keep_their_closures_and_share_what_is_known() -> None:
    def outer(number: int) -> Callable[[int], int]:
        @checked_once(typechecker=beartype.beartype)
        def inner(other: int) -> int:
            return number + other

        return inner

    one, two = outer(1), outer(2)
    assert (one(1), two(1)) == (2, 3)
    assert memory_of(one.__wrapped__, beartype.beartype) is memory_of(two.__wrapped__, beartype.beartype)
    with pytest.raises(TypeCheckError):
        two("x")


def test_recursion_generators_errors_and_keywords_are_those_of_the_function() -> None:
    @checked_once(typechecker=beartype.beartype)
    def depth(number: int, *, offset: int = 0) -> int:
        return offset if number == 0 else depth(number - 1, offset=offset)

    @checked_once(typechecker=beartype.beartype)
    def count(number: int) -> Iterator[int]:
        yield from range(number)

    @checked_once(typechecker=beartype.beartype)
    def fails(number: int) -> int:
        raise KeyError(number)

    for _ in range(2):
        assert depth(5, offset=3) == 3
        assert list(count(3)) == [0, 1, 2]
        with pytest.raises(KeyError):
            fails(1)
        with pytest.raises(TypeCheckError):
            depth(1, offset="3")


def test_a_class_that_comes_later_in_the_file_is_known() -> None:
    wrapped = checked_once(of_a_later_class, typechecker=beartype.beartype)
    wrapped(Later())
    with pytest.raises(TypeCheckError):
        wrapped("x")


@pytest.mark.filterwarnings("ignore:.*jit.trace:FutureWarning", "error::torch.jit.TracerWarning")
def test_a_trace_holds_the_function_and_nothing_of_its_checks() -> None:
    wrapped = checked_once(_copy(of_tensors), typechecker=beartype.beartype)
    for _ in range(2):
        traced = torch.jit.trace(lambda x: wrapped(x * 2) + 1, torch.zeros(2, 3), check_trace=False)
        torch.testing.assert_close(traced(torch.ones(4, 3)), torch.full((4, 3), 3.0))
        assert {node.kind() for node in traced.graph.nodes()} <= {"prim::Constant", "aten::mul", "aten::add"}
    with pytest.raises(TypeCheckError):
        torch.jit.trace(lambda x: wrapped(x), torch.zeros(2, 4), check_trace=False)


def _copy(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function as another one, of which nothing is known yet."""
    code = function.__code__.replace()
    copied = type(function)(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    copied.__kwdefaults__ = function.__kwdefaults__
    copied.__annotations__ = dict(function.__annotations__)
    return copied
