"""What tests/data ships: small, with its licences, and the same as what it was made from."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

SAMPLES = Path(__file__).resolve().parent / "data"
Find = Callable[[str], Path]


def test_samples_are_small() -> None:
    sizes = {path: path.stat().st_size for path in SAMPLES.rglob("*") if path.is_file() and not path.is_symlink()}
    linked = {path for path in sizes if any(parent.is_symlink() for parent in path.parents)}
    assert sum(size for path, size in sizes.items() if path not in linked) < 10e6
    assert max(sizes.values()) < 2.5e6


RECORDED_HERE = ("bytetrack.npz",)
"""Recorded for the project itself, by the authors' program on made-up boxes; there is no longer recording."""


@pytest.mark.slow
def test_recordings_are_those_they_were_thinned_from(sample: Find, shared: Find) -> None:
    files = sorted(path for path in sample("reference").glob("*.npz") if path.name not in RECORDED_HERE)
    assert len(files) >= 10
    for file in files:
        whole, shipped = np.load(shared(f"reference/{file.name}")), np.load(file)
        names = {key for key in shipped if not key.endswith(".step")}
        assert names <= set(whole)
        assert all("smooth360x500" in key for key in set(whole) - names)
        for key in names:
            step = int(shipped[f"{key}.step"]) if f"{key}.step" in shipped else 1
            kept = whole[key][..., ::step, :] if step > 1 else whole[key]
            np.testing.assert_array_equal(shipped[key], kept, err_msg=f"{file.name}: {key}")


@pytest.mark.slow
def test_what_was_copied_is_unchanged(sample: Find, shared: Find) -> None:
    copies = {"bccd": "data/bccd", "coco_val2014_100": "data/coco_eval_val2014_100"}
    compared = 0
    for ours, theirs in copies.items():
        for path in sample(ours).rglob("*"):
            relative = path.relative_to(sample(ours))
            if path.is_dir() or relative.parts[0] in ("yolo", "coco_json", "ImageSets"):
                continue
            content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            assert content == (shared(theirs) / str(relative).removesuffix(".gz")).read_bytes(), path
            compared += 1
    assert compared == 2 * 13 + 1 + 3
