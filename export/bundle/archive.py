"""Write and open bundles: zip files with a checksum of every byte.

Each file's SHA-256 is in bundle.json, and the zip comment holds the SHA-256 of the rest of the zip file, so that
changes between the files are found, too. This protects against damage and mistakes; it is no signature.
"""

from __future__ import annotations

import hashlib
import json
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

from pydantic import ValidationError

from handeye.export.bundle.index import INDEX_NAME, BundleError, BundleIndex, FileEntry
from handeye.vision.files import replacing
from handeye.vision.runtime.engine_file import sha256_of

SEAL = b"handeye bundle sha256 "
SEAL_DIGITS = 64
MAX_BYTES = 4 * 2**30
"""Limit of the unpacked size, larger than any detector with its images."""
WRITTEN_AT = (1980, 1, 1, 0, 0, 0)
"""Fixed, so that the same files give the same bundle, byte for byte."""
DAMAGES = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, RuntimeError, LookupError)
"""Exceptions of zipfile on damaged files, depending on where the damage is."""


class Bundle:
    """An opened and verified bundle, held in memory."""

    def __init__(self, path: Path, index: BundleIndex, contents: Mapping[str, bytes], sha256: str) -> None:
        self.path, self.index, self.sha256 = path, index, sha256
        self._contents = contents

    def read(self, name: str) -> bytes:
        """The content of one file. Raises KeyError for a file that is not in the index."""
        return self._contents[name]


def write_bundle(path: Path, index: BundleIndex, contents: Mapping[str, bytes]) -> None:
    """Write `contents` by name and an index of them, whole or not at all; index.files is replaced."""
    files = tuple(
        FileEntry(path=name, sha256=sha256_of(content), bytes=len(content)) for name, content in contents.items()
    )
    text = index.model_copy(update={"files": files}).model_dump_json(indent=1).encode()
    with replacing(path) as beside:
        with zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in {INDEX_NAME: text, **contents}.items():
                entry = zipfile.ZipInfo(name, WRITTEN_AT)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = (0o755 if name.endswith(".sh") else 0o644) << 16
                archive.writestr(entry, content)
            archive.comment = SEAL + b"0" * SEAL_DIGITS
        unsealed = beside.read_bytes()[:-SEAL_DIGITS]
        beside.write_bytes(unsealed + hashlib.sha256(unsealed).hexdigest().encode())


def open_bundle(path: Path) -> Bundle:
    """Read and check all of a bundle.

    Raises BundleError, with the reason, for a file that is no bundle or of another format version, for names that
    point outside, and for files that are missing, unexpected, changed or truncated.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        with zipfile.ZipFile(path) as archive:
            index, contents = _read_archive(archive, path)
    except DAMAGES as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"{path}: is damaged or no bundle: {error}") from error
    sealed, digits = content[:-SEAL_DIGITS], content[-SEAL_DIGITS:]
    if not sealed.endswith(SEAL) or hashlib.sha256(sealed).hexdigest().encode() != digits:
        raise BundleError(f"{path}: was changed after it was written: its seal does not fit")
    return Bundle(Path(path), index, contents, sha256_of(content))


def _read_archive(archive: zipfile.ZipFile, path: Path) -> tuple[BundleIndex, dict[str, bytes]]:
    """The index and the files in it, with lengths and hashes checked."""
    infos = archive.infolist()
    for info in infos:
        _check_name(info, path)
    names = [info.filename for info in infos]
    if len(set(names)) < len(names):
        raise BundleError(f"{path}: holds two files of one name")
    if sum(info.file_size for info in infos) > MAX_BYTES:
        raise BundleError(f"{path}: claims to unpack to more than {MAX_BYTES >> 30} GiB")
    if INDEX_NAME not in names:
        raise BundleError(f"{path}: is no bundle: {INDEX_NAME} is missing")
    index = _read_index(archive.read(INDEX_NAME), path)
    entries = {entry.path: entry for entry in index.files}
    needed = {*entries, *index.images, *(model.file for model in index.models)}
    if missing := sorted(needed - set(names)):
        raise BundleError(f"{path}: {', '.join(missing)}: missing from the bundle")
    if strange := sorted(set(names) - set(entries) - {INDEX_NAME}):
        raise BundleError(f"{path}: {', '.join(strange)}: not in the index of the bundle")
    return index, {name: _read_file(archive, entry, path) for name, entry in entries.items()}


def _check_name(info: zipfile.ZipInfo, path: Path) -> None:
    """Raise BundleError for names that point outside the bundle, and for folders and links."""
    name = info.filename
    parts = PurePosixPath(name).parts
    outside = PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or "\\" in name or ".." in parts
    if outside or not parts:
        raise BundleError(f"{path}: the file name {name!r} points out of the bundle")
    if info.is_dir() or stat.S_ISLNK(info.external_attr >> 16):
        raise BundleError(f"{path}: {name!r} is a folder or a link, expected plain files")


def _read_index(content: bytes, path: Path) -> BundleIndex:
    try:
        version = json.loads(content).get("format_version")
        if version != 1:
            raise BundleError(f"{path}: is a bundle of format {version}; this handeye reads format 1")
        return BundleIndex.model_validate_json(content)
    except (ValidationError, AttributeError, ValueError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"{path}: {INDEX_NAME} is damaged") from error


def _read_file(archive: zipfile.ZipFile, entry: FileEntry, path: Path) -> bytes:
    if archive.getinfo(entry.path).file_size != entry.bytes:
        raise BundleError(f"{path}: {entry.path} is damaged: its length is not the one in the index")
    try:
        content = archive.read(entry.path)
    except DAMAGES as error:
        raise BundleError(f"{path}: {entry.path} is damaged: {error}") from error
    if sha256_of(content) != entry.sha256:
        raise BundleError(f"{path}: {entry.path} is damaged: its SHA-256 is not the one in the index")
    return content
