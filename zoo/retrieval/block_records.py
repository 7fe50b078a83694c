"""REALM's published `block_records.npy`: a pickled array of byte strings, read without pickle.

Python's unpickler would import and call what the file names. This reader carries out the few
operations that a one-dimensional numpy array of `bytes` is made of, refuses everything else by
name, and hands out one record after the other, so that the 13 million of them never are in memory.
"""

from __future__ import annotations

import ast
import os
import pickletools
import struct
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, overload

from .passages import PassageError

_MAGIC = b"\x93NUMPY"
_MAX_TEXT = 1 << 28  # bytes of one record


class _Global(NamedTuple):
    """What the pickle may name: never the object itself."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class _String(NamedTuple):
    """A byte string or text, and where its opcode stands, to read it again if it is met twice."""

    value: bytes | str
    place: int
    encoded: bool = False  # written as text, which protocol 2 has to do with bytes

    @property
    def packed(self) -> int:
        """The place and whether it is encoded as one number."""
        return self.place * 2 + self.encoded


class _Array(NamedTuple):
    """The array before it has its content."""


class _Dtype(NamedTuple):
    """The element type, which can be `object` only."""


_RECONSTRUCT = {
    _Global("numpy.core.multiarray", "_reconstruct"),
    _Global("numpy._core.multiarray", "_reconstruct"),
}
_NDARRAY = _Global("numpy", "ndarray")
_DTYPE = _Global("numpy", "dtype")
_ENCODE = _Global("_codecs", "encode")
_ALLOWED = {*_RECONSTRUCT, _NDARRAY, _DTYPE, _ENCODE}
_MARK, _LIST = object(), object()
# How many bytes hold the length of a string.
_BYTES = {b"C": 1, b"B": 4, b"\x8e": 8}
_TEXTS = {b"\x8c": 1, b"X": 4, b"\x8d": 8}
_PUTS = {b"q": 1, b"r": 4}
_GETS = {b"h": 1, b"j": 4}
_INTEGERS = {b"K": "<B", b"M": "<H", b"J": "<i"}
_CONSTANTS = {b"N": None, b"\x88": True, b"\x89": False, b")": (), b"(": _MARK}
_TUPLES = {b"\x85": 1, b"\x86": 2, b"\x87": 3}
_NAMES = {code.code.encode("latin-1"): code.name for code in pickletools.opcodes}
_GAP = 1 << 20  # numbers that a memo may leave out


def read_block_records(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """The records of a `block_records.npy`.

    Args:
        path: a `.npy` file of dtype object and one dimension, as `numpy.save` writes it.

    Returns:
        One byte string after the other.

    Raises:
        PassageError: another kind of file, a damaged one, or a pickle that asks for anything
            beyond an array of byte strings; names what it asked for.
    """
    path = Path(path)
    with open(path, "rb") as file:
        for string in _strings(file, path):
            yield string.value  # type: ignore[misc]


class BlockRecords(Sequence[bytes]):
    """The records of a `block_records.npy` by number, read from the file when asked for.

    Opening it goes through the file once; of each record only its place is kept in memory.

    Args:
        path: as for `read_block_records`. A file that is replaced later stays in use.

    Raises:
        PassageError: as `read_block_records`.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self._path = Path(path)
        self._descriptor = os.open(self._path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self._descriptor)
        with open(os.dup(self._descriptor), "rb") as file:
            strings = _strings(file, self._path)
            self._places = array("q", (string.packed for string in strings))

    def __reduce__(self) -> Any:
        return BlockRecords, (self._path,)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self._read(packed) for packed in self._places[index]]
        return self._read(self._places[index])

    def _read(self, packed: int) -> bytes:
        place, encoded = divmod(packed, 2)
        head = os.pread(self._descriptor, 9, place)
        code = head[:1]
        width = _BYTES.get(code) or _TEXTS[code]
        size = int.from_bytes(head[1 : 1 + width], "little")
        value = os.pread(self._descriptor, size, place + 1 + width)
        return value.decode("utf-8").encode("latin-1") if encoded else value


