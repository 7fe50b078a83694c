"""`zoo index`: a corpus becomes a folder of searchable documents, and is searched and changed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Make documents searchable: build, change, search, measure.", no_args_is_help=True
)
DEFAULT_LENGTH = 288  # of a block, as for ORQA (arXiv 1906.00300, section 3)


class Framework(StrEnum):
    pt = "pt"
    tf = "tf"


class Kind(StrEnum):
    auto = "auto"
    exact = "exact"
    scann = "scann"
    milvus = "milvus"


class Engine(StrEnum):
    processes = "processes"
    ray = "ray"


Folder = Annotated[Path, typer.Argument(help="Folder that `zoo index build` made.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
InFramework = Annotated[Framework, typer.Option(help="In which the encoder runs.")]
Device = Annotated[str | None, typer.Option(help="Such as cuda:1 or GPU:1.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Of each process.")]
Format = Annotated[str | None, typer.Option(help="Of the corpus; found out from names.")]
Encoding = Annotated[str, typer.Option(help="Of text files.")]
Columns = Annotated[str | None, typer.Option(help="Other names of columns, as text=body,id=key.")]
Header = Annotated[str | None, typer.Option(help="Columns of a TSV file without their names.")]
Quoting = Annotated[bool, typer.Option(help="Whether fields of a TSV file may be quoted.")]
Skip = Annotated[
    bool, typer.Option("--skip-errors", help="Count what cannot be read and pass over it.")
]
Name = Annotated[
    str | None, typer.Option("--id", help="Of a single document; by default its path.")
]
QueryModel = Annotated[
    str | None, typer.Option(help="Checkpoint for queries, where it is another one.")
]
Queries = Annotated[
    Path | None, typer.Option(help="File with a real query a line, to tune the index by.")
]
Workers = Annotated[int, typer.Option(min=1, help="Processes that embed.")]
WorkersBy = Annotated[Engine, typer.Option(help="What starts the workers.")]
ShardSize = Annotated[int, typer.Option(min=1, help="Passages embedded at a time.")]
BatchTokens = Annotated[int, typer.Option(min=1, help="Of a batch of the encoder.")]
Sources = Annotated[list[Path], typer.Argument(help="Files or folders of documents.")]


@app.command()
def build(
    corpus: Annotated[Path, typer.Argument(help="A file or folder of text in any known format.")],
    out: Annotated[Path, typer.Option(help="Folder to make, or to go on with after a kill.")],
    model: Annotated[
        str | None, typer.Option(help="Checkpoint of the encoder: folder or repository.")
    ] = None,
    query_model: QueryModel = None,
    framework: InFramework = Framework.pt,
    workers: Workers = 1,
    engine: WorkersBy = Engine.processes,
    format: Format = None,
    block_length: Annotated[
        int | None,
        typer.Option(min=1, help="Word pieces of a block; by default 288, or what fits the model."),
    ] = None,
    split: Annotated[
        bool | None, typer.Option("--split/--no-split", help="Cut documents into blocks.")
    ] = None,
    own_vectors: Annotated[
        bool, typer.Option("--own-vectors", help="Take the vectors that the corpus has.")
    ] = False,
    encoder: Annotated[str | None, typer.Option(help="Published class, as RemBertModel.")] = None,
    field: Annotated[str | None, typer.Option(help="Output that is the vector.")] = None,
    max_length: Annotated[int | None, typer.Option(min=1, help="Tokens of a passage.")] = None,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Scale vectors to length one.")
    ] = False,
    kind: Annotated[Kind, typer.Option(help="Of the index.")] = Kind.auto,
    uri: Annotated[
        str | None,
        typer.Option(help="Of a Milvus server, or a path for milvus-lite; see MILVUS_TOKEN."),
    ] = None,
    target_recall: Annotated[float, typer.Option(help="That ScaNN is tuned for.")] = 0.95,
    index_shards: Annotated[int, typer.Option(min=1, help="Parts of the index.")] = 1,
    queries: Queries = None,
    shard_size: ShardSize = 4096,
    batch_tokens: BatchTokens = 8192,
    device: Device = None,
    threads: Threads = None,
    encoding: Encoding = "utf-8",
    columns: Columns = None,
    header: Header = None,
    quoting: Quoting = True,
    skip_errors: Skip = False,
    as_json: Json = False,
) -> None:
    """Make a corpus searchable; after a kill, the same command goes on where it was.

    Under torchrun each process embeds its share; the folder has to be on a disk they all see.
    """
    from zoo.retrieval import documents as run
    from zoo.retrieval.readers import Corpus

    found = Corpus(
        corpus, format, encoding=encoding, columns=_columns(columns), header=_list(header),
        quoting=quoting, on_error="skip" if skip_errors else "raise",
    )  # fmt: skip
    if block_length is not None and split is False:
        raise ValueError("--block-length: given with --no-split")
    if split is None:
        split = block_length is not None or not (found.is_split or own_vectors)
    if split and block_length is None:
        if model is None:
            raise ValueError("--model: expected a checkpoint, by whose word pieces to split")
        block_length = _default_length(model, max_length)
    if (kind is Kind.milvus) != (uri is not None):
        raise ValueError("--kind milvus and --uri: one is given without the other")
    if uri is not None and index_shards > 1:
        raise ValueError("--index-shards: a Milvus server shards by itself")
    settings = run.new_settings(
        found, model, query_model=query_model, length=block_length, own_vectors=own_vectors,
        index={"kind": kind.value, "uri": uri} if uri is not None else
        {"kind": kind.value, "target_recall": target_recall, "shards": index_shards},
        encoder=encoder, field=field, max_length=max_length, normalize=normalize or None,
    )  # fmt: skip
    rank, world = _rank()
    if workers > 1 and world > 1:
        raise ValueError("--workers: torchrun has started the processes already")
    runtime = _runtime(batch_tokens, device, threads, workers)
    helpers = _Helpers(engine, workers - 1, out, framework, runtime)
    with _bars(quiet=rank > 0) as progress:
        summary = run.build(
            found, out, settings, make=_maker(framework), rank=rank, world=world,
            help_out=lambda: helpers.start(settings),
            queries=None if queries is None else _lines(queries), shard=shard_size,
            progress=progress, **runtime,
        )  # fmt: skip
    summary |= {"skipped": dict(found.skipped), "failed_workers": helpers.failed}
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
    elif rank == 0:
        _print_summary(out, summary, found.problems)


@app.command()
def add(
    folder: Folder,
    sources: Sources,
    name: Name = None,
    framework: InFramework = Framework.pt,
    format: Format = None,
    encoding: Encoding = "utf-8",
    columns: Columns = None,
    header: Header = None,
    quoting: Quoting = True,
    skip_errors: Skip = False,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Add documents that are not there yet."""
    with _opened(folder, framework, device, threads) as found:
        corpora = _corpora(
            found, sources, name, format=format, encoding=encoding, columns=_columns(columns),
            header=_list(header), quoting=quoting, on_error="skip" if skip_errors else "raise",
        )  # fmt: skip
        before = found.passages.stats()["documents"]
        ids = found.add(corpora)
        count = found.passages.stats()["documents"] - before
    typer.echo(f"added {count} documents, {len(ids)} passages; {len(found)} in all")
    _print_skipped(corpora)


