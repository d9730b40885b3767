"""The image of a batch shows its pixels in their colours and its boxes where they are."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from handeye.vision.data.annotations import LabelledBoxes
from handeye.vision.data.batches import Batch
from handeye.vision.images import Preprocessing
from handeye.vision.runtime.draw import class_colour
from handeye.vision.training.run_record import CROWD_COLOUR, MAX_IMAGES, SIDE_PX, draw_batch


def batch_of(num_images: int, colour: tuple[int, int, int]) -> Batch:
    """Plain images of 80 x 160 with one box of class 1 in the first and a crowd in the second."""
    images = torch.tensor(colour, dtype=torch.uint8).view(1, 3, 1, 1).expand(num_images, 3, 80, 160).contiguous()
    boxes = [np.zeros((0, 4), np.float32) for _ in range(num_images)]
    boxes[0] = np.array([[16, 8, 64, 40]], np.float32)
    if num_images > 1:
        boxes[1] = boxes[0]
    class_ids = [np.ones(len(each), np.int64) for each in boxes]
    is_crowd = [np.full(len(each), number == 1) for number, each in enumerate(boxes)]
    columns = zip(boxes, class_ids, is_crowd, strict=True)
    return Batch(images, [LabelledBoxes(*each) for each in columns])


@pytest.mark.parametrize(("order", "stored"), [("rgb", (200, 90, 20)), ("bgr", (20, 90, 200))])
def test_colours_and_boxes_are_where_they_were(tmp_path, order, stored):
    draw_batch(tmp_path / "batch.png", batch_of(3, stored), ("red", "green"), Preprocessing(colour=order))
    picture = cv2.cvtColor(cv2.imread(str(tmp_path / "batch.png")), cv2.COLOR_BGR2RGB)
    height = SIDE_PX // 2
    assert picture.shape == (2 * height, 2 * SIDE_PX, 3)
    assert picture[height - 5, SIDE_PX - 5].tolist() == [200, 90, 20]
    assert (picture[height + 1 :, SIDE_PX + 1 :] == 255).all()
    # The box's right edge is drawn over columns around 64 * 2, rows 16 to 80.
    colours = {tuple(pixel) for pixel in picture[50, 124:133].tolist()}
    assert class_colour(1) in colours
    assert CROWD_COLOUR in {tuple(pixel) for pixel in picture[50, SIDE_PX + 124 : SIDE_PX + 133].tolist()}


def test_a_large_batch_is_cut(tmp_path):
    draw_batch(tmp_path / "batch.png", batch_of(MAX_IMAGES + 5, (9, 9, 9)), ("red", "green"), Preprocessing())
    assert cv2.imread(str(tmp_path / "batch.png")).shape == (4 * SIDE_PX // 2, 4 * SIDE_PX, 3)
