"""Bundles: what goes in comes out, the same input gives the same bytes, and nothing that was changed is believed."""

from __future__ import annotations

import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from handeye.export.bundle import archive
from handeye.export.bundle.archive import open_bundle, write_bundle
from handeye.export.bundle.index import BundleError, VersionRange
from handeye.export.bundle.pack import make_bundle
from handeye.vision.errors import ModelFileError, UserError
from handeye.vision.images import decode_image
from tests.vision.runtime.tiny_models import empty_rows, write_model

SIZE = (64, 96)


def images(count: int = 2) -> list[np.ndarray]:
    return [np.full((48, 64, 3), 40 * number, np.uint8) for number in range(count)]


def one_ball() -> np.ndarray:
    rows = empty_rows(SIZE)
    rows[5] = [30, 20, 20, 10, 0.9, 0.1, 0.8, 0.0]
    return rows


@pytest.fixture
def models(tmp_path: Path) -> dict:
    for name in ("model", "model.int8"):
        write_model(tmp_path / f"{name}.onnx", one_ball(), SIZE, name="model")
    return {"float32": tmp_path / "model.onnx", "int8": tmp_path / "model.int8.onnx"}


@pytest.fixture
def bundle(tmp_path: Path, models: dict) -> Path:
    make_bundle(tmp_path / "b.zip", models, images())
    return tmp_path / "b.zip"


def test_everything_comes_back(bundle: Path, models: dict):
    opened = open_bundle(bundle)
    assert [model.precision for model in opened.index.models] == ["float32", "int8"]
    for model in opened.index.models:
        assert opened.read(model.file) == models[model.precision].read_bytes()
        assert list(model.golden) == list(opened.index.images)
        for name, image in zip(opened.index.images, images(), strict=True):
            np.testing.assert_array_equal(decode_image(opened.read(name), name), image)
            found = model.golden[name].detections(opened.index.class_names)
            assert found.names == ["ball"]
            np.testing.assert_allclose(found.scores, 0.72, atol=1e-6)
    assert "onnxruntime" in opened.index.made_by
    for name in (
        "README.txt",
        "build_engines.sh",
        "requirements/jetpack6-cp310.txt",
        "requirements/jetpack7-cp312.txt",
    ):
        assert opened.read(name)
    script = opened.read("build_engines.sh").decode()
    assert "trtexec --onnx=models/int8.onnx --saveEngine=plans/int8.plan --stronglyTyped" in script


def test_the_same_input_gives_the_same_bytes(bundle: Path, tmp_path: Path, models: dict):
    make_bundle(tmp_path / "again.zip", models, images())
    assert (tmp_path / "again.zip").read_bytes() == bundle.read_bytes()


def test_one_flipped_bit_anywhere_is_noticed(bundle: Path, tmp_path: Path):
    """The zip file's directory and seal, where no file's own hash reaches, and a sample of the rest."""
    content, chance = bundle.read_bytes(), random.Random(0)
    directory = content.find(b"PK\x01\x02")
    positions = [*range(directory, len(content), 2), *chance.sample(range(directory), 100)]
    changed = tmp_path / "changed.zip"
    for position in positions:
        flipped = bytearray(content)
        flipped[position] ^= 1 << chance.randrange(8)
        changed.write_bytes(flipped)
        with pytest.raises(BundleError):
            open_bundle(changed)
    assert open_bundle(bundle)


def test_every_cut_is_noticed(bundle: Path, tmp_path: Path):
    content = bundle.read_bytes()
    for length in (0, 1, 100, len(content) // 2, len(content) - 65, len(content) - 1):
        (tmp_path / "cut.zip").write_bytes(content[:length])
        with pytest.raises(BundleError, match="damaged or no bundle|changed after"):
            open_bundle(tmp_path / "cut.zip")


def repacked(bundle: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]]) -> Path:
    """A zip file with changed content, written by another program than ours."""
    with zipfile.ZipFile(bundle) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    path = bundle.with_name("repacked.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in change(contents).items():
            archive.writestr(name, content)
    return path


def without(name: str) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda contents: {key: value for key, value in contents.items() if key != name}


def changed_index(**changes: object) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda contents: (
        contents | {"bundle.json": json.dumps(json.loads(contents["bundle.json"]) | changes).encode()}
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without("models/int8.onnx"), r"models/int8\.onnx: missing from the bundle"),
        (without("golden/0002.png"), r"golden/0002\.png: missing"),
        (without("bundle.json"), r"is no bundle: bundle\.json is missing"),
        (lambda contents: contents | {"models/int8.onnx": b"x"}, r"models/int8\.onnx is damaged: its length"),
        (
            lambda contents: contents | {"README.txt": contents["README.txt"].swapcase()},
            r"README\.txt is damaged: its SHA-256",
        ),
        (lambda contents: contents | {"more.txt": b""}, r"more\.txt: not in the index"),
        (lambda contents: contents | {"../escape": b""}, "'../escape' points out of the bundle"),
        (lambda contents: contents | {"golden/../../escape": b""}, "points out of the bundle"),
        (lambda contents: contents | {"/etc/passwd": b""}, "'/etc/passwd' points out of the bundle"),
        (lambda contents: contents | {"C:/Windows/x": b""}, "points out of the bundle"),
        (lambda contents: contents | {"folder/": b""}, "a folder or a link"),
        (changed_index(format_version=2), "is a bundle of format 2; this handeye reads format 1"),
        (changed_index(models=[]), r"bundle\.json is damaged"),
        (lambda contents: contents | {"bundle.json": b"[]"}, r"bundle\.json is damaged"),
        (lambda contents: contents | {"bundle.json": b"\xff"}, r"bundle\.json is damaged"),
        (lambda contents: contents, "was changed after it was written"),
    ],
)
def test_changed_content_is_refused_with_the_reason(bundle: Path, change, reason: str):
    with pytest.raises(BundleError, match=reason):
        open_bundle(repacked(bundle, change))


