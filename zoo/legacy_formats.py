"""Reads the older files of weights without their framework: `pytorch_model.bin`, `tf_model.h5`.

Both are opened as a read-only `zoo.checkpoint.Checkpoint` whose tensors are views on the memory
map of the file. The pickle inside a `.bin` is not executed: the few operations that describe
tensors are carried out here, and a file that asks for anything else is refused by name.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import pickletools
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from .checkpoint import Checkpoint, CheckpointError, TensorInfo

BIN_NAME = "pytorch_model.bin"
H5_NAME = "tf_model.h5"
INDEX_SUFFIX = ".index.json"


def open_legacy(path: str | os.PathLike[str]) -> Checkpoint:
    """Opens a `.bin` or `.h5` file, the index of a sharded one, or a folder with either.

    Args:
        path: a file, or a folder in which the published names are looked for, `.bin` first.

    Returns:
        The tensors by published key.

    Raises:
        CheckpointError: the file is damaged, or holds something other than tensors.
    """
    path = Path(path)
    if path.is_dir():
        names = [name + suffix for name in (BIN_NAME, H5_NAME) for suffix in ("", INDEX_SUFFIX)]
        path = next((path / name for name in names if (path / name).is_file()), path / BIN_NAME)
    read = _read_h5 if path.name.removesuffix(INDEX_SUFFIX).endswith(".h5") else _read_bin
    if not path.name.endswith(INDEX_SUFFIX):
        return ViewCheckpoint(path, read(path))
    wanted = _read_index(path, published_key if read is _read_h5 else str)
    views: dict[str, _View] = {}
    for shard in sorted(set(wanted.values())):
        found = read(path.parent / shard)
        listed = {name for name, file in wanted.items() if file == shard}
        if problems := sorted(listed ^ found.keys()):
            raise CheckpointError(
                f"{path.name} and {shard} do not list the same tensors: {', '.join(problems[:10])}"
            )
        views |= found
    return ViewCheckpoint(path, views)


def _read_index(path: Path, key: Callable[[str], str]) -> dict[str, str]:
    """Tensor name -> file name, from the index of a sharded checkpoint."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        index = {key(name): file for name, file in content["weight_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path} is not an index of a sharded checkpoint: {error}") from error
    for file in set(map(str, index.values())):
        if Path(file).name != file or file in ("", ".", ".."):
            raise CheckpointError(f"{path} names the shard {file!r}, which is outside its folder")
        if not (path.parent / file).is_file():
            raise CheckpointError(f"{path} names the shard {file}, which is not there")
    return index


# A checkpoint of views ---------------------------------------------------------------------------


class _Map:
    """One file, mapped into memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():  # a pipe, say, might block for ever
            raise CheckpointError(f"{path} is not a file")
        try:
            with open(path, "rb") as file:
                self.memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # ValueError: an empty file
            raise CheckpointError(f"{path} cannot be read: {error}") from error

    def release(self, offset: int, nbytes: int) -> None:
        if nbytes and hasattr(self.memory, "madvise"):
            start = offset - offset % mmap.PAGESIZE
            self.memory.madvise(mmap.MADV_DONTNEED, start, offset + nbytes - start)


class _View(NamedTuple):
    array: np.ndarray
    map: _Map
    offset: int
    nbytes: int  # from the first element in the file to the last


class ViewCheckpoint(Checkpoint):
    """Tensors that are read-only views, with strides where need be, on memory-mapped files."""

    def __init__(self, path: Path, views: Mapping[str, _View]) -> None:
        infos = {
            name: TensorInfo(
                name, view.array.dtype.name, view.array.shape, view.map.path, view.offset,
                view.array.nbytes,
            )
            for name, view in views.items()
        }  # fmt: skip
        super().__init__(path, infos)
        self._views = dict(views)

    def array(self, name: str) -> np.ndarray:
        return self._view(name).array

    def release(self, name: str) -> None:
        _, file, offset, nbytes = self._view(name)
        file.release(offset, nbytes)

    def close(self) -> None:
        self._views.clear()

    def _view(self, name: str) -> _View:
        self._info(name)  # an unknown key has its message there
        if name not in self._views:
            raise CheckpointError(f"{self.path} is closed")
        return self._views[name]


# pytorch_model.bin -------------------------------------------------------------------------------


class _Global(NamedTuple):
    """What a pickle may name: never the object itself."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype | None  # None: bytes, the tensor says of what
    elements: int

    @property
    def nbytes(self) -> int:
        return self.elements * (self.dtype.itemsize if self.dtype else 1)


