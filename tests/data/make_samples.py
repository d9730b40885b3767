"""Makes the vision samples in this folder out of the published data beside the checkout; README.md says what each is.

python tests/data/make_samples.py ../shared [cells|clips|cubes|coco|reference]...
python tests/data/make_samples.py raw blood_cells.safetensors
"""

from __future__ import annotations

import gzip
import json
import shutil
import sys
import warnings
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import onnxslim
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from handeye.export.graph.folding import fold_for_inference
from handeye.robot.config import WorkCellConfig
from handeye.robot.simulator.labels import MIN_SIDE_PX
from handeye.robot.simulator.objects import SceneObject
from handeye.robot.simulator.renderers import RendererKind, build_renderer
from handeye.robot.simulator.sensor_noise import apply_sensor_model
from handeye.robot.simulator.tracking_scenarios import Scenario, ScenarioKind, sample_scenario
from handeye.vision.checkpoints.native import load_detector
from handeye.vision.detector import Detector
from handeye.vision.runtime.image_detector import ImageDetector
from handeye.vision.runtime.sources import open_stream
from handeye.vision.tracking.mot_files import MotBoxes, write_mot

HERE = Path(__file__).resolve().parent
DETECTOR = HERE.parents[1] / "vision/weights/tabletop_nano.onnx"

CELLS = {
    "train": ("00001", "00038", "00343"),
    "val": ("00037", "00338"),
    "test": ("00015", "00031", "00041", "00065", "00077", "00136", "00249", "00296"),
}
"""BCCD images. 00343 and 00338 hold a box without area; 00038 and 00037 are one scene in two splits."""

RECORDED = {
    "yolox_nano": ("", "_g"),
    "yolox_s": ("_g",),
    "detr_resnet50": ("_g",),
    "rtdetr_r18vd": ("_g", "_256x320_g"),
    "rtdetr_r50vd": (),
    "rtdetrv2_r18vd": ("_g",),
    "dfine_n": ("_g",),
    "tv_resnet50": ("_g",),
    "tv_swin_t": ("",),
}
"""Recordings that come with the repository; of the networks without a variant only the list of keys does."""
THINNED = {"raw": 20, "decoded_boxes": 20, "enc_logits": 20, "encoder.memory": 4, "aux_logits": 5}
THINNED |= {"decoder.score_head_before_lqe": 5, "decoder.last_corners": 5}
"""Of these long arrays every so-maniest row is kept: the last axis but one is the one of rows."""
FRAME_RATE = 10.0


