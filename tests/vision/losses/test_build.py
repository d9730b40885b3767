"""Which loss a head gets, and refusals of losses that cannot judge it."""

from __future__ import annotations

import pytest

from handeye.vision.errors import ConfigError
from handeye.vision.heads.detr import DetrHeadConfig
from handeye.vision.heads.dfine import DfineHeadConfig
from handeye.vision.heads.rtdetr import RtdetrHeadConfig
from handeye.vision.heads.yolox import YoloxHeadConfig
from handeye.vision.losses.build import build_loss
from handeye.vision.losses.dfine_loss import DfineLoss
from handeye.vision.losses.set_loss import DETR_LOSS, SetLoss, SetLossConfig
from handeye.vision.losses.yolox_loss import YoloxLoss, YoloxLossConfig


@pytest.mark.parametrize(
    ("head", "loss"),
    [
        (YoloxHeadConfig(), YoloxLoss),
        (DetrHeadConfig(), SetLoss),
        (RtdetrHeadConfig(), SetLoss),
        (DfineHeadConfig(), DfineLoss),
    ],
)
def test_without_a_configuration_a_head_gets_its_authors_loss(head, loss):
    assert type(build_loss(None, head)) is loss


def test_detr_and_rt_detr_differ_in_their_classification():
    of_detr, of_rtdetr = build_loss(None, DetrHeadConfig()), build_loss(None, RtdetrHeadConfig())
    assert isinstance(of_detr, SetLoss)
    assert isinstance(of_rtdetr, SetLoss)
    assert (of_detr.config.classification, of_detr.config.matching.class_weight) == ("cross_entropy", 1)
    assert (of_rtdetr.config.classification, of_rtdetr.config.matching.class_weight) == ("varifocal", 2)


def test_a_configuration_is_kept():
    config = DETR_LOSS.model_copy(update={"l1_weight": 3.0})
    loss = build_loss(config, DetrHeadConfig())
    assert isinstance(loss, SetLoss)
    assert loss.config is config


def test_losses_for_other_heads_are_refused():
    with pytest.raises(ConfigError, match=r"loss\.kind: a head of kind detr takes the loss set, got yolox"):
        build_loss(YoloxLossConfig(), DetrHeadConfig())
    with pytest.raises(
        ConfigError, match=r"loss\.classification: a head of kind detr takes cross_entropy, got varifocal"
    ):
        build_loss(SetLossConfig(), DetrHeadConfig())
