"""An index over block embeddings that a second process makes anew while training goes on.

    indexes/000003/
        model/          the encoder as it was when the version was asked for
        request.json    what to do
        embedding/      vectors while they are computed; a worker that was killed goes on there
        progress.json   stage, steps done and steps in all
        index/          the finished index
        done.json       written last

Source: Guu et al. 2020 (REALM), section 3.3, "asynchronous MIPS refreshes". With N steps between
refreshes, version k is asked for at step kN and searched from step (k + 1)N on, where training
waits for it if need be. So a run's result does not depend on how quick the worker is.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import files
from ..retrieval import build_index, open_index
from ..retrieval.embedding import Shards, batches, fingerprint
from ..retrieval.passages import PassageError
from .corpus import BlockCorpus
from .state import put_folder, remove_folder

INDEXES = "indexes"
MODEL, REQUEST, EMBEDDING, PROGRESS = "model", "request.json", "embedding", "progress.json"
INDEX, DONE, FAILED, LOG = "index", "done.json", "failed.txt", "worker.log"
_POLL = 0.02  # seconds between two looks for what the worker has to do first
_LAST_LINES = 12

logger = logging.getLogger("zoo.training")
Save = Callable[[Path], None]


class RefreshError(RuntimeError):
    """The worker that makes the index has failed; says how and where its messages are."""


class Refresher:
    """Versions of an index, made by a process of their own.

    Args:
        folder: of the run; the versions are in `indexes` below it. None takes a folder that goes
            with this object.
        corpus: of the blocks, opened from a folder; its rows are the ids in the index.
        every: steps between two versions.
        embedder: module and class that open an encoder, as `pt_models.embedding:TextEmbedder`.
        options: of the embedder: `encoder`, `field` ...
        length: the most tokens of a block.
        index: arguments of `build_index`.
        delay: intervals between a version's beginning and its use; 0 waits for each at once.
        threads: of the worker.
        device: of the worker; by default an accelerator if there is one.
        batch_tokens: the most tokens of a batch of the worker, padding included.
        retries: how often a worker that was killed is started again for one version.
        leads: whether this process asks for versions; of several, one does.
        last_step: the step at which training ends, after which no version is asked for.

    Raises:
        ValueError: an argument that makes no sense.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None,
        corpus: BlockCorpus,
        every: int,
        *,
        embedder: str,
        options: Mapping[str, Any] | None = None,
        length: int = 288,
        index: Mapping[str, Any] | None = None,
        delay: int = 1,
        threads: int = 1,
        device: str | None = None,
        batch_tokens: int = 8192,
        retries: int = 1,
        leads: bool = True,
        last_step: int | None = None,
    ):
        if every < 1:
            raise ValueError(f"every: received {every}, expected a positive number of steps")
        if delay not in (0, 1):
            raise ValueError(f"delay: received {delay}, expected 0 or 1")
        if corpus.folder is None:
            raise ValueError("corpus: expected one in a folder, which another process can open")
        self._temporary = None
        if folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="zoo-")
            folder = self._temporary.name
        self.folder = Path(folder) / INDEXES
        self.corpus, self.every, self.delay = corpus, every, delay
        self.last_step, self.leads, self.retries = last_step, leads, retries
        self._embedder = embedder
        more = {} if device is None else {"device": device}
        self._request: dict[str, Any] = {
            "corpus": str(corpus.folder.resolve()), "length": length,
            "embedder": {"threads": threads, **more, **(options or {})},
            "index": {"kind": "auto", **(index or {})}, "batch_tokens": batch_tokens,
        }  # fmt: skip
        self.version: int | None = None  # that is searched
        self.index: Any = None
        self._newest = -1  # version that was asked for
        self._process: subprocess.Popen[str] | None = None
        self._asked: list[int] = []  # of this worker, not done yet
        self._kills: dict[int, int] = {}
        self.waited = 0.0  # seconds in which training stood still

    def settings(self) -> dict[str, Any]:
        """What a resumed run has to share."""
        request = {name: self._request[name] for name in ("length", "index")}
        return {"every": self.every, "delay": self.delay, **request}

    def version_at(self, step: int) -> int:
        """The version that is searched at a step."""
        return max(step // self.every - self.delay, 0)

    def needed(self, done: int) -> tuple[int, ...]:
        """The versions that going on after so many steps needs: the one in use, and the next."""
        newest = max(done - 1, 0) // self.every
        return tuple(filter(self._is_wanted, range(self.version_at(done), newest + 1)))

    def _is_wanted(self, number: int) -> bool:
        """Whether a version is used before training ends."""
        return (
            number == 0
            or self.last_step is None
            or (number + self.delay) * self.every < self.last_step
        )

    def before(self, step: int, save: Save) -> bool:
        """To be called before every step: asks for a version, or takes one up, where it is time.

        Args:
            step: from 0.
            save: writes the encoder and its tokenizer into a folder.

        Returns:
            Whether `index` is another one now.

        Raises:
            RefreshError: the worker failed, or a version is gone.
        """
        newest, wanted = step // self.every, self.version_at(step)
        self._newest = newest
        if self.leads:
            for number in range(wanted, newest + 1):
                is_due = step == number * self.every
                if self._is_wanted(number) and (is_due or self.index is None):
                    self._ask(number, save if is_due else None)
            self._watch()
        if self.version == wanted:
            return False
        began = time.monotonic()
        while not (self._place(wanted) / DONE).exists():
            self._watch()
            if not self.leads and (self._place(wanted) / FAILED).exists():
                raise RefreshError((self._place(wanted) / FAILED).read_text(encoding="utf-8"))
            time.sleep(_POLL)
        self.waited += time.monotonic() - began
        self.index = open_index(self._place(wanted) / INDEX, rows=len(self.corpus), verify=False)
        self.version = wanted
        logger.info("step %d: version %d of the index is searched", step, wanted)
        return True

    def progress(self) -> dict[str, Any] | None:
        """How far the worker is: `version`, `stage`, `done` and `total`; None where it is idle."""
        if self.leads:
            self._watch()
        for number in self._asked:
            with contextlib.suppress(OSError, ValueError):
                return json.loads((self._place(number) / PROGRESS).read_bytes())
            return {"version": number, "stage": "starting", "done": 0, "total": 0}
        return None

    def keep_only(self, versions: Iterable[int]) -> None:
        """Deletes all versions but these; to be called before a run begins or goes on."""
        kept = set(versions)
        if self.leads and self.folder.is_dir():
            for place in self.folder.iterdir():
                if place.name.isdecimal() and int(place.name) not in kept:
                    remove_folder(place)

    def forget(self, kept: Iterable[int]) -> None:
        """Deletes versions that neither a checkpoint nor this run needs.

        Args:
            kept: versions that checkpoints name.
        """
        newest = [] if self.version is None else range(self.version, max(self._newest + 1, 0))
        self.keep_only({*kept, *newest})

    def close(self) -> None:
        """Ends the worker."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()  # type: ignore[union-attr]
            if self._asked:  # nobody needs it any more
                process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._asked = []
        if self._temporary is not None:
            self.index = None
            self._temporary.cleanup()

    def __enter__(self) -> Refresher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _place(self, number: int) -> Path:
        return self.folder / f"{number:06d}"

    def _ask(self, number: int, save: Save | None) -> None:
        """Hands a version to the worker, unless that was done before."""
        place = self._place(number)
        if number in self._asked or (place / DONE).exists():
            return
        if not (place / REQUEST).exists():
            if save is None:
                raise RefreshError(
                    f"{place}: version {number} of the index is needed to go on and is gone; "
                    "start again without resuming"
                )
            self.folder.mkdir(parents=True, exist_ok=True)

            def write(staged: Path) -> None:
                (staged / MODEL).mkdir()
                save(staged / MODEL)
                request = self._request | {"version": number}
                files.write_new(staged / REQUEST, json.dumps(request, indent=1) + "\n")

            put_folder(place, write)
        with contextlib.suppress(FileNotFoundError):
            (place / FAILED).unlink()  # of an earlier run
        self._asked.append(number)
        self._send(number)

    def _send(self, number: int) -> None:
        if self._process is None:
            self._start()
        assert self._process is not None and self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died, which `_watch` finds
            self._process.stdin.write(f"{self._place(number).resolve()}\n")
            self._process.stdin.flush()

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        paths = [str(Path(__file__).parents[2]), *sys.path]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(filter(None, paths)))}
        # It is no part of a group that trains together.
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "TF_CONFIG"):
            env.pop(name, None)
        threads = self._request["embedder"]["threads"]
        if threads is not None:
            for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
                env[name] = str(threads)
        with open(self.folder / LOG, "a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "zoo.training.refresh", self._embedder,
                 "--parent", str(os.getpid())],
                stdin=subprocess.PIPE, stdout=log, stderr=log, text=True, env=env,
                start_new_session=True,  # Ctrl-C is the trainer's to answer
            )  # fmt: skip

    def _watch(self) -> None:
        """Notices what is done, and a worker that died: starts it again, or gives up."""
        while self._asked and (self._place(self._asked[0]) / DONE).exists():
            self._asked.pop(0)
        if self._process is None or not self._asked:
            return
        code = self._process.poll()
        if code is None:
            return
        number = self._asked[0]
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process = None
        if (self._place(number) / DONE).exists():
            kills = 0
        else:
            how = f"was killed by {_signal(-code)}" if code < 0 else f"ended with exit code {code}"
            kills = self._kills[number] = self._kills.get(number, 0) + 1
            if code >= 0 or kills > self.retries:
                message = (
                    f"the process that makes version {number} of the index {how}"
                    f"{f', {kills} times' if kills > 1 else ''}; what is finished of it is kept, "
                    f"so that resuming goes on there. The end of {self.folder / LOG}:\n"
                    + self._last_lines()
                )
                # The other processes of a group wait for the version too.
                files.atomic_write(self._place(number) / FAILED, message)
                raise RefreshError(message)
            logger.warning(
                "the process that makes version %d of the index %s; it is started again and goes "
                "on where it was", number, how,
            )  # fmt: skip
        for number in self._asked:
            self._send(number)

    def _last_lines(self) -> str:
        with contextlib.suppress(OSError):
            lines = (self.folder / LOG).read_text(errors="replace").splitlines()
            return "\n".join(lines[-_LAST_LINES:])
        return ""


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


# The worker ---------------------------------------------------------------------------------------


def embed_blocks(
    embed: Callable[[dict[str, np.ndarray]], np.ndarray],
    corpus: BlockCorpus,
    rows: np.ndarray,
    length: int,
    batch_tokens: int = 8192,
) -> np.ndarray:
    """Vectors of blocks.

    Args:
        embed: from `BlockCorpus.block_inputs` to vectors `(batch, dimension)`.
        corpus: of the blocks.
        rows: `(blocks,)`.
        length: the most tokens of a block, with its title.
        batch_tokens: the most tokens of a batch, padding included.

    Returns:
        `(blocks, dimension)`, float32.
    """
    rows = np.asarray(rows)
    sizes = np.diff(corpus.offsets)[rows] + np.diff(corpus.title_offsets)[rows] + 3
    found: np.ndarray | None = None
    for part in batches(np.minimum(sizes, length), batch_tokens):
        vectors = np.asarray(embed(corpus.block_inputs(rows[part], length)), np.float32)
        if found is None:
            found = np.empty((len(rows), vectors.shape[1]), np.float32)
        found[part] = vectors
    if found is None:
        raise ValueError("rows: there are none")
    return found


def make_version(
    place: str | os.PathLike[str], make: Callable[..., Any], stop: Callable[[], bool]
) -> bool:
    """Embeds all blocks and builds the index of a version.

    Args:
        place: folder of the version.
        make: opens an encoder: folder and options -> embedder.
        stop: asked now and then; true ends the work, which can go on later.

    Returns:
        Whether the version is finished.
    """
    place = Path(place)
    began = time.monotonic()
    with open(place / "lock", "w") as lock:
        # The worker of a trainer that was killed may still be at it.
        held = files.lock(Path(lock.name), exclusive=True)
        try:
            if (place / DONE).exists():
                return True
            request = json.loads((place / REQUEST).read_bytes())
            report = _Reporter(place / PROGRESS, request["version"])
            report("starting", 0, 0)
            corpus = BlockCorpus.open(request["corpus"])
            embedder = make(place / MODEL, **request["embedder"])
            named = fingerprint(place / MODEL)
            made_with = embedder.settings() | {"fingerprint": named, "length": request["length"]}
            shards = _shards(place / EMBEDDING, len(corpus), embedder.dimension, made_with)
            shards.work(
                lambda rows: embed_blocks(
                    embedder.embed_inputs, corpus, rows, request["length"], request["batch_tokens"]
                ),
                progress=lambda done: report("embedding", done, shards.count),
                stop=stop,
            )
            if not shards.finished().all():
                return False
            index = build_index(
                shards.vectors(),
                fingerprint=named,
                progress=report,
                **request["index"],
            )
            index.save(place / INDEX)
            shutil.rmtree(place / EMBEDDING, ignore_errors=True)
            done = {"rows": len(corpus), "seconds": time.monotonic() - began, "fingerprint": named}
            files.atomic_write(place / DONE, json.dumps(done, indent=1) + "\n")
            report("done", 1, 1)
            return True
        finally:
            files.unlock(held)


def _shards(folder: Path, rows: int, dimension: int, made_with: dict[str, Any]) -> Shards:
    """The matrix that is there if it is the same one, else a new one."""
    with contextlib.suppress(PassageError):
        found = Shards(folder)
        if found.plan["made_with"] == json.loads(json.dumps(made_with)):
            return found
    # Some twenty shards, so that a kill costs little and progress is seen.
    shard = min(max(-(-rows // 20), 256), 8192)
    return Shards.create(folder, np.arange(rows), dimension, shard=shard, made_with=made_with)


class _Reporter:
    """Writes progress.json, not more than a few times a second."""

    def __init__(self, path: Path, version: int):
        self._path, self._version = path, version
        self._last, self._stage = 0.0, ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != self._stage or now - self._last > 0.3:
            self._last, self._stage = now, stage
            content = {"version": self._version, "stage": stage, "done": done, "total": total}
            files.atomic_write(self._path, json.dumps(content))


def main() -> None:
    """Makes the versions whose folders are named on standard input, until it is closed."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("embedder", help="module:class")
    parser.add_argument("--parent", type=int, required=True, help="process that is served")
    arguments = parser.parse_args()
    module, _, name = arguments.embedder.partition(":")
    make = getattr(importlib.import_module(module), name)
    for line in sys.stdin:
        if not make_version(line.strip(), make, lambda: os.getppid() != arguments.parent):
            break


if __name__ == "__main__":
    main()
