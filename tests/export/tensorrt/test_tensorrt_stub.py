"""The stubs that type checking relies on, compared with the real packages: every class, name, parameter and type.

TensorRT's binding wheels are small and load without TensorRT itself where its three libraries are stood in for by
one that exports the nine functions it links to. Nothing can be built or run that way; signatures can be read.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
STUB = ROOT / "typings/tensorrt/__init__.pyi"
DRIVER_STUB = ROOT / "typings/cuda/bindings/driver.pyi"
WHEELS = ("tensorrt-cu12-bindings==10.3.0", "tensorrt-cu12-bindings==10.16.1.11", "tensorrt-cu13-bindings==11.4.0.106")
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
LINKED = [
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
]

READ_SIGNATURES = """
import json, sys
import tensorrt_bindings as trt

def describe(member):
    if isinstance(member, property):
        return {"type": (member.fget.__doc__ or ""), "writable": member.fset is not None}
    return {"signatures": member.__doc__ or ""} if callable(member) else {"value": str(member)}

def members(owner):
    found = {}
    for kind in reversed(owner.__mro__):
        found.update({name: describe(member) for name, member in vars(kind).items()})
    return found

found = {}
for name in json.load(sys.stdin):
    owner = trt
    for part in name.split("."):
        owner = getattr(owner, part)
    found[name] = members(owner)
print(json.dumps({"version": trt.__version__, "classes": found}))
"""


def stub_classes(path: Path = STUB) -> dict[str, ast.ClassDef]:
    """The classes of a stub by name; a class inside another is "Outer.Inner"."""
    found: dict[str, ast.ClassDef] = {}

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                found[prefix + node.name] = node
                visit(node.body, f"{prefix}{node.name}.")

    visit(ast.parse(path.read_text(encoding="utf-8")).body, "")
    return found


def own_methods(node: ast.ClassDef) -> dict[str, ast.FunctionDef]:
    """What the stub says of a class, less what Python itself gives every such object."""
    given = ("__int__", "__iter__")
    return {item.name: item for item in node.body if isinstance(item, ast.FunctionDef) and item.name not in given}


def is_property(function: ast.FunctionDef) -> bool:
    return any(isinstance(mark, ast.Name) and mark.id == "property" for mark in function.decorator_list)


def plain(annotation: str) -> str:
    """A type as both sides may write it: without modules, pybind's aliases and our `| None`."""
    text = re.sub(r"\b(tensorrt_bindings\.tensorrt|typing|typing_extensions|collections\.abc)\.", "", annotation)
    text = re.sub(r"nv(onnxparser|infer1)::(v_1_0::)?", "", text).replace("IParserError", "ParserError")
    text = (
        text.replace("SupportsInt", "int")
        .replace("List[", "list[")
        .replace("buffer", "Buffer")
        .replace(" | None", "")
        .replace("tuple[int, ...]", "tuple")
    )
    return re.sub(r"\bSeverity\b", "ILogger.Severity", re.sub(r"\bILogger\.Severity\b", "Severity", text)).strip()


Signature = tuple[list[str], list[str], str]
"""Required and optional parameters as "name: type", and the type of the answer."""


def signature_of(function: ast.FunctionDef) -> Signature:
    """What a stub says, without self."""
    items = [f"{item.arg}: {plain(ast.unparse(item.annotation))}" for item in function.args.args if item.annotation]
    num_required = len(items) - len(function.args.defaults)
    assert function.returns is not None
    return items[:num_required], items[num_required:], plain(ast.unparse(function.returns))


def real_signatures(text: str) -> list[Signature]:
    """The same for each overload in a pybind docstring."""
    found = []
    for line in text.splitlines():
        match = re.match(r"^(?:\d+\. )?\w+\((.*)\) -> (.+)$", line.strip())
        if match:
            items = re.split(r", (?=\w+: )", match[1])[1:]  # the first is self
            # Older bindings write List for a parameter that takes any sequence.
            items = [plain(item.replace("List[", "Sequence[")) for item in items]
            required = [item for item in items if " = " not in item]
            optional = [item.partition(" = ")[0] for item in items if " = " in item]
            found.append((required, optional, plain(match[2])))
    return found


def agrees(stubbed: Signature, real: Signature) -> bool:
    """Whether every call that the stub allows is one that the real function takes."""
    return stubbed[0] == real[0] and stubbed[1] == real[1][: len(stubbed[1])] and stubbed[2] == real[2]


@pytest.fixture(scope="session")
def stand_in_libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with libraries that export what the bindings link to and can do nothing."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler to make the stand-in libraries with")
    folder = tmp_path_factory.mktemp("libraries")
    (folder / "empty.c").write_text("\n".join(f"void *{name}(void) {{ return 0; }}" for name in LINKED))
    for library in LIBRARIES:
        for major in (10, 11):
            name = f"lib{library}.so.{major}"
            command = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name), "empty.c"]
            subprocess.run(command, cwd=folder, check=True)
    return folder


