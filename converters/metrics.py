"""How good generated text, answers and retrieval are, each from 0 to 100.

Sources: Xu et al. 2016, "Optimizing statistical machine translation for text simplification",
section 4.3 (SARI); Papineni et al. 2002 (BLEU, from `sacrebleu`); Rajpurkar et al. 2016 (SQuAD),
section 6.1, for answers, which open question answering has taken over.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def exact_match(predictions: Sequence[str], references: Sequence[str]) -> float:
    """The share of predictions that equal their reference, white space aside."""
    _assert_as_many(predictions, references)
    pairs = zip(predictions, references, strict=True)
    return 100.0 * sum(p.split() == r.split() for p, r in pairs) / max(len(predictions), 1)


def bleu(predictions: Sequence[str], references: Sequence[str], tokenize: str = "none") -> float:
    """BLEU of a corpus.

    Args:
        tokenize: sacrebleu's tokenizer; "none" for text whose tokens stand apart already.
    """
    _assert_as_many(predictions, references)
    try:
        import sacrebleu
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("BLEU needs sacrebleu: pip install '.[metrics]'") from error
    # `force` says that the tokens standing apart is meant.
    return sacrebleu.corpus_bleu(
        list(predictions), [list(references)], tokenize=tokenize, force=True
    ).score


def sari(
    sources: Sequence[str], predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> float:
    """The mean SARI of rewritten sentences, in which tokens stand apart.

    Args:
        sources: what was to be rewritten.
        predictions: one for each source.
        references: one or more for each source.
    """
    _assert_as_many(predictions, references)
    _assert_as_many(predictions, sources)
    scores = [
        _sari(source.split(), prediction.split(), [reference.split() for reference in those])
        for source, prediction, those in zip(sources, predictions, references, strict=True)
    ]
    return 100.0 * sum(scores) / max(len(scores), 1)


def normalize_answer(text: str) -> str:
    """An answer as it is compared: small letters, no punctuation (ASCII), no articles, single
    spaces, and one form of characters that have several (as for Natural Questions)."""
    text = unicodedata.normalize("NFD", text).lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def answer_exact_match(prediction: str, answers: Sequence[str]) -> float:
    """100 if the prediction is one of the answers after `normalize_answer`, else 0."""
    given = normalize_answer(prediction)
    return 100.0 * any(given == normalize_answer(answer) for answer in answers)


def answer_f1(prediction: str, answers: Sequence[str]) -> float:
    """The largest harmonic mean of precision and recall of words over all answers."""
    return max((_answer_f1(prediction, answer) for answer in answers), default=0.0)


def _answer_f1(prediction: str, answer: str) -> float:
    ours, theirs = (normalize_answer(text).split() for text in (prediction, answer))
    if not ours or not theirs:
        return 100.0 * (ours == theirs)
    common = (Counter(ours) & Counter(theirs)).total()
    return 100.0 * _f1(common / len(ours), common / len(theirs))


def _sari(source: list[str], prediction: list[str], references: list[list[str]]) -> float:
    keep = delete = add = 0.0
    for n in range(1, 5):
        # Every n-gram counts as often as there are references, to compare with all of them.
        source_grams, predicted = (
            Counter({gram: count * len(references) for gram, count in _grams(x, n).items()})
            for x in (source, prediction)
        )
        wanted: Counter[tuple[str, ...]] = Counter()
        for reference in references:
            wanted += _grams(reference, n)

        kept = source_grams & predicted
        rightly = kept & wanted
        to_keep = source_grams & wanted
        precision = _ratio(sum(rightly[gram] / kept[gram] for gram in rightly), len(kept))
        recall = _ratio(sum(rightly.values()), sum(to_keep.values()))
        keep += _f1(precision, recall)

        deleted = source_grams - predicted
        rightly = deleted - wanted
        delete += _ratio(sum(rightly[gram] / deleted[gram] for gram in rightly), len(deleted))

        added = set(predicted) - set(source_grams)
        to_add = set(wanted) - set(source_grams)
        right = len(added & to_add)
        add += _f1(_ratio(right, len(added)), _ratio(right, len(to_add)))
    return (keep + delete + add) / 12


def _grams(tokens: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(tokens[start:] for start in range(n)), strict=False))


def _ratio(part: float, whole: float) -> float:
    """Where there was nothing to do, nothing was done wrong."""
    return part / whole if whole else 1.0


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _assert_as_many(predictions: Sequence[object], others: Sequence[object]) -> None:
    if len(predictions) != len(others):
        raise ValueError(f"expected as many texts as predictions ({len(predictions)}), got "
                         f"{len(others)}")  # fmt: skip
