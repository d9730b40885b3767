"""Downloads from a server on this machine that behaves well, breaks off, lies, refuses or falls silent."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from handeye.vision.checkpoints.download import DownloadError, PublishedFile, cache_folder, download, mirrored

CONTENT = bytes(range(256)) * 4096
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Publisher(ThreadingHTTPServer):
    """Serves CONTENT at every path; the first part of the path says what goes wrong on the way."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.ranges: list[str | None] = []
        self.released = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    server: Publisher

    def do_GET(self) -> None:
        behaviour = self.path.split("/")[1]
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        if behaviour == "absent":
            return self.send_error(404)
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and behaviour != "whole_only" else 0
        if start >= len(CONTENT):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.end_headers()
        return self.send_content(behaviour, CONTENT[start:])

    def send_content(self, behaviour: str, content: bytes) -> None:
        if behaviour in {"truncated", "stalling"}:
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            if behaviour == "stalling":
                self.server.released.wait()
            self.close_connection = True
        elif behaviour == "changed":
            self.wfile.write(bytes(len(content)))
        else:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Says nothing."""


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with Publisher() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


def published(publisher: Publisher, behaviour: str, **known) -> PublishedFile:
    return PublishedFile(f"{publisher.address}/{behaviour}/weights.pth", **known)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_comes_whole_and_is_not_fetched_twice(publisher, tmp_path):
    file = published(publisher, "good", sha256_start=DIGEST[:8], size_bytes=len(CONTENT))
    told: list[tuple[int, int | None]] = []
    path = download(file, tmp_path / "new" / "cache", report=lambda here, total: told.append((here, total)))
    assert path.read_bytes() == CONTENT
    assert told[0] == (0, len(CONTENT))
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [here for here, _ in told] == sorted(here for here, _ in told)
    assert download(file, tmp_path / "new" / "cache") == path
    assert publisher.ranges == [None]
    assert names_in(path.parent) == ["weights.pth"]


def test_what_broke_off_goes_on_where_it_ended(publisher, tmp_path):
    known = {"sha256_start": DIGEST[:16]}
    with pytest.raises(DownloadError, match=r"ends after .* of 1,048,576 bytes; 524,288 bytes are kept"):
        download(published(publisher, "truncated", **known), tmp_path)
    assert names_in(tmp_path) == ["weights.pth.part"]
    assert download(published(publisher, "good", **known), tmp_path).read_bytes() == CONTENT
    assert publisher.ranges == [None, f"bytes={len(CONTENT) // 2}-"]
    assert names_in(tmp_path) == ["weights.pth"]


def test_a_server_that_cannot_resume_starts_anew(publisher, tmp_path):
    (tmp_path / "weights.pth.part").write_bytes(b"x" * 1000)
    path = download(published(publisher, "whole_only", sha256_start=DIGEST), tmp_path)
    assert path.read_bytes() == CONTENT


def test_a_part_that_is_the_whole_is_taken_as_it_is(publisher, tmp_path):
    (tmp_path / "weights.pth.part").write_bytes(CONTENT)
    assert download(published(publisher, "good", sha256_start=DIGEST), tmp_path).read_bytes() == CONTENT
    assert publisher.ranges == [f"bytes={len(CONTENT)}-"]


@pytest.mark.parametrize(
    ("known", "complaint"),
    [
        ({"sha256_start": DIGEST[:8]}, f"begins with {DIGEST[:8]}; removed"),
        ({"size_bytes": 7}, "got 1,048,576 bytes, expected 7; removed"),
    ],
)
def test_other_content_is_refused_and_removed(publisher, tmp_path, known, complaint):
    with pytest.raises(DownloadError, match=complaint):
        download(published(publisher, "changed", **known), tmp_path)
    assert names_in(tmp_path) == []


def test_a_damaged_file_in_the_cache_is_fetched_anew(publisher, tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"damaged")
    path = download(published(publisher, "good", sha256_start=DIGEST[:8]), tmp_path)
    assert path.read_bytes() == CONTENT


def test_an_absent_file_is_refused_with_the_servers_answer(publisher, tmp_path):
    with pytest.raises(DownloadError, match="the server answers 404 Not Found"):
        download(published(publisher, "absent"), tmp_path)
    assert names_in(tmp_path) == []


def test_a_silent_server_is_given_up_and_what_came_is_kept(publisher, tmp_path):
    with pytest.raises(DownloadError, match="no data for 1 s; .* bytes are kept") as refusal:
        download(published(publisher, "stalling"), tmp_path, timeout_s=1.0)
    part = (tmp_path / "weights.pth.part").read_bytes()  # half of it, where the machine is not so busy as to be silent
    assert 0 < len(part) <= len(CONTENT) // 2
    assert part == CONTENT[: len(part)]
    assert f"{len(part):,} bytes are kept" in str(refusal.value)
    publisher.released.set()
    assert download(published(publisher, "good", sha256_start=DIGEST), tmp_path).read_bytes() == CONTENT


def test_nobody_there_is_one_line(tmp_path):
    with pytest.raises(DownloadError, match=r"download failed: .*; nothing received") as refusal:
        download(PublishedFile("http://127.0.0.1:9/weights.pth"), tmp_path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("address", ["file:///etc/hosts", "ftp://127.0.0.1/a", "weights.pth"])
def test_only_the_web_is_fetched_from(tmp_path, address):
    with pytest.raises(DownloadError, match="begins with https://"):
        download(PublishedFile(address), tmp_path)


def test_a_mirror_keeps_name_and_hash(publisher, tmp_path):
    official = PublishedFile("https://example.org/releases/v1/weights.pth?download=1", sha256_start=DIGEST[:8])
    file = mirrored(official, f"{publisher.address}/good/")
    assert (file.name, file.sha256_start) == ("weights.pth", DIGEST[:8])
    assert download(file, tmp_path).read_bytes() == CONTENT


def test_the_folder_is_the_chosen_one_then_the_named_one_then_the_platforms(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("HANDEYE_CACHE", str(tmp_path / "named"))
    assert cache_folder(tmp_path / "chosen") == tmp_path / "chosen"
    assert cache_folder() == tmp_path / "named"
    monkeypatch.delenv("HANDEYE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "handeye"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "handeye"
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_folder() == tmp_path / "Library" / "Caches" / "handeye"
