"""Search by maximum inner product over users' own documents, without a framework.

A name is imported when it is first used; ScaNN, Milvus, Arrow and the frameworks only when an
index or a store that needs them is opened.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .answers import Answer
    from .documents import DocumentIndex
    from .index import Index, build_index, choose_kind, open_index
    from .local import LocalIndex
    from .milvus import MilvusIndex
    from .passages import Document, Passage, PassageStore
    from .rag import RagRetriever
    from .realm import RealmRetriever
    from .store import RetrievalError

__all__ = [
    "Answer",
    "Document",
    "DocumentIndex",
    "Index",
    "LocalIndex",
    "MilvusIndex",
    "Passage",
    "PassageStore",
    "RagRetriever",
    "RealmRetriever",
    "RetrievalError",
    "build_index",
    "choose_kind",
    "open_index",
]

_MODULES = {
    "answers": ("Answer",),
    "documents": ("DocumentIndex",),
    "index": ("Index", "build_index", "choose_kind", "open_index"),
    "local": ("LocalIndex",),
    "milvus": ("MilvusIndex",),
    "passages": ("Document", "Passage", "PassageStore"),
    "rag": ("RagRetriever",),
    "realm": ("RealmRetriever",),
    "store": ("RetrievalError",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
