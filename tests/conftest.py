"""For all tests: where real data lie, and property tests that repeat and no busy machine can fail."""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jaxtyping
import pytest
from hypothesis import HealthCheck, settings

from tests.tensorrt_stand_in import stand_in as stand_in
from tests.type_checks import checked_once

# Before the first module of ours: with --jaxtyping-packages each function is decorated by what stands here.
jaxtyping.jaxtyped = checked_once

# Neither a slow example nor slow drawing of examples is a failure: both are the machine's.
settings.register_profile("repeatable", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def torch_threads_stay() -> Iterator[None]:
    """A test that sets torch's number of threads, which is the process's, sets it for itself alone.

    Left at two in each of two workers on two processors, threads that wait for one another took the tests after it
    sixty times as long.
    """
    torch = sys.modules.get("torch")
    before = None if torch is None else torch.get_num_threads()
    yield
    if torch is not None and torch.get_num_threads() != before:
        torch.set_num_threads(before)


SHARED = Path(__file__).resolve().parents[2] / "shared"
SAMPLES = Path(__file__).resolve().parent / "data"
WHOLE = "tests/data holds a part; this test compares it with the whole, or needs the whole"
WITHHELD = {
    "data/mot15": "MOT15 is CC BY-NC-SA and may not ship; tests/data/tracking/street stands in for it",
    "data/kitti_tracking": "KITTI is CC BY-NC-SA and may not ship; drives drawn by the tests stand in for it",
    "data/rgbd_tsdf_fusion": "7-Scenes has a research licence and may not ship; a drawn recording stands in for it",
    "data/pusht_cchi_v7_lowdim": "all 206 demonstrations are too much to ship; the first seven are in tests/data",
    "data/yolox_nano_coco": "weights that others trained do not ship",
    "data/coco_mini": "the images of COCO have licences of their authors and do not ship",
    "data/bccd": WHOLE,
    "data/coco_eval_val2014_100": WHOLE,
    "data/handeye_moveit": WHOLE,
    "data/rgbd_open3d": WHOLE,
    "data/video": WHOLE,
    "reference": "whole recordings of published networks are too large to ship; tests/data/reference holds a part",
}
"""What only ../shared has, and why a clone does not."""


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """`shared("data/bccd")`: a path below ../shared; skips where that folder is absent, fails where a file is.

    Data without a reason in WITHHELD fail, too: they belong into tests/data.
    """

    def find(relative: str) -> Path:
        reason = next((why for prefix, why in WITHHELD.items() if relative.startswith(prefix)), None)
        if reason is None:
            pytest.fail(f"no reason why tests/data lacks {relative}: add it there or to WITHHELD")
        if not SHARED.is_dir():
            pytest.skip(f"no ../shared/{relative}: {reason}")
        path = SHARED / relative
        if not path.exists():
            pytest.fail(f"../shared exists but holds no {relative}")
        return path

    return find


@pytest.fixture(scope="session")
def sample() -> Callable[[str], Path]:
    """`sample("bccd")`: a path below tests/data, which every clone has; fails where there is none."""

    def find(relative: str) -> Path:
        path = SAMPLES / relative
        if not path.exists():
            pytest.fail(f"tests/data holds no {relative}")
        return path

    return find


@pytest.fixture(scope="session")
def reference(shared: Callable[[str], Path]) -> Callable[[str], Path]:
    """`reference("yolox_nano.npz")`: a recording, whole where ../shared has it, else as tests/data ships it.

    What is shipped is thinned (NAME.step says that one row in so many is kept); what is not there at all skips.
    """

    def find(name: str) -> Path:
        whole, shipped = SHARED / "reference" / name, SAMPLES / "reference" / name
        return shipped if shipped.exists() and not whole.exists() else shared(f"reference/{name}")

    return find


@pytest.fixture(scope="session")
def coco_val2014(sample: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the annotations of 100 images of COCO and with detections on them, unpacked; no images."""
    folder = tmp_path_factory.mktemp("coco")
    for packed in sample("coco_val2014_100").glob("*.gz"):
        (folder / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
    return folder


@pytest.fixture(scope="session")
def package_index(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skips where pip reaches no package index: asked for a small package that every index has."""
    words = ["download", "-q", "--no-deps", "--no-cache-dir", "--retries", "0", "--timeout", "20", "packaging"]
    words += ["--dest", str(tmp_path_factory.mktemp("index"))]
    run = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True)
    if run.returncode:
        pytest.skip(f"pip reaches no package index: {run.stderr.strip().splitlines()[-1]}")
