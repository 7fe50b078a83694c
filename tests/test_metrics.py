"""Exact match, SARI and BLEU."""

import pytest

from converters import metrics


def test_exact_match():
    assert metrics.exact_match(["a b", "a  c"], ["a b", "a c"]) == 100
    assert metrics.exact_match(["a b", "a c"], ["a b", "a d"]) == 50
    assert metrics.exact_match([], []) == 0


def test_sari_of_the_published_example():
    source = "About 95 species are currently accepted ."
    references = [
        "About 95 species are currently known .",
        "About 95 species are now accepted .",
        "95 species are now accepted .",
    ]
    # The figure that this example is published with.
    score = metrics.sari([source], ["About 95 you now get in ."], [references])
    assert score == pytest.approx(26.953601953601954)


def test_sari_of_a_perfect_answer_and_of_a_copy():
    assert metrics.sari(["a b c d"], ["a b . c d"], [["a b . c d"]]) == pytest.approx(100)
    assert metrics.sari(["a b c d"], ["a b c d"], [["a b . c d"]]) < 70


def test_bleu():
    assert metrics.bleu(["a b c d e"], ["a b c d e"]) == pytest.approx(100)
    assert metrics.bleu(["a b c d x"], ["a b c d e"]) == pytest.approx(66.87, abs=0.01)


def test_as_many_references_as_predictions():
    with pytest.raises(ValueError, match="as many texts as predictions"):
        metrics.exact_match(["a"], [])