def read_wheel(requirement: str, folder: Path, libraries: Path) -> dict:
    """Signatures of the stub's classes in a bindings wheel, read by a process of its own."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), requirement]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        pytest.skip(f"{requirement} cannot be had here: {answer.stderr.strip()[-200:]}")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    environment = os.environ | {"LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": str(folder)}
    result = subprocess.run(
        [sys.executable, "-c", READ_SIGNATURES],
        input=json.dumps(list(stub_classes())),
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(result.stdout)


def differences(name: str, node: ast.ClassDef, real: dict[str, dict]) -> list[str]:
    """Every line of a stub's class that the real class does not bear out."""
    wrong = []
    for item in node.body:
        if isinstance(item, ast.Assign):  # a member of an enumeration
            member = ast.unparse(item.targets[0])
            if member not in real:
                wrong.append(f"{name}.{member} is no member")
        elif isinstance(item, ast.AnnAssign):
            member, kind = ast.unparse(item.target), plain(ast.unparse(item.annotation))
            found = real.get(member, {})
            if not found.get("writable") or f"-> {kind}" not in plain(found["type"]):
                wrong.append(f"{name}.{member}: {kind} is {found}")
    for member, function in own_methods(node).items():
        found, stubbed = real.get(member, {}), signature_of(function)
        if is_property(function):
            if plain(found.get("type", "")).rpartition("-> ")[2] != stubbed[2]:
                wrong.append(f"{name}.{member} {stubbed[2]} is {found}")
        elif not any(agrees(stubbed, real_one) for real_one in real_signatures(found.get("signatures", ""))):
            wrong.append(f"{name}.{member} {stubbed} is {found.get('signatures')}")
    return wrong


@pytest.mark.slow
@pytest.mark.parametrize("requirement", WHEELS)
def test_the_stub_is_what_the_real_bindings_sign(requirement: str, tmp_path: Path, stand_in_libraries: Path) -> None:
    found = read_wheel(requirement, tmp_path, stand_in_libraries)
    assert found["version"] == requirement.partition("==")[2]
    wrong = [line for name, node in stub_classes().items() for line in differences(name, node, found["classes"][name])]
    assert not wrong, "\n".join(wrong)


def test_the_comparison_sees_a_wrong_line() -> None:
    node = ast.parse("class A:\n    X = ...\n    y: int\n    def f(self, a: int) -> bool: ...\n").body[0]
    assert isinstance(node, ast.ClassDef)
    right = {"X": {"value": "A.X"}, "y": {"type": "(arg0: A) -> int", "writable": True}}
    right["f"] = {"signatures": "f(self: A, a: typing.SupportsInt, b: int = 3) -> bool\n\nDoes it."}
    assert differences("A", node, right) == []
    for member, wrong in {
        "X": None,
        "y": {"type": "(arg0: A) -> int", "writable": False},
        "f": {"signatures": "f(self: A, b: int) -> bool"},
    }.items():
        changed = {name: value for name, value in (right | {member: wrong}).items() if value is not None}
        assert len(differences("A", node, changed)) == 1


def test_the_stub_names_the_versions_that_it_was_compared_with() -> None:
    head = STUB.read_text(encoding="utf-8").split("\n\n")[0]
    assert all(wheel.partition("==")[2] in head for wheel in WHEELS)


def test_the_driver_stub_is_what_cuda_bindings_sign() -> None:
    driver = pytest.importorskip("cuda.bindings.driver")
    for node in ast.parse(DRIVER_STUB.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            real = inspect.signature(getattr(driver, node.name))
            assert list(real.parameters) == [item.arg for item in node.args.args], node.name
        elif isinstance(node, ast.ClassDef):
            owner = getattr(driver, node.name)
            for item in node.body:
                if isinstance(item, ast.Assign):
                    assert hasattr(owner, ast.unparse(item.targets[0])), f"{node.name}: {ast.unparse(item)}"


def test_the_stand_ins_sign_as_the_stubs_do() -> None:
    from tests.export import fake_cuda, fake_tensorrt

    for name, node in stub_classes().items():
        owner: Any = fake_tensorrt
        for part in name.split("."):
            owner = getattr(owner, part)
        for member, function in own_methods(node).items():
            if is_property(function) or member == "__init__":
                assert hasattr(owner, member) or member in inspect.signature(owner).parameters, f"{name}.{member}"
            else:
                real = list(inspect.signature(getattr(owner, member)).parameters)
                assert real == [item.arg for item in function.args.args], f"{name}.{member}"
        members = [ast.unparse(item.targets[0]) for item in node.body if isinstance(item, ast.Assign)]
        assert all(hasattr(owner, member) for member in members), name
    for node in ast.parse(DRIVER_STUB.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            real = list(inspect.signature(getattr(fake_cuda, node.name)).parameters)
            assert real == [item.arg for item in node.args.args], node.name
