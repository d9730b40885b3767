"""DETR's head: shapes, padding, sizes, attention as maps, and that it learns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from handeye.vision.backbones.build import BackboneConfig
from handeye.vision.backbones.cspdarknet import CSPDarknetConfig
from handeye.vision.backbones.resnet import ResNetConfig
from handeye.vision.boxes.formats import cxcywh_to_xyxy
from handeye.vision.boxes.iou import aligned_iou
from handeye.vision.boxes.targets import BoxTargets
from handeye.vision.config import validate_config
from handeye.vision.detector import Detector, DetectorConfig
from handeye.vision.errors import ConfigError
from handeye.vision.heads.build import build_head
from handeye.vision.heads.detr import DetrHead, DetrHeadConfig
from handeye.vision.heads.outputs import QueryOutput
from handeye.vision.losses.set_loss import DETR_LOSS, SetLoss
from handeye.vision.necks.build import LevelsConfig

SMALL = DetrHeadConfig(
    num_queries=10, hidden_dim=32, num_heads=4, num_encoder_layers=2, num_decoder_layers=3, feed_forward_dim=48
)
TARGETS = [BoxTargets.empty(), BoxTargets.empty()]


def small_head(num_classes: int = 3) -> DetrHead:
    torch.manual_seed(0)
    head = build_head(SMALL, (8, 24), (16, 32), num_classes)
    assert isinstance(head, DetrHead)
    return head.eval()


def pyramid(height: int = 4, width: int = 5, num_images: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    fine = torch.randn(num_images, 8, 2 * height, 2 * width, generator=generator)
    return [fine, torch.randn(num_images, 24, height, width, generator=generator)]


def test_the_published_shapes():
    """25.2 to 25.4 and 28.2: 480 x 640 pixels, 15 x 20 = 300 tokens of 256, 100 queries, 80 classes and "no object"."""
    head = build_head(DetrHeadConfig(num_encoder_layers=1, num_decoder_layers=1), (2048,), (32,), 80).eval()
    assert isinstance(head, DetrHead)
    tokens: list[Tensor] = []
    head.encoder[-1].register_forward_hook(lambda _, __, memory: tokens.append(memory))
    output = head([torch.randn(1, 2048, 15, 20)])
    assert tokens[0].shape == (1, 300, 256)
    assert output.logits.shape == (1, 100, 81)
    assert output.boxes_cxcywh_norm.shape == (1, 100, 4)
    assert output.input_hw == (480, 640)


def test_boxes_lie_in_the_image_and_classes_share_one_certainty():
    output = small_head()(pyramid())
    assert output.scoring == "softmax"
    assert (output.boxes_cxcywh_norm > 0).all()
    assert (output.boxes_cxcywh_norm < 1).all()
    assert output.rows.shape == (2, 10, 4 + 3)
    assert (output.scores.sum(dim=-1) < 1).all()


def test_the_layers_before_the_last_speak_only_with_targets():
    head = small_head()
    alone, learning = head(pyramid()), head(pyramid(), TARGETS)
    assert alone.auxiliary == ()
    assert len(learning.layers) == len(learning.auxiliary) == 2
    torch.testing.assert_close(alone.logits, learning.logits)
    assert not torch.allclose(learning.layers[0].logits, learning.layers[1].logits, atol=1e-3)


def test_only_the_coarsest_level_is_looked_at():
    head, levels = small_head(), pyramid()
    other = [torch.randn_like(levels[0]), levels[1]]
    torch.testing.assert_close(head(levels).logits, head(other).logits, rtol=0, atol=0)


def test_what_lies_in_the_padding_has_no_influence():
    head, levels = small_head(), pyramid()
    is_pad = torch.zeros(2, 128, 160, dtype=torch.bool)
    is_pad[1, 64:], is_pad[1, :, 96:] = True, True
    first = head(levels, is_pad=is_pad)
    levels[1][1, :, 2:], levels[1][1, :, :, 3:] = 7.0, -7.0
    torch.testing.assert_close(head(levels, is_pad=is_pad).logits, first.logits, rtol=0, atol=0)
    assert not torch.allclose(head(levels).logits, first.logits, atol=1e-3)


def test_a_padded_image_is_seen_as_it_is_alone():
    head, levels = small_head(), pyramid()
    is_pad = torch.ones(2, 128, 160, dtype=torch.bool)
    is_pad[:, :64, :96] = False
    alone = head([levels[0][:, :, :4, :6], levels[1][:, :, :2, :3]])
    torch.testing.assert_close(head(levels, is_pad=is_pad).logits, alone.logits, rtol=1e-4, atol=1e-5)


def test_attention_maps_are_shares_of_what_is_not_padding():
    head, levels = small_head(), pyramid()
    is_pad = torch.zeros(2, 128, 160, dtype=torch.bool)
    is_pad[1, 64:] = True
    maps = head.attention_maps(levels, is_pad)
    assert maps.shape == (2, 10, 4, 5)
    torch.testing.assert_close(maps.sum(dim=(2, 3)), torch.ones(2, 10))
    assert (maps[1, :, 2:] == 0).all()
    assert (maps[0] > 0).all()


def test_attention_maps_are_those_of_the_last_layer():
    head, levels = small_head(), pyramid()
    looked: list[tuple] = []
    cross_attention = head.decoder[-1].cross_attention
    cross_attention.register_forward_pre_hook(lambda _, tokens: looked.append(tokens))
    head(levels)
    query, key, _ = looked[0]
    expected = cross_attention.weights(query, key).mean(dim=1).unflatten(-1, (4, 5))
    torch.testing.assert_close(head.attention_maps(levels), expected)


SHALLOW = ResNetConfig(depth=18, blocks_per_stage=(1, 1, 1, 1))


def detr(head: DetrHeadConfig = SMALL, backbone: BackboneConfig = SHALLOW, num_classes: int = 3) -> Detector:
    torch.manual_seed(0)
    return Detector(
        validate_config(
            DetectorConfig,
            {"backbone": backbone, "neck": LevelsConfig(), "head": head, "num_classes": num_classes},
            "test",
        )
    )


@pytest.mark.parametrize("input_hw", [(64, 96), (70, 97), (33, 120)])
def test_any_size_of_input_will_do(input_hw):
    detector = detr().eval()
    assert detector.size_multiple == 1
    output = detector(torch.rand(2, 3, *input_hw))
    assert isinstance(output, QueryOutput)
    assert output.input_hw == input_hw
    assert output.logits.isfinite().all()


def test_every_weight_takes_part():
    detector = detr().train()
    output = detector(torch.rand(2, 3, 64, 64), TARGETS)
    SetLoss(DETR_LOSS)(output, [BoxTargets(torch.tensor([[8.0, 8, 40, 40]]), torch.tensor([1]))] * 2)[
        "total"
    ].backward()
    assert [name for name, weight in detector.named_parameters() if weight.grad is None] == []


def test_wrong_sizes_are_refused_with_their_key():
    with pytest.raises(ConfigError, match="head.*hidden_dim must be a multiple of num_heads, got 36 and 8"):
        validate_config(DetectorConfig, {"head": {"kind": "detr", "hidden_dim": 36}, "num_classes": 2}, "test")


def squares(num_images: int) -> tuple[Tensor, list[BoxTargets]]:
    """Images of noise with two coloured rectangles each; the colour is the class."""
    generator = torch.Generator().manual_seed(5)
    images, targets = 0.1 * torch.rand(num_images, 3, 96, 128, generator=generator), []
    for image in range(num_images):
        boxes, class_ids = [], []
        for class_id, left in ((image % 3, 4), ((image + 1) % 3, 68)):
            x, y = left + 6 * image, 10 + 12 * image
            width, height = 20 + 5 * image, 44 - 6 * image
            images[image, class_id, y : y + height, x : x + width] = 1.0
            boxes.append([x, y, x + width, y + height])
            class_ids.append(class_id)
        targets.append(BoxTargets(torch.tensor(boxes, dtype=torch.float32), torch.tensor(class_ids)))
    return images, targets


@pytest.mark.long
def test_four_images_are_learnt_by_heart():
    """The loss falls by 90 %, and each object is found by a query that is sure of it."""
    images, targets = squares(4)
    head = SMALL.model_copy(update={"hidden_dim": 64, "feed_forward_dim": 128, "dropout": 0.0})
    detector = detr(head, CSPDarknetConfig(width=0.25, depth=0.33)).train()  # half as long as with the residual one
    loss, optimizer = SetLoss(DETR_LOSS), torch.optim.AdamW(detector.parameters(), lr=5e-4, weight_decay=0)
    totals = []
    for step in range(400):
        for group in optimizer.param_groups:
            group["lr"] = 5e-4 if step < 300 else 1e-4
        total = loss(detector(images, targets), targets)["total"]
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 0.1)
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.1 * totals[0], f"from {totals[0]:.2f} to {totals[-1]:.2f}"
    output = detector(images)
    for image, target in enumerate(targets):
        scores, class_ids = output.scores[image].max(dim=-1)
        found = scores > 0.5
        assert sorted(class_ids[found].tolist()) == sorted(target.class_ids.tolist())
        boxes = cxcywh_to_xyxy(output.boxes_cxcywh_norm[image][found]) * torch.tensor([128.0, 96, 128, 96])
        for box, class_id in zip(boxes, class_ids[found], strict=True):
            wanted = target.boxes_xyxy[target.class_ids == class_id]
            assert aligned_iou(box[None], wanted).item() > 0.8