@app.command()
def update(
    folder: Folder,
    sources: Sources,
    name: Name = None,
    framework: InFramework = Framework.pt,
    format: Format = None,
    encoding: Encoding = "utf-8",
    columns: Columns = None,
    header: Header = None,
    quoting: Quoting = True,
    skip_errors: Skip = False,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Put documents in the place of those of the same id; new ones are added."""
    with _opened(folder, framework, device, threads) as found:
        corpora = _corpora(
            found, sources, name, format=format, encoding=encoding, columns=_columns(columns),
            header=_list(header), quoting=quoting, on_error="skip" if skip_errors else "raise",
        )  # fmt: skip
        before = len(found)
        ids = found.update(corpora)
    gone = before + len(ids) - len(found)
    typer.echo(f"{len(ids)} new passages in the place of {gone}; {len(found)} in all")
    _print_skipped(corpora)


@app.command()
def remove(
    folder: Folder,
    documents: Annotated[list[str], typer.Argument(help="Ids, as `search` shows them.")],
    framework: InFramework = Framework.pt,
) -> None:
    """Remove documents; a path inside the folder that was indexed stands for its id."""
    with _opened(folder, framework, None, None) as found:
        gone = found.remove([_id(found, name) for name in documents])
    typer.echo(f"removed {len(documents)} documents, {len(gone)} passages; {len(found)} left")


@app.command()
def refresh(
    folder: Folder,
    model: Annotated[
        str | None, typer.Option(help="Another checkpoint, whose vectors replace all.")
    ] = None,
    query_model: QueryModel = None,
    framework: InFramework = Framework.pt,
    workers: Workers = 1,
    engine: WorkersBy = Engine.processes,
    queries: Queries = None,
    shard_size: ShardSize = 4096,
    batch_tokens: BatchTokens = 8192,
    device: Device = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Build the index anew while the old one is searched: after many changes, or a new model."""
    from zoo.retrieval import documents as run

    runtime = _runtime(batch_tokens, device, threads, workers)
    helpers = _Helpers(engine, workers - 1, folder, framework, runtime, refreshing=True)
    with _bars(quiet=False) as progress:
        summary = run.refresh(
            folder, make=_maker(framework), model=model, query_model=query_model,
            help_out=helpers.start, queries=None if queries is None else _lines(queries),
            shard=shard_size, progress=progress, **runtime,
        )  # fmt: skip
    summary["failed_workers"] = helpers.failed
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
        return
    typer.echo(
        f"{folder}: {summary['passages']} passages, {summary['shards']} shards embedded, "
        f"{summary['shards_done_before']} done before"
    )
    if "former_collection" in summary:
        typer.echo(f"collection {summary['former_collection']} is no longer used")


@app.command()
def search(
    folder: Folder,
    query: Annotated[list[str], typer.Argument(help="One or several questions.")],
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="Passages for each.")] = 5,
    framework: InFramework = Framework.pt,
    device: Device = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Find the passages that go best with a text."""
    from rich.console import Console
    from rich.text import Text

    with _opened(folder, framework, device, threads) as found:
        results = found.search(query, k)
    if as_json:
        listed = [
            {
                "query": text,
                "passages": [{"score": hit.score} | hit.passage._asdict() for hit in hits],
            }
            for text, hits in zip(query, results, strict=True)
        ]
        typer.echo(json.dumps(listed, indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False)
    for text, hits in zip(query, results, strict=True):
        if len(query) > 1:
            console.print(Text(text, style="bold underline"))
        for place, (score, passage) in enumerate(hits, 1):
            head = Text(f"{place:2d}  {score:.4f}  ", style="cyan")
            head.append(passage.title or passage.document, style="bold")
            head.append(f"  [{passage.document}, part {passage.part}]", style="dim")
            console.print(head)
            shown = " ".join(passage.text.split())
            console.print(Text("    " + (shown[:297] + "..." if len(shown) > 300 else shown)))


@app.command()
def stats(
    folder: Folder,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare the checksums of all files.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say what a folder holds."""
    from rich.console import Console
    from rich.table import Table

    with _opened(folder, Framework.pt, None, None, verify=verify) as found:
        values = found.stats()
        if verify:
            found.passages.verify()
    if as_json:
        typer.echo(json.dumps(values, indent=2, default=str))
        return
    table = Table(show_header=False, box=None)
    for name, value in _flat(values):
        table.add_row(name, value)
    Console(highlight=False).print(table)


