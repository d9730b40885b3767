"""Any backbone feeds any head: the thirty configurations of configs/detector/matrix build, run, learn and export."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from handeye.export.graph.onnx_export import export_onnx
from handeye.export.graph.operator_support import find_unsupported
from handeye.export.parity import measure_parity
from handeye.vision.boxes.targets import BoxTargets
from handeye.vision.config import load_config
from handeye.vision.detector import Detector
from handeye.vision.losses.build import build_loss
from handeye.vision.training.config import TrainDetectorConfig

FOLDER = Path(__file__).resolve().parents[1] / "configs/detector/matrix"
BACKBONES = ("resnet18", "resnet50", "cspdarknet", "swin_t", "vit_b", "hgnetv2")
HEADS = ("yolo_v3", "yolox", "detr", "rtdetrv2", "dfine")
ALL = [f"{backbone}_{head}" for backbone in BACKBONES for head in HEADS]
FEW = ("resnet18_yolo_v3", "cspdarknet_yolox", "vit_b_detr", "hgnetv2_dfine", "swin_t_rtdetrv2", "resnet50_rtdetrv2")
"""Every backbone and every head once, for the quick tests."""
OTHERS = [name for name in ALL if name not in FEW]

SHALLOW = {
    "resnet50": ["detector.backbone.blocks_per_stage=[1,1,1,1]"],
    "vit_b": ["detector.backbone.depth=2"],
}
"""The same configuration, shallower: what is tested is that the parts fit and learn, not how deep they are."""

SMALL = {
    "detr": [
        "detector.head.num_encoder_layers=1",
        "detector.head.num_decoder_layers=2",
        "detector.head.num_queries=20",
        "detector.head.dropout=0",
    ],
    "rtdetrv2": ["detector.head.num_decoder_layers=2", "detector.head.num_queries=30", "detector.head.num_denoising=0"],
    "dfine": ["detector.head.num_decoder_layers=2", "detector.head.num_queries=30", "detector.head.num_denoising=0"],
}
"""For learning and exporting: fewer layers and queries of the head, and nothing random in training. Disturbed objects
are others at every step, so their loss never falls to that of pictures known by heart."""

NARROW = [f"detector.{part}.{key}" for part in ("neck", "head") for key in ("hidden_dim=64", "feed_forward_dim=128")]
"""The same: the width of tokens and queries behind backbones whose neck is the hybrid encoder alone."""


def some_then_all(few: tuple[str, ...] = FEW, more: Collection[str] = ()) -> list[object]:
    """`few` by default, `more` with the slow tests, and all with the long ones; without `more` all are slow.

    The default exports of YOLO, YOLOX, RT-DETR and D-FINE are in `tests/export/graph`.
    """

    def marks(name: str) -> Any:
        return () if name in few else pytest.mark.slow if name in (more or ALL) else pytest.mark.long

    return [pytest.param(name, marks=marks(name)) for name in ALL]


def load(name: str, *overrides: str) -> TrainDetectorConfig:
    """One of the thirty, for three classes."""
    backbone = next(backbone for backbone in BACKBONES if name.startswith(backbone + "_"))
    words = [*SHALLOW.get(backbone, []), "detector.num_classes=3", *overrides]
    return load_config(TrainDetectorConfig, FOLDER / f"{name}.yaml", words)


def num_columns(config: TrainDetectorConfig) -> int:
    return 3 + (5 if config.detector.head.kind in ("yolox", "yolo_grid") else 4)


def test_the_folder_holds_every_pair_and_nothing_else():
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == sorted(ALL)


@pytest.mark.parametrize("name", some_then_all())
def test_it_builds_and_runs_at_any_size(name: str):
    config = load(name)
    torch.manual_seed(0)
    detector = Detector(config.detector).eval()
    for size in ((320, 320), (256, 384)):
        with torch.inference_mode():
            rows = detector(torch.rand(1, 3, *size)).rows
        assert rows.shape[0] == 1
        assert rows.shape[2] == num_columns(config)
        assert torch.isfinite(rows).all()
        if config.detector.head.kind in ("detr", "rtdetr", "dfine"):
            assert rows.shape[1] == config.detector.head.num_queries
        else:
            boxes = 3 if config.detector.head.kind == "yolo_grid" else 1
            assert rows.shape[1] == boxes * sum(size[0] * size[1] // stride**2 for stride in detector.neck.strides)


def small(name: str, *overrides: str) -> TrainDetectorConfig:
    head = next(head for head in HEADS if name.endswith("_" + head))
    narrow = NARROW if head in ("rtdetrv2", "dfine") and not name.startswith("vit") else []
    return load(name, *SMALL.get(head, []), *narrow, *overrides)


def for_export(name: str) -> Detector:
    """Small, for 64 x 96, and where the head chooses its queries among the cells, it takes all of them.

    An image of one colour makes cells so much alike that rounding would decide which of them is left out: torch and an
    engine may then both be right. Choosing is exported too, and compared where it is clear (`tests/export`).
    """
    torch.manual_seed(0)
    size_hw = (64, 96)
    num_cells = sum(size_hw[0] * size_hw[1] // stride**2 for stride in (8, 16, 32))
    all_cells = [f"detector.head.num_queries={num_cells}"] if name.endswith(("_rtdetrv2", "_dfine")) else []
    return Detector(small(name, f"detector.preprocessing.size_hw={list(size_hw)}", *all_cells).detector).eval()


@pytest.mark.parametrize("name", some_then_all((), (*FEW, "cspdarknet_rtdetrv2")))
def test_the_export_computes_what_torch_computes(name: str, tmp_path: Path):
    detector = for_export(name)
    with torch.no_grad():  # fresh predictions are nearly the same everywhere, and would prove little
        for key, weight in detector.head.named_parameters():
            if "predict" in key and weight.ndim > 1:
                weight.normal_(0, 0.1)
    path = tmp_path / f"{name}.onnx"
    export_onnx(detector, path)
    assert find_unsupported(onnx.load(path)) == []
    (parity,) = measure_parity(detector, path, engines=["onnxruntime"], num_threads=1)
    assert parity.worst < 1e-3
    assert parity.unmatched == 0


def four_pictures(side: int = 96) -> tuple[Tensor, list[BoxTargets]]:
    """Noise with one or two filled rectangles each."""
    random = torch.Generator().manual_seed(0)
    images, targets = torch.rand(4, 3, side, side, generator=random), []
    for index, image in enumerate(images):
        class_ids = torch.tensor([index % 3, (index + 1) % 3][: 1 + index % 2])
        corners = torch.randint(0, side // 2, (len(class_ids), 2), generator=random)
        sizes = torch.randint(side // 4, side // 2, (len(class_ids), 2), generator=random)
        for (x, y), (width, height) in zip(corners.tolist(), sizes.tolist(), strict=True):
            image[:, y : y + height, x : x + width] = torch.rand(3, 1, 1, generator=random)
        targets.append(BoxTargets(torch.cat((corners, corners + sizes), dim=1).float(), class_ids, torch.zeros(0, 4)))
    return images, targets


def learn(config: TrainDetectorConfig, steps: int, rate: float = 1e-3) -> list[float]:
    """The loss on the four pictures at every step, up to the first that is a tenth of that at the beginning."""
    torch.manual_seed(0)
    detector = Detector(config.detector).train()
    loss = build_loss(config.loss, config.detector.head)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=0)
    images, targets = four_pictures()
    totals = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * min(1, (step + 1) / 10) * min(1, 2 * (1 - step / steps) + 0.05)
        losses = loss(detector(images, targets), targets)
        optimizer.zero_grad()
        losses["total"].backward()
        nn.utils.clip_grad_norm_(detector.parameters(), 5.0)
        optimizer.step()
        totals.append(losses["total"].item())
        if totals[-1] <= 0.1 * totals[0]:
            break
    return totals


QUICK_LEARNERS = ("resnet18_rtdetrv2",)
"""Of the other heads one detector each learns by heart in the slow tests of training and losses."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in QUICK_LEARNERS else pytest.mark.long) for name in ALL],
)
def test_it_learns_four_pictures_by_heart(name: str):
    # Skipped residual branches would be other networks at every step.
    overrides = ["detector.backbone.stochastic_depth=0"] if name.startswith("swin") else []
    # Queries learn more slowly than cells, and those of DETR, which attend to the whole image, only by small steps.
    steps, rate = 250, 1e-3
    if name.endswith("_detr"):
        steps, rate = 400, 3e-4
    elif name.endswith(("_yolox", "_yolo_v3")):
        steps = 200 if name.endswith("_yolox") else 100
    totals = learn(small(name, *overrides), steps, rate)
    assert totals[-1] <= 0.1 * totals[0]