def make_cells(shared: Path) -> None:
    """A part of each split of BCCD: images once, annotations as XML, COCO JSON and YOLO text."""
    source, target = shared / "data/bccd", HERE / "bccd"
    for folder in ("JPEGImages", "yolo/labels", "Annotations", "ImageSets/Main", "coco_json"):
        (target / folder).mkdir(parents=True, exist_ok=True)
    shutil.copy(source / "LICENSE", target / "LICENSE")
    for split, numbers in CELLS.items():
        names = [f"BloodImage_{number}" for number in numbers]
        (target / f"ImageSets/Main/{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            shutil.copyfile(source / f"JPEGImages/{name}.jpg", target / f"JPEGImages/{name}.jpg")
            shutil.copyfile(source / f"Annotations/{name}.xml", target / f"Annotations/{name}.xml")
        content = json.loads((source / f"coco_json/instances_{split}.json").read_text())
        content["images"] = [image for image in content["images"] if Path(image["file_name"]).stem in names]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [box for box in content["annotations"] if box["image_id"] in kept]
        (target / f"coco_json/instances_{split}.json").write_text(json.dumps(content) + "\n")
        write_yolo_labels(content, target / "yolo")
    if not (target / "yolo/images").is_symlink():
        (target / "yolo/images").symlink_to("../JPEGImages")


def write_yolo_labels(content: dict, target: Path) -> None:
    """labels/NAME.txt by hand, not by `handeye convert-dataset`, whose judge they are; boxes without area stay."""
    classes = {category["id"]: index for index, category in enumerate(content["categories"])}
    for image in content["images"]:
        scale = np.array([image["width"], image["height"]])
        lines = []
        for box in content["annotations"]:
            if box["image_id"] == image["id"]:
                corner, size = np.split(np.array(box["bbox"]), 2)
                numbers = " ".join(f"{number:.8f}" for number in [*((corner + size / 2) / scale), *(size / scale)])
                lines.append(f"{classes[box['category_id']]} {numbers}\n")
        (target / "labels" / Path(image["file_name"]).with_suffix(".txt")).write_text("".join(lines))
    names = "".join(f"  {index}: {category['name']}\n" for index, category in enumerate(content["categories"]))
    (target / "data.yaml").write_text(f"train: images\nval: images\nnames:\n{names}")


def make_clips(shared: Path) -> None:
    """The first two seconds of the bottles."""
    (HERE / "video").mkdir(exist_ok=True)
    shutil.copyfile(shared / "data/video/LICENSE", HERE / "video/LICENSE")
    with open_stream(str(shared / "data/video/bottle-detection.mp4")) as stream:
        images = [image.image_rgb for image in islice(stream, 60)]
    write_h264(HERE / "video/bottles.mp4", images, Fraction(30000, 1001))


def make_cubes(_: Path) -> None:
    """A scenario of `benchmark-tracking` as video, with its true boxes and the shipped detector's boxes as MOT text."""
    (HERE / "video").mkdir(exist_ok=True)
    (HERE / "mot").mkdir(exist_ok=True)
    images, true = zip(*render_frames(ScenarioKind.CROSSING, seed=3), strict=True)
    write_h264(HERE / "video/cubes.mp4", list(images), Fraction(10))
    write_mot(HERE / "mot/gt.txt", MotBoxes.joined(true))
    detector = ImageDetector.load(DETECTOR, engine="onnxruntime", num_threads=1, score_threshold=0.1)
    with open_stream(str(HERE / "video/cubes.mp4")) as stream:
        found = [detector(image.image_rgb) for image in stream]
    rows = [
        MotBoxes(
            np.full(len(each), number + 1),
            np.full(len(each), -1),
            each.boxes_xyxy.round(2),
            each.scores.round(4),
        )
        for number, each in enumerate(found)
    ]
    write_mot(HERE / "mot/det.txt", MotBoxes.joined(rows))


def render_frames(kind: ScenarioKind, seed: int) -> Iterator[tuple[np.ndarray, MotBoxes]]:
    """Each frame of a scenario with the boxes of the pixels that are seen of each cube; ids are the cubes' places."""
    scenario = sample_scenario(kind, WorkCellConfig(), seed)
    renderer = build_renderer(RendererKind.RAYS, scenario.camera, camera_name=scenario.camera_name)
    renderer.load(scenario.scene)
    rng = np.random.default_rng(seed)
    for number, keyframe in enumerate(scenario.keyframes):
        scenario.pose(keyframe)
        image = renderer.render(scenario.scene.data).image_rgb
        segments = renderer.segment(scenario.scene.data)
        boxes = np.array([seen_box(scenario, segments, item) for item in scenario.scene.objects])
        seen = np.flatnonzero((boxes[:, 2:] - boxes[:, :2]).min(axis=1) >= MIN_SIDE_PX)
        true = MotBoxes(np.full(len(seen), number + 1), seen + 1, boxes[seen], np.ones(len(seen)))
        yield apply_sensor_model(image, scenario.scene.appearance.effects, rng), true
    renderer.close()


def seen_box(scenario: Scenario, segments: np.ndarray, item: SceneObject) -> tuple[float, float, float, float]:
    """The box around the pixels of one object, without area where none is seen."""
    geoms = [scenario.scene.model.geom(f"{item.name}_{number}").id for number in range(len(item.parts))]
    rows, columns = np.nonzero(np.isin(segments, geoms))
    if len(rows) == 0:
        return (0.0, 0.0, 0.0, 0.0)
    return (float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))


