"""Rendered data sets: each image follows from (seed, index), the files are COCO, and an interrupted run goes on."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from handeye.robot.config import WorkCellConfig
from handeye.robot.simulator import dataset
from handeye.robot.simulator.dataset import DatasetSettings, render_dataset
from handeye.robot.simulator.labels import label_objects
from handeye.robot.simulator.objects import CUBE_CLASSES, Profile
from handeye.robot.simulator.ray_renderer import RayRenderer
from handeye.robot.simulator.renderers import RendererKind
from handeye.robot.simulator.samples import SampleRenderer, View, pose_scene
from handeye.vision.errors import DatasetError

SETTINGS = DatasetSettings(3, seed=5, renderer=RendererKind.RAYS)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("rendered")
    render_dataset(output, SETTINGS, workers=1)
    return output


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_image_depends_on_seed_and_index_only(cell: WorkCellConfig) -> None:
    used, fresh = (SampleRenderer(cell, Profile.TRAIN, RendererKind.RAYS) for _ in range(2))
    before, wanted = used.render(9, 0), used.render(9, 1)
    again = fresh.render(9, 1)
    np.testing.assert_array_equal(again.image_rgb, wanted.image_rgb)
    assert again.labels == wanted.labels
    assert np.any(before.image_rgb != wanted.image_rgb)
    assert np.any(fresh.render(10, 1).image_rgb != wanted.image_rgb)


def test_files_are_coco(rendered: Path, cell: WorkCellConfig) -> None:
    truth = COCO(str(rendered / "annotations.json"))
    assert [truth.cats[number]["name"] for number in (1, 2, 3, 4)] == list(CUBE_CLASSES)
    assert len(truth.imgs) == SETTINGS.images
    assert sorted(path.name for path in (rendered / "images").iterdir()) == [f"{i:06d}.jpg" for i in range(3)]
    assert not (rendered / ".labels").exists()
    for image in truth.imgs.values():
        pixels = cv2.imread(str(rendered / "images" / image["file_name"]))
        assert pixels is not None
        assert pixels.shape[:2] == (image["height"], image["width"]) == (480, 640)
    for annotation in truth.anns.values():
        left, top, width, height = annotation["bbox"]
        assert left >= 0
        assert top >= 0
        assert left + width <= 640
        assert top + height <= 480
        assert 0 < annotation["area"] <= width * height
        assert annotation["iscrowd"] in (0, 1)


@pytest.mark.slow
def test_workers_give_the_same_files_as_one_process(rendered: Path, tmp_path: Path) -> None:
    render_dataset(tmp_path, SETTINGS, workers=2)
    assert files_of(tmp_path) == files_of(rendered)


def test_interrupted_run_goes_on_and_ends_with_the_same_files(
    rendered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    done: list[int] = []
    render_one = dataset._render_one

    def render_first(output: Path, settings: DatasetSettings, index: int) -> int:
        if len(done) == 1:
            raise KilledError
        done.append(index)
        return render_one(output, settings, index)

    monkeypatch.setattr(dataset, "_render_one", render_first)
    with pytest.raises(KilledError):
        render_dataset(tmp_path, SETTINGS, workers=1)
    assert not (tmp_path / "annotations.json").exists()
    # A kill between image and labels leaves an image that does not count.
    (tmp_path / "images" / "000002.jpg").write_bytes(b"half an image")
    monkeypatch.setattr(dataset, "_render_one", render_one)
    counted: list[None] = []
    render_dataset(tmp_path, SETTINGS, workers=1, on_image=lambda: counted.append(None))
    assert len(counted) == SETTINGS.images
    assert files_of(tmp_path) == files_of(rendered)


def test_finished_set_is_returned_and_another_refused(rendered: Path) -> None:
    before = files_of(rendered)
    again = render_dataset(rendered, SETTINGS, workers=1)
    assert again == json.loads((rendered / "annotations.json").read_text())
    assert files_of(rendered) == before
    with pytest.raises(DatasetError, match="other settings"):
        render_dataset(rendered, DatasetSettings(3, seed=6, renderer=RendererKind.RAYS), workers=1)


@pytest.mark.parametrize("view", list(View))
@pytest.mark.parametrize("profile", list(Profile))
def test_views_show_what_they_promise(cell: WorkCellConfig, view: View, profile: Profile) -> None:
    renderer, found = RayRenderer(cell.camera), []
    for seed in range(2):
        scene = pose_scene(cell, profile, view, np.random.default_rng(seed))
        renderer.load(scene)
        geom_ids = renderer.segment(scene.data)
        found += label_objects(scene, geom_ids, cell.camera, clutter=False)
        names = {scene.model.geom(int(geom)).name for geom in np.unique(geom_ids) if geom >= 0}
        assert {"pad_left", "pad_right"} & names
        if view is View.BIN:
            assert any(name.startswith("bin") for name in names)
        for contact in scene.data.contact[: scene.data.ncon]:
            pair = {scene.model.geom(int(geom)).name for geom in contact.geom}
            assert not ("table" in pair and any(name.startswith("pad") for name in pair) and contact.dist < -0.003)
    assert found or view is not View.HELD


def test_held_cube_is_seen_between_the_fingers(cell: WorkCellConfig) -> None:
    rng = np.random.default_rng(4)
    scene = pose_scene(cell, Profile.TRAIN, View.HELD, rng)
    renderer = RayRenderer(cell.camera)
    renderer.load(scene)
    labels = label_objects(scene, renderer.segment(scene.data), cell.camera, clutter=False)
    largest = max(labels, key=lambda label: label.visible_px)
    left, top, width, height = largest.box_xywh
    assert abs(left + width / 2 - 320) < 25
    assert top + height > 460
    assert not largest.is_ignored
