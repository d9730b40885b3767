"""Report what this machine can run (packages, engines, renderers, GPU, cameras) and how to add what is missing.

examples:
  handeye doctor
  handeye doctor --json machine.json
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from handeye.robot.realtime.scheduling import (
    MEMORY_REMEDY,
    PRIORITY_REMEDY,
    may_have_priority,
    may_lock_memory,
)
from handeye.vision.errors import MissingPackageError, UserError
from handeye.vision.files import write_json
from handeye.vision.runtime.engines import require_tensorrt

State = Literal["ok", "missing", "absent"]

PACKAGES = {
    "cpu": ("onnxruntime", "openvino"),
    "train": ("torch", "torchvision", "accelerate", "safetensors", "faster-coco-eval", "matplotlib", "onnx"),
    "sim": ("mujoco",),
    "robot": ("ruckig",),
    "demonstrations": ("pyarrow", "av"),
    "realsense": ("pyrealsense2",),
    "ur": ("ur-rtde",),
    "tensorrt": ("tensorrt", "cuda-bindings"),
}
"""The packages of each extra; `pip install 'handeye[EXTRA]'` adds them."""
TEGRA = Path("/etc/nv_tegra_release")
"""Every Jetson has this file, and no nvidia-smi before JetPack 6."""


@dataclass(frozen=True)
class Arguments:
    """What this machine can run, and the command that adds what is missing."""

    json: Path | None = None
    """Write the findings to this file."""


@dataclass(frozen=True)
class InstallationCheck:
    """One line of the report: `missing` can be added by the remedy, `absent` is hardware that is not here."""

    area: str
    name: str
    state: State
    detail: str
    remedy: str = ""


def run(arguments: Arguments) -> int:
    """Print the findings; exit code 1 when this machine cannot even run a detector."""
    hardware = [find_gpu(), find_precision(), *find_cameras(), *find_real_time()]
    findings = [*find_packages(), *find_engines(), *find_renderers(), *hardware]
    _print_table(findings)
    if arguments.json:
        write_json(arguments.json, {"findings": [asdict(finding) for finding in findings]})
    return 0 if any(finding.area == "engine" and finding.state == "ok" for finding in findings) else 1


def find_packages() -> list[InstallationCheck]:
    """The optional packages, extra by extra."""
    return [_find_package(extra, name) for extra, names in PACKAGES.items() for name in names]


def find_engines() -> list[InstallationCheck]:
    """The inference engines that load, with the devices they offer."""
    engines = [_find_engine(name, devices) for name, devices in (("onnxruntime", _providers), ("openvino", _devices))]
    return [*engines, find_tensorrt()]


def find_tensorrt() -> InstallationCheck:
    """TensorRT, which counts where it loads and finds a GPU; where there is no GPU it is not missed."""
    try:
        require_tensorrt()
        import tensorrt

        from handeye.vision.runtime.cuda_driver import CudaDevice

        device = CudaDevice()
    except MissingPackageError as error:
        state: State = "missing" if shutil.which("nvidia-smi") or TEGRA.exists() else "absent"
        remedy = "pip install 'handeye[tensorrt]'; on a Jetson: JetPack's own" if state == "missing" else ""
        return InstallationCheck("engine", "tensorrt", state, str(error).partition("; add it")[0], remedy)
    except UserError as error:
        return InstallationCheck("engine", "tensorrt", "absent", f"installed, but {error}")
    capability = ".".join(map(str, device.compute_capability))
    return InstallationCheck(
        "engine", "tensorrt", "ok", f"{tensorrt.__version__} on {device.name}, compute capability {capability}"
    )


def find_renderers() -> list[InstallationCheck]:
    """How the simulator can draw: GL where a driver is, rays wherever MuJoCo is."""
    remedy = "pip install 'handeye[sim]'"
    if importlib.util.find_spec("mujoco") is None:
        return [InstallationCheck("renderer", "gl, rays", "missing", "needs mujoco", remedy)]
    from handeye.robot.simulator.gl_renderer import find_gl_backend

    backend = find_gl_backend()
    gl = (
        InstallationCheck("renderer", "gl", "ok", f"MUJOCO_GL={backend.value}")
        if backend
        else InstallationCheck(
            "renderer", "gl", "missing", "no EGL or OSMesa", "apt install libegl1 libgl1-mesa-dri libopengl0"
        )
    )
    return [gl, InstallationCheck("renderer", "rays", "ok", "no GL needed")]


def find_gpu() -> InstallationCheck:
    """The NVIDIA GPU, as its own tool reports it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return InstallationCheck("gpu", "NVIDIA", "absent", "no nvidia-smi on the path; models run on the CPU")
    query = [tool, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False, timeout=20)
    lines = answer.stdout.strip().splitlines()
    if answer.returncode != 0 or not lines:
        return InstallationCheck(
            "gpu", "NVIDIA", "absent", f"nvidia-smi: {(answer.stderr or answer.stdout).strip()[:80]}"
        )
    return InstallationCheck("gpu", "NVIDIA", "ok", "; ".join(lines))


