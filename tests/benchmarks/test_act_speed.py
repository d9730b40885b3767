"""Image ACT of the published size, two cameras of 240 x 320, beside LeRobot's forward pass on the same weights.

The peer runs in an environment of its own: HANDEYE_LEROBOT_PYTHON names its Python. Both have one thread, the times are
the processor's; ours includes what makes numbers of byte images, LeRobot's does not.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from robot.policy.export_policy import export_policy
from robot.policy.lerobot_checkpoint import load_lerobot_policy
from robot.policy.onnx_policy import OnnxPolicy
from vision.runtime.session import EngineName, Precision, installed_engines

ROUNDS, WARM_UP = 15, 3
TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "bf16": 0.05}
"""Of actions whose deviation within the chunk is 0.45."""
PEER = Path(__file__).with_name("peer_act.py")


def predict_s(path: Path, engine: EngineName, precision: Precision, observed: dict[str, np.ndarray]) -> float:
    """Median processor seconds of an answer, which must be the peer's."""
    policy = OnnxPolicy.load(path, engine=engine, num_threads=1, precision=precision)
    images = {key: observed[key] for key in policy.image_keys}
    times_s = []
    for _ in range(ROUNDS):
        started = time.process_time()
        chunk = policy.predict(observed["state"], images)
        times_s.append(time.process_time() - started)
        np.testing.assert_allclose(chunk, observed["chunk"], rtol=0, atol=TOLERANCES[precision])
    return float(np.median(times_s[WARM_UP:]))


@pytest.mark.usefixtures("benchmarks_wanted")
def test_beside_lerobot_with_two_cameras(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    python = os.environ.get("HANDEYE_LEROBOT_PYTHON")
    if python is None:
        pytest.skip("HANDEYE_LEROBOT_PYTHON does not name a Python that has `lerobot`")
    subprocess.run([python, PEER, tmp_path, str(ROUNDS)], check=True)
    observed = dict(np.load(tmp_path / "peer.npz"))
    theirs_s = float(np.median(observed["forward_s"][WARM_UP:]))
    export_policy(load_lerobot_policy(tmp_path, fps=50), tmp_path / "act.onnx")
    kinds: list[tuple[EngineName, Precision]] = [(engine, "fp32") for engine in installed_engines()]
    for engine, precision in [*kinds, ("openvino", "bf16")]:
        ours_s = predict_s(tmp_path / "act.onnx", engine, precision, observed)
        with capsys.disabled():
            print(f"\nimage ACT, {engine} {precision}: {1e3 * ours_s:.0f} ms, LeRobot {1e3 * theirs_s:.0f} ms", end="")
            print(f", ratio {ours_s / theirs_s:.3f}")
