"""`handeye download`: from a mirror on this machine into the cache, mistakes in one line with exit code 2."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from handeye.tools.command_line import run_command
from handeye.tools.download import file_of
from handeye.vision.checkpoints.download import PublishedFile
from handeye.vision.checkpoints.zoo import published_models


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    """The address of a folder that holds a file named as YOLOX-nano's weights."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (shelf / "yolox_nano.pth").write_bytes(b"weights")
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=str(shelf))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_model_comes_from_a_mirror_into_the_cache(mirror, tmp_path, capsys):
    words = ["download", "yolox_nano", "--mirror", mirror, "--cache", str(tmp_path / "cache")]
    assert run_command([*words, "--json", str(tmp_path / "d.json")]) == 0
    path = tmp_path / "cache" / "yolox_nano.pth"
    assert path.read_bytes() == b"weights"
    summary = json.loads((tmp_path / "d.json").read_text())
    assert summary == {
        "name": "yolox_nano",
        "path": str(path),
        "address": f"{mirror}/yolox_nano.pth",
        "checked": False,
        "bytes": 7,
    }
    printed = capsys.readouterr().out
    assert "no hash" in printed
    assert f"handeye import yolox_nano {path}" in printed


def test_the_environment_names_the_cache_too(mirror, tmp_path, monkeypatch):
    monkeypatch.setenv("HANDEYE_CACHE", str(tmp_path / "named"))
    assert run_command(["download", "yolox_nano", "--mirror", mirror]) == 0
    assert (tmp_path / "named" / "yolox_nano.pth").is_file()


def test_a_known_hash_is_checked(mirror, tmp_path, monkeypatch, capsys):
    digest = hashlib.sha256(b"weights").hexdigest()
    words = ["download", "yolox_nano", "--mirror", mirror, "--cache", str(tmp_path / "cache")]
    address = published_models()["yolox_nano"].weights.address
    monkeypatch.setattr("handeye.tools.download.file_of", lambda _: PublishedFile(address, sha256_start=digest[:8]))
    assert run_command(words) == 0
    assert ": checked" in capsys.readouterr().out
    monkeypatch.setattr("handeye.tools.download.file_of", lambda _: PublishedFile(address, sha256_start="00000000"))
    assert run_command(words) == 2
    assert "begins with 00000000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["yolox_huge"], "expected one of yolox_nano"),
        (["yolox_s"], "the server answers 404"),
        (["yolox_nano", "--timeout-s", "0"], "expected a time above 0"),
    ],
)
def test_mistakes_end_in_one_line_and_exit_code_2(mirror, tmp_path, capsys, words, complaint):
    assert run_command(["download", *words, "--mirror", mirror, "--cache", str(tmp_path / "cache")]) == 2
    printed = capsys.readouterr().err
    assert complaint in printed
    assert printed.count("\n") == 1


def test_backbones_can_be_fetched_by_name():
    assert file_of("resnet50").name == "resnet50-0676ba61.pth"
    assert file_of("resnet50").sha256_start == "0676ba61"
