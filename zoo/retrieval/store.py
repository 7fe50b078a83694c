"""The folder of a saved index: plain arrays, checksums, and one manifest that says what they are.

    index.json                  format, settings, and size and CRC-32 of every other file
    <16 hex digits>-<role>.npy  vectors, ids, removed rows, and ScaNN's own files

A part of an index that does not change keeps its file names, so saving again writes only what is
new. All changes of a save become visible in one step (`zoo.files.FolderUpdate`). Nothing here is a
pickle, and no path is stored, so a folder may be moved.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from .. import files

MANIFEST = "index.json"
FORMAT = "zoo-index"
VERSION = 1
_OWN_FILE = re.compile(r"[0-9a-f]{16}-[A-Za-z0-9_.-]+")
_LOCK = ".index-lock"
_BLOCK = 1 << 22  # bytes read or written at a time
_CHECKERS = min(os.cpu_count() or 1, 4)  # threads that compare checksums


class RetrievalError(ValueError):
    """An index, its folder or what is asked of it is not as it has to be."""


class Writer:
    """Collects the files of an index inside a `saving` block."""

    def __init__(self, folder: Path, update: files.FolderUpdate, known: Mapping[str, Any]):
        self.files: dict[str, dict[str, int]] = {}
        self._folder = folder
        self._update = update
        self._known = known

    def keep(self, name: str) -> bool:
        """Whether the folder holds this file already; it then stays."""
        entry = self._known.get(name)
        try:
            if entry is None or os.path.getsize(self._folder / name) != entry["bytes"]:
                return False
        except OSError:
            return False
        self.files[name] = dict(entry)
        return True

    def array(self, name: str, array: np.ndarray) -> None:
        """Writes an array block by block, which may be mapped and larger than the memory.

        Args:
            name: file name.
            array: numbers of any shape; bfloat16 is stored as its bits.
        """
        if array.dtype.name == "bfloat16":
            array = array.view(np.uint16)
        count, crc = 0, 0
        with files.new_file(self._update.path(name)) as descriptor:
            for block in _npy_blocks(array):
                files.write_all(descriptor, block)
                count, crc = count + len(block), zlib.crc32(block, crc)
        self.files[name] = {"bytes": count, "crc32": crc}

    def scratch(self) -> Path:
        """A folder on the same disk, for what `move` then takes over."""
        return self._update.path(MANIFEST).parent

    def move(self, name: str, path: Path) -> None:
        """Takes over a file that another program wrote.

        Args:
            name: file name.
            path: where it is now, on the same disk.
        """
        os.replace(path, self._update.path(name))
        self.files[name] = _checked_sum(self._update.path(name))

    def finish(self, manifest: dict[str, Any]) -> int:
        """Writes the manifest, which lists all files that were written or kept.

        Args:
            manifest: what the kind of index has to say; anything that JSON can hold.

        Returns:
            Checksum of the manifest, which tells one state of a folder from any other.
        """
        manifest = {"format": FORMAT, "version": VERSION} | manifest | {"files": self.files}
        crc = _manifest_sum(manifest)
        self._update.write(MANIFEST, json.dumps(manifest | {"crc32": crc}, indent=1) + "\n")
        return crc


@contextlib.contextmanager
def saving(folder: str | os.PathLike[str]) -> Iterator[Writer]:
    """Replaces the index in a folder, or leaves it as it was.

    Args:
        folder: where to; created where needed.

    Returns:
        Context manager that gives the writer; `finish` is to be called on it.

    Raises:
        RetrievalError: the folder holds an `index.json` of something else.
        OSError: the disk is full, or the like.
    """
    folder = Path(folder)
    with _locked(folder), files.FolderUpdate(folder) as update:
        try:
            known = _read(folder)["files"]
        except FileNotFoundError:
            known = {}
        writer = Writer(folder, update, known)
        yield writer
        for entry in os.scandir(folder):
            if _OWN_FILE.fullmatch(entry.name) and entry.name not in writer.files:
                update.remove(entry.name)


class Reader:
    """The files of an index inside an `opening` block; each is given when it has been checked."""

    def __init__(self, folder: Path, manifest: dict[str, Any], checks: Mapping[str, Future[None]]):
        self.folder = folder
        self.manifest = manifest
        self._checks = checks

    def array(self, name: str, *, mapped: bool = False) -> np.ndarray:
        """An array of the folder.

        Args:
            name: file name.
            mapped: map the file instead of reading it.

        Raises:
            RetrievalError: no array, or not listed in the manifest.
        """
        path = self.path(name)
        try:
            array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise RetrievalError(f"{path} is no array of numbers: {error}") from error
        return array

    def path(self, name: str) -> Path:
        """Path of a listed file."""
        if name not in self._checks:
            raise RetrievalError(f"{self.folder / MANIFEST} does not list {name!r}")
        self._checks[name].result()
        return self.folder / name


@contextlib.contextmanager
def opening(folder: str | os.PathLike[str], *, verify: bool = True) -> Iterator[Reader]:
    """Opens the index in a folder, which is not replaced while the block runs.

    Args:
        folder: the index.
        verify: compare the checksum of every file, not its size only.

    Returns:
        Context manager that gives the reader.

    Raises:
        RetrievalError: no index, of a newer version, incomplete or damaged.
    """
    folder = Path(folder)
    with files.reading(folder):
        try:
            manifest = _read(folder)
        except FileNotFoundError:
            raise RetrievalError(f"{folder} holds no index: there is no {MANIFEST}") from None
        # In threads, since ScaNN can load one file while the next one is being checked.
        with ThreadPoolExecutor(_CHECKERS) as pool:
            checks = {
                name: pool.submit(_check_file, folder / name, entry, verify)
                for name, entry in manifest["files"].items()
            }
            try:
                yield Reader(folder, manifest, checks)
                for check in checks.values():
                    check.result()
            finally:
                pool.shutdown(cancel_futures=True)


def manifest_of(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What `index.json` says, without a look at the other files.

    Args:
        folder: the index.

    Raises:
        RetrievalError: no index, or a damaged manifest.
    """
    with files.reading(folder):
        try:
            return _read(Path(folder))
        except FileNotFoundError:
            raise RetrievalError(f"{folder} holds no index: there is no {MANIFEST}") from None


