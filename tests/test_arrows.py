"""The import arrows: tools -> {robot, export} -> vision, and the layers inside vision."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "vision": {"vision"},
    "export": {"export", "vision"},
    "robot": {"robot", "vision"},
    "tools": {"tools", "robot", "export", "vision"},
}
# Low to high: a module may import its own layer and the layers below it.
VISION_LAYERS = (
    {"errors", "files", "config", "images", "boxes"},
    {"layers"},
    {"backbones", "necks", "heads"},
    {"detector", "classifier"},
    {"assignment", "losses"},
    {"checkpoints"},
    {"data"},
    {"runtime"},
    {"evaluation"},
    {"training"},
)
# The run time leans on nothing but these, however high it stands.
RUNTIME_MAY_IMPORT = {"errors", "files", "config", "images", "boxes", "runtime"}


def python_files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from ([node.module] if "." in node.module else [f"{node.module}.{a.name}" for a in node.names])
        elif isinstance(node, ast.ImportFrom) and node.level:
            pytest.fail(f"{path}: relative imports hide the arrows")


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_lies_below(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in python_files(package)
        for module in imported_modules(path)
        if module.partition(".")[0] in PACKAGES and module.partition(".")[0] not in PACKAGES[package]
    ]
    assert not wrong, "\n".join(wrong)
    assert python_files(package), f"no Python file in {package}: this test would check nothing"


def vision_part(module: str) -> str:
    return module.split(".")[1]


def layer_of(part: str) -> int:
    return next(index for index, parts in enumerate(VISION_LAYERS) if part in parts)


def test_vision_layers_import_downwards() -> None:
    wrong = []
    for path in python_files("vision"):
        part = path.relative_to(ROOT / "vision").parts[0].removesuffix(".py")
        if part == "__init__":
            continue
        for module in imported_modules(path):
            if module.startswith("vision.") and layer_of(vision_part(module)) > layer_of(part):
                wrong.append(f"{path.relative_to(ROOT)} imports {module}, which lies higher")
    assert not wrong, "\n".join(wrong)


def test_the_run_time_leans_on_little() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in python_files("vision/runtime")
        for module in imported_modules(path)
        if module.startswith("vision.") and vision_part(module) not in RUNTIME_MAY_IMPORT
    ]
    assert not wrong, "\n".join(wrong)


def test_init_files_hold_a_docstring_and_no_imports() -> None:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("__init__.py"):
            body = ast.parse(path.read_text(encoding="utf-8")).body
            assert len(body) == 1, f"{path.relative_to(ROOT)} holds more than a docstring"
            assert isinstance(body[0], ast.Expr), f"{path.relative_to(ROOT)} has no docstring"


def test_a_wrong_arrow_would_be_seen(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("from robot import clock\nimport vision.training.config\n", encoding="utf-8")
    assert set(imported_modules(file)) == {"robot.interfaces", "vision.training.config"}
    assert layer_of("training") > layer_of("boxes")
