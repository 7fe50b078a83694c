"""Writing files so that a crash, a kill or a full disk never damages what was there before.

`atomic_write` replaces one file. `FolderUpdate` replaces a set of files as one step: everything is
staged in a hidden folder inside the target, then moved into place under a journal of what was there
before. Whoever opens the folder next (`recover`, `reading`) takes an unfinished set of moves back.
The folder itself is never renamed, since people work with it as their current directory.
"""

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # no advisory locks here: concurrent use is then not guarded
    fcntl = None  # type: ignore[assignment]

PREFIX = ".zoo-"
JOURNAL = PREFIX + "journal"
STAGING = PREFIX + "staging-"
_RECORD = "journal.json"
_NEW, _OLD = "new", "old"


def write_all(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    """Writes every byte of `data`, since one `os.write` may take only a part.

    Args:
        descriptor: open file descriptor.
        data: bytes-like object.

    Raises:
        OSError: the disk is full, or the like.
    """
    view = memoryview(data).cast("B") if len(data) else memoryview(b"")
    while len(view):
        view = view[os.write(descriptor, view) :]


def atomic_write(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Replaces one file in one step; on an error the earlier file stays and nothing is left over.

    Args:
        path: the file; its folder must exist.
        data: the new content, text as UTF-8.

    Raises:
        OSError: the content could not be written.
    """
    path = Path(path)
    staged = path.with_name(f"{PREFIX}{secrets.token_hex(8)}.tmp")
    try:
        write_new(staged, data)
        _sync_file(staged)
        os.replace(staged, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(staged)
        raise
    _sync_folder(path.parent)


def write_new(path: Path, data: bytes | str) -> None:
    """Writes a file that must not exist yet.

    Args:
        path: the file.
        data: its content, text as UTF-8.

    Raises:
        OSError: the content could not be written.
    """
    with new_file(path) as descriptor:
        write_all(descriptor, data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[int]:
    """Creates a file with the permissions that the umask grants.

    Args:
        path: the file, which must not exist.

    Returns:
        Context manager that gives the file descriptor.

    Raises:
        OSError: the file exists, or cannot be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class FolderUpdate:
    """Context manager that changes a set of files in a folder all together or not at all.

    Files are written under `path(name)`. When the block ends without an exception they are moved
    into place and the files named by `remove` and `remove_others` go; a file whose bytes would not
    change is left alone. With an exception, in the block or in any of the moves, the folder is as
    it was. Two updates of one folder follow one another.

    Args:
        folder: the folder, created where needed.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)
        self._names: list[str] = []
        self._removed: list[str] = []
        self._patterns: list[re.Pattern[str]] = []

    def __enter__(self) -> "FolderUpdate":
        self._made = _make_folders(self.folder)
        try:
            with _locked(self.folder, exclusive=True):
                _roll_back(self.folder)
                _drop_abandoned(self.folder)
                self._staging = self.folder / f"{STAGING}{secrets.token_hex(8)}"
                os.mkdir(self._staging)
                # Held while this process lives, which tells others that the folder is used.
                self._held = lock(self._staging, exclusive=True)
                os.mkdir(self._staging / _NEW)
                os.mkdir(self._staging / _OLD)
        except BaseException:
            self._discard(getattr(self, "_staging", None))
            raise
        return self

    def path(self, name: str) -> Path:
        """Where to write the new content of a file.

        Args:
            name: file name without any folder.

        Returns:
            Path of a file that does not exist yet, on the same disk.

        Raises:
            ValueError: the name is no plain file name.
        """
        check_file_name(name)
        if name not in self._names:
            self._names.append(name)
        return self._staging / _NEW / name

    def write(self, name: str, data: bytes | str) -> None:
        """Gives a file new content.

        Args:
            name: file name without any folder.
            data: the content, text as UTF-8.

        Raises:
            ValueError: the name is no plain file name.
            OSError: the content could not be written.
        """
        write_new(self.path(name), data)

    def remove(self, name: str) -> None:
        """Removes a file, if it is there, along with the other changes.

        Args:
            name: file name without any folder.

        Raises:
            ValueError: the name is no plain file name.
        """
        check_file_name(name)
        self._removed.append(name)

    def remove_others(self, pattern: str) -> None:
        """Removes the files that match and that this update does not write.

        Args:
            pattern: regular expression for the whole file name.
        """
        self._patterns.append(re.compile(pattern))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        staging: Path = self._staging
        try:
            if kind is None:
                for name in self._names:
                    _sync_file(staging / _NEW / name)
                with _locked(self.folder, exclusive=True):
                    _roll_back(self.folder)
                    staging = self._commit()
                self._made = []
        finally:
            self._discard(staging)

    def _commit(self) -> Path:
        """Moves everything into place; returns the folder that is left to be deleted."""
        changed = [name for name in self._names if not self._unchanged(name)]
        removed = [
            entry.name
            for entry in sorted(os.scandir(self.folder), key=lambda entry: entry.name)
            if entry.name not in self._names
            and (
                entry.name in self._removed or any(p.fullmatch(entry.name) for p in self._patterns)
            )
        ]
        touched = changed + removed
        for name in touched:
            if (self.folder / name).is_dir():
                raise IsADirectoryError(f"{self.folder / name} is a folder, not a file")
        if not touched:
            return self._staging
        staging = self._staging
        # What to put back, and how to know our own new files.
        record = {
            "new": {name: _identity(staging / _NEW / name) for name in changed},
            "removed": removed,
        }
        write_new(staging / _RECORD, json.dumps(record))
        _sync_file(staging / _RECORD)
        _sync_folder(staging / _NEW)
        alone = len(touched) == 1  # one move is atomic by itself and needs no journal
        if not alone:
            _sync_folder(staging)
            os.rename(staging, self.folder / JOURNAL)
            staging = self.folder / JOURNAL
        try:
            _sync_folder(self.folder)
            for name in touched:
                _back_up(self.folder / name, staging / _OLD / name, may_move=not alone)
            _sync_folder(staging / _OLD)
            for name in changed:
                os.replace(staging / _NEW / name, self.folder / name)
            for name in removed:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.folder / name)
            _sync_folder(self.folder)
            if not alone:
                # The journal's own disappearance, one move, makes the new files the valid ones.
                os.rename(staging, self._staging)
        except BaseException:
            _put_back(self.folder, staging)
            if not alone:
                os.rename(staging, self._staging)
            raise
        with contextlib.suppress(OSError):
            _sync_folder(self.folder)
        return self._staging

    def _unchanged(self, name: str) -> bool:
        """Whether the file holds the same bytes already and is a plain file."""
        old, new = self.folder / name, self._staging / _NEW / name
        try:
            status = os.lstat(old)
        except FileNotFoundError:
            return False
        if not stat.S_ISREG(status.st_mode) or status.st_size != os.stat(new).st_size:
            return False
        with open(old, "rb") as left, open(new, "rb") as right:
            while True:
                block = left.read(1 << 20)
                if block != right.read(1 << 20):
                    return False
                if not block:
                    return True

    def _discard(self, staging: Path | None) -> None:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        unlock(getattr(self, "_held", None))
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def recover(folder: str | os.PathLike[str]) -> None:
    """Takes back what an interrupted update left half done; costs one look-up when there is none.

    Args:
        folder: any folder, which need not exist.

    Raises:
        OSError: an unfinished update is there and this user may not write to the folder.
    """
    folder = Path(folder)
    if (folder / JOURNAL).is_dir():
        with _locked(folder, exclusive=True):
            _roll_back(folder)


@contextlib.contextmanager
def reading(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Keeps a folder from being updated while files that belong together are opened.

    Files opened inside the block stay what they are afterwards too, since updates replace files
    rather than write into them. Do not start a `FolderUpdate` of the folder inside the block.

    Args:
        folder: any folder, which need not exist.

    Returns:
        Context manager.

    Raises:
        OSError: an unfinished update is there and this user may not write to the folder.
    """
    folder = Path(folder)
    while True:
        recover(folder)
        with _locked(folder, exclusive=False):
            if not (folder / JOURNAL).is_dir():  # none began before the lock was ours
                yield
                return


def check_file_name(name: str) -> None:
    """Refuses a file name that would lead out of its folder or clash with the staging folder.

    Args:
        name: file name.

    Raises:
        ValueError: the name is empty, has a path separator, or is reserved.
    """
    if (
        not isinstance(name, str)
        or name in ("", ".", "..")
        or any(character in name for character in "/\\\0")
        or name.startswith(PREFIX)
    ):
        raise ValueError(f"{name!r} is no plain file name")


def _back_up(path: Path, backup: Path, *, may_move: bool) -> None:
    try:
        os.link(path, backup, follow_symlinks=False)
    except FileNotFoundError:
        pass
    except OSError:
        # A disk without hard links. The journal makes a short absence harmless.
        if may_move and os.path.lexists(path):
            os.rename(path, backup)


def _roll_back(folder: Path) -> None:
    """Undoes the update that the journal tells of. Only with the folder's lock held."""
    journal = folder / JOURNAL
    if not journal.is_dir():
        return
    try:
        _put_back(folder, journal)
        abandoned = folder / f"{STAGING}{secrets.token_hex(8)}"
        os.rename(journal, abandoned)
    except OSError as error:
        raise type(error)(
            error.errno,
            f"an interrupted save has to be undone first, which failed: {error.strerror}",
            str(folder),
        ) from error
    shutil.rmtree(abandoned, ignore_errors=True)


def _put_back(folder: Path, journal: Path) -> None:
    record = _read_record(journal / _RECORD)
    for name in [*record["new"], *record["removed"]]:
        target, backup = folder / name, journal / _OLD / name
        current = _identity(target)
        if current is not None and current != record["new"].get(name):
            continue  # not replaced yet, or written by someone else since: theirs to keep
        if _identity(backup) is not None:
            os.replace(backup, target)
        elif current is not None:
            os.unlink(target)
    _sync_folder(folder)


def _read_record(path: Path) -> dict[str, Any]:
    """The journal; checked, since a folder from elsewhere might bring one that leads out of it."""
    try:
        record = json.loads(path.read_bytes())
        for name in [*record["new"].keys(), *record["removed"]]:
            check_file_name(name)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise OSError(errno.EINVAL, f"no valid journal of a save: {error}", str(path)) from error
    return record


def _drop_abandoned(folder: Path) -> None:
    """Deletes staging folders whose process is gone."""
    for entry in os.scandir(folder):
        if entry.name.startswith(STAGING):
            with contextlib.suppress(OSError):
                held = lock(Path(entry.path), exclusive=True, wait=False)
                if held is not None:
                    shutil.rmtree(entry.path, ignore_errors=True)
                    unlock(held)


def _identity(path: Path) -> list[int] | None:
    """Tells a file from any other in the same place; None where there is none."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    return [status.st_ino, status.st_mtime_ns]


def _make_folders(folder: Path) -> list[Path]:
    """Creates the folder and its parents; returns those that were not there, outermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()][::-1]
    for path in missing:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, not a folder")
    return missing


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Brings renames to the disk, where the system lets folders be opened."""
    if os.name == "posix":
        _sync_file(folder)


@contextlib.contextmanager
def _locked(folder: Path, *, exclusive: bool) -> Iterator[None]:
    held = lock(folder, exclusive=exclusive)
    try:
        yield
    finally:
        unlock(held)


def lock(folder: Path, *, exclusive: bool, wait: bool = True) -> int | None:
    """Locks a folder against other processes and threads; None where that is not supported."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None  # whatever is wrong with the folder shows in the work itself
    try:
        kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        fcntl.flock(descriptor, kind | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:  # some network disks
        os.close(descriptor)
        return None
    return descriptor


def unlock(descriptor: int | None) -> None:
    if descriptor is not None:
        # By name, as a process forked meanwhile holds the descriptor as well.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