def find_precision() -> InstallationCheck:
    """What `precision: auto` of a training chooses here, and why."""
    name = "precision: auto"
    if any(importlib.util.find_spec(package) is None for package in ("torch", "accelerate")):
        return InstallationCheck(
            "training", name, "missing", "needs torch and accelerate", "pip install 'handeye[train]'"
        )
    try:
        from handeye.vision.training.distributed import training_device
        from handeye.vision.training.precision import bf16_of_device

        bf16 = bf16_of_device(training_device())
    except Exception as error:  # as for the engines
        return InstallationCheck(
            "training", name, "missing", f"torch is installed but does not work: {error}", "reinstall it"
        )
    return InstallationCheck("training", name, "ok", f"{'bf16' if bf16.is_fast else 'fp32'}: {bf16.why}")


def find_cameras() -> list[InstallationCheck]:
    """Video devices of the system."""
    devices = sorted(Path("/dev").glob("video*")) if platform.system() == "Linux" else []
    if not devices:
        return [
            InstallationCheck("camera", "video", "absent", "no /dev/video*; files and folders still work as sources")
        ]
    return [
        InstallationCheck("camera", device.name, "ok", f"handeye detect MODEL {device.name[5:]}") for device in devices
    ]


def find_real_time() -> list[InstallationCheck]:
    """What the control process of `pick --clock real` is granted by the operating system."""
    asked = (
        ("priority", may_have_priority(), "SCHED_FIFO", PRIORITY_REMEDY),
        ("locked memory", may_lock_memory(), "mlockall", MEMORY_REMEDY),
    )
    return [
        InstallationCheck("real time", name, "ok", f"{call} permitted")
        if is_granted
        else InstallationCheck("real time", name, "missing", f"{call} not permitted; control runs without", remedy)
        for name, is_granted, call, remedy in asked
    ]


def _find_package(extra: str, name: str) -> InstallationCheck:
    try:
        return InstallationCheck("package", name, "ok", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return InstallationCheck("package", name, "missing", f"extra {extra}", f"pip install 'handeye[{extra}]'")


def _find_engine(name: str, devices: Callable[[], str]) -> InstallationCheck:
    if importlib.util.find_spec(name) is None:
        return InstallationCheck("engine", name, "missing", "not installed", "pip install 'handeye[cpu]'")
    try:
        return InstallationCheck("engine", name, "ok", devices())
    except Exception as error:  # an engine that is installed but broken must not end the report
        return InstallationCheck("engine", name, "missing", f"installed but does not load: {error}", "reinstall it")


def _providers() -> str:
    import onnxruntime

    return ", ".join(onnxruntime.get_available_providers())


def _devices() -> str:
    from handeye.vision.runtime.openvino_session import shared_core

    return ", ".join(shared_core().available_devices)


def _print_table(findings: list[InstallationCheck]) -> None:
    console = Console()
    console.print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}", highlight=False)
    table = Table(box=None, pad_edge=False)
    for heading in ("", "", "", "found", "to add it"):
        table.add_column(heading, overflow="fold")
    mark = {"ok": "[green]ok[/]", "missing": "[yellow]missing[/]", "absent": "[dim]absent[/]"}
    for finding in findings:
        remedy = finding.remedy.replace("[", r"\[")
        table.add_row(finding.area, finding.name, mark[finding.state], finding.detail, remedy)
    console.print(table)
