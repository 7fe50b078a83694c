"""Training data, plans, checkpoints and index refreshes, without a framework.

A name is imported when it is first used; the loops are in `realm_training` and
`rag_training` of `pt_models` and `tf_models`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .batches import Candidates, InverseCloze, MaskedSpans, Questions
    from .corpus import BlockCorpus, CorpusError, corpus_of
    from .evidence import CorpusRetriever
    from .plan import Plan
    from .questions import Question, QuestionError, read_questions, split_questions
    from .rag import FoundPassages, Pairs, RagQuestions, Reading, examples, retriever_of
    from .refresh import Refresher, RefreshError
    from .spans import find_spans
    from .state import TrainingError
    from .vocabulary import train_rag_tokenizer, train_tokenizer

__all__ = [
    "BlockCorpus",
    "Candidates",
    "CorpusError",
    "CorpusRetriever",
    "FoundPassages",
    "InverseCloze",
    "MaskedSpans",
    "Pairs",
    "Plan",
    "Question",
    "QuestionError",
    "Questions",
    "RagQuestions",
    "Reading",
    "RefreshError",
    "Refresher",
    "TrainingError",
    "corpus_of",
    "examples",
    "find_spans",
    "read_questions",
    "retriever_of",
    "split_questions",
    "train_rag_tokenizer",
    "train_tokenizer",
]

_MODULES = {
    "batches": ("Candidates", "InverseCloze", "MaskedSpans", "Questions"),
    "corpus": ("BlockCorpus", "CorpusError", "corpus_of"),
    "evidence": ("CorpusRetriever",),
    "plan": ("Plan",),
    "questions": ("Question", "QuestionError", "read_questions", "split_questions"),
    "rag": (
        "FoundPassages",
        "Pairs",
        "RagQuestions",
        "Reading",
        "examples",
        "retriever_of",
    ),
    "refresh": ("RefreshError", "Refresher"),
    "spans": ("find_spans",),
    "state": ("TrainingError",),
    "vocabulary": ("train_rag_tokenizer", "train_tokenizer"),
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
