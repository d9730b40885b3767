"""The family's picture and the classes agree, and errors carry what their reader needs."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest

from handeye.robot import errors
from handeye.robot.errors import RobotError, TransformError, UnreachableError
from handeye.robot.transforms import make_transform

FAMILY = {
    name: kind
    for name, kind in vars(errors).items()
    if inspect.isclass(kind) and issubclass(kind, Exception) and kind.__module__ == errors.__name__
}


def drawn_parents() -> dict[str, str]:
    """Child -> parent, read from the tree in the module's docstring: four columns of drawing for each level."""
    assert errors.__doc__ is not None
    parents, above = {}, {0: "RobotError"}
    for drawing, name in re.findall(r"^    ([│ ├└─]*)(\w+Error)\b", errors.__doc__, flags=re.MULTILINE):
        level = len(drawing) // 4
        above[level] = name
        if level:
            parents[name] = above[level - 1]
    return parents


def test_the_tree_in_the_docstring_is_the_class_hierarchy() -> None:
    bases = {name: kind.__bases__[0].__name__ for name, kind in FAMILY.items() if kind is not RobotError}
    assert drawn_parents() == bases


def test_every_error_is_of_the_family() -> None:
    assert len(FAMILY) > 5
    for kind in FAMILY.values():
        assert issubclass(kind, RobotError)


def test_transform_error_is_also_a_value_error() -> None:
    with pytest.raises(ValueError, match="skewed"):
        raise TransformError("skewed")


def test_unreachable_error_names_and_carries_the_pose() -> None:
    T = make_transform(np.eye(3), np.array([1.5, -0.25, 0.125]))
    error = UnreachableError(T, "too far")
    assert "(1.5000, -0.2500, 0.1250) m" in str(error)
    assert "too far" in str(error)
    np.testing.assert_array_equal(error.T_base_tool, T)
