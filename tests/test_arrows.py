"""The import arrows: tools -> {robot, export} -> vision, the layers inside vision, the rooms of robot, no circles."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# The public functions (src/handeye): verbs call them, nothing below does.
PUBLIC = {"handeye", "_detect", "_stream", "_train", "_pick"}
PACKAGES = {
    "vision": {"vision"},
    "export": {"export", "vision"},
    "robot": {"robot", "vision"},
    "tools": {"tools", "robot", "export", "vision", *PUBLIC},
}
# Low to high: a module may import its own layer and the layers below it.
VISION_LAYERS = (
    {"errors", "files", "config", "jpeg", "images", "boxes"},
    {"layers"},
    {"backbones", "necks", "heads"},
    {"detector", "classifier"},
    {"assignment", "losses"},
    {"checkpoints"},
    {"data"},
    {"runtime"},
    {"tracking"},
    {"evaluation"},
    {"training"},
)
# These run on the robot computer: they lean on nothing but these, however high they stand.
RUNTIME_MAY_IMPORT = {"errors", "files", "config", "jpeg", "images", "boxes", "runtime"}
TRACKING_MAY_IMPORT = RUNTIME_MAY_IMPORT | {"tracking"}
# A room of robot and what it must not import.
ROBOT_WALLS = {
    "control": {"policies", "learning", "simulator"},
    "policies": {"control", "learning", "simulator"},
    "perception": {"control", "policies", "learning", "simulator"},
    "motion": {"control", "policies", "learning", "simulator", "perception"},
    "datasets": {"control", "policies", "learning", "simulator"},
    "kinematics": {"control", "policies", "learning", "simulator", "perception", "motion"},
    "camera": {"control", "policies", "learning", "simulator", "perception", "motion"},
}


def python_files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imported_modules(path: Path, *, eager_only: bool = False) -> Iterator[str]:
    """What a file imports of ours, without the leading `handeye.`: module or module.name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if eager_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the arrows"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top = name.partition(".")[0]
            assert top not in PACKAGES, f"{path} imports {name}: ours is imported as handeye.{name}"
            if top == "handeye":
                yield name.removeprefix("handeye.")


def part(module: str, depth: int = 1) -> str:
    words = module.split(".")
    return words[depth] if len(words) > depth else ""


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_lies_below(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in python_files(package)
        for module in imported_modules(path)
        if part(module, 0) not in PACKAGES[package]
    ]
    assert not wrong, "\n".join(wrong)
    assert python_files(package), f"no Python file in {package}: this test would check nothing"


def layer_of(name: str) -> int:
    return next(index for index, parts in enumerate(VISION_LAYERS) if name in parts)


def test_vision_layers_import_downwards() -> None:
    wrong = []
    for path in python_files("vision"):
        own = path.relative_to(ROOT / "vision").parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for module in imported_modules(path):
            if layer_of(part(module)) > layer_of(own):
                wrong.append(f"{path.relative_to(ROOT)} imports {module}, which lies higher")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(("room", "allowed"), [("runtime", RUNTIME_MAY_IMPORT), ("tracking", TRACKING_MAY_IMPORT)])
def test_what_runs_on_the_robot_computer_leans_on_little(room: str, allowed: set[str]) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in python_files(f"vision/{room}")
        for module in imported_modules(path)
        if part(module) not in allowed
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("room", ROBOT_WALLS)
def test_rooms_of_the_robot_keep_their_walls(room: str) -> None:
    files = python_files(f"robot/{room}")
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files
        for module in imported_modules(path)
        if part(module, 0) == "robot" and part(module) in ROBOT_WALLS[room]
    ]
    assert not wrong, "\n".join(wrong)
    assert files, f"no Python file in robot/{room}: this test would check nothing"


def test_only_learning_needs_torch_and_nothing_of_the_robot_needs_learning() -> None:
    for path in python_files("robot"):
        if path.parent.name == "learning":
            continue
        names = {
            node.module or "" for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)
        }
        assert not any(name.partition(".")[0] == "torch" for name in names), path
        assert not any(part(module) == "learning" for module in imported_modules(path)), path


def import_graph() -> dict[str, set[str]]:
    """Module to the modules that it imports when it is loaded."""
    files = {module_name(path): path for package in PACKAGES for path in python_files(package)}
    return {
        name: {
            found
            for target in imported_modules(path, eager_only=True)
            if (found := target if target in files else target.rpartition(".")[0]) in files
        }
        for name, path in files.items()
    }


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """A circle of imports, or nothing: what is left when modules that import nothing left are taken away."""
    left = {name: set(targets) for name, targets in graph.items()}
    while free := {name for name, targets in left.items() if not targets & left.keys()}:
        left = {name: targets for name, targets in left.items() if name not in free}
    return sorted(left)


def test_no_modules_import_each_other() -> None:
    graph = import_graph()
    assert sum(map(len, graph.values())) > 500, "hardly any imports were found: this test would check nothing"
    assert not circle_in(graph)


def test_a_circle_would_be_found() -> None:
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]
    assert circle_in({"a": {"b"}, "b": set()}) == []


def test_init_files_hold_a_docstring_and_no_imports() -> None:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("__init__.py"):
            body = ast.parse(path.read_text(encoding="utf-8")).body
            assert len(body) == 1, f"{path.relative_to(ROOT)} holds more than a docstring"
            assert isinstance(body[0], ast.Expr), f"{path.relative_to(ROOT)} has no docstring"


def test_rooms_are_of_a_size_to_be_surveyed() -> None:
    for package in PACKAGES.keys() - {"tools"}:
        for folder in {path.parent for path in python_files(package)}:
            modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
            assert len(modules) <= 25, f"{folder.relative_to(ROOT)} holds {len(modules)} modules"


def test_a_wrong_arrow_would_be_seen(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("from handeye.robot import timing\nimport handeye.vision.training.config\n", encoding="utf-8")
    assert set(imported_modules(file)) == {"robot.timing", "vision.training.config"}
    assert layer_of("training") > layer_of("boxes")
    file.write_text("from vision import images\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="handeye.vision.images"):
        list(imported_modules(file))
