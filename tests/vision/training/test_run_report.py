"""One file with everything inside, at every stage of a run."""

from __future__ import annotations

import html.parser
import json

import numpy as np
import pytest
from accelerate import Accelerator

from handeye.vision.data.annotations import AnnotationSet, Categories
from handeye.vision.data.coco import read_coco
from handeye.vision.images import Preprocessing
from handeye.vision.runtime.detections import Detections
from handeye.vision.training.run_folder import RunFolder
from handeye.vision.training.run_record import RunRecord
from handeye.vision.training.run_report import write_run_report


class Page(html.parser.HTMLParser):
    """Collects the sources of the pictures, the headings and all text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.sources, self.headings, self.text, self._is_heading = [], [], "", False
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._is_heading = tag == "h2"
        self.sources += [value for key, value in attrs if key in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._is_heading:
            self.headings.append(data)
            self._is_heading = False


@pytest.fixture
def run(small_config, tmp_path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", small_config(seed=17))


def record_of(run: RunFolder, config, annotations: AnnotationSet) -> RunRecord:
    return RunRecord(config, run, Accelerator(), Preprocessing(), {"train": annotations, "val": annotations})


def evaluate(record: RunRecord, run: RunFolder, annotations: AnnotationSet, images, *, num_right: int) -> None:
    """An evaluation that finds everything in the first `num_right` images and nothing in the others."""
    detections = {}
    for number, image in enumerate(annotations.images):
        kept = len(image.boxes) if number < num_right else 0
        scores = np.full(kept, 0.75, np.float32)
        detections[image.image_id] = Detections(
            image.boxes.xyxy[:kept], scores, image.boxes.class_ids[:kept], annotations.categories.names
        )
    entry = {"epoch": 2, "step": 6, "AP": 0.5, "AP50": 0.625, "AP75": 0.25, "AP_of_class": {"red": 0.5}}
    run.metrics.append(entry)
    record.after_evaluation(entry, annotations, images, detections)


def test_a_run_that_has_only_begun_has_a_page(run):
    page = Page(write_run_report(run).read_text(encoding="utf-8"))
    assert "optimizer steps0" in page.text
    assert "seed17" in page.text
    assert page.sources == []


def test_pictures_that_a_killed_run_left_half_written_are_no_part_of_the_page(run, small_config, drawn_set):
    annotations = read_coco(drawn_set / "annotations.json")
    for name in ("batches", "worst"):
        (run.path / name).mkdir()
        (run.path / name / ".00.4711.partial.png").write_bytes(b"\x89PNG")
    record = record_of(run, small_config(), annotations)
    evaluate(record, run, annotations, drawn_set / "images", num_right=6)
    record.finish()
    assert len(Page(run.report.read_text(encoding="utf-8")).sources) == 8
    assert len(list((run.path / "worst").glob("[0-9]*.png"))) == 3


def test_everything_is_inside_the_page(run, small_config, drawn_set):
    annotations = read_coco(drawn_set / "annotations.json")
    record = record_of(run, small_config(), annotations)
    record.begin(0)
    run.steps.append({"step": 0, "lr": 0.1, "losses": {"total": 2.5, "box": 2.0}, "gradient_norm": 1.0})
    evaluate(record, run, annotations, drawn_set / "images", num_right=6)
    record.finish()
    page = Page(run.report.read_text(encoding="utf-8"))
    # Five plots and the three images in which nothing was found; nothing is fetched from elsewhere.
    assert len(page.sources) == 8
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in page.sources)
    assert {"Data", "Curves", "Classes", "Worst images", "Origin", "Configuration"} <= set(page.headings)
    for text in ("best AP0.5000 after epoch 2", "total 2.500, box 2.000", "6.png: F1 0.00, 0 wrong, 1 missed", "torch"):
        assert text in page.text
    evaluation = json.loads(run.evaluation.read_text())
    counts = np.array(evaluation["confusion"]["counts"])
    assert counts.sum() == annotations.num_boxes()
    assert counts[:2, 2].sum() == sum(len(image.boxes) for image in annotations.images[6:])


def test_pictures_of_an_earlier_evaluation_go(run, small_config, drawn_set):
    annotations = read_coco(drawn_set / "annotations.json")
    record = record_of(run, small_config(), annotations)
    for num_right, num_worst in ((3, 6), (8, 1), (9, 0)):
        evaluate(record, run, annotations, drawn_set / "images", num_right=num_right)
        assert len(list((run.path / "worst").glob("*.png"))) == num_worst


def test_names_cannot_break_the_page(run, small_config):
    names = Categories((1, 2), ("<script>alert(1)</script>", "a & b"))
    record_of(run, small_config(), AnnotationSet((), names)).begin(0)
    content = write_run_report(run).read_text(encoding="utf-8")
    assert "<script>" not in content
    assert "a & b 0" in Page(content).text