def _read(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        if manifest["format"] != FORMAT:
            raise RetrievalError(f"{path} describes {manifest['format']!r}, expected {FORMAT!r}")
        if manifest["version"] != VERSION:
            raise RetrievalError(
                f"{path} has version {manifest['version']!r}, this program reads version {VERSION}"
            )
        if manifest["crc32"] != _manifest_sum(manifest):
            raise RetrievalError(f"{path} is damaged: its checksum differs")
        for name, entry in manifest["files"].items():
            if not _OWN_FILE.fullmatch(name):
                raise RetrievalError(f"{path} lists {name!r}, which is no file of an index")
            entry["bytes"], entry["crc32"] = int(entry["bytes"]), int(entry["crc32"])
    except RetrievalError:
        raise
    except (KeyError, TypeError, AttributeError, RecursionError, ValueError) as error:
        raise RetrievalError(f"{path} is no whole manifest of an index: {error!r}") from error
    return manifest


def _manifest_sum(manifest: Mapping[str, Any]) -> int:
    rest = {name: value for name, value in manifest.items() if name != "crc32"}
    return zlib.crc32(json.dumps(rest, sort_keys=True).encode())


def _check_file(path: Path, entry: Mapping[str, int], verify: bool) -> None:
    try:
        size = os.path.getsize(path)
    except FileNotFoundError:
        raise RetrievalError(f"{path} is missing, though {MANIFEST} lists it") from None
    if size != entry["bytes"]:
        raise RetrievalError(f"{path} has {size} bytes, {MANIFEST} says {entry['bytes']}")
    if verify and _checked_sum(path)["crc32"] != entry["crc32"]:
        raise RetrievalError(f"{path} is damaged: its checksum differs from {MANIFEST}")


def _checked_sum(path: Path) -> dict[str, int]:
    count, crc = 0, 0
    buffer = bytearray(_BLOCK)
    view = memoryview(buffer)
    with open(path, "rb", buffering=0) as file:
        while got := file.readinto(buffer):
            count, crc = count + got, zlib.crc32(view[:got], crc)
    return {"bytes": count, "crc32": crc}


def _npy_blocks(array: np.ndarray) -> Iterator[bytes | memoryview]:
    """The bytes of a .npy file."""
    header = f"{{'descr': {array.dtype.str!r}, 'fortran_order': False, 'shape': {array.shape}, }}"
    # Magic, version 1.0, length; padded so that the data begin at a multiple of 64 bytes.
    length = -(-(10 + len(header) + 1) // 64) * 64 - 10
    yield b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little")
    yield (header.ljust(length - 1) + "\n").encode("latin-1")
    rows = max(_BLOCK // max(array[:1].nbytes, 1), 1)
    for start in range(0, len(array), rows):
        block = np.ascontiguousarray(array[start : start + rows])
        if block.nbytes:
            yield block.reshape(-1).view(np.uint8).data


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One save of a folder after the other, since a save counts on the files that it keeps."""
    made = not folder.exists()
    os.makedirs(folder, exist_ok=True)
    try:
        with open(folder / _LOCK, "ab") as file:
            if files.fcntl is not None:
                files.fcntl.flock(file, files.fcntl.LOCK_EX)
            yield
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                os.unlink(folder / _LOCK)
                os.rmdir(folder)
        raise