def write_h264(path: Path, images: list[np.ndarray], rate: Fraction) -> None:
    """A small video that every player knows."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "26", "preset": "veryslow"})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def make_coco(shared: Path) -> None:
    """Annotations and detections of 100 images of val2014, as published but packed."""
    source, target = shared / "data/coco_eval_val2014_100", HERE / "coco_val2014_100"
    target.mkdir(exist_ok=True)
    shutil.copyfile(source / "cocoapi_license.txt", target / "cocoapi_license.txt")
    for name in ("instances_val2014_100.json", "instances_val2014_fakebbox100_results.json"):
        packed = gzip.compress((source / name).read_bytes(), compresslevel=9, mtime=0)
        (target / f"{name}.gz").write_bytes(packed)


def make_reference(shared: Path) -> None:
    """Recorded outputs of the authors' codes with made-up weights; long arrays are thinned."""
    target = HERE / "reference"
    target.mkdir(exist_ok=True)
    for name, variants in RECORDED.items():
        meta = json.loads((shared / f"reference/{name}.json").read_text())
        (target / f"{name}.json").write_text(json.dumps(meta) + "\n")
        for variant in variants:
            thin(shared / f"reference/{name}{variant}.npz", target / f"{name}{variant}.npz")
    recorded = dict(np.load(shared / "reference/prepost.npz"))
    recorded = {key: value for key, value in recorded.items() if "smooth360x500" not in key}
    np.savez_compressed(target / "prepost.npz", **recorded)


def thin(source: Path, target: Path) -> None:
    """Copy arrays; of a thinned one, NAME.step says of how many rows one is kept."""
    kept = {}
    for name, values in np.load(source).items():
        step = THINNED.get(name, 1)
        kept[name] = values[..., ::step, :] if step > 1 else values
        if step > 1:
            kept[f"{name}.step"] = np.array(step)
    np.savez_compressed(target, **kept)


class RawRows(nn.Module):
    """images -> (1, cells, 5 + classes) as YOLOX's own exporter leaves them: boxes undecoded, scores from 0 to 1."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Four raw box numbers, objectness and class scores of each cell."""
        return self.detector(images).undecoded


def make_raw(checkpoint: Path) -> None:
    """A checkpoint as a YOLOX file without manifest; its weights are stored in float16 and computed in float32."""
    detector = load_detector(checkpoint)
    target = HERE / "yolox"
    target.mkdir(exist_ok=True)
    image = torch.zeros(1, 3, *detector.config.preprocessing.size_hw)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            RawRows(fold_for_inference(detector)).eval(),
            (image,),
            str(target / "blood_cells_raw.onnx"),
            opset_version=17,
            input_names=["images"],
            output_names=["output"],
            dynamo=False,
        )
    model = onnxslim.slim(onnx.load(target / "blood_cells_raw.onnx"))
    assert isinstance(model, onnx.ModelProto)
    del model.graph.value_info[:]
    del model.metadata_props[:]
    store_in_half(model.graph)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target / "blood_cells_raw.onnx")
    (target / "coco_classes.txt").write_text("".join(f"{name}\n" for name in detector.config.class_names))


def store_in_half(graph: onnx.GraphProto) -> None:
    """Kernels become float16 with a Cast behind them."""
    casts = []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim == 4:
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
            casts.append(helper.make_node("Cast", [f"{name}_half"], [name], f"{name}_cast", to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def main() -> None:
    shared, *parts = sys.argv[1:]
    if shared == "raw":
        make_raw(Path(parts[0]))
        return
    makers = {"cells": make_cells, "clips": make_clips, "cubes": make_cubes, "coco": make_coco}
    makers |= {"reference": make_reference}
    for part in parts or makers:
        makers[part](Path(shared))


if __name__ == "__main__":
    main()
