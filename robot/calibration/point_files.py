"""Read point pairs as YAML, JSON or CSV: each point in the camera by x, y, z, or by pixel and depth."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float

from handeye.robot.calibration.hand_eye import MAX_PLAUSIBLE_M
from handeye.robot.calibration.points import PointPairs
from handeye.robot.camera.intrinsics import Intrinsics
from handeye.robot.errors import CalibrationError
from handeye.vision.errors import UserError

KEYS = ("camera", "pixel", "depth_m", "base", "name")
_COLUMNS = {
    "camera": ("camera_x", "camera_y", "camera_z"),
    "base": ("base_x", "base_y", "base_z"),
    "pixel": ("pixel_u", "pixel_v"),
}


def load_point_pairs(path: Path, intrinsics: Intrinsics | None) -> PointPairs:
    """The pairs of a file; `intrinsics` are needed where it has pixels. Raises UserError naming file and entry."""
    rows = _rows_of_csv(path) if path.suffix.lower() == ".csv" else _rows_of_yaml(path)
    names, camera, base = [], [], []
    for number, row in enumerate(rows, 1):
        name = str(row.get("name") or number)
        try:
            unknown = sorted(set(map(str, row)) - set(KEYS))
            if unknown:
                raise ValueError(f"unknown {', '.join(unknown)}: expected {', '.join(KEYS)}")
            camera.append(_camera_point(row, intrinsics))
            base.append(_numbers(row, "base", 3))
        except ValueError as error:
            raise UserError(f"{path}: pair {name}: {error}") from error
        if name in names:
            raise UserError(f"{path}: pair {name}: the name is given twice")
        names.append(name)
    try:
        return PointPairs(np.array(camera).reshape(-1, 3), np.array(base).reshape(-1, 3), tuple(names))
    except CalibrationError as error:
        raise CalibrationError(f"{path}: {error}") from error


def _rows_of_yaml(path: Path) -> list[Mapping[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as pairs of points: {' '.join(str(error).split())}") from error
    rows = content.get("pairs") if isinstance(content, dict) else content
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: expected `pairs`, a list of mappings with {', '.join(KEYS)}")
    return rows


def _rows_of_csv(path: Path) -> list[Mapping[str, Any]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            given, columns = list(reader), [name.strip() for name in reader.fieldnames or []]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV: {error}") from error
    known = [column for group in _COLUMNS.values() for column in group]
    unknown = [column for column in columns if column not in (*known, "depth_m", "name")]
    if unknown or not columns:
        raise UserError(
            f"{path}: line 1: expected columns {', '.join(known)}, depth_m, name; got {', '.join(unknown) or 'nothing'}"
        )
    rows = []
    for line in given:
        cells = {(key or "").strip(): value for key, value in line.items()}
        row: dict[str, Any] = {key: cells[key] for key in ("depth_m", "name") if cells.get(key)}
        for key, group in _COLUMNS.items():
            if any(cells.get(column) for column in group):
                row[key] = [cells.get(column) for column in group]
        if "" in cells:
            row["more cells than columns"] = cells[""]
        rows.append(row)
    return rows


def _camera_point(row: Mapping[str, Any], intrinsics: Intrinsics | None) -> Float[np.ndarray, "3"]:
    if "camera" in row:
        if "pixel" in row or "depth_m" in row:
            raise ValueError("has camera and pixel or depth_m: expected one of them")
        return _numbers(row, "camera", 3)
    if "pixel" not in row:
        raise ValueError("expected camera (x, y, z in m), or pixel (u, v) and depth_m")
    pixel = _numbers(row, "pixel", 2)
    depth_m = float(_numbers({"depth_m": [row.get("depth_m")]}, "depth_m", 1)[0])
    if intrinsics is None:
        raise ValueError("has a pixel: give the camera's file as --camera")
    if not 0.0 < depth_m <= MAX_PLAUSIBLE_M:
        hint = ", is it in millimetres?" if depth_m > 0.0 else ""
        raise ValueError(f"depth_m is {depth_m:g}: expected metres above 0 and up to {MAX_PLAUSIBLE_M:g}{hint}")
    height, width = intrinsics.size_hw
    if not (-0.5 <= pixel[0] <= width - 0.5 and -0.5 <= pixel[1] <= height - 0.5):
        raise ValueError(f"pixel {pixel.tolist()} is outside the image of {width} x {height}")
    point = intrinsics.unproject(pixel, np.array(depth_m))
    if not np.isfinite(point).all():
        raise ValueError(f"pixel {pixel.tolist()} lies where the lens's distortion model folds over")
    return point


def _numbers(row: Mapping[str, Any], key: str, count: int) -> Float[np.ndarray, " count"]:
    given = row.get(key)
    try:
        if isinstance(given, str) or any(isinstance(value, bool) for value in given or []):
            raise ValueError
        numbers = np.array([float(value) for value in given or []], dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if len(numbers) != count or not np.isfinite(numbers).all():
        expected = "a finite number" if count == 1 else f"{count} finite numbers"
        raise ValueError(f"{key}: expected {expected}, got {given[0] if given and count == 1 else given}")
    return numbers