class _Tensor(NamedTuple):
    storage: _Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


_STORAGES = {
    "DoubleStorage": np.dtype("float64"),
    "FloatStorage": np.dtype("float32"),
    "HalfStorage": np.dtype("float16"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("int64"),
    "IntStorage": np.dtype("int32"),
    "ShortStorage": np.dtype("int16"),
    "CharStorage": np.dtype("int8"),
    "ByteStorage": np.dtype("uint8"),
    "BoolStorage": np.dtype("bool"),
}
_DTYPES = {
    "uint16": np.dtype("uint16"),
    "uint32": np.dtype("uint32"),
    "uint64": np.dtype("uint64"),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}
_DICTIONARY = _Global("collections", "OrderedDict")
_SIZE = _Global("torch", "Size")
_REBUILD_TENSOR = _Global("torch._utils", "_rebuild_tensor_v2")
_REBUILD_TENSOR_3 = _Global("torch._utils", "_rebuild_tensor_v3")
_REBUILD_PARAMETER = _Global("torch._utils", "_rebuild_parameter")
_ALLOWED = {
    _DICTIONARY,
    _SIZE,
    _REBUILD_TENSOR,
    _REBUILD_TENSOR_3,
    _REBUILD_PARAMETER,
    _Global("torch.storage", "UntypedStorage"),
    *(_Global("torch", name) for name in (*_STORAGES, *_DTYPES)),
}
_MARK = object()


class _Unpickler:
    """Carries out a pickle that does nothing but describe tensors.

    Python's own unpickler would import and call what the file names. Here a name stays a name,
    only those in `_ALLOWED` pass, and calling one builds a description.
    """

    def __init__(self, source: str) -> None:
        self.source = source

    def load(self, data: Any) -> Any:
        """Returns what the pickle describes.

        Args:
            data: bytes, or a binary file that is left behind the end of the pickle.
        Raises:
            CheckpointError: the pickle is damaged, or names a global that is not allowed.
        """
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        try:
            for opcode, argument, _ in pickletools.genops(data):
                if opcode.name == "STOP":
                    return self.stack.pop()
                self._step(opcode.name, argument)
        except CheckpointError:
            raise
        except _DAMAGE as error:
            raise CheckpointError(f"{self.source} holds a damaged pickle: {error}") from error
        raise CheckpointError(f"{self.source} holds a damaged pickle: it has no end")

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _LITERALS:
            stack.append(argument)
        elif name in ("PROTO", "FRAME"):
            pass
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if name == "EMPTY_DICT" else [])
        elif name == "LIST":
            stack.append(self._pop_to_mark())
        elif name == "DICT":
            items = self._pop_to_mark()
            stack.append({})
            self._set_items(stack[-1], items)
        elif name == "TUPLE":
            stack.append(tuple(self._pop_to_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(reversed([self._pop() for _ in range(int(name[-1]))])))
        elif name in ("APPEND", "APPENDS"):
            items = [self._pop()] if name == "APPEND" else self._pop_to_mark()
            self._top(list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = [self._pop(), self._pop()][::-1] if name == "SETITEM" else self._pop_to_mark()
            self._set_items(self._top(dict), items)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self._top(object)
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name in ("GLOBAL", "INST"):
            module, _, attribute = argument.partition(" ")
            stack.append(self._find(module, attribute))
            if name == "INST":
                raise CheckpointError(f"{self.source} asks for the old opcode INST; refused")
        elif name == "STACK_GLOBAL":
            attribute, module = self._pop(), self._pop()
            stack.append(self._find(module, attribute))
        elif name == "REDUCE":
            arguments, function = self._pop(), self._pop()
            stack.append(self._call(function, arguments))
        elif name == "BINPERSID":
            stack.append(self._storage(self._pop()))
        elif name == "BUILD":
            # A state dict carries `_metadata`, version numbers of its modules: not needed.
            self._pop()
            self._top(dict)
        else:
            raise CheckpointError(f"{self.source} asks for the pickle opcode {name}; refused")

    def _pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value is expected")
        return value

    def _top(self, kind: type) -> Any:
        value = self.stack[-1]
        if value is _MARK or not isinstance(value, kind):
            raise TypeError(f"{type(value).__name__} where {kind.__name__} is expected")
        return value

    def _pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while (value := self.stack.pop()) is not _MARK:
            items.append(value)
        return items[::-1]

    def _set_items(self, into: dict[Any, Any], items: list[Any]) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int):
                raise TypeError(f"a key of kind {type(key).__name__}")
            into[key] = value

    def _find(self, module: Any, name: Any) -> _Global:
        found = _Global(module, name)
        if type(module) is not str or type(name) is not str or found not in _ALLOWED:
            raise CheckpointError(f"{self.source} asks to run {found}; refused")
        return found

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            raise TypeError(f"a call of {type(function).__name__}")
        if function == _DICTIONARY and len(arguments) <= 1:
            into: dict[Any, Any] = {}
            for pair in arguments[0] if arguments else ():
                self._set_items(into, list(pair))
            return into
        if function == _SIZE and len(arguments) == 1:
            return tuple(arguments[0])
        if function == _REBUILD_PARAMETER and isinstance(arguments[0], _Tensor):
            return arguments[0]
        if function == _REBUILD_TENSOR and 6 <= len(arguments) <= 7:
            storage, offset, shape, strides, *rest = arguments
            return self._tensor(storage, None, offset, shape, strides, rest[2:])
        if function == _REBUILD_TENSOR_3 and 7 <= len(arguments) <= 8:
            storage, offset, shape, strides, _, _, dtype, *rest = arguments
            return self._tensor(storage, dtype, offset, shape, strides, rest)
        raise TypeError(f"{function} called with {len(arguments)} arguments")

    def _storage(self, identity: Any) -> _Storage:
        tag, kind, key, _, count, *rest = identity
        if tag != "storage" or not isinstance(kind, _Global) or any(rest):
            raise TypeError("a persistent id that is no storage")
        if type(key) is not str or type(count) is not int or count < 0:
            raise TypeError(f"storage {key!r} of size {count!r}")
        return _Storage(key, _STORAGES.get(kind.name), count)

    def _tensor(
        self, storage: Any, dtype: Any, offset: Any, shape: Any, strides: Any, rest: list[Any]
    ) -> _Tensor:
        if not isinstance(storage, _Storage) or any(rest):
            raise TypeError("a tensor that is no plain view of a storage")
        kind = storage.dtype if dtype is None else _DTYPES.get(getattr(dtype, "name", ""))
        if kind is None:
            raise TypeError(f"a tensor of unknown kind {dtype}")
        numbers = (offset, *shape, *strides)
        if not all(type(n) is int and n >= 0 for n in numbers) or len(shape) != len(strides):
            raise ValueError(f"tensor of shape {shape}, strides {strides}, offset {offset}")
        return _Tensor(storage, kind, offset, tuple(shape), tuple(strides))


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
# pickletools warns of a wrong escape in a name, which `python -W error` turns into an exception.
_DAMAGE = (ValueError, TypeError, LookupError, ArithmeticError, RecursionError, Warning)
_STREAM_MAGIC = 0x1950A86A20F9469CFC6C
_STREAM_PROTOCOL = 1001


def _read_bin(path: Path) -> dict[str, _View]:
    """The tensors of one `torch.save` file, in the zip format or the stream before torch 1.6."""
    file = _Map(path)
    head = file.memory[:4]
    if head[:2] == b"PK":
        described, place = _read_zip(file)
    elif head[:1] == b"\x80":
        described, place = _read_stream(file)
    elif file.memory[257:262] == b"ustar":
        raise CheckpointError(
            f"{path} has the tar format of torch before 0.4: open it with torch.load and save it "
            "again with torch.save"
        )
    else:
        raise CheckpointError(f"{path} is no file of torch.save: it begins with {head!r}")
    if not isinstance(described, dict) or not described:
        raise CheckpointError(f"{path} holds no dictionary of tensors")
    views = {}
    for name, tensor in described.items():
        if not isinstance(tensor, _Tensor):
            raise CheckpointError(
                f"{path} holds {name!r}, of kind {type(tensor).__name__}, which is no tensor; "
                "save the state dict alone"
            )
        views[str(name)] = _view(file, str(name), tensor, place(tensor.storage))
    return views


def _view(file: _Map, name: str, tensor: _Tensor, place: tuple[int, int]) -> _View:
    """The array of a tensor whose storage lies at `place` (offset, bytes) of the file."""
    storage, dtype, offset, shape, strides = tensor
    start, nbytes = place
    count = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    # A tensor larger than its storage is one that was expanded: it would not fit in memory.
    if count and ((last + 1) * dtype.itemsize > nbytes or count * dtype.itemsize > nbytes):
        raise CheckpointError(
            f"{file.path}: {name!r} of shape {shape} is larger than its storage of {nbytes} bytes"
        )
    if not count:
        empty = np.empty(shape, dtype)
        empty.flags.writeable = False
        return _View(empty, file, start, 0)
    flat = np.frombuffer(file.memory, np.uint8, nbytes - nbytes % dtype.itemsize, start).view(dtype)
    array = np.lib.stride_tricks.as_strided(
        flat[offset:], shape, [step * dtype.itemsize for step in strides], writeable=False
    )
    begin = start + offset * dtype.itemsize
    return _View(array, file, begin, (last + 1 - offset) * dtype.itemsize)


_Place = Callable[[_Storage], tuple[int, int]]


def _read_zip(file: _Map) -> tuple[Any, _Place]:
    source = str(file.path)
    try:
        with zipfile.ZipFile(file.path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            pickles = [name for name in entries if re.fullmatch("[^/]+/data.pkl", name)]
            if len(pickles) != 1:
                raise CheckpointError(f"{source} is no file of torch.save: it has no data.pkl")
            root = pickles[0].removesuffix("data.pkl")
            if any(entry.compress_type or entry.flag_bits & 1 for entry in entries.values()):
                raise CheckpointError(f"{source} is a compressed or encrypted zip file; refused")
            if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != b"little":
                raise CheckpointError(f"{source} is from a big-endian machine; not supported")
            content = archive.read(pickles[0])
    except CheckpointError:
        raise
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError) as error:
        raise CheckpointError(f"{source} is a damaged zip file: {error}") from error
    described = _Unpickler(source).load(content)

    def place(storage: _Storage) -> tuple[int, int]:
        entry = entries.get(f"{root}data/{storage.key}")
        if entry is None:
            raise CheckpointError(f"{source} has no storage {storage.key!r}")
        header = file.memory[entry.header_offset : entry.header_offset + 30]
        # The local header: the lengths of name and of extra field stand before them.
        start = entry.header_offset + 30
        start += int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        size = storage.nbytes
        if entry.file_size != size:
            raise CheckpointError(
                f"{source}: storage {storage.key!r} has {entry.file_size} bytes, {size} expected"
            )
        if header[:4] != b"PK\x03\x04" or not 30 <= start <= len(file.memory) - size:
            raise CheckpointError(f"{source} is truncated in storage {storage.key!r}")
        return start, size

    return described, place


def _read_stream(file: _Map) -> tuple[Any, _Place]:
    """Before torch 1.6: five pickles (the fourth is the content), then the storages in a row."""
    source = str(file.path)
    unpickler = _Unpickler(source)
    file.memory.seek(0)
    first = unpickler.load(file.memory)
    if first != _STREAM_MAGIC or unpickler.load(file.memory) != _STREAM_PROTOCOL:
        raise CheckpointError(f"{source} is a pickle, but no file of torch.save")
    system = unpickler.load(file.memory)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise CheckpointError(f"{source} is from a big-endian machine; not supported")
    described = unpickler.load(file.memory)
    keys = unpickler.load(file.memory)
    if not isinstance(described, dict) or not isinstance(keys, list):
        raise CheckpointError(f"{source} holds no dictionary of tensors")
    sizes = {
        tensor.storage.key: tensor.storage.nbytes
        for tensor in described.values()
        if isinstance(tensor, _Tensor)
    }
    places = {}
    position = file.memory.tell()
    for key in keys:
        if key not in sizes:
            raise CheckpointError(f"{source} holds a storage that no tensor uses: {key!r}")
        # Eight bytes with the number of elements stand before each.
        places[key] = (position + 8, sizes[key])
        position += 8 + sizes[key]
        if position > len(file.memory):
            raise CheckpointError(f"{source} is truncated in storage {key!r}")

    def place(storage: _Storage) -> tuple[int, int]:
        if storage.key not in places:
            raise CheckpointError(f"{source} has no storage {storage.key!r}")
        return places[storage.key]

    return described, place


# tf_model.h5 -------------------------------------------------------------------------------------

_LEAVES = {"kernel": "weight", "embeddings": "weight", "gamma": "weight", "beta": "bias"}


_PARTS_OF_AN_ENCODER = ("embeddings", "encoder", "pooler")
_BIAS = "final_logits_bias"


def published_key(name: str, drop_model: bool = True) -> str:
    """The published key of a weight of the published TF classes.

    Args:
        name: such as `tf_rem_bert_model/rembert/encoder/layer_._0/output/dense/kernel:0`.
        drop_model: the name begins with that of the model; shards leave it out.
    """
    name = re.sub(r"[^/]*___([^/]*)", r"\1", name.removesuffix(":0")).replace("_._", "/")
    parts = name.split("/")
    # A weight of the model itself may stand alone; a shared table has its own name twice.
    if len(parts) > 1 and (drop_model or parts[0] == parts[1] == "model.shared"):
        del parts[0]
    # In a composite the encoder's own name stands between. (T5's encoder comes first, too.)
    own = {*_PARTS_OF_AN_ENCODER}
    if parts[0] == "encoder" and own.isdisjoint(parts[1:2]) and not own.isdisjoint(parts[2:3]):
        del parts[1]
    parts[-1:] = [_LEAVES.get(leaf, leaf) for leaf in parts[-1:]]
    return ".".join(parts)


def is_transposed(name: str, shape: tuple[int, ...]) -> bool:
    """Whether TF keeps this weight the other way round: the kernel of a dense layer."""
    return len(shape) == 2 and name.removesuffix(":0").rpartition("/")[2] == "kernel"


def _read_h5(path: Path) -> dict[str, _View]:
    """The weights of one file of the published TF classes, by published key."""
    import h5py

    file = _Map(path)
    views: dict[str, _View] = {}
    layers: dict[str, str] = {}
    try:
        with h5py.File(path, "r") as content:
            for layer in _texts(content, "layer_names"):
                item = _hard(content, layer, path)
                # In a shard each weight is a "layer" of its own, named without the model.
                whole = isinstance(item, h5py.Group)
                for name in _texts(item, "weight_names") if whole else [layer]:
                    key = published_key(name, drop_model=whole)
                    dataset = _hard(item, name, path) if whole else item
                    view = _dataset(file, dataset, name)
                    # T5's table of words is in each of the layers that use it.
                    if key in views and (layers[key] == layer or not _same(views[key], view)):
                        raise CheckpointError(f"{path} holds two weights for {key!r}")
                    views[key], layers[key] = view, layer
    except CheckpointError:
        raise
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, AttributeError) as error:
        raise CheckpointError(f"{path} is no readable tf_model.h5: {error}") from error
    if not views:
        raise CheckpointError(f"{path} lists no weights")
    # TF names this one as if the generator of a RAG model were alone.
    inside = {key.partition("generator.")[0] for key in views if "generator." in key}
    if len(inside) == 1 and _BIAS in views:
        views[f"{inside.pop()}generator.{_BIAS}"] = views.pop(_BIAS)
    return views


