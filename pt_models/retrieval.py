"""Maximum inner product search as a module, for graphs, accelerators and serving.

`DenseRetriever` compares with every vector by PyTorch's own operations, so it runs on any device
and in `torch.export` and `torch.compile`. `ScannRetriever` calls ScaNN on the CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from zoo.retrieval.exact import check_table


class DenseRetriever(nn.Module):
    """The k vectors with the largest inner products, by comparing with all of them.

    Args:
        vectors: `(rows, hidden)`.
        ids: `(rows,)`, whole numbers of 64 bits; by default 0, 1, 2 ...
        k: how many.
        block_rows: rows compared at a time, which bounds the memory for scores; all by default.
        storage: dtype that the vectors are kept in: `float32`, `bfloat16` or `float16`. Products
            are summed in float32.

    Differs: TensorFlow has an approximate top k too.

    Raises:
        RetrievalError: an argument that does not fit.
    """

    def __init__(
        self,
        vectors: Any,
        ids: Any = None,
        k: int = 10,
        *,
        block_rows: int | None = None,
        storage: str = "float32",
    ) -> None:
        super().__init__()
        vectors, ids = check_table(vectors, ids, k, block_rows, storage)
        self.k = k
        self.block_rows = block_rows or max(len(vectors), 1)
        self.register_buffer("vectors", torch.tensor(vectors, dtype=getattr(torch, storage)))
        self.register_buffer("ids", torch.tensor(ids))

    @classmethod
    def from_index(cls, index: Any, k: int = 10, **options: Any) -> DenseRetriever:
        """Takes the vectors of an index of `zoo.retrieval`, which has to keep them."""
        ids = index.ids()
        return cls(index.vectors(ids), ids, k, **options)

    def forward(self, queries: torch.Tensor) -> dict[str, torch.Tensor]:
        """`(batch, hidden)` -> ids and scores, `(batch, k)`, best first; -1 and -inf beyond all."""
        places, scores = top_products(queries, self.vectors, self.k, self.block_rows)
        missing = (0, self.k - scores.shape[1])
        return {
            "ids": nn.functional.pad(self.ids[places], missing, value=-1),
            "scores": nn.functional.pad(scores, missing, value=-torch.inf),
        }


class ScannRetriever(nn.Module):
    """An index of `zoo.retrieval` as a module.

    Differs: ScaNN has operations for TensorFlow only. Here its Python binding is called, which
    `torch.compile` leaves out of its graph and `torch.export` refuses; SOAR and changes of the
    index are seen at once.

    Args:
        index: any index of `zoo.retrieval`.
        k: how many.
        leaves: partitions to look into; by default as tuned.
        reorder: candidates that are scored again; by default as tuned.
    """

    def __init__(
        self, index: Any, k: int = 10, *, leaves: int | None = None, reorder: int | None = None
    ) -> None:
        super().__init__()
        self.k = k
        self.index = index
        options = {"leaves": leaves, "reorder": reorder}
        self.options = {name: value for name, value in options.items() if value is not None}

    @torch.compiler.disable
    def forward(self, queries: torch.Tensor) -> dict[str, torch.Tensor]:
        """`(batch, hidden)` -> ids and scores, `(batch, k)`, best first; -1 and -inf beyond all."""
        ids, scores = self.index.search(queries, self.k, **self.options)
        return {
            "ids": torch.from_numpy(ids).to(queries.device),
            "scores": torch.from_numpy(scores).to(queries.device),
        }


def top_products(
    queries: torch.Tensor, vectors: torch.Tensor, k: int, block_rows: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows with the largest inner products, by comparing with all of them.

    Args:
        queries: `(batch, hidden)`.
        vectors: `(rows, hidden)`; products are summed in float32.
        k: how many; no more than there are.
        block_rows: rows compared at a time, which bounds the memory for scores.
    Returns:
        Rows and scores, `(batch, at most k)`, best first.
    """
    queries = queries.float()
    found, best = [], []
    for start in range(0, vectors.shape[0], block_rows):
        scores = queries @ vectors[start : start + block_rows].float().T
        top, places = scores.topk(min(k, scores.shape[1]))
        found.append(places + start)
        best.append(top)
    places, scores = torch.cat(found, 1), torch.cat(best, 1)
    if len(found) > 1:
        scores, order = scores.topk(min(k, scores.shape[1]))
        places = places.gather(1, order)
    return places, scores
