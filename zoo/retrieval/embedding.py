"""Texts to vectors with any encoder of the zoo, and whole corpora in shards that survive a kill.

An encoder is a checkpoint folder; which of its outputs is the vector is decided by the output's
name (`FIELDS`), so that a family that comes later needs nothing here. `pt_models.embedding` and
`tf_models.embedding` hold the part that needs a framework.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from .. import files, pretrained
from ..checkpoint import Checkpoint
from ..configs import AutoConfig
from ..families import family_of
from ..tokenizers import AutoTokenizer
from .passages import Passage, PassageError

try:
    import fcntl
except ImportError:  # no locks here: two processes may then do the same shard, with one result
    fcntl = None  # type: ignore[assignment]

# Outputs that stand for a whole text, the first that a model has: the projection of REALM's
# embedder, the pooled first token of DPR and the BERT family.
FIELDS = ("projected_score", "pooler_output")
# Entries of a configuration that say nothing about what a model computes.
_COSMETIC = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
_MAX_ROWS = 256  # of a batch


class Embedder(ABC):
    """Turns texts into vectors; made by `TextEmbedder.from_pretrained` of either framework.

    Args:
        folder: of the checkpoint and its tokenizer, or a repository on the hub.
        encoder: published class of the model; by default the one that config.json names if that
            is a bare encoder, else the family's bare model.
        field: output that is the vector; by default the first of `FIELDS` that there is.
        max_length: the most tokens of a text with its title; by default what the model takes.
        normalize: scale vectors to length one, so that inner products are cosines.
        batch_tokens: the most tokens of a batch, padding included.
        device: of PyTorch or TensorFlow; by default an accelerator if there is one.
        threads: of the framework; by default its own choice.

    Raises:
        ValueError: the checkpoint has no such class or output, or lacks weights of it.
    """

    prefix = ""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        encoder: str | None = None,
        field: str | None = None,
        max_length: int | None = None,
        normalize: bool = False,
        batch_tokens: int = 8192,
        device: str | None = None,
        threads: int | None = None,
    ):
        self.folder = os.fspath(folder)
        self.config = AutoConfig.from_pretrained(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        family = family_of(self.config.model_type)
        self.encoder = encoder or _bare_encoder(self.config, family.models.get("Model"))
        if self.encoder is None:
            raise ValueError(f"{self.folder}: {self.config.model_type} has no encoder; name one")
        self.normalize = normalize
        if batch_tokens < 1:
            raise ValueError(f"batch_tokens: received {batch_tokens}, expected a positive number")
        self.batch_tokens = batch_tokens
        longest = self.tokenizer.model_max_length
        positions = getattr(self.config, "max_position_embeddings", None)
        longest = min(longest, positions or longest)
        if max_length is None:
            max_length = min(longest, 512)
        if not self.tokenizer.num_special_tokens_to_add(True) < max_length <= longest:
            raise ValueError(f"max_length: received {max_length}, expected at most {longest}")
        self.max_length = max_length
        self._inputs = self._open(family.module, device, threads)
        first = self._tokens(["a"], [""])
        probe = self._run({name: np.array(values) for name, values in first.items()})
        if field is None:
            field = next((name for name in FIELDS if name in probe), None)
        if field not in probe:
            wanted = " or ".join(FIELDS) if field is None else repr(field)
            raise ValueError(
                f"{self.folder}: {self.encoder} returns {', '.join(probe)}, not {wanted}; name "
                "another class with encoder= or another output with field="
            )
        if probe[field].ndim != 2:
            raise ValueError(
                f"{self.folder}: {field} of {self.encoder} has the shape {probe[field].shape}, "
                "expected (batch, dimension)"
            )
        self.field: str = field
        self.dimension: int = probe[field].shape[1]

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], **options: Any) -> Self:
        """Opens a checkpoint with its tokenizer; takes what the class takes."""
        return cls(folder, **options)

    @abstractmethod
    def _open(self, module: str, device: str | None, threads: int | None) -> Sequence[str]:
        """Opens `self.encoder` of a family's module; returns the names of its inputs."""

    @abstractmethod
    def _run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs of a batch that are arrays, by name."""

    def _check_loaded(self, missing: Sequence[str]) -> None:
        """Refuses weights that were not in the file: their vectors would be random."""
        if missing:
            raise ValueError(
                f"{self.folder}: no weights for {', '.join(list(missing)[:5])} of {self.encoder}, "
                "without which vectors would be random"
            )

    def embed(self, texts: Sequence[str], titles: Sequence[str] | None = None) -> np.ndarray:
        """Vectors of texts.

        Texts of similar lengths are batched together; what a text gives does not depend on the
        others, but for rounding.

        Args:
            texts: passages or queries; what does not fit is cut off.
            titles: of passages, read before the text as the first of a pair; empty ones are not.

        Returns:
            float32 `(texts, dimension)`.

        Raises:
            ValueError: as many titles as texts are expected.
        """
        if titles is not None and len(titles) != len(texts):
            raise ValueError(f"titles: expected {len(texts)}, got {len(titles)}")
        result = np.empty((len(texts), self.dimension), np.float32)
        rows = self._tokens(texts, [""] * len(texts) if titles is None else titles)
        lengths = np.array([len(row) for row in rows["input_ids"]], np.int64)
        for batch in batches(lengths, self.batch_tokens):
            inputs = self.tokenizer.pad(
                {name: [values[i] for i in batch] for name, values in rows.items()},
                padding="longest", return_tensors="np", verbose=False,
            )  # fmt: skip
            result[batch] = self._run(dict(inputs))[self.field]
        return self._normalized(result)

    def embed_inputs(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Vectors of texts that are token ids already.

        Args:
            inputs: arrays `(batch, sequence)` by name; those that the model does not take are
                passed over.

        Returns:
            float32 `(batch, dimension)`.
        """
        taken = {name: array for name, array in inputs.items() if name in self._inputs}
        return self._normalized(self._run(taken)[self.field])

    def _normalized(self, vectors: np.ndarray) -> np.ndarray:
        if self.normalize:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors

    def embed_passages(self, passages: Sequence[Passage]) -> np.ndarray:
        """Vectors of stored passages, `(passages, dimension)`."""
        return self.embed([p.text for p in passages], [p.title for p in passages])

    def _tokens(self, texts: Sequence[str], titles: Sequence[str]) -> dict[str, list[Any]]:
        """Columns of token lists, without padding, of those inputs that the model takes."""
        columns: dict[str, list[Any]] = {}
        options: dict[str, Any] = {"truncation": True, "max_length": self.max_length}
        options |= {"return_attention_mask": True, "verbose": False}
        for paired in (False, True):
            where = [i for i, title in enumerate(titles) if bool(title) == paired]
            if not where:
                continue
            chosen = [texts[i] for i in where]
            first = [titles[i] for i in where] if paired else chosen
            encoding = self.tokenizer(first, chosen if paired else None, **options)
            for name, values in encoding.items():
                if name in self._inputs:
                    column = columns.setdefault(name, [None] * len(texts))
                    for i, value in zip(where, values, strict=True):
                        column[i] = value
        return columns if texts else {"input_ids": []}

    def settings(self) -> dict[str, Any]:
        """All that the vectors depend on besides the weights, as JSON can hold it."""
        return {
            "encoder": self.encoder,
            "field": self.field,
            "max_length": self.max_length,
            "normalize": self.normalize,
            "dimension": self.dimension,
        }


