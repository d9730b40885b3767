"""Preprocessing against recorded outputs of the official code, boxes there and back, and every kind of image file."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from handeye.vision.config import validate_config
from handeye.vision.errors import ConfigError, SourceError
from handeye.vision.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preprocessing,
    at_fixed_size,
    decode_image,
    preprocess,
    read_image,
    resize_antialiased,
    resize_transform,
)

RECORDED = ("noise97x143", "noise360x500", "noise720x1280", "smooth360x500")


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def recorded_preprocessing(shared, reference) -> Callable[[str], Mapping[str, np.ndarray]]:
    """What the official codes make of an image of that name; the smooth one, half a megabyte, is in ../shared alone."""
    return lambda name: np.load(
        shared("reference/prepost.npz") if name.startswith("smooth") else reference("prepost.npz")
    )


@pytest.mark.parametrize("side", [416, 640])
@pytest.mark.parametrize("name", RECORDED)
def test_official_yolox_preprocessing_is_reproduced(recorded_preprocessing, name: str, side: int):
    recorded = recorded_preprocessing(name)
    if name.startswith("noise"):
        height, width = map(int, name.removeprefix("noise").split("x"))
        image_bgr = random_image(height, width, seed=12)
    else:
        image_bgr = recorded[f"image.{name}"]
    key = f"yolox.{side}.{name}"
    values, transform = preprocess(np.ascontiguousarray(image_bgr[..., ::-1]), Preprocessing(size_hw=(side, side)))
    middle = slice(side // 2, side // 2 + 12)
    assert values.shape == tuple(recorded[f"{key}.shape"])
    np.testing.assert_array_equal(values[:, :12, :12], recorded[f"{key}.tl"])
    np.testing.assert_array_equal(values[:, middle, middle], recorded[f"{key}.mid"])
    np.testing.assert_array_equal(values[:, -12:, -12:], recorded[f"{key}.br"])
    np.testing.assert_allclose(values.mean(axis=(1, 2), dtype=np.float64), recorded[f"{key}.mean"], rtol=1e-6)
    assert transform.scale_x == transform.scale_y == pytest.approx(float(recorded[f"{key}.ratio"]), abs=0)


ANTIALIASED = {
    "rtdetr": Preprocessing(size_hw=(640, 640), resize="stretch", antialias=True, colour="rgb", scale=1 / 255),
    "detr": Preprocessing(
        size_hw=(800, 1333),
        resize="shorter_side",
        antialias=True,
        colour="rgb",
        scale=1 / 255,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ),
}


@pytest.mark.parametrize("network", ANTIALIASED)
@pytest.mark.parametrize("name", RECORDED)
def test_official_preprocessing_with_antialias_is_reproduced(recorded_preprocessing, name: str, network: str):
    """To one step of 8-bit values, where PIL's whole-number arithmetic rounds otherwise, and few pixels have that."""
    recorded = recorded_preprocessing(name)
    if name.startswith("noise"):
        height, width = map(int, name.removeprefix("noise").split("x"))
        image_rgb = random_image(height, width, seed=12)
    else:
        image_rgb = recorded[f"image.{name}"]
    values, _ = preprocess(image_rgb, ANTIALIASED[network])
    key = f"{network}.{name}"
    assert values.shape == tuple(recorded[f"{key}.shape"])
    _, height, width = values.shape
    rows, columns = slice(height // 2, height // 2 + 12), slice(width // 2, width // 2 + 12)
    std = np.array(ANTIALIASED[network].std, np.float32)[:, None, None]
    differences = [
        np.abs(crop - recorded[f"{key}.{place}"]) * std * 255
        for place, crop in (
            ("tl", values[:, :12, :12]),
            ("mid", values[:, rows, columns]),
            ("br", values[:, -12:, -12:]),
        )
    ]
    assert np.max(differences) < 1.001
    assert np.mean(np.array(differences) > 0.5) < 0.05
    means, spreads = values.mean(axis=(1, 2), dtype=np.float64), values.std(axis=(1, 2), dtype=np.float64)
    np.testing.assert_allclose(means, recorded[f"{key}.mean"], atol=3e-4)
    np.testing.assert_allclose(spreads, recorded[f"{key}.std"], atol=3e-4)


def test_the_size_rule_of_detr(reference):
    recorded = np.load(reference("prepost.npz"))
    for size_in, size_out in zip(recorded["detr.sizes_in_hw"], recorded["detr.sizes_out_hw"], strict=True):
        image_hw = (int(size_in[0]), int(size_in[1]))
        transform, resized_hw = resize_transform(image_hw, ANTIALIASED["detr"])
        assert resized_hw == transform.input_hw == tuple(size_out)
        corner = transform.boxes_to_input(np.array([[0, 0, image_hw[1], image_hw[0]]], np.float32))
        np.testing.assert_allclose(corner[0, 2:], size_out[::-1], rtol=1e-6)


@pytest.mark.parametrize("resized_hw", [(9, 14), (20, 30), (40, 45), (3, 90), (1, 1)])
def test_antialiased_resizing_is_torchs(resized_hw: tuple[int, int]):
    image = random_image(20, 30)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    expected = functional.interpolate(tensor, resized_hw, mode="bilinear", antialias=True)[0].permute(1, 2, 0)
    resized = resize_antialiased(image, resized_hw)
    assert resized.shape == (*resized_hw, 3)
    # Half a step of rounding for each direction.
    np.testing.assert_allclose(resized, expected, atol=1.001)


def test_at_a_fixed_size_nothing_follows_the_image():
    fixed = at_fixed_size(ANTIALIASED["detr"], (320, 352))
    for image_hw in ((100, 300), (300, 100)):
        values, transform = preprocess(random_image(*image_hw), fixed)
        assert values.shape[1:] == transform.input_hw == (320, 352)
    assert at_fixed_size(ANTIALIASED["rtdetr"], (640, 640)) == ANTIALIASED["rtdetr"]


def test_normalisation_is_the_formula_in_the_order_of_the_colours():
    image = random_image(20, 30)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    values, _ = preprocess(
        image, Preprocessing(size_hw=(20, 30), colour="rgb", scale=1 / 255, mean=mean, std=std, resize="stretch")
    )
    expected = (image / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(values, expected.transpose(2, 0, 1), atol=2e-6)


def test_a_given_buffer_is_filled_and_returned_and_stale_values_do_not_survive():
    buffer = np.full((3, 64, 64), np.nan, np.float32)
    values, _ = preprocess(random_image(10, 64), Preprocessing(size_hw=(64, 64)), out=buffer)
    assert values is buffer
    assert (values[:, 10:] == 114).all()
    fresh, _ = preprocess(random_image(10, 64), Preprocessing(size_hw=(64, 64)))
    np.testing.assert_array_equal(values, fresh)


sizes = st.integers(1, 3000)


@settings(max_examples=60, deadline=None)
@given(height=sizes, width=sizes, input_height=st.integers(16, 800), input_width=st.integers(16, 800), data=st.data())
def test_boxes_go_there_and_back(height, width, input_height, input_width, data):
    resize = data.draw(st.sampled_from(["letterbox", "stretch"]))
    transform, resized = resize_transform(
        (height, width), Preprocessing(size_hw=(input_height, input_width), resize=resize)
    )
    assert 1 <= resized[0] <= input_height
    assert 1 <= resized[1] <= input_width
    corners = np.array([data.draw(st.tuples(*[st.floats(0, 1, width=32)] * 4)) for _ in range(3)], np.float32)
    boxes = np.sort(corners.reshape(-1, 2, 2), axis=1).reshape(-1, 4)
    boxes *= np.array([width, height, width, height], np.float32)
    back = transform.boxes_to_image(transform.boxes_to_input(boxes))
    np.testing.assert_allclose(back, boxes, rtol=1e-5, atol=1e-3)


def test_boxes_are_clipped_to_the_image_by_default():
    transform, _ = resize_transform((100, 200), Preprocessing(size_hw=(400, 400)))
    beyond = np.array([[-10, -20, 500, 300]], np.float32)
    np.testing.assert_array_equal(transform.boxes_to_image(beyond), [[0, 0, 200, 100]])
    np.testing.assert_array_equal(transform.boxes_to_image(beyond, clip=False), [[-5, -10, 250, 150]])
    assert transform.boxes_to_image(np.zeros((0, 4), np.float32)).shape == (0, 4)


def test_an_object_lies_where_its_box_says_in_the_input():
    image = np.zeros((300, 500, 3), np.uint8)
    image[60:120, 200:350] = 255
    values, transform = preprocess(image, Preprocessing(size_hw=(416, 416)))
    inside = np.argwhere(values[0, : int(300 * transform.scale_y)] > 127)
    edges = np.concatenate([inside.min(axis=0)[::-1], inside.max(axis=0)[::-1] + 1])
    expected = transform.boxes_to_input(np.array([[200, 60, 350, 120]], np.float32))[0]
    np.testing.assert_allclose(edges, expected, atol=1)


def test_an_empty_image_and_nonsense_settings_are_rejected():
    with pytest.raises(ValueError, match="at least one pixel"):
        preprocess(np.zeros((0, 4, 3), np.uint8), Preprocessing())
    with pytest.raises(ConfigError, match="size_hw"):
        validate_config(Preprocessing, {"size_hw": [0, 416]}, origin="test")
    with pytest.raises(ConfigError, match=r"std\.1"):
        validate_config(Preprocessing, {"std": [1, 0, 1]}, origin="test")


def write(path: Path, image: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), image)
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp", ".ppm"])
def test_lossless_formats_come_back_as_rgb(tmp_path: Path, suffix: str):
    image = random_image(23, 31)
    options = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else []
    path = tmp_path / f"image{suffix}"
    assert cv2.imwrite(str(path), image[..., ::-1], options)
    np.testing.assert_array_equal(read_image(path), image)


def test_grey_alpha_and_16_bit_images_become_8_bit_rgb(tmp_path: Path):
    colours = random_image(8, 9)
    grey = read_image(write(tmp_path / "grey.png", colours[..., 0]))
    np.testing.assert_array_equal(grey, np.repeat(colours[..., :1], 3, axis=2))
    alpha = np.concatenate([colours[..., ::-1], np.full((8, 9, 1), 7, np.uint8)], axis=2)
    np.testing.assert_array_equal(read_image(write(tmp_path / "alpha.png", alpha)), colours)
    deep = colours[..., ::-1].astype(np.uint16) * 256 + 255
    np.testing.assert_array_equal(read_image(write(tmp_path / "deep.png", deep)), colours)
    # The TIFF decoder rounds where the PNG decoder cuts.
    assert np.abs(read_image(write(tmp_path / "deep.tif", deep)).astype(int) - colours).max() <= 1


def smooth_jpeg() -> bytes:
    return cv2.imencode(".jpg", cv2.resize(random_image(60, 80), (640, 480)))[1].tobytes()


def without_middle(jpeg: bytes) -> bytes:
    """Its decoder finds header and end, and fills what it misses with grey."""
    return jpeg[: len(jpeg) // 3] + jpeg[2 * len(jpeg) // 3 :]


def test_a_jpeg_without_its_middle_is_told_by_name(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    path = tmp_path / "lost.jpg"
    path.write_bytes(without_middle(smooth_jpeg()))
    with pytest.raises(SourceError, match=r"lost\.jpg: is damaged, part of the image is missing"):
        read_image(path)
    assert capfd.readouterr().err == ""


def test_a_damaged_jpeg_is_told_from_those_that_other_threads_decode(capfd: pytest.CaptureFixture[str]):
    whole = smooth_jpeg()
    damaged = without_middle(whole)

    def is_damaged(number: int) -> bool:
        try:
            decode_image(damaged if number % 7 == 3 else whole, f"{number}.jpg")
        except SourceError as error:
            return str(error).startswith(f"{number}.jpg: is damaged")
        return False

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(is_damaged, range(42))) == [number % 7 == 3 for number in range(42)]
    assert capfd.readouterr().err == ""
    print("after it all", file=sys.stderr)
    assert capfd.readouterr().err == "after it all\n"


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """Insert an EXIF segment with one entry, the orientation (0x0112)."""
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    segment = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


@pytest.mark.parametrize(("orientation", "turned"), [(1, 0), (6, -1), (3, 2), (8, 1)])
def test_exif_orientation_turns_the_image_upright(orientation: int, turned: int):
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:8, :8] = 255
    jpeg = cv2.imencode(".jpg", stored)[1].tobytes()
    upright = decode_image(with_orientation(jpeg, orientation), "test")
    expected = np.rot90(stored, turned)
    assert upright.shape == expected.shape
    assert np.abs(upright.astype(int) - expected).max() < 40


def test_files_that_are_no_image_are_reported_by_name(tmp_path: Path):
    cases = {
        "absent.jpg": None,
        "empty.jpg": b"",
        "text.png": b"this is no image",
        "page.html": b"<html></html>",
    }
    for name, content in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(SourceError, match=name) as caught:
            read_image(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(SourceError, match="cannot be read"):
        read_image(tmp_path)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_a_cut_off_file_is_an_error_and_not_a_grey_image(suffix: str, share: float):
    content = cv2.imencode(suffix, random_image(64, 80))[1].tobytes()
    with pytest.raises(SourceError, match="scene"):
        decode_image(content[: int(len(content) * share)], f"scene{suffix}")
    assert decode_image(content, "scene").shape == (64, 80, 3)


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_image():
    thumbnail = cv2.imencode(".jpg", random_image(8, 8))[1].tobytes()
    jpeg = cv2.imencode(".jpg", random_image(64, 80))[1].tobytes()
    segment = b"Exif\0\0" + thumbnail
    whole = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]
    assert decode_image(whole, "whole").shape == (64, 80, 3)
    assert decode_image(whole + b"trailing bytes of a camera", "whole").shape == (64, 80, 3)
    with pytest.raises(SourceError, match="cut off"):
        decode_image(whole[:-200], "cut")
