"""Image ACT of the published size, two cameras of 240 x 320, beside LeRobot's forward pass on the same weights.

The peer runs in an environment of its own: HANDEYE_LEROBOT_PYTHON names its Python. Both have one thread, the times are
the processor's; ours includes what makes numbers of byte images, LeRobot's does not.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from handeye.robot.learning.export import export_policy
from handeye.robot.learning.import_lerobot import load_lerobot_policy
from handeye.robot.policies.onnx_policy import OnnxPolicy
from handeye.vision.runtime.engines import EngineName, Precision, installed_engines

ROUNDS, WARM_UP = 30, 3
TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "bf16": 0.05}
"""Of actions whose deviation within the chunk is 0.45."""
PEER = Path(__file__).with_name("peer_act.py")
Measure = Callable[[], float]
"""Processor seconds of one answer."""


@contextmanager
def lerobot(python: str, folder: Path) -> Iterator[Measure]:
    """LeRobot's process, which leaves its weights and an observation in `folder`."""
    with subprocess.Popen([python, PEER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
        assert peer.stdin is not None
        assert peer.stdout is not None
        asked, answers = peer.stdin, peer.stdout
        assert answers.readline() == "ready\n"

        def measure() -> float:
            asked.write("\n")
            asked.flush()
            return float(answers.readline())

        yield measure
        asked.close()


def ours(path: Path, engine: EngineName, precision: Precision, observed: Mapping[str, np.ndarray]) -> Measure:
    """An engine of ours, whose answers must be the peer's."""
    policy = OnnxPolicy.load(path, engine=engine, num_threads=1, precision=precision)
    images = {key: observed[key] for key in policy.image_keys}

    def measure() -> float:
        started = time.process_time()
        chunk = policy.predict(observed["state"], images)
        took_s = time.process_time() - started
        np.testing.assert_allclose(chunk, observed["chunk"], rtol=0, atol=TOLERANCES[precision])
        return took_s

    return measure


@pytest.mark.usefixtures("benchmarks_wanted")
def test_beside_lerobot_with_two_cameras(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    python = os.environ.get("HANDEYE_LEROBOT_PYTHON")
    if python is None:
        pytest.skip("HANDEYE_LEROBOT_PYTHON does not name a Python that has `lerobot`")
    kinds: list[tuple[EngineName, Precision]] = [(engine, "fp32") for engine in installed_engines()]
    kinds.append(("openvino", "bf16"))
    with lerobot(python, tmp_path) as peer:
        observed = dict(np.load(tmp_path / "peer.npz"))
        export_policy(load_lerobot_policy(tmp_path, fps=50), tmp_path / "act.onnx")
        measures = [peer, *(ours(tmp_path / "act.onnx", engine, precision, observed) for engine, precision in kinds)]
        # In turn, so that whatever else the machine does meets all of them alike.
        times_s = np.array([[measure() for measure in measures] for _ in range(ROUNDS)])[WARM_UP:]
    least, median = 1e3 * times_s.min(axis=0), 1e3 * np.median(times_s, axis=0)
    with capsys.disabled():
        print(f"\nimage ACT, LeRobot: least {least[0]:.0f} ms, median {median[0]:.0f} ms")
        for (engine, precision), low, middle in zip(kinds, least[1:], median[1:], strict=True):
            print(f"{engine} {precision}: least {low:.0f} ms, median {middle:.0f} ms", end="")
            print(f", ratios {low / least[0]:.3f}, {middle / median[0]:.3f}")