@app.command()
def bench(
    folder: Folder,
    queries: Annotated[
        Path | None, typer.Option(help="A query a line; by default sentences of passages.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Of queries.")] = 200,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="Results that count.")] = 10,
    plot: Annotated[
        Path | None, typer.Option(help="Picture to draw; by default bench.png in the folder.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0,
    framework: InFramework = Framework.pt,
    device: Device = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure recall against queries per second, single and in a batch, and draw the curve."""
    with _opened(folder, framework, device, threads) as found:
        if queries is None:
            texts = _sample(found, count, seed)
        else:
            texts = _lines(queries)
            texts = random.Random(seed).sample(texts, min(count, len(texts)))
        vectors = found.embedder("queries").embed(texts)
        rows = measure(found, vectors, k)
    picture = _plot(rows, plot or folder / "bench.png", k)
    if as_json:
        typer.echo(json.dumps({"k": k, "queries": len(texts), "rows": rows}, indent=2))
        return
    _print_bench(rows, k, len(texts))
    if picture is not None:
        typer.echo(f"drawn: {picture}")


def measure(found: Any, queries: Any, k: int) -> list[dict[str, Any]]:
    """Recall and speed of an index at several settings.

    Args:
        found: an opened folder of documents.
        queries: `(batch, dimension)`.
        k: number of results that count.

    Returns:
        For each setting: `leaves`, `recall`, and queries a second of processor time, `single`
        and `batched`; exact search last.
    """
    import numpy as np

    truth = found.true_neighbours(queries, k)
    rows: list[dict[str, Any]] = []
    for leaves in _sweep(found.index):
        options = {} if leaves is None else {"leaves": leaves}
        ids, _ = found.index.search(queries, k, **options)
        hits = (ids[:, :, None] == truth[:, None, :]) & (truth >= 0)[:, None, :]
        recall = float(hits.any(1).sum() / max((truth >= 0).sum(), 1))

        def single(options: dict[str, Any] = options) -> None:
            for query in queries:
                found.index.search(query[None], k, **options)

        def batched(options: dict[str, Any] = options) -> None:
            found.index.search(queries, k, **options)

        rows.append(
            {
                "leaves": leaves,
                "recall": recall,
                "single": len(queries) / _seconds(single),
                "batched": len(queries) / _seconds(batched),
            }
        )
    dimension = queries.shape[1]
    if len(found.index) * dimension <= 1 << 28:  # a gigabyte: exact search for comparison
        from zoo.retrieval.exact import exact_top

        everything = np.ascontiguousarray(found.index.vectors(found.index.ids()))
        rows.append(
            {
                "leaves": "exact",
                "recall": 1.0,
                "single": len(queries)
                / _seconds(lambda: [exact_top(q[None], everything, k) for q in queries]),
                "batched": len(queries) / _seconds(lambda: exact_top(queries, everything, k)),
            }
        )
    return rows


def _sweep(index: Any) -> list[int | None]:
    """Numbers of partitions to try: None, the tuned one, then a few up to all."""
    built = index.stats()["settings"].get("built", {})
    leaves = built.get("tree", {}).get("num_leaves", 1)
    if leaves < 2:
        return [None]
    steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000]
    return [None, *(step for step in steps if step < leaves), leaves]


def _seconds(work: Callable[[], Any]) -> float:
    """Processor time of the quickest of three."""
    found = []
    for _ in range(3):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return max(min(found), 1e-9)


# Parts --------------------------------------------------------------------------------------------


def _maker(framework: Framework) -> Callable[..., Any]:
    """Opens encoders in a framework, which is imported when the first one is opened."""

    def make(folder: str, **options: Any) -> Any:
        if framework is Framework.pt:
            from pt_models.embedding import TextEmbedder

            return TextEmbedder.from_pretrained(folder, **options)
        from tf_models.embedding import TFTextEmbedder

        return TFTextEmbedder.from_pretrained(folder, **options)

    return make


@contextlib.contextmanager
def _opened(
    folder: Path,
    framework: Framework,
    device: str | None,
    threads: int | None,
    *,
    verify: bool = False,
) -> Iterator[Any]:
    from zoo.retrieval.documents import DocumentIndex

    make = _maker(framework)
    found = DocumentIndex(
        folder,
        make=lambda place, **options: make(place, device=device, threads=threads, **options),
        verify=verify,
    )
    if not found.is_current:
        typer.echo(
            f"{folder}: a change was interrupted; the next add, update, remove or build ends it",
            err=True,
        )
    yield found


class _Corpora:
    """Several sources in a row."""

    def __init__(self, corpora: Sequence[Any], name: str | None):
        self.corpora, self._name = corpora, name
        self.is_split = all(corpus.is_split for corpus in corpora)

    def __iter__(self) -> Iterator[Any]:
        for corpus in self.corpora:
            for document in corpus:
                yield document if self._name is None else document._replace(id=self._name)


def _corpora(found: Any, sources: Sequence[Path], name: str | None, **options: Any) -> _Corpora:
    from zoo.retrieval.readers import Corpus

    root = Path(found.settings["corpus"]["path"])
    corpora = []
    for source in sources:
        inside = source.resolve().is_relative_to(root) and root.is_dir()
        path = source.resolve() if inside else source
        corpora.append(Corpus(path, root=root if inside else None, **options))
    if len({corpus.is_split for corpus in corpora}) > 1:
        raise ValueError("sources: documents and ready blocks together; add them one by one")
    if name is not None and (len(sources) != 1 or sources[0].is_dir()):
        raise ValueError("--id: names a single document, so name a single file")
    return _Corpora(corpora, name)


def _id(found: Any, name: str) -> str:
    """An id, or that of the file that a path names."""
    root = Path(found.settings["corpus"]["path"])
    path = Path(name)
    if not found.passages.find(name) and path.resolve().is_relative_to(root) and path.exists():
        return path.resolve().relative_to(root).as_posix()
    return name


def _runtime(
    batch_tokens: int, device: str | None, threads: int | None, workers: int
) -> dict[str, Any]:
    """Arguments of the embedder; several workers share the processors."""
    if threads is None and workers > 1:
        threads = max((os.cpu_count() or 1) // workers, 1)
    return {"batch_tokens": batch_tokens, "device": device, "threads": threads}


def _default_length(model: str, max_length: int | None) -> int:
    """288 word pieces, or three quarters of what the model takes: the rest is for the title."""
    from zoo import AutoConfig, AutoTokenizer

    longest = getattr(AutoConfig.from_pretrained(model), "max_position_embeddings", None)
    limit = min(AutoTokenizer.from_pretrained(model).model_max_length, longest or 512, 512)
    return max(min(DEFAULT_LENGTH, (max_length or limit) * 3 // 4), 1)


def _columns(text: str | None) -> dict[str, str] | None:
    if text is None:
        return None
    pairs = [pair.partition("=") for pair in text.split(",")]
    if not all(name and sign and value for name, sign, value in pairs):
        raise ValueError(f"--columns: received {text!r}, expected such as text=body,id=key")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _list(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _lines(path: Path) -> list[str]:
    """The queries of a file: text a line, or the `question` or `query` of JSON lines."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("{"):
            try:
                values = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}:{number}: no JSON: {error}") from None
            line = values.get("question") or values.get("query") or ""
            if not isinstance(line, str) or not line:
                raise ValueError(f"{path}:{number}: no 'question' and no 'query'")
        if line.strip():
            found.append(line.strip())
    if not found:
        raise ValueError(f"{path} holds no queries")
    return found


def _rank() -> tuple[int, int]:
    """This process among those that torchrun started."""
    try:
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    except ValueError:
        rank, world = -1, 0
    if not 0 <= rank < world:
        raise ValueError(
            f"RANK and WORLD_SIZE: received {os.environ.get('RANK')!r} and "
            f"{os.environ.get('WORLD_SIZE')!r}"
        )
    return rank, world


def _sample(found: Any, count: int, seed: int) -> list[str]:
    """A sentence of each of some passages, which stands for a query."""
    from zoo.retrieval.splitting import sentences

    ids = found.passages.ids()
    chosen = random.Random(seed)
    texts = []
    for place in chosen.sample(range(len(ids)), min(count, len(ids))):
        text = found.passages[int(ids[place])].text
        spans = sentences(text) or [(0, len(text))]
        start, end = chosen.choice(spans)
        texts.append(text[start:end])
    return texts


class _Helpers:
    """Further processes that embed.

    Args:
        engine: what starts them.
        count: how many.
        out: the folder.
        framework: of the encoder.
        runtime: of the embedder.
        refreshing: whether the folder is complete already.

    Attributes:
        failed: how many ended with an error.
    """

    def __init__(
        self,
        engine: Engine,
        count: int,
        out: Path,
        framework: Framework,
        runtime: dict[str, Any],
        *,
        refreshing: bool = False,
    ):
        self.engine, self.count, self.failed = engine, count, 0
        self._task = {
            "out": str(out.resolve()), "framework": framework.value, "runtime": runtime,
            "world": count + 1, "refreshing": refreshing,
        }  # fmt: skip

    def start(self, settings: dict[str, Any]) -> contextlib.AbstractContextManager[None]:
        """Context manager that starts them, and ends them when all shards are done."""
        self._task["settings"] = settings
        return self._ray() if self.engine is Engine.ray else self._processes()

    @contextlib.contextmanager
    def _processes(self) -> Iterator[None]:
        here = Path(__file__).parents[1]
        path = os.pathsep.join([str(here), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        running = []
        try:
            for rank in range(1, self.count + 1):
                task = json.dumps(self._task | {"rank": rank, "parent": os.getpid()})
                environment = os.environ | {"PYTHONPATH": path, "LOCAL_RANK": str(rank)}
                running.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "converters.index_cli"], stdin=subprocess.PIPE,
                        env=environment, text=True,
                    )
                )  # fmt: skip
                stream = running[-1].stdin
                assert stream is not None
                with contextlib.suppress(BrokenPipeError), stream:  # it ended at once
                    stream.write(task)
            yield
            # All shards are done: whoever still runs has nothing left to do.
            self.failed = sum(process.poll() not in (None, 0) for process in running)
        finally:
            for process in running:
                if process.poll() is None:
                    process.terminate()
                process.wait()

    @contextlib.contextmanager
    def _ray(self) -> Iterator[None]:
        try:
            import ray
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("--engine ray needs Ray: pip install ray") from error
        ray.init(ignore_reinit_error=True, log_to_driver=False)
        remote = ray.remote(num_cpus=1, max_retries=0)(_work)
        tasks = [remote.remote(self._task | {"rank": rank}) for rank in range(1, self.count + 1)]
        try:
            yield
            for task in ray.wait(tasks, num_returns=len(tasks), timeout=0)[0]:
                try:
                    ray.get(task)
                except ray.exceptions.RayError:
                    self.failed += 1
        finally:
            ray.shutdown()


def _work(task: dict[str, Any]) -> None:
    """What a further process does: embed what is not done yet."""
    from zoo.retrieval.documents import help_build

    parent = task.get("parent")
    help_build(
        task["out"], task["settings"], make=_maker(Framework(task["framework"])),
        rank=task["rank"], world=task["world"], refreshing=task["refreshing"],
        stop=lambda: parent is not None and os.getppid() != parent, **task["runtime"],
    )  # fmt: skip


@contextlib.contextmanager
def _bars(*, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar for each stage, on the terminal's error stream."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    console = Console(stderr=True, quiet=quiet)
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bars:
        tasks: dict[str, Any] = {}

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total or None)
            bars.update(tasks[stage], completed=done, total=total or None)

        yield tell


def _print_summary(out: Path, summary: dict[str, Any], problems: Sequence[str]) -> None:
    if summary["complete_before"]:
        typer.echo(f"{out} is complete: {summary['passages']} passages")
        return
    typer.echo(
        f"{out}: {summary['passages']} passages in {summary['seconds']:.1f} s "
        f"({summary['read']} documents read, {summary['shards']} shards embedded here, "
        f"{summary['shards_done_before']} done before)"
    )
    if summary["failed_workers"]:
        typer.echo(f"{summary['failed_workers']} workers failed; the others did their part")
    for reason, count in summary["skipped"].items():
        typer.echo(f"skipped: {count} {reason}")
    for problem in problems:
        typer.echo(f"  {problem}")


def _print_skipped(corpora: _Corpora) -> None:
    for corpus in corpora.corpora:
        for reason, count in corpus.skipped.items():
            typer.echo(f"skipped: {count} {reason}")


def _print_bench(rows: Sequence[dict[str, Any]], k: int, count: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{count} queries; processor time")
    for name in ("leaves", f"recall@{k}", "queries/s, single", "queries/s, batch"):
        table.add_column(name, justify="right")
    for row in rows:
        leaves = "as tuned" if row["leaves"] is None else str(row["leaves"])
        table.add_row(
            leaves, f"{row['recall']:.3f}", f"{row['single']:,.0f}", f"{row['batched']:,.0f}"
        )
    Console().print(table)


def _plot(rows: Sequence[dict[str, Any]], path: Path, k: int) -> Path | None:
    """Draws recall against speed; None where matplotlib is not installed."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        typer.echo("no picture: pip install 'twin-zoo[plots]'", err=True)
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for name, marker in (("single", "o"), ("batched", "s")):
        points = sorted((row["recall"], row[name]) for row in rows if row["leaves"] != "exact")
        (line,) = axes.plot(*zip(*points, strict=True), marker=marker, label=name)
        exact = [row[name] for row in rows if row["leaves"] == "exact"]
        if exact:
            axes.axhline(exact[0], color=line.get_color(), linestyle=":", label=f"exact, {name}")
    axes.set(xlabel=f"recall@{k}", ylabel="queries per second of processor time", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for number, entry in enumerate(value):
                yield from _flat(entry, f"{prefix}{name}.{number}.")
        else:
            yield prefix + name, str(value)


if __name__ == "__main__":
    _work(json.load(sys.stdin))
