"""`handeye render-dataset` as a command: files, counts, and mistakes told in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from handeye.tools.command_line import run_command
from handeye.tools.render_dataset import summarise


def test_command_writes_the_set_and_its_counts(tmp_path: Path) -> None:
    output, report = tmp_path / "set", tmp_path / "report.json"
    words = f"render-dataset --output {output} --images 2 --seed 3 --renderer rays --workers 1 --json {report}"
    assert run_command(words.split()) == 0
    annotations, counts = json.loads((output / "annotations.json").read_text()), json.loads(report.read_text())
    assert counts["images"] == len(annotations["images"]) == 2
    assert sum(counts["boxes"].values()) + counts["ignored"] == len(annotations["annotations"])
    assert annotations["info"]["profile"] == "train"


@pytest.mark.parametrize("mistake", ["--images 0", "--workers 0", "--seed -1"])
def test_wrong_numbers_end_with_one_line(tmp_path: Path, mistake: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(f"render-dataset --output {tmp_path} {mistake}".split()) == 2
    complaint = capsys.readouterr()
    text = (complaint.out + complaint.err).strip()
    assert mistake.split()[0] in text
    assert not list(tmp_path.iterdir())


def test_another_set_in_the_folder_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "annotations.json").write_text('{"images": []}')
    assert run_command(f"render-dataset --output {tmp_path} --images 1 --renderer rays".split()) == 2
    captured = capsys.readouterr()
    assert "other settings" in " ".join((captured.out + captured.err).split())


def test_summary_counts_categories_ignored_and_empty_images() -> None:
    categories = [{"id": 1, "name": "red_cube"}, {"id": 2, "name": "green_cube"}]
    boxes = [
        {"image_id": 1, "category_id": 1, "iscrowd": 0},
        {"image_id": 1, "category_id": 1, "iscrowd": 1},
        {"image_id": 3, "category_id": 2, "iscrowd": 0},
    ]
    content = {"images": [{"id": 1}, {"id": 2}, {"id": 3}], "annotations": boxes, "categories": categories}
    expected = {"images": 3, "boxes": {"red_cube": 1, "green_cube": 1}, "ignored": 1, "empty_images": 1}
    assert summarise(content) == expected