def _same(one: _View, other: _View) -> bool:
    return one.array.dtype == other.array.dtype and np.array_equal(one.array, other.array)


def _texts(item: Any, name: str) -> list[str]:
    """A list of names; a list too long for one attribute is kept as name0, name1, ..."""
    pieces = [name] if name in item.attrs else []
    while f"{name}{len(pieces)}" in item.attrs:
        pieces.append(f"{name}{len(pieces)}")
    if not pieces:
        raise CheckpointError(f"{item.file.filename}: {item.name!r} has no attribute {name!r}")
    texts = [text for piece in pieces for text in item.attrs[piece]]
    return [text.decode() if isinstance(text, bytes) else str(text) for text in texts]


def _hard(parent: Any, name: str, path: Path) -> Any:
    """The member of that name; a link, which could lead into another file, is refused."""
    import h5py

    for part in name.split("/"):
        if not isinstance(parent, h5py.Group) or part not in parent:
            raise CheckpointError(f"{path} has no weight {name!r}, which it lists")
        if not isinstance(parent.get(part, getlink=True), h5py.HardLink):
            raise CheckpointError(f"{path}: {name!r} is a link; refused")
        parent = parent[part]
    return parent


def _dataset(file: _Map, dataset: Any, name: str) -> _View:
    shape, dtype = dataset.shape, dataset.dtype
    if dtype.kind not in "fiub" or not dtype.isnative:
        raise CheckpointError(f"{file.path}: {name!r} is of the unsupported kind {dtype}")
    start, size = dataset.id.get_offset(), math.prod(shape) * dtype.itemsize
    if dataset.chunks or dataset.external or dataset.is_virtual or (size and start is None):
        raise CheckpointError(f"{file.path}: {name!r} is not stored in one piece; refused")
    start = start or 0
    if start + size > len(file.memory):
        raise CheckpointError(f"{file.path} is truncated in {name!r}")
    array = np.frombuffer(file.memory, np.uint8, size, start).view(dtype).reshape(shape)
    return _View(array.T if is_transposed(name, shape) else array, file, start, size)


