"""Videos are whole or absent."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from handeye.vision.runtime.video_writer import VideoWriter

FRAME = np.zeros((48, 64, 3), np.uint8)


def test_the_file_appears_when_the_writer_closes(tmp_path: Path):
    path = tmp_path / "deeper" / "film.mp4"
    with VideoWriter(path, fps=10.0) as writer:
        writer.write(FRAME)
        assert not path.exists()
    assert path.stat().st_size > 0
    assert list(path.parent.iterdir()) == [path]


def test_an_error_in_the_block_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "film.mp4"
    path.write_bytes(b"the old film")

    def film() -> None:
        with VideoWriter(path, fps=10.0) as writer:
            writer.write(FRAME)
            raise RuntimeError("something happened meanwhile")

    with pytest.raises(RuntimeError, match="meanwhile"):
        film()
    assert path.read_bytes() == b"the old film"
    assert list(tmp_path.iterdir()) == [path]


def test_no_image_leaves_no_file(tmp_path: Path):
    with VideoWriter(tmp_path / "film.mp4", fps=10.0):
        pass
    assert list(tmp_path.iterdir()) == []


def test_images_of_another_size_and_impossible_rates_are_rejected(tmp_path: Path):
    with VideoWriter(tmp_path / "film.mp4", fps=10.0) as writer:
        writer.write(FRAME)
        with pytest.raises(ValueError, match=r"\(48, 64\)"):
            writer.write(np.zeros((50, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="frame rate"):
        VideoWriter(tmp_path / "film.mp4", fps=0.0)


def brightness_of(path: Path) -> list[int]:
    """The mean of each frame to the next ten."""
    film, means = cv2.VideoCapture(str(path)), []
    while (read := film.read())[0]:
        means.append(round(float(read[1].mean()), -1))
    return means


def test_images_of_an_unsteady_source_are_shown_at_their_times(tmp_path: Path):
    """At 10 Hz: one at once, one a second later, one too soon after it, one after a half."""
    path = tmp_path / "film.mp4"
    with VideoWriter(path, fps=10.0) as writer:
        for brightness, stamp_s in ((0, 100.0), (100, 101.0), (250, 101.02), (200, 101.5)):
            writer.write_at(np.full((48, 64, 3), brightness, np.uint8), stamp_s)
    assert brightness_of(path) == [0] * 10 + [100] * 5 + [200]


def test_images_of_a_steady_source_are_all_shown_once(tmp_path: Path):
    path = tmp_path / "film.mp4"
    shades = list(range(0, 240, 40))
    with VideoWriter(path, fps=30.0) as writer:
        for number, brightness in enumerate(shades):
            writer.write_at(np.full((48, 64, 3), brightness, np.uint8), 7.0 + number / 30.0 + 0.01 * (number % 2))
    assert brightness_of(path) == shades