def write_block_records(path: str | os.PathLike[str], records: Iterable[bytes], count: int) -> None:
    """Writes a `block_records.npy`, one record after the other.

    Numpy of every version reads it, `numpy.load(path, allow_pickle=True)`.

    Args:
        path: where to; a new file.
        records: byte strings.
        count: how many.
    """
    header = f"{{'descr': '|O', 'fortran_order': False, 'shape': ({count},), }}"
    padding = -(len(_MAGIC) + 4 + len(header) + 1) % 64
    header += " " * padding + "\n"
    with open(path, "xb") as file:
        file.write(_MAGIC + b"\x01\x00" + struct.pack("<H", len(header)) + header.encode())
        file.write(_PICKLE_HEAD.replace(b"COUNT", struct.pack("<i", count)))
        for record in records:
            short = len(record) < 256
            size = struct.pack("<B" if short else "<I", len(record))
            file.write((b"C" if short else b"B") + size + record + b"a")
        file.write(b"tb.")


# numpy.ndarray of dtype object, in pickle's protocol 3, up to the beginning of its list.
_PICKLE_HEAD = (
    b"\x80\x03cnumpy.core.multiarray\n_reconstruct\n"
    b"cnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    b"(K\x01JCOUNT\x85"
    b"cnumpy\ndtype\nX\x02\x00\x00\x00O8\x89\x88\x87R"
    b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb"
    b"\x89]"
)


def _strings(file: BinaryIO, path: Path) -> Iterator[_String]:
    """The records with their places."""
    count = _read_header(file, path)
    found = 0
    for string in _Reader(file, path, count).records():
        found += 1
        yield string
    if found != count:
        raise PassageError(f"{path}: its header promises {count} records, it holds {found}")


def _read_header(file: BinaryIO, path: Path) -> int:
    """The number of records."""
    magic = file.read(8)
    if magic[:6] != _MAGIC or len(magic) < 8:
        raise PassageError(f"{path} is no .npy file: it begins with {magic[:6]!r}")
    width = 2 if magic[6] == 1 else 4
    length = int.from_bytes(file.read(width), "little")
    if length > 1 << 16:
        raise PassageError(f"{path} has a damaged header")
    try:
        header = ast.literal_eval(file.read(length).decode("latin-1"))
        dtype, shape = header["descr"], header["shape"]
    except (ValueError, SyntaxError, KeyError, TypeError, RecursionError) as error:
        raise PassageError(f"{path} has a damaged header: {error}") from error
    if dtype not in ("|O", "O", "|O8", "|O4") or not isinstance(shape, tuple) or len(shape) != 1:
        raise PassageError(
            f"{path} holds an array of dtype {dtype!r} and shape {shape}; expected '|O' and one "
            "dimension"
        )
    return int(shape[0])


class _Reader:
    """Carries out the pickle of an object array of byte strings, and nothing else."""

    def __init__(self, file: BinaryIO, path: Path, count: int):
        self._file, self._path, self._count = file, path, count
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}  # globals and the like
        self._places = array("q")  # strings by memo number: eight bytes for each, not the string
        self._memoized = 0
        self._number = 0  # of the next record
        self._finished = False

    def records(self) -> Iterator[_String]:
        """What the array holds.

        Raises:
            PassageError: see `read_block_records`.
        """
        stack, read = self._stack, self._file.read
        try:
            while (code := read(1)) != b".":
                if code in _BYTES or code in _TEXTS:
                    stack.append(self._string(code))
                elif code == b"\x94":
                    self._put(self._memoized)
                elif code in _PUTS:
                    self._put(int.from_bytes(self._exactly(_PUTS[code]), "little"))
                elif code in (b"a", b"e"):
                    items = [stack.pop()] if code == b"a" else self._pop_to_mark()
                    if not stack or stack[-1] is not _LIST:
                        raise ValueError("records outside the array")
                    for item in items:
                        yield self._checked(item)
                else:
                    self._step(code)
        except PassageError:
            raise
        except (IndexError, ValueError, TypeError, KeyError, OverflowError, struct.error) as error:
            raise self._error(f"a damaged pickle: {error}") from error
        if not (len(stack) == 1 and isinstance(stack[0], _Array) and self._finished):
            raise self._error("no array of byte strings")
        if read(1):
            raise self._error("something after its pickle")

    def _step(self, code: bytes) -> None:
        stack = self._stack
        if code in _CONSTANTS:
            stack.append(_CONSTANTS[code])
        elif code in _INTEGERS:
            kind = _INTEGERS[code]
            stack.append(struct.unpack(kind, self._exactly(struct.calcsize(kind)))[0])
        elif code in _TUPLES:
            items = [stack.pop() for _ in range(_TUPLES[code])][::-1]
            if _MARK in items:
                raise ValueError("a mark inside a tuple")
            stack.append(tuple(items))
        elif code == b"t":
            stack.append(tuple(self._pop_to_mark()))
        elif code in _GETS:
            stack.append(self._get(int.from_bytes(self._exactly(_GETS[code]), "little")))
        elif code == b"c":
            module, name = (self._file.readline(256).rstrip(b"\n").decode() for _ in range(2))
            stack.append(self._find(module, name))
        elif code == b"\x93":
            name, module = stack.pop(), stack.pop()
            stack.append(self._find(module.value, name.value))
        elif code == b"R":
            arguments, function = stack.pop(), stack.pop()
            stack.append(self._call(function, arguments))
        elif code == b"]":
            self._begin_list()
        elif code == b"b":
            self._build(stack.pop())
        elif code == b"\x80":
            if self._exactly(1)[0] > 5:
                raise ValueError("a protocol after 5")
        elif code == b"\x95":
            self._exactly(8)  # the length of a frame, which needs no heed
        elif not code:
            raise ValueError("it has no end")
        else:
            raise self._error(f"the pickle opcode {_NAMES.get(code, code)}")

    def _string(self, code: bytes) -> _String:
        place = self._file.tell() - 1
        width = _BYTES.get(code) or _TEXTS[code]
        size = int.from_bytes(self._exactly(width), "little")
        if size > _MAX_TEXT:
            raise ValueError(f"a string of {size} bytes")
        value = self._exactly(size)
        return _String(value if code in _BYTES else value.decode("utf-8"), place)

    def _put(self, number: int) -> None:
        value = self._stack[-1]
        self._memoized += 1
        if isinstance(value, _String):
            if number >= len(self._places):
                if number > len(self._places) + _GAP:
                    raise ValueError(f"memo number {number}")
                self._places.extend([-1] * (number + 1 - len(self._places)))
            self._places[number] = value.packed
        elif isinstance(value, _Global):
            self._memo[number] = value
        # Nothing else is met twice in such an array.

    def _get(self, number: int) -> Any:
        if number in self._memo:
            return self._memo[number]
        place = self._places[number]
        if place < 0:
            raise ValueError(f"memo number {number} is no string")
        here = self._file.tell()
        self._file.seek(place // 2)
        string = self._string(self._file.read(1))
        self._file.seek(here)
        return _encoded(string) if place % 2 else string

    def _find(self, module: Any, name: Any) -> _Global:
        found = _Global(module, name)
        if found not in _ALLOWED:
            raise self._error(str(found))
        return found

    def _call(self, function: Any, arguments: Any) -> Any:
        values = tuple(a.value if isinstance(a, _String) else a for a in arguments)
        if function in _RECONSTRUCT and values == (_NDARRAY, (0,), b"b"):
            return _Array()
        if function == _DTYPE and len(values) == 3 and values[0] in ("O", "O4", "O8"):
            return _Dtype()
        if function == _ENCODE and len(values) == 2 and values[1] in ("latin1", "latin-1"):
            return _encoded(arguments[0])
        raise self._error(f"{function} called with {values!r:.100}")

    def _begin_list(self) -> None:
        """The list of records can stand in one place only: the state of the array."""
        before = self._stack
        if not (
            len(before) == 6
            and isinstance(before[0], _Array)
            and before[1] is _MARK
            and before[2] == 1
            and before[3] == (self._count,)
            and isinstance(before[4], _Dtype)
            and before[5] is False
        ):
            raise ValueError("a list outside the array, or an array of another shape")
        before.append(_LIST)

    def _build(self, state: Any) -> None:
        target = self._stack[-1]
        if isinstance(target, _Array) and isinstance(state, tuple) and state[-1] is _LIST:
            self._finished = True
        elif not (isinstance(target, _Dtype) and isinstance(state, tuple)):
            raise ValueError("a state of something else than the array")

    def _checked(self, item: Any) -> _String:
        if not isinstance(item, _String) or not isinstance(item.value, bytes):
            value = item.value if isinstance(item, _String) else item
            raise self._error(f"a {type(value).__name__} as record {self._number}, expected bytes")
        self._number += 1
        return item

    def _pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while (value := self._stack.pop()) is not _MARK:
            items.append(value)
        return items[::-1]

    def _exactly(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise ValueError("it has no end")
        return data

    def _error(self, what: str) -> PassageError:
        return PassageError(f"{self._path} holds {what}; refused, as only byte strings are read")


def _encoded(text: _String) -> _String:
    if not isinstance(text.value, str):
        raise ValueError("bytes where text is expected")
    return _String(text.value.encode("latin-1"), text.place, True)