def test_backslashes_links_and_twins_are_refused(bundle: Path):
    def add(info: zipfile.ZipInfo) -> Path:
        path = bundle.with_name("added.zip")
        path.write_bytes(bundle.read_bytes())
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(info, b"target")
        return path

    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with pytest.raises(BundleError, match="a folder or a link"):
        open_bundle(add(link))
    with pytest.raises(BundleError, match="points out of the bundle"):
        open_bundle(add(zipfile.ZipInfo("a\\b")))
    with pytest.warns(UserWarning, match="Duplicate"), pytest.raises(BundleError, match="two files of one name"):
        open_bundle(add(zipfile.ZipInfo("README.txt")))


def test_a_bundle_that_claims_to_be_huge_is_not_unpacked(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archive, "MAX_BYTES", 100)
    with pytest.raises(BundleError, match="claims to unpack to more"):
        open_bundle(bundle)


def test_other_files_are_no_bundles(tmp_path: Path):
    (tmp_path / "text.zip").write_text("no zip file")
    with pytest.raises(BundleError, match="damaged or no bundle"):
        open_bundle(tmp_path / "text.zip")
    with pytest.raises(BundleError, match="cannot be read"):
        open_bundle(tmp_path / "absent.zip")


def test_models_of_two_detectors_are_not_packed_together(tmp_path: Path, models: dict):
    write_model(models["int8"], one_ball(), SIZE, name="model", class_names=("cube", "ball", "box"))
    with pytest.raises(ModelFileError, match="is not the detector of .*: class_names"):
        make_bundle(tmp_path / "b.zip", models, images())
    assert not (tmp_path / "b.zip").exists()


def test_golden_images_must_prove_something(tmp_path: Path, models: dict):
    with pytest.raises(UserError, match="needs golden images"):
        make_bundle(tmp_path / "b.zip", models, [])
    write_model(models["float32"], empty_rows(SIZE), SIZE)
    with pytest.raises(UserError, match="detects nothing in any of the 2 golden images"):
        make_bundle(tmp_path / "b.zip", {"float32": models["float32"]}, images())


def test_only_handeyes_own_wheel_is_packed(tmp_path: Path, models: dict):
    wheel = tmp_path / "handeye-0.1.0-py3-none-any.whl"
    with pytest.raises(UserError, match="expected handeye's own wheel"):
        make_bundle(tmp_path / "b.zip", models, images(), wheel=wheel)
    wheel.write_bytes(b"wheel")
    make_bundle(tmp_path / "b.zip", models, images(), wheel=wheel)
    opened = open_bundle(tmp_path / "b.zip")
    assert opened.read(f"wheels/{wheel.name}") == b"wheel"
    assert f"install --no-deps wheels/{wheel.name}" in opened.read("README.txt").decode()


def test_a_full_disk_leaves_the_old_bundle(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    before = bundle.read_bytes()
    opened = open_bundle(bundle)

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", fail)
    with pytest.raises(OSError, match="No space"):
        write_bundle(bundle, opened.index, {"README.txt": b"new"})
    assert bundle.read_bytes() == before


def test_version_ranges_compare_numbers():
    versions = VersionRange(oldest="10.3", before="12")
    assert [versions.admits(version) for version in ("10.2.9", "10.3.0", "10.16.1.11", "11.4.0", "12.0.0")] == [
        False,
        True,
        True,
        True,
        False,
    ]
    assert str(versions) == "10.3 or newer, before 12"
    assert VersionRange(oldest="1.18").admits("99.0")
