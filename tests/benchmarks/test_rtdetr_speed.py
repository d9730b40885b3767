"""RT-DETR-R18 in torch against the transformers library with the same weights: same boxes and gradients, less time.

`make benchmark` prints the ratio. Both take turns, so that a busy machine slows both alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from handeye.vision.boxes.formats import pixels_to_norm, xyxy_to_cxcywh
from handeye.vision.boxes.targets import BoxTargets
from handeye.vision.checkpoints.published import key_maps_of
from handeye.vision.checkpoints.rtdetr import rtdetr_config
from handeye.vision.detector import Detector
from handeye.vision.losses.set_loss import SetLoss

REPEATS, STEPS = 9, 6
BATCH_SIZE, OBJECTS = 4, 8
"""Pictures of a training step, and objects on each: about as many as on COCO's."""


def load_both() -> tuple[Detector, nn.Module]:
    """The same random weights in both, in eval mode."""
    transformers = pytest.importorskip("transformers", reason="the peer is not installed")
    backbone = transformers.RTDetrResNetConfig(
        depths=[2, 2, 2, 2],
        hidden_sizes=[64, 128, 256, 512],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = transformers.RTDetrConfig(
        backbone_config=backbone,
        num_labels=80,
        encoder_in_channels=[128, 256, 512],
        hidden_expansion=0.5,
        decoder_layers=3,
        freeze_backbone_batch_norms=False,
    )
    torch.manual_seed(0)
    theirs = transformers.RTDetrForObjectDetection(config).eval()
    ours = Detector(rtdetr_config(1, "r18vd")).eval()
    weights = key_maps_of(ours.config)[1].to_ours(theirs.state_dict(), ours.state_dict(), origin="transformers")
    ours.load_state_dict(weights, strict=False)
    return ours, theirs


def test_both_say_the_same():
    ours, theirs = load_both()
    images = torch.rand(1, 3, 320, 320, dtype=torch.float64)
    with torch.no_grad():
        found, expected = ours.double()(images), theirs.double()(images)
    order, expected_order = (rows[0].amax(dim=-1).argsort() for rows in (found.logits, expected.logits))
    torch.testing.assert_close(found.logits[0, order], expected.logits[0, expected_order], rtol=0, atol=1e-4)


def test_speed_ratio(benchmarks_wanted):
    ours, theirs = load_both()
    images = torch.rand(1, 3, 640, 640)
    times: dict[str, list[float]] = {"ours": [], "transformers": []}
    with torch.inference_mode():
        for _ in range(REPEATS):
            for name, network in (("ours", ours), ("transformers", theirs)):
                started = time.perf_counter()
                network(images)
                times[name].append(time.perf_counter() - started)
    # The first turn warms up; the fastest of the others was disturbed least.
    best = {name: min(values[1:]) for name, values in times.items()}
    ratio = np.median(np.array(times["ours"][1:]) / np.array(times["transformers"][1:]))
    print(
        f"\nRT-DETR-R18 at 640 x 640, {torch.get_num_threads()} threads: {best['ours'] * 1e3:.0f} ms, transformers "
        f"{best['transformers'] * 1e3:.0f} ms: ratio {best['ours'] / best['transformers']:.2f}, median {ratio:.2f}"
    )


class StepOfOurs:
    """Forward pass, loss and backward pass; notes how long the assignment took."""

    def __init__(self, network: Detector, images: torch.Tensor, targets: list[BoxTargets]) -> None:
        self.network, self.images, self.targets = network.train(), images, targets
        self.loss, self.assignment_s = SetLoss(), 0.0

    def __call__(self) -> None:
        self.network.zero_grad()
        output = self.network(self.images, self.targets)
        started = time.process_time()
        matched = self.loss.match(output, self.targets)
        self.assignment_s = time.process_time() - started
        torch.stack(list(self.loss.parts(output, matched).values())).sum().backward()


def step_of_theirs(network: nn.Module, images: torch.Tensor, targets: list[BoxTargets]) -> Callable[[], None]:
    boxes = [xyxy_to_cxcywh(pixels_to_norm(target.boxes_xyxy, (640, 640))) for target in targets]
    labels = [{"class_labels": each.class_ids, "boxes": box} for each, box in zip(targets, boxes, strict=True)]
    network.train()

    def step() -> None:
        network.zero_grad()
        network(images, labels=labels).loss.backward()

    return step


def drawn_targets() -> list[BoxTargets]:
    """Objects of all sizes at random places of pictures of 640 x 640."""
    targets = []
    for _ in range(BATCH_SIZE):
        corners = torch.rand(OBJECTS, 2) * 400
        boxes_xyxy = torch.cat((corners, corners + 8 + torch.rand(OBJECTS, 2) * 230), dim=1)
        targets.append(BoxTargets(boxes_xyxy, torch.randint(80, (OBJECTS,))))
    return targets


def test_training_step_ratio(benchmarks_wanted):
    """By the processor's time, with which other programs interfere less."""
    ours, theirs = load_both()
    images, targets = torch.rand(BATCH_SIZE, 3, 640, 640), drawn_targets()
    steps = {"ours": StepOfOurs(ours, images, targets), "transformers": step_of_theirs(theirs, images, targets)}
    times: dict[str, list[float]] = {name: [] for name in (*steps, "assignment")}
    for _ in range(STEPS):
        for name, step in steps.items():
            started = time.process_time()
            step()
            times[name].append(time.process_time() - started)
        times["assignment"].append(steps["ours"].assignment_s)
    ours_s, theirs_s, assignment_s = (np.array(values[1:]) for values in times.values())
    print(
        f"\nRT-DETR-R18, a step of training with {BATCH_SIZE} images of 640 x 640, {torch.get_num_threads()} threads: "
        f"{ours_s.min():.2f} s, transformers {theirs_s.min():.2f} s: ratio {ours_s.min() / theirs_s.min():.2f}, median "
        f"{np.median(ours_s / theirs_s):.2f}; assignment {np.median(assignment_s / ours_s):.2%} of the step"
    )
