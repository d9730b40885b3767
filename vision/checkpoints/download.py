"""Download published weights into the cache: resumable, verified by size and SHA-256, renamed when complete.

Standard library only, so that it works where nothing but the run time is installed.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from handeye.vision.errors import UserError

CHUNK_BYTES = 1 << 18
Progress = Callable[[int, int | None], None]
"""Called after every chunk: bytes received, and the total where the server reports it."""


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """Address, size and checksum of a published file."""

    address: str
    size_bytes: int | None = None
    sha256_start: str | None = None
    """The first digits of the content's SHA-256, as far as published; None when not published."""

    @property
    def name(self) -> str:
        """The last part of the address."""
        return urlsplit(self.address).path.rpartition("/")[2]


class DownloadError(UserError):
    """A download failed, or its content is not the published one."""


def cache_folder(chosen: Path | None = None) -> Path:
    """The download cache: the folder chosen, else $HANDEYE_CACHE, else `handeye` in the platform's cache folder."""
    if chosen is not None:
        return Path(chosen)
    if named := os.environ.get("HANDEYE_CACHE"):
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "handeye"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "handeye"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "handeye"


def mirrored(file: PublishedFile, mirror: str) -> PublishedFile:
    """The same file on a mirror, under the same name."""
    return PublishedFile(f"{mirror.rstrip('/')}/{file.name}", file.size_bytes, file.sha256_start)


def download(
    file: PublishedFile, folder: Path, *, timeout_s: float = 30.0, report: Progress = lambda here, total: None
) -> Path:
    """Download the file into `folder` unless it is there already; return its path.

    A partial download is kept beside it as .part, and the next call resumes it. Raises
    DownloadError when the address cannot be read, no data arrive for timeout_s, the content ends early, or it
    is not the published one (then the partial file is removed).
    """
    if urlsplit(file.address).scheme not in {"http", "https"}:
        raise DownloadError(f"{file.address}: expected a URL that begins with https:// or http://")
    path = Path(folder) / file.name
    if path.is_file() and _fault(path, file) is None:
        return path
    part = path.with_name(f"{path.name}.part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        _fetch(file, part, timeout_s, report)
    except urllib.error.HTTPError as error:
        raise DownloadError(f"{file.address}: the server answers {error.code} {error.reason}") from error
    except TimeoutError as error:
        raise DownloadError(f"{file.address}: no data for {timeout_s:g} s; {_resume_hint(part)}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise DownloadError(f"{file.address}: download failed: {reason}; {_resume_hint(part)}") from error
    if (fault := _fault(part, file)) is not None:
        part.unlink()
        raise DownloadError(f"{file.address}: {fault}; removed")
    part.replace(path)
    return path


def _fetch(file: PublishedFile, part: Path, timeout_s: float, report: Progress) -> None:
    """Append the missing bytes to `part`. Raises OSError of any kind, HTTPError and TimeoutError among them."""
    here = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(file.address, headers={"Range": f"bytes={here}-"} if here else {})
    try:
        answer = urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        if here and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing left to download; the caller checks whether the file is complete
        raise
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise error.reason from error
        raise
    with answer:
        here = here if answer.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        total = _total_bytes(answer, here)
        with part.open("ab" if here else "wb") as target:
            report(here, total)
            while chunk := answer.read1(CHUNK_BYTES):
                target.write(chunk)
                here += len(chunk)
                report(here, total)
            target.flush()
            os.fsync(target.fileno())
    if total is not None and here < total:
        raise ConnectionError(f"the content ends after {here:,} of {total:,} bytes")


def _total_bytes(answer: http.client.HTTPResponse, here: int) -> int | None:
    if match := re.fullmatch(r"bytes \d+-\d+/(\d+)", answer.headers.get("Content-Range", "")):
        return int(match[1])
    length = answer.headers.get("Content-Length", "")
    return here + int(length) if length.isdigit() else None


def _fault(path: Path, file: PublishedFile) -> str | None:
    """How the content differs from the published one, or None."""
    size = path.stat().st_size
    if file.size_bytes is not None and size != file.size_bytes:
        return f"got {size:,} bytes, expected {file.size_bytes:,}"
    if file.sha256_start is not None:
        digest = _sha256(path)
        if not digest.startswith(file.sha256_start):
            return f"got SHA-256 {digest}, expected one that begins with {file.sha256_start}"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        digest = hashlib.sha256()
        while chunk := content.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _resume_hint(part: Path) -> str:
    size = part.stat().st_size if part.exists() else 0
    return f"{size:,} bytes are kept, the next call resumes" if size else "nothing received"
