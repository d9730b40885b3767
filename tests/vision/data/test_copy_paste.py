"""Pasted objects: pixels, masks and boxes move by one map; what they cover shrinks to what is seen of it, or goes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handeye.vision.data.annotations import LabelledBoxes
from handeye.vision.data.augmentation import AugmentationConfig, SampleRequest, augment
from handeye.vision.data.masks import Mask, draw_mask, mask_from_coco, mask_to_coco
from handeye.vision.data.mosaic import CopyPasteConfig, copy_paste
from handeye.vision.data.transforms import LabelledImage, VisibilityConfig
from handeye.vision.errors import DatasetError
from handeye.vision.images import Preprocessing

EVERYTHING = CopyPasteConfig(probability=1.0, visibility=VisibilityConfig(min_visible=0.1, min_side_px=1))


def boxed(box: tuple[int, int, int, int], size_hw: tuple[int, int], level: int, class_id: int) -> LabelledImage:
    """An image with one filled rectangle, which is also its mask."""
    image = np.zeros((*size_hw, 3), np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = level
    return LabelledImage(image, LabelledBoxes(np.array([box], np.float32), np.array([class_id]), np.zeros(1, bool)))


def rectangle_mask(box: tuple[int, int, int, int]) -> Mask:
    x1, y1, x2, y2 = box
    return Mask(polygons=(np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float32),))


boxes_strategy = st.tuples(st.integers(4, 40), st.integers(4, 30), st.integers(10, 30), st.integers(10, 30)).map(
    lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3])
)


@given(box=boxes_strategy, seed=st.integers(0, 10_000))
@settings(max_examples=60)
def test_a_pasted_object_lies_in_its_box(box, seed):
    target = boxed((0, 0, 2, 2), (90, 110), 0, 5)
    source = boxed(box, (70, 80), 255, 3)
    pasted = copy_paste(target, (), source, [rectangle_mask(box)], EVERYTHING, np.random.default_rng(seed))
    if 3 not in pasted.boxes.class_ids:
        return
    x1, y1, x2, y2 = pasted.boxes.xyxy[list(pasted.boxes.class_ids).index(3)]
    rows, columns = np.nonzero(pasted.image_rgb[..., 0] > 127)
    drawn = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    np.testing.assert_allclose(drawn, [x1, y1, x2, y2], atol=1.01)
    # Nothing around the object came along.
    assert np.count_nonzero(pasted.image_rgb[..., 0]) <= (x2 - x1 + 2) * (y2 - y1 + 2)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=60)
def test_a_covered_object_keeps_the_box_around_what_is_seen(seed):
    under, over = (30, 20, 80, 70), (10, 10, 60, 60)
    target, source = boxed(under, (90, 110), 100, 1), boxed(over, (90, 110), 200, 2)
    source.image_rgb[:] = 200  # no edge of the pasted object is mixed to the level of the other
    pasted = copy_paste(
        target, [rectangle_mask(under)], source, [rectangle_mask(over)], EVERYTHING, np.random.default_rng(seed)
    )
    rows, columns = np.nonzero(pasted.image_rgb[..., 0] == 100)
    if 1 in pasted.boxes.class_ids:
        box = pasted.boxes.xyxy[list(pasted.boxes.class_ids).index(1)]
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(box, seen, atol=1.01)
    else:
        assert len(rows) <= 0.12 * 50 * 50


def test_an_object_without_a_mask_stays_until_it_is_covered():
    still = CopyPasteConfig(probability=1.0, scale=(1.0, 1.0), visibility=VisibilityConfig(min_visible=0.2))
    target = LabelledImage(
        np.zeros((60, 60, 3), np.uint8),
        LabelledBoxes(
            np.array([[0, 0, 60, 29], [4, 4, 26, 26], [0, 0, 60, 60]], np.float32),
            np.array([0, 1, 2]),
            np.array([False, False, True]),
        ),
    )
    box = (0, 0, 60, 28)
    pasted = copy_paste(target, (), boxed(box, (60, 60), 9, 7), [rectangle_mask(box)], still, np.random.default_rng(0))
    np.testing.assert_array_equal(pasted.boxes.class_ids, [2, 7])
    np.testing.assert_array_equal(pasted.boxes.is_crowd, [True, False])


def test_crowds_and_objects_without_masks_are_not_pasted():
    source = boxed((5, 5, 30, 30), (60, 60), 255, 3)
    crowd = LabelledImage(source.image_rgb, LabelledBoxes(source.boxes.xyxy, source.boxes.class_ids, np.ones(1, bool)))
    target = boxed((0, 0, 9, 9), (60, 60), 50, 1)
    for sample, masks in ((crowd, [rectangle_mask((5, 5, 30, 30))]), (source, [None]), (source, ())):
        assert copy_paste(target, (), sample, masks, EVERYTHING, np.random.default_rng(0)) is target


def test_the_recipe_with_copy_paste_is_a_function_of_seed_epoch_and_index():
    box = (10, 10, 40, 40)
    config = AugmentationConfig(copy_paste=EVERYTHING)

    def read(index: int) -> LabelledImage:
        return boxed(box, (60 + index, 70), 20 * index + 20, index)

    def make(epoch: int, index: int) -> LabelledImage:
        request = SampleRequest(epoch, index, (64, 64), is_strong=True)
        return augment(request, read, 6, config, Preprocessing(), 0, read_masks=lambda _: [rectangle_mask(box)])

    one, again, other = make(2, 3), make(2, 3), make(3, 3)
    np.testing.assert_array_equal(one.image_rgb, again.image_rgb)
    np.testing.assert_array_equal(one.boxes.xyxy, again.boxes.xyxy)
    assert (one.image_rgb != other.image_rgb).any()


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1.0, 1.0, 9.0, 1.0, 9.0, 7.0, 1.0, 7.0]],
        {"size": [10, 12], "counts": [11, 6, 4, 6, 93]},
    ],
    ids=["polygons", "run lengths"],
)
def test_masks_go_to_coco_and_back(segmentation):
    mask = mask_from_coco("here", segmentation)
    assert mask is not None
    again = mask_from_coco("here", mask_to_coco(mask))
    assert again is not None
    pixels = draw_mask(mask, (10, 12))
    assert pixels.sum() == (12 if isinstance(segmentation, dict) else 48)
    np.testing.assert_array_equal(draw_mask(again, (10, 12)), pixels)


@pytest.mark.parametrize(
    "segmentation",
    [[[1, 2, 3]], [["a"] * 6], [[float("nan")] * 6], {"size": [2, 2], "counts": [1]}, {"counts": 3}, "x", [[], []]],
)
def test_masks_that_are_none_are_rejected(segmentation):
    with pytest.raises(DatasetError, match="here"):
        mask_from_coco("here", segmentation)
