"""Fewer classes, the same predictions."""

from __future__ import annotations

import pytest
import torch

from export.classes import keep_classes
from vision.config import validate_config
from vision.detector import Detector, DetectorConfig
from vision.errors import UserError


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    names = ["red", "green", "blue", "clutter"]
    return Detector(validate_config(DetectorConfig, {"class_names": names}, origin="test")).eval()


def test_kept_classes_are_predicted_as_before_in_the_order_asked_for(detector: Detector) -> None:
    smaller = keep_classes(detector, ["blue", "red"])
    images = torch.rand(1, 3, 64, 96) * 255
    with torch.no_grad():
        before, after = detector(images).raw, smaller(images).raw
    assert smaller.config.class_names == ("blue", "red")
    torch.testing.assert_close(after[..., :5], before[..., :5])
    torch.testing.assert_close(after[..., 5:], before[..., [7, 5]], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("names", [["red", "purple"], []])
def test_classes_that_are_not_there_are_refused_by_name(detector: Detector, names: list[str]) -> None:
    with pytest.raises(UserError, match="purple|none"):
        keep_classes(detector, names)