def _bare_encoder(config: Any, otherwise: str | None) -> str | None:
    """Published names of models with a head have a `For`; what is left gives vectors."""
    names = [name.removeprefix("TF") for name in config.architectures or ()]
    return next((name for name in names if "For" not in name), otherwise)


def batches(lengths: np.ndarray, batch_tokens: int) -> Iterator[np.ndarray]:
    """Groups of texts of similar lengths, the longest first.

    Args:
        lengths: tokens of each, `(texts,)`.
        batch_tokens: the most tokens of a group, padding included.

    Returns:
        Places of each group's texts.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        rows = max(batch_tokens // max(int(lengths[order[start]]), 1), 1)
        stop = start + min(rows, _MAX_ROWS)
        yield order[start:stop]
        start = stop


def fingerprint(folder: str | os.PathLike[str]) -> str:
    """A hash of a checkpoint's configuration and weights, the same in both frameworks.

    Args:
        folder: of the checkpoint, or a repository on the hub.

    Returns:
        64 hexadecimal digits.
    """
    config = AutoConfig.from_pretrained(folder).to_dict()
    relevant = {name: value for name, value in config.items() if name not in _COSMETIC}
    found = hashlib.sha256(json.dumps(relevant, sort_keys=True, default=str).encode())
    with Checkpoint.open(pretrained.find_weights(folder)) as weights:
        for name in sorted(weights):
            info = weights[name]
            found.update(f"\n{name} {info.dtype} {info.shape}\n".encode())
            data = np.ascontiguousarray(weights.array(name))
            found.update(data.reshape(-1).view(np.uint8).data)
            weights.release(name)
    return found.hexdigest()


class Shards:
    """A matrix on disk that any number of processes fill, a shard of rows at a time.

        plan.json    rows, dimension, shard, and what the vectors are made with
        ids.npy      the passage of each row
        vectors.npy  the matrix
        done         8 bytes for each finished shard: a mark and the checksum of its rows
        lock         never written; byte i is locked by whoever works on shard i

    A process that dies loses its locks, so that another takes its shard over. All that is shared
    are files, so that the processes may run on several machines with one disk.

    Args:
        folder: where `create` put them.

    Raises:
        PassageError: nothing there, or damaged.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)
        path = self.folder / "plan.json"
        try:
            self.plan = json.loads(path.read_bytes())
            self.rows, self.dimension, self.shard = (
                int(self.plan[name]) for name in ("rows", "dimension", "shard")
            )
            self.ids = np.load(self.folder / "ids.npy", mmap_mode="r", allow_pickle=False)
        except FileNotFoundError as error:
            raise PassageError(f"{self.folder} holds no embedding in progress") from error
        except (KeyError, TypeError, ValueError) as error:
            raise PassageError(f"{path} is damaged: {error}") from error
        self.count = -(-self.rows // self.shard)
        self._matrix = self.folder / "vectors.npy"
        with open(self._matrix, "rb") as file:
            np.lib.format.read_magic(file)
            shape, _, _ = np.lib.format.read_array_header_1_0(file)
            self._offset = file.tell()
        size = self._offset + self.rows * self.dimension * 4
        if shape != (self.rows, self.dimension) or os.stat(self._matrix).st_size != size:
            raise PassageError(f"{self._matrix} does not fit {path}")

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike[str],
        ids: np.ndarray,
        dimension: int,
        *,
        shard: int = 8192,
        made_with: Mapping[str, Any] | None = None,
    ) -> Shards:
        """Lays out the files; those of another plan are replaced.

        Args:
            folder: created where needed.
            ids: passages, `(rows,)`.
            dimension: of a vector.
            shard: rows of a shard.
            made_with: what the vectors depend on; `plan["made_with"]`.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "plan.json").unlink(missing_ok=True)
        np.save(folder / "ids.npy", np.asarray(ids, np.int64), allow_pickle=False)
        matrix = np.lib.format.open_memmap(
            folder / "vectors.npy", "w+", np.float32, (len(ids), dimension)
        )
        del matrix
        (folder / "done").write_bytes(bytes(8 * -(-len(ids) // shard)))
        (folder / "lock").touch()
        plan = {"rows": len(ids), "dimension": dimension, "shard": shard,
                "made_with": dict(made_with or {})}  # fmt: skip
        files.atomic_write(folder / "plan.json", json.dumps(plan, indent=1))
        return cls(folder)

    def finished(self) -> np.ndarray:
        """Which shards are done, `(shards,)` bool."""
        return self._marks()[:, 0] == 1

    def _marks(self) -> np.ndarray:
        return np.frombuffer((self.folder / "done").read_bytes(), "<u4").reshape(-1, 2)

    def work(
        self,
        embed: Callable[[np.ndarray], np.ndarray],
        *,
        start: int = 0,
        progress: Callable[[int], None] = lambda done: None,
        wait: float = 0.5,
        stop: Callable[[], bool] = lambda: False,
    ) -> int:
        """Does shards that nobody else has in hand, until all are done.

        Args:
            embed: the vectors of some passages, by their ids.
            start: the shard to begin with, so that processes keep out of each other's way.
            progress: called with the number of finished shards.
            wait: seconds between two looks at what others are doing.
            stop: asked after each shard; true ends the work early.

        Returns:
            How many shards this process did.

        Raises:
            ValueError: vectors of another shape or with numbers that are not finite.
        """
        did = 0
        with open(self.folder / "lock", "r+b") as locks:
            while not (done := self.finished()).all():
                progress(int(done.sum()))
                moved = False
                for number in np.roll(np.flatnonzero(~done), -start).tolist():
                    if stop():
                        return did
                    with _claimed(locks.fileno(), number) as mine:
                        if mine and not self.finished()[number]:
                            self._do(number, embed)
                            did, moved = did + 1, True
                            progress(int(self.finished().sum()))
                if not moved:
                    time.sleep(wait)
            progress(self.count)
        return did

    def _do(self, number: int, embed: Callable[[np.ndarray], np.ndarray]) -> None:
        first = number * self.shard
        ids = np.asarray(self.ids[first : first + self.shard])
        vectors = np.ascontiguousarray(embed(ids), np.float32)
        if vectors.shape != (len(ids), self.dimension):
            expected = (len(ids), self.dimension)
            raise ValueError(f"vectors: expected shape {expected}, got {vectors.shape}")
        if not np.isfinite(vectors).all():
            row = int(np.flatnonzero(~np.isfinite(vectors).all(1))[0])
            raise ValueError(f"the vector of passage {ids[row]} holds a number that is not finite")
        data = vectors.reshape(-1).view(np.uint8).data
        # Not through a memory map, whose pages other machines would not see.
        with open(self._matrix, "r+b", buffering=0) as file:
            file.seek(self._offset + first * self.dimension * 4)
            files.write_all(file.fileno(), data)
            os.fsync(file.fileno())
        with open(self.folder / "done", "r+b", buffering=0) as file:
            file.seek(8 * number)
            files.write_all(file.fileno(), struct.pack("<II", 1, zlib.crc32(data)))
            os.fsync(file.fileno())

    def vectors(self, *, verify: bool = True) -> np.ndarray:
        """The finished matrix `(rows, dimension)`, memory-mapped.

        Args:
            verify: compare the checksum of every shard.

        Raises:
            PassageError: shards are missing or damaged; damaged ones are marked as not done.
        """
        marks = self._marks()
        if (marks[:, 0] != 1).any():
            raise PassageError(f"{self.folder}: {(marks[:, 0] != 1).sum()} shards are not done")
        matrix = np.load(self._matrix, mmap_mode="r", allow_pickle=False)
        if verify:
            for number in range(self.count):
                part = matrix[number * self.shard : (number + 1) * self.shard]
                if (
                    zlib.crc32(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
                    != marks[number, 1]
                ):
                    with open(self.folder / "done", "r+b") as file:
                        file.seek(8 * number)
                        file.write(bytes(8))
                    raise PassageError(
                        f"{self._matrix}: shard {number} is damaged; run the build again"
                    )
        return matrix


@contextlib.contextmanager
def _claimed(descriptor: int, number: int) -> Iterator[bool]:
    """Whether a shard is this process's; no other gets it inside the block."""
    if fcntl is None:
        yield True
        return
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
    except (BlockingIOError, PermissionError):
        yield False
        return
    except OSError:  # a disk without locks
        yield True
        return
    try:
        yield True
    finally:
        fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, number)
