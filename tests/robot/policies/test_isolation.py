"""The simulator's truth is out of reach of policies and of the loop: not by import, and not through their values."""

from __future__ import annotations

import ast
import dataclasses
import enum
import types
import typing
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import AbstractArray

from handeye.robot.interfaces import PickTask
from handeye.robot.types import Observation

ROOT = Path(__file__).resolve().parents[3]
FORBIDDEN = ("handeye.robot.simulator", "handeye.robot.pick", "mujoco")


def module_file(module: str) -> Path | None:
    """The source of one of our modules or packages; None for a name that is an attribute of a module."""
    path = ROOT.joinpath(*module.split(".")[1:])
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def imports_of(path: Path) -> set[str]:
    """Every name that the file imports anywhere, as dotted paths."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def reachable_imports(package: str) -> dict[str, str]:
    """Each module that the package's files import directly or through others of ours, with one that imports it."""
    pending = [(path, package) for path in (ROOT.joinpath(*package.split(".")[1:])).rglob("*.py")]
    found: dict[str, str] = {}
    while pending:
        path, _ = pending.pop()
        for name in imports_of(path) - found.keys():
            found[name] = str(path.relative_to(ROOT))
            file = module_file(name) if name.startswith("handeye.") else None
            if file is not None:
                pending.append((file, name))
    return found


@pytest.mark.parametrize("package", ["handeye.robot.policies", "handeye.robot.control"])
def test_nothing_of_the_simulator_can_be_imported_from_here(package: str) -> None:
    reached = reachable_imports(package)
    assert "handeye.robot.types" in reached, "the walk found nothing, so it proves nothing"
    bad = {name: where for name, where in reached.items() if f"{name}.".startswith(tuple(f"{f}." for f in FORBIDDEN))}
    assert bad == {}


def test_the_walk_would_find_the_simulator() -> None:
    """The proof above is worth something only if the same walk does find it where it is used."""
    assert any(name.startswith("handeye.robot.simulator") for name in imports_of(ROOT / "robot/pick.py"))


PLAIN = (float, int, str, bool, type(None))


def plain_values_only(hint: object, seen: set[object], path: str) -> None:
    """Assert that a value of this type consists of numbers, strings, enums and arrays of numbers, however deep."""
    if hint in seen or hint in PLAIN:
        return
    seen.add(hint)
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType, tuple):
        for argument in typing.get_args(hint):
            if argument is not Ellipsis:
                plain_values_only(argument, seen, path)
        return
    assert isinstance(hint, type), f"{path}: {hint} may hold anything"
    if issubclass(hint, AbstractArray):
        assert hint.array_type is np.ndarray, f"{path}: {hint}"
        assert all("object" not in str(dtype) for dtype in hint.dtypes), f"{path}: {hint}"
    elif not issubclass(hint, enum.Enum):
        assert dataclasses.is_dataclass(hint), f"{path}: {hint} is no plain value"
        assert hint.__dataclass_params__.frozen, f"{path}: {hint} can be changed"  # pyright: ignore
        for name, inner in typing.get_type_hints(hint).items():
            plain_values_only(inner, seen, f"{path}.{name}")


@pytest.mark.parametrize("value_type", [Observation, PickTask])
def test_what_a_policy_is_given_holds_plain_values_only(value_type: type) -> None:
    seen: set[object] = set()
    plain_values_only(value_type, seen, value_type.__name__)
    assert len(seen) > 2


def test_the_check_would_refuse_a_callable_and_an_open_type() -> None:
    @dataclasses.dataclass(frozen=True)
    class Open:
        anything: object

    with pytest.raises(AssertionError):
        plain_values_only(Open, set(), "Open")
    with pytest.raises(AssertionError):
        plain_values_only(typing.Callable[[], float], set(), "callable")
