"""Training finds the images of both splits where the annotations say they are."""

from __future__ import annotations

from handeye.vision.data.annotations import AnnotationSet
from handeye.vision.data.coco import read_coco
from handeye.vision.data.formats import convert, find_images
from handeye.vision.training.training_data import training_images


def test_a_data_yaml_is_enough_to_find_the_images_of_both_splits(small_config, drawn_set, tmp_path):
    annotations = read_coco(drawn_set / "annotations.json")
    for split, images in (("train", annotations.images[:6]), ("valid", annotations.images[6:])):
        chosen = AnnotationSet(images, annotations.categories)
        convert(chosen, drawn_set / "images", "yolo", tmp_path / split, "copy")
    file = tmp_path / "data.yaml"
    file.write_text("train: ../train/images\nval: ../valid/images\nnames: [red, green]\n", encoding="utf-8")
    config = small_config(data={"annotations": file, "val_annotations": file})
    assert config.data.images is None
    assert training_images(config) == tmp_path / "train/images"
    assert find_images(file, config.data.val_images or config.data.images, "val") == tmp_path / "valid/images"
