"""A drive drawn from numbers and written in KITTI's format: cars that keep their lane, pass, turn and stand.

The boxes in the image are OpenCV's projection of the corners as KITTI defines them; nothing here is ours.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

NUM_FRAMES = 60
FRAME_S = 0.1
SIZE_WH = np.array([1242.0, 375.0])
K = np.array([[721.5, 0.0, 609.6], [0.0, 721.5, 172.9], [0.0, 0.0, 1.0]])
OFFSET = np.array([0.06, -0.0003, 0.0027])
GROUND_Y_M = 1.65
NEAREST_M, FARTHEST_M = 6.0, 38.0
FALSE_PER_FRAME = 0.4
CAR = 2
"""The number of the class in files of detections."""


def draw_cars(rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray, float, np.ndarray]]:
    """Of each car: where it is at the start (x, z), its velocity, its turn (rad/s) and its height, width, length."""
    cars = []
    for lane, speed in ((-5.0, -8.0), (-5.0, -8.0), (-1.8, 4.0), (1.8, 3.0), (5.5, 0.0), (5.5, 0.0), (-8.5, 0.0)):
        start = rng.uniform(10.0, 34.0) + (25.0 if speed < -5.0 else 0.0)
        turn = 0.0 if speed <= 0.0 else rng.uniform(-0.15, 0.15)
        place = np.array([lane + rng.uniform(-0.3, 0.3), start])
        cars.append((place, np.array([0.0, speed]), turn, rng.uniform([1.4, 1.6, 3.6], [1.7, 1.8, 4.6])))
    return cars


def image_box(hwl: np.ndarray, location: np.ndarray, rotation_y: float) -> np.ndarray:
    """The box around the projected corners, not cut at the edges of the image."""
    h, w, length = hwl
    x, z = 0.5 * length * np.array([1, 1, -1, -1]), 0.5 * w * np.array([1, -1, -1, 1])
    corners = np.concatenate([np.stack([x, np.full(4, y), z], axis=1) for y in (0.0, -h)])
    pixels, _ = cv2.projectPoints(corners, np.array([0.0, rotation_y, 0.0]), location + OFFSET, K, np.zeros(5))
    return np.concatenate([pixels[:, 0].min(axis=0), pixels[:, 0].max(axis=0)])


def write_drive(folder: Path, number: str, seed: int) -> None:
    """label_02, det_pointrcnn_Car and calib of one drive."""
    rng = np.random.default_rng(seed)
    cars, labels, found = draw_cars(rng), [], []
    for frame in range(NUM_FRAMES):
        for track_id, (start, velocity, turn, hwl) in enumerate(cars):
            place, rotation_y = _place(start, velocity, turn, FRAME_S * frame)
            if not NEAREST_M < place[1] < FARTHEST_M:
                continue
            location = np.array([place[0], GROUND_Y_M, place[1]])
            box = image_box(hwl, location, rotation_y)
            cut = np.clip(box, 0.0, [*(SIZE_WH - 1), *(SIZE_WH - 1)])
            if (cut[2:] - cut[:2]).min() <= 0.0:
                continue
            space = " ".join(f"{value:.7f}" for value in (*cut, *hwl, *location, rotation_y))
            labels.append(f"{frame} {track_id} Car {int((cut != box).any())} 0 0 {space}")
            if rng.random() < 0.95 - 0.01 * max(place[1] - 20.0, 0.0):
                found.append(_detection(rng, frame, hwl, location, rotation_y, 6.5 - place[1] / 12.0))
        for _ in range(rng.poisson(FALSE_PER_FRAME)):
            location = np.array([rng.uniform(-9.0, 9.0), GROUND_Y_M, rng.uniform(NEAREST_M, 0.8 * FARTHEST_M)])
            found.append(_detection(rng, frame, np.array([1.5, 1.7, 4.0]), location, rng.uniform(-3.0, 3.0), 0.5))
    P = K @ np.column_stack([np.eye(3), OFFSET])
    lens = "P2: " + " ".join(repr(float(value)) for value in P.ravel())
    for name, lines in (("label_02", labels), ("det_pointrcnn_Car", found), ("calib", [lens])):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / f"{number}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _place(start: np.ndarray, velocity: np.ndarray, turn: float, time_s: float) -> tuple[np.ndarray, float]:
    """Where a car is that drives a circle, and KITTI's angle of its heading: (cos, -sin) in (x, z)."""
    forward = velocity if velocity.any() else np.array([0.0, 1.0])
    heading = float(np.arctan2(forward[1], forward[0])) + turn * time_s
    speed = float(np.linalg.norm(velocity))
    if turn:
        first = heading - turn * time_s
        path = speed / turn * np.array([np.sin(heading) - np.sin(first), np.cos(first) - np.cos(heading)])
    else:
        path = velocity * time_s
    return start + path, -heading


def _detection(
    rng: np.random.Generator, frame: int, hwl: np.ndarray, location: np.ndarray, rotation_y: float, score: float
) -> str:
    """An inexact box; its front and back are sometimes confused."""
    hwl = hwl * (1.0 + rng.normal(0, 0.03, 3))
    location = location + rng.normal(0, [0.12, 0.05, 0.2])
    rotation_y = rotation_y + rng.normal(0, 0.05) + np.pi * (rng.random() < 0.03)
    values = (*image_box(hwl, location, rotation_y), rng.normal(score, 1.2), *hwl, *location, rotation_y, 0.0)
    return f"{frame},{CAR}," + ",".join(f"{value:.4f}" for value in values)