# model.safetensors of the published TF classes ---------------------------------------------------


def with_published_names(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint itself, or, if the published TF classes wrote it, one that renames it.

    Args:
        checkpoint: as its safetensors files have it.

    Raises:
        CheckpointError: two names stand for the same key.
    """
    if checkpoint.metadata.get("format") == "tf" and any("/" in name for name in checkpoint):
        return TensorFlowNames(checkpoint)
    return checkpoint


class TensorFlowNames(Checkpoint):
    """A safetensors file of the published TF classes, under the published keys.

    Such a file says `format: tf` in its metadata; its kernels are the other way round.

    Args:
        source: the checkpoint under the names of the file.

    Raises:
        CheckpointError: two names stand for the same key.
    """

    def __init__(self, source: Checkpoint) -> None:
        self._source = source
        self._names: dict[str, str] = {}
        infos = {}
        for name, info in source.items():
            key = published_key(name, drop_model=False)
            if key in self._names:
                raise CheckpointError(f"{info.file} holds two weights for {key!r}")
            self._names[key] = name
            shape = info.shape[::-1] if is_transposed(name, info.shape) else info.shape
            infos[key] = replace(info, name=key, shape=shape)
        super().__init__(source.path, infos, source.metadata)

    def array(self, name: str) -> np.ndarray:
        self._info(name)
        array = self._source.array(self._names[name])
        return array.T if is_transposed(self._names[name], array.shape) else array

    def copy_to(self, name: str, out: np.ndarray, *, transpose: bool = False) -> None:
        self._info(name)
        source = self._names[name]
        turned = is_transposed(source, self._source[source].shape)
        self._source.copy_to(source, out, transpose=transpose != turned)

    def release(self, name: str) -> None:
        self._info(name)
        self._source.release(self._names[name])

    def close(self) -> None:
        self._source.close()
