"""Generation: its configuration, and the PyTorch engine against decoding spelt out plainly."""

import itertools
import json
import logging
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import shown
from torch import Tensor

import pt_models
from pt_models import generation as engine
from pt_models.layers import PackedLinear, packed
from zoo import (
    BertGenerationConfig,
    EncoderDecoderConfig,
    GenerationConfig,
    MaxLengthCriteria,
    RemBertConfig,
    StoppingCriteria,
    TextIteratorStreamer,
    TextStreamer,
)

VOCAB = 23
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 14,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "initializer_range": 0.7,
}
KINDS = ["absolute", "relative_key", "relative_key_query"]


@pytest.fixture(scope="module")
def rembert() -> pt_models.RemBertForCausalLM:
    torch.manual_seed(0)
    sizes = SIZES | {"input_embedding_size": 10, "output_embedding_size": 8}
    return pt_models.RemBertForCausalLM(RemBertConfig(**sizes, is_decoder=True)).eval()


@pytest.fixture(scope="module")
def decoders() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        kind: pt_models.BertGenerationDecoder(
            BertGenerationConfig(**SIZES, is_decoder=True, position_embedding_type=kind)
        ).eval()
        for kind in KINDS
    }


@pytest.fixture(scope="module")
def both() -> pt_models.EncoderDecoderModel:
    torch.manual_seed(2)
    encoder = pt_models.BertGenerationEncoder(BertGenerationConfig(**SIZES))
    config = BertGenerationConfig(**SIZES, is_decoder=True, add_cross_attention=True)
    model = pt_models.EncoderDecoderModel(
        encoder=encoder, decoder=pt_models.BertGenerationDecoder(config)
    )
    model.config.decoder_start_token_id = 2
    model.config.pad_token_id, model.config.eos_token_id = 0, 1
    return model.eval()


def prompts(rows: int, length: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCAB, (rows, length), generator=generator)


# The configuration


def test_default_values_of_the_configuration() -> None:
    values = GenerationConfig().to_dict()
    expected = {
        "max_length": 20,
        "num_beams": 1,
        "top_k": 50,
        "temperature": 1.0,
        "pad_token_id": None,
    }
    assert values.items() >= expected.items()
    assert GenerationConfig().to_diff_dict() == {}


def test_configuration_files(tmp_path) -> None:
    config = GenerationConfig(max_length=7, eos_token_id=[3, 4], sequence_bias={(5, 6): -1.5})
    config.save_pretrained(tmp_path)
    path = tmp_path / "generation_config.json"
    values = json.loads(path.read_text())
    assert values == {
        "max_length": 7, "eos_token_id": [3, 4], "sequence_bias": [[[5, 6], -1.5]],
    }  # fmt: skip
    values |= {"future_field": {"a": 1}, "transformers_version": "9", "top_k": None}
    path.write_text(json.dumps(values))
    opened = GenerationConfig.from_pretrained(tmp_path, num_beams=2)
    assert (opened.max_length, opened.num_beams, opened.top_k) == (7, 2, 50)
    opened.save_pretrained(tmp_path, "other.json")
    again = json.loads((tmp_path / "other.json").read_text())
    assert again["future_field"] == {"a": 1} and again["transformers_version"] == "9"
    assert GenerationConfig.from_pretrained(tmp_path, "other.json") == opened
    path.write_text('{"num_beams": 0}')
    with pytest.raises(ValueError, match=r"generation_config.json.*\n?.*num_beams: received 0"):
        GenerationConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"num_beam": 3}, "no field 'num_beam'; did you mean 'num_beams'"),
        ({"top_p": 1.5}, r"top_p: received 1.5, expected a number between 0 and 1"),
        ({"temperature": 0.0}, "temperature: received 0.0, expected a number above 0"),
        ({"early_stopping": "always"}, "early_stopping: received 'always'"),
        ({"num_beams": 2, "num_return_sequences": 3}, r"3, expected at most num_beams \(2\)"),
        ({"num_return_sequences": 2}, "expected 1 with greedy search"),
        ({"num_beams": 4, "num_beam_groups": 3}, r"3, expected a divisor of num_beams \(4\)"),
        ({"diversity_penalty": 1.0}, "diversity_penalty: received 1.0"),
        ({"bad_words_ids": [[]]}, "bad_words_ids: received"),
        ({"exponential_decay_length_penalty": [1]}, "a pair"),
        ({"eos_token_id": "x"}, "eos_token_id: received 'x'"),
    ],
)
def test_impossible_configurations(values: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GenerationConfig(**values)


def test_update_is_all_or_nothing() -> None:
    config = GenerationConfig()
    assert config.update(num_beams=3, other=1) == {"other": 1}
    with pytest.raises(ValueError, match="num_beams: received -1"):
        config.update(top_k=7, num_beams=-1)
    assert (config.num_beams, config.top_k) == (3, 50)


def test_from_model_config() -> None:
    halves = BertGenerationConfig(max_length=33), BertGenerationConfig(max_length=44, top_k=5)
    config = EncoderDecoderConfig.from_encoder_decoder_configs(*halves)
    found = GenerationConfig.from_model_config(config)
    assert (found.max_length, found.top_k, found.eos_token_id) == (44, 5, 1)
    config.max_length = 55
    assert GenerationConfig.from_model_config(config).max_length == 55


def test_a_model_saves_its_generation_configuration(rembert, tmp_path) -> None:
    model = pt_models.RemBertForCausalLM(rembert.config)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text())["_from_model_config"]
    opened = pt_models.RemBertForCausalLM.from_pretrained(tmp_path, eos_token_id=9)
    assert opened.generation_config.eos_token_id == 9
    opened.config.eos_token_id = 8  # what nobody set follows the model's configuration
    assert opened.generation_config.eos_token_id == 8
    opened.generation_config.num_beams = 3
    opened.config.eos_token_id = 7
    assert opened.generation_config.eos_token_id == 8
    opened.save_pretrained(tmp_path)
    again = pt_models.RemBertForCausalLM.from_pretrained(tmp_path)
    assert again.generation_config == opened.generation_config
    again.generation_config.top_p = 7.0
    before = (tmp_path / "generation_config.json").read_bytes()
    with pytest.raises(ValueError, match="top_p: received 7.0"):
        again.save_pretrained(tmp_path)
    assert (tmp_path / "generation_config.json").read_bytes() == before
    encoder = pt_models.RemBertModel(rembert.config)
    encoder.save_pretrained(tmp_path / "encoder")
    assert not (tmp_path / "encoder" / "generation_config.json").exists()


# Decoding spelt out: no cache, one hypothesis after another.


def next_scores(model: Any, source: Tensor | None, ids: list[int]) -> Tensor:
    row = torch.tensor([ids])
    with torch.no_grad():
        if source is None:
            return model(row, use_cache=False).logits[0, -1]
        return model(source[None], decoder_input_ids=row, use_cache=False).logits[0, -1]


def plain_greedy(model: Any, source: Tensor | None, ids: list[int], new: int) -> list[int]:
    for _ in range(new):
        ids = [*ids, int(next_scores(model, source, ids).argmax())]
        if ids[-1] == 1:
            break
    return ids


def plain_beams(
    model: Any,
    source: Tensor | None,
    ids: list[int],
    new: int,
    beams: int,
    eos: list[int],
    groups: int = 1,
    length_penalty: float = 1.0,
    early_stopping: bool | str = False,
    diversity_penalty: float = 0.0,
) -> list[tuple[float, list[int]]]:
    """Hypotheses, best first: score and tokens."""
    size, start = beams // groups, len(ids)
    running = [[(0.0, ids)] for _ in range(groups)]
    finished: list[list[tuple[float, list[int]]]] = [[] for _ in range(groups)]
    done = [False] * groups
    for length in range(1, new + 1):
        chosen: list[int] = []
        for group in range(groups):
            if done[group]:
                chosen += [0] * size
                continue
            found = []
            for total, text in running[group]:
                scores = next_scores(model, source, text).log_softmax(-1)
                for token in chosen:
                    scores[token] -= diversity_penalty
                found += [(total + float(s), [*text, t]) for t, s in enumerate(scores)]
            found.sort(key=lambda x: -x[0])
            running[group] = []
            for rank, (total, text) in enumerate(found):
                if text[-1] in eos:
                    if rank < size:
                        finished[group].append((total / length**length_penalty, text))
                elif len(running[group]) < size:
                    running[group].append((total, text))
            chosen += [text[-1] for _, text in running[group]]
            finished[group] = sorted(finished[group], key=lambda x: -x[0])[:size]
            reach = new if early_stopping == "never" and length_penalty > 0 else length
            best = found[0][0] / reach**length_penalty
            full = len(finished[group]) == size
            done[group] = full and (early_stopping is True or finished[group][-1][0] >= best)
        if all(done):
            break
    for group in range(groups):
        if not done[group]:
            rest = [(s / (len(t) - start) ** length_penalty, t) for s, t in running[group]]
            finished[group] = sorted(finished[group] + rest, key=lambda x: -x[0])[:size]
    return sorted(itertools.chain(*finished), key=lambda x: -x[0])


def stripped(row: Tensor, prompt: int, eos: list[int]) -> list[int]:
    """A sequence up to its end."""
    tokens = row.tolist()
    ends = [i for i, token in enumerate(tokens) if i >= prompt and token in eos]
    return tokens[: ends[0] + 1] if ends else tokens


def test_greedy_equals_uncached_decoding(rembert, both) -> None:
    ids = prompts(5, 3)
    found = rembert.generate(ids, max_new_tokens=12)
    for row, prompt in zip(found, ids.tolist(), strict=True):
        assert stripped(row, 3, [1]) == plain_greedy(rembert, None, prompt, 12)
    source = prompts(5, 4, seed=1)
    found = both.generate(source, max_new_tokens=12)
    for row, text in zip(found, source, strict=True):
        assert stripped(row, 1, [1]) == plain_greedy(both, text, [2], 12)
    assert found.shape[1] > 2


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"length_penalty": 2.0, "early_stopping": "never"},
        {"length_penalty": -1.0, "early_stopping": "never"},
        {"early_stopping": True, "length_penalty": 0.0},
        {"num_beam_groups": 2, "diversity_penalty": 0.7},
        {"num_beam_groups": 4, "diversity_penalty": 3.0, "early_stopping": True},
    ],
    ids=shown,
)
@pytest.mark.parametrize("eos", [[1], [1, 5, 9, 17]], ids=["one-end", "several-ends"])
def test_beam_search_equals_hypotheses_one_by_one(both, options: dict, eos: list[int]) -> None:
    source = prompts(4, 5, seed=3)
    found = both.generate(
        source,
        max_new_tokens=7,
        num_beams=4,
        num_return_sequences=4,
        eos_token_id=eos,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    options = {k.replace("num_beam_groups", "groups"): v for k, v in options.items()}
    for number, text in enumerate(source):
        expected = plain_beams(both, text, [2], 7, 4, eos, **options)
        part = slice(4 * number, 4 * number + 4)
        scores = found.sequences_scores[part].tolist()
        assert scores == pytest.approx([score for score, _ in expected], abs=1e-4)
        for row, (_, tokens) in zip(found.sequences[part], expected, strict=True):
            got = stripped(row, 1, eos)
            # As published, a text that ended is shown with the first of several end tokens.
            assert got == [*tokens[:-1], eos[0] if tokens[-1] in eos else tokens[-1]]


# Padding

OPTIONS = [
    {},
    {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5},
    {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
    {"repetition_penalty": 2.0, "no_repeat_ngram_size": 2, "encoder_repetition_penalty": 1.5},
    {"num_beams": 2, "encoder_no_repeat_ngram_size": 2, "bad_words_ids": [[4, 5], [7]]},
]


def padded(rows: list[Tensor], side: str) -> tuple[Tensor, Tensor]:
    """Rows of several lengths in one batch; what stands in the padding must not matter."""
    width = max(map(len, rows))
    ids, mask = torch.full((len(rows), width), 6), torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        left = side == "left" or side == "mixed" and number % 2
        start = width - len(row) if left else 0
        ids[number, start : start + len(row)] = row
        mask[number, start : start + len(row)] = 1
    return ids, mask


def new_tokens(found: Tensor, prompt: int, width: int) -> list[list[int]]:
    new = found[:, prompt:]
    return torch.nn.functional.pad(new, (0, width - new.shape[1])).tolist()


@pytest.mark.parametrize("options", OPTIONS, ids=shown)
@pytest.mark.parametrize("side", ["left", "right", "mixed"])
def test_a_padded_row_gives_what_it_gives_alone(
    rembert, decoders, side: str, options: dict
) -> None:
    rows = [prompts(1, length, seed=length)[0] for length in (2, 5, 3, 1)]
    ids, mask = padded(rows, side)
    for model in (rembert, *decoders.values()):
        together = model.generate(ids, attention_mask=mask, max_new_tokens=6, **options)
        count = options.get("num_return_sequences", 1)
        assert (together[::count, :5] == ids).all()  # the prompt as it was given
        alone = [
            line
            for row in rows
            for line in new_tokens(
                model.generate(row[None], max_new_tokens=6, **options), len(row), 6
            )
        ]
        assert new_tokens(together, 5, 6) == alone


@pytest.mark.parametrize("options", OPTIONS, ids=shown)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_source_gives_what_it_gives_alone(both, side: str, options: dict) -> None:
    rows = [prompts(1, length, seed=length)[0] for length in (2, 5, 3, 1)]
    ids, mask = padded(rows, side)
    together = both.generate(ids, attention_mask=mask, max_new_tokens=6, **options)
    alone = [
        line
        for row in rows
        for line in new_tokens(both.generate(row[None], max_new_tokens=6, **options), 1, 6)
    ]
    assert new_tokens(together, 1, 6) == alone


def test_padding_tokens_are_masked_without_a_mask(rembert) -> None:
    ids = torch.tensor([[5, 6, 0, 0], [7, 8, 9, 10]])
    mask = (ids != 0).long()
    expected = rembert.generate(ids, attention_mask=mask, max_new_tokens=5)
    assert torch.equal(rembert.generate(ids, max_new_tokens=5), expected)


def test_token_types_reach_the_model(rembert) -> None:
    ids, types = prompts(2, 3), torch.tensor([[0, 1, 1], [0, 0, 1]])
    found = rembert.generate(ids, token_type_ids=types, max_new_tokens=1, output_logits=True,
                             return_dict_in_generate=True)  # fmt: skip
    with torch.no_grad():
        expected = rembert(ids, token_type_ids=types).logits[:, -1]
    torch.testing.assert_close(found.logits[0], expected)


# Finished rows


class Counting(StoppingCriteria):
    def __call__(self, input_ids: Tensor, scores: Any) -> bool:
        return False


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 3, "num_return_sequences": 3, "early_stopping": True},
        {"do_sample": True, "num_return_sequences": 2, "temperature": 4.0},
        {"do_sample": True, "num_beams": 2, "repetition_penalty": 1.5, "temperature": 4.0},
    ],
    ids=shown,
)
@pytest.mark.parametrize("masked", [False, True])
def test_finished_rows_leave_and_nothing_changes(both, options: dict, masked: bool) -> None:
    source = prompts(24, 4, seed=5)
    mask = torch.ones_like(source)
    if masked:
        mask[::2, -1] = 0
    options |= {"max_new_tokens": 25, "attention_mask": mask, "eos_token_id": [5, 7, 11, 21]}
    sizes = []
    decode = both.decoder._decode

    def spy(input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        sizes.append(len(input_ids))
        return decode(input_ids, *args, **kwargs)

    both.decoder._decode = spy
    try:
        torch.manual_seed(7)
        shrunk = both.generate(source, **options)
        assert sizes[0] == 24 and sizes[-1] <= 12  # rows did leave
        # A criterion of the caller's own sees all rows: none may leave.
        sizes.clear()
        torch.manual_seed(7)
        whole = both.generate(source, stopping_criteria=[Counting()], **options)
        assert set(sizes) == {24}
    finally:
        del both.decoder._decode
    assert torch.equal(shrunk, whole)


# Sampling


def test_sampling_is_reproducible(rembert) -> None:
    ids = prompts(3, 3)
    options = {"do_sample": True, "max_new_tokens": 9, "num_return_sequences": 2}

    def seeded(seed: int, **more: Any) -> Tensor:
        torch.manual_seed(seed)
        return rembert.generate(ids, **(options | more))

    assert torch.equal(seeded(1), seeded(1))
    assert not torch.equal(seeded(1), seeded(2))
    found = [
        rembert.generate(ids, generator=torch.Generator().manual_seed(3), **options)
        for _ in range(2)
    ]
    assert torch.equal(*found)
    beams = {"num_beams": 4, "num_return_sequences": 2}
    assert torch.equal(seeded(1, **beams), seeded(1, **beams))
    assert not torch.equal(seeded(1, **beams), seeded(2, **beams))


def warped(scores: Tensor, options: dict) -> Tensor:
    """The probabilities that are to be sampled from, token by token."""
    probabilities = (scores / options.get("temperature", 1.0)).softmax(-1)
    order = probabilities.argsort(descending=True)
    kept = set(order[: options.get("top_k", 50)].tolist())
    if "top_p" in options:
        mass, nucleus = 0.0, set()
        limited = torch.zeros(VOCAB)
        limited[list(kept)] = probabilities[list(kept)]
        limited /= limited.sum()
        for token in order.tolist():
            nucleus.add(token)
            mass += float(limited[token])
            if mass >= options["top_p"]:
                break
        kept &= nucleus
    result = torch.zeros(VOCAB)
    result[list(kept)] = probabilities[list(kept)]
    return result / result.sum()


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 2.5}, {"top_k": 4}, {"temperature": 1.5, "top_k": 9, "top_p": 0.8}],
    ids=shown,
)
def test_distribution_of_samples(rembert, options: dict) -> None:
    """Two tokens drawn 6000 times against the probabilities of all pairs: chi-square."""
    prompt, draws = [5, 9, 4], 6000
    options = {"temperature": 6.0} | options  # otherwise nearly one token only
    torch.manual_seed(0)
    found = rembert.generate(
        torch.tensor([prompt]).expand(300, -1), do_sample=True, max_new_tokens=2, eos_token_id=None,
        num_return_sequences=20, **options,
    )[:, 3:]  # fmt: skip
    first = warped(next_scores(rembert, None, prompt), options)
    joint = torch.stack([
        warped(next_scores(rembert, None, [*prompt, token]), options) * chance
        for token, chance in enumerate(first)
    ]).flatten()  # fmt: skip
    counts = torch.bincount(found[:, 0] * VOCAB + found[:, 1], minlength=VOCAB**2)
    assert counts.sum() == draws and counts[joint == 0].sum() == 0
    expected = joint * draws
    frequent = expected >= 5
    groups = [(counts[i], expected[i]) for i in frequent.nonzero()[:, 0]]
    groups.append((counts[~frequent].sum(), expected[~frequent].sum()))
    statistic = sum(float((n - e) ** 2 / e) for n, e in groups if e > 1)
    freedom = sum(e > 1 for _, e in groups) - 1
    assert freedom > 8
    assert abs(statistic - freedom) < 4 * math.sqrt(2 * freedom)  # four standard deviations


def test_beam_samples_are_scored_texts(rembert) -> None:
    """A beam sample's score is the log probability of its text; cold, it is beam search."""
    ids = prompts(2, 3)
    options = {
        "num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 4, "top_k": 0,
        "eos_token_id": None, "return_dict_in_generate": True, "output_scores": True,
    }  # fmt: skip
    torch.manual_seed(0)
    found = rembert.generate(ids, do_sample=True, **options)
    for row, score in zip(found.sequences, found.sequences_scores, strict=True):
        total = sum(
            float(next_scores(rembert, None, row[:n].tolist()).log_softmax(-1)[row[n]])
            for n in range(3, 7)
        )
        assert float(score) == pytest.approx(total / 4, abs=1e-4)
    assert len({tuple(row.tolist()) for row in found.sequences}) > 2


# Options


def text_of(found: Tensor, prompt: int) -> list[list[int]]:
    return [stripped(row, prompt, [1])[prompt:] for row in found]


def ngrams(tokens: list[int], size: int) -> list[tuple[int, ...]]:
    return list(zip(*(tokens[i:] for i in range(size)), strict=False))


@pytest.mark.parametrize("beams", [1, 3])
def test_options_do_what_they_say(rembert, both, beams: int) -> None:
    ids, source = prompts(4, 4, seed=8), prompts(4, 6, seed=9)

    def tokens(model: Any = rembert, **options: Any) -> list[list[int]]:
        given = {"num_beams": beams, "max_new_tokens": 12} | options
        prompt = 1 if model is both else 4
        return text_of(model.generate(source if model is both else ids, **given), prompt)

    plain = tokens()
    common = max(itertools.chain(*plain), key=list(itertools.chain(*plain)).count)
    for size in (1, 2, 3):
        for prompt, row in zip(ids.tolist(), tokens(no_repeat_ngram_size=size), strict=True):
            found = ngrams(prompt + row, size)
            assert len(set(found)) == len(found)
        for given, row in zip(
            source.tolist(), tokens(both, encoder_no_repeat_ngram_size=size), strict=True
        ):
            assert not set(ngrams(given, size)) & set(ngrams(row, size))
    assert all(common not in row for row in tokens(bad_words_ids=[[common]]))
    pair = ngrams(plain[0], 2)[0]
    assert all(pair not in ngrams(row, 2) for row in tokens(bad_words_ids=[list(pair)]))
    assert all(common not in row for row in tokens(suppress_tokens=[common]))
    first = plain[0][0]
    assert tokens(begin_suppress_tokens=[first])[0][0] != first
    assert any(17 in row for row in tokens(sequence_bias={(17,): 60.0}))
    assert all(len(row) == 12 for row in tokens(min_new_tokens=12))
    assert all(len(row) >= 5 for row in tokens(min_length=9))
    assert all(
        row[-1] == 1 or len(row) < 3 for row in tokens(max_new_tokens=3, forced_eos_token_id=1)
    )
    assert all(row[0] == 7 for row in tokens(both, forced_bos_token_id=7))
    if beams == 1:  # a long beam search gains by the growing score of the end
        decay = tokens(exponential_decay_length_penalty=(2, 5.0))
        assert all(len(row) <= 6 for row in decay) and max(map(len, plain)) > 6
    even = list(range(2, VOCAB, 2))
    allowed = tokens(prefix_allowed_tokens_fn=lambda row, tokens: even if row % 2 else [3, 5])
    assert all(set(row) <= {3, 5} for row in allowed[::2])
    assert all(set(row) <= set(even) for row in allowed[1::2])
    assert tokens(repetition_penalty=5.0) != plain
    assert all(np.isfinite(row).all() for row in tokens(remove_invalid_values=True))


def test_max_time_stops(rembert) -> None:
    found = rembert.generate(prompts(2, 3), max_new_tokens=30, max_time=1e-9)
    assert found.shape == (2, 4)
    found = rembert.generate(prompts(2, 3), max_new_tokens=30, max_time=1e-9, num_beams=2)
    assert found.shape == (2, 5) and (found[:, 4] == 1).all()  # beams are ended, as published


def test_a_prompt_for_the_decoder(both) -> None:
    source, start = prompts(2, 4), torch.tensor([[2, 7, 8], [2, 9, 10]])
    found = both.generate(source, decoder_input_ids=start, max_new_tokens=6)
    assert torch.equal(found[:, :3], start)
    for row, text, given in zip(found, source, start.tolist(), strict=True):
        assert stripped(row, 3, [1]) == plain_greedy(both, text, given, 6)
    # The start token is put in front where it is missing.
    assert torch.equal(
        both.generate(source, decoder_input_ids=start[:, 1:], max_new_tokens=6), found
    )


def test_encoder_outputs_instead_of_its_input(both) -> None:
    source = prompts(3, 4)
    expected = both.generate(source, max_new_tokens=5, num_beams=2)
    encoded = both.encoder(source)
    found = both.generate(encoder_outputs=encoded, max_new_tokens=5, num_beams=2)
    assert torch.equal(found, expected)


# Hooks


def test_hooks_see_all_rows(rembert) -> None:
    shapes = []

    def processor(ids: Tensor, scores: Tensor) -> Tensor:
        shapes.append((tuple(ids.shape), tuple(scores.shape)))
        return scores.index_fill(1, torch.tensor([11]), 1e4)

    found = rembert.generate(
        prompts(2, 3),
        num_beams=3,
        max_new_tokens=4,
        logits_processor=[processor],
        eos_token_id=None,
    )
    assert shapes == [((6, 3 + n), (6, VOCAB)) for n in range(4)]
    assert (found[:, 3:] == 11).all()


def test_stopping_criteria(rembert) -> None:
    ids = prompts(3, 3)
    free = rembert.generate(ids, max_new_tokens=8, eos_token_id=None)
    found = rembert.generate(
        ids, max_new_tokens=8, eos_token_id=None, stopping_criteria=[MaxLengthCriteria(6)]
    )
    assert torch.equal(found, free[:, :6])

    def row_by_row(tokens: Tensor, scores: Any) -> Tensor:
        return torch.arange(len(tokens)) + 4 <= tokens.shape[1]

    found = rembert.generate(
        ids, max_new_tokens=8, eos_token_id=None, stopping_criteria=[row_by_row]
    )
    assert found.shape[1] == 6
    for row in range(3):
        assert torch.equal(found[row, : 4 + row], free[row, : 4 + row])
        assert (found[row, 4 + row :] == 0).all()
    found = rembert.generate(
        ids, max_new_tokens=8, num_beams=2, eos_token_id=None,
        stopping_criteria=[lambda tokens, _: torch.tensor([tokens.shape[1] >= 5] * len(tokens))],
    )  # fmt: skip
    assert found.shape[1] == 5


class Words:
    """A tokenizer whose tokens are words; 10 is a line break, from 15 on ideographs."""

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        ids = [i for i in ids if not (skip_special_tokens and i < 3)]
        pieces = ["\n" if i == 10 else chr(0x4E00 + i) if i >= 15 else f" w{i}" for i in ids]
        return "".join(pieces)


def test_streaming(rembert, capsys) -> None:
    ids = prompts(1, 3)
    text = Words().decode(rembert.generate(ids, max_new_tokens=9)[0].tolist())
    rembert.generate(ids, max_new_tokens=9, streamer=TextStreamer(Words()))
    assert capsys.readouterr().out == text + "\n"
    streamer = TextIteratorStreamer(Words(), skip_prompt=True, timeout=60)
    options = {"max_new_tokens": 9, "streamer": streamer}
    thread = threading.Thread(target=rembert.generate, args=(ids,), kwargs=options)
    thread.start()
    pieces = list(streamer)
    thread.join()
    assert Words().decode(ids[0].tolist()) + "".join(pieces) == text
    assert len(pieces) > 5


def test_streamed_words_are_whole(capsys) -> None:
    streamer = TextStreamer(Words())
    seen = []
    for value in ([5], [6], [16], [10], [7]):
        streamer.put(torch.tensor(value))
        seen.append(capsys.readouterr().out)
    streamer.end()
    # A word waits for what follows; ideographs and lines do not.
    assert seen == [" ", "w5 ", "w6\u4e10", "\n", " "]
    assert capsys.readouterr().out == "w7\n"


# What is returned on request


@pytest.mark.parametrize("side", ["left", "right"])
def test_attentions_are_those_of_one_call_over_the_text(rembert, side: str) -> None:
    rows = [prompts(1, length, seed=length)[0] for length in (2, 4)]
    ids, mask = padded(rows, side)
    found = rembert.generate(
        ids, attention_mask=mask, max_new_tokens=4, eos_token_id=None, num_beams=3,
        num_return_sequences=3, return_dict_in_generate=True, output_scores=True,
        output_attentions=True, output_hidden_states=True,
    )  # fmt: skip
    assert len(found.attentions) == len(found.hidden_states) == 4
    assert found.attentions[0][1].shape == (6, 3, 4, 4) and found.attentions[2][0].shape == (
        6,
        3,
        1,
        6,
    )
    assert found.hidden_states[0][2].shape == (6, 4, 12) and found.hidden_states[3][0].shape == (
        6,
        1,
        12,
    )
    real = mask.bool()
    for number, (row, beams) in enumerate(zip(found.sequences, found.beam_indices, strict=True)):
        prompt = rows[number // 3]
        text = torch.cat([prompt, row[4:]])
        with torch.no_grad():
            expected = rembert(text[None], output_attentions=True, output_hidden_states=True)
        kept = torch.cat([real[number // 3], torch.ones(4, dtype=torch.bool)])
        for layer, whole in enumerate(expected.attentions):
            first = found.attentions[0][layer][beams[0]][:, kept[:4]][..., kept[:4]]
            n = len(prompt)
            torch.testing.assert_close(first, whole[0, :, :n, :n], atol=1e-5, rtol=1e-4)
            for step in range(1, 4):
                got = found.attentions[step][layer][beams[step]][:, 0, kept[: 4 + step]]
                line = whole[0, :, n + step - 1, : n + step]
                torch.testing.assert_close(got, line, atol=1e-5, rtol=1e-4)
        for layer, whole in enumerate(expected.hidden_states):
            got = found.hidden_states[2][layer][beams[2], 0]
            torch.testing.assert_close(got, whole[0, len(prompt) + 1], atol=1e-4, rtol=1e-4)


def test_fields_of_the_outputs(rembert, both) -> None:
    options = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True,
               "output_attentions": True, "output_hidden_states": True, "max_new_tokens": 3,
               "eos_token_id": None}  # fmt: skip
    source = prompts(2, 5)
    greedy, beams = both.generate(source, **options), both.generate(source, num_beams=2, **options)
    assert type(greedy).__name__ == "GenerateEncoderDecoderOutput"
    assert type(beams).__name__ == "GenerateBeamEncoderDecoderOutput"
    shared = {"sequences", "scores", "logits", "encoder_attentions", "encoder_hidden_states",
              "decoder_attentions", "cross_attentions", "decoder_hidden_states"}  # fmt: skip
    assert set(greedy) == shared | {"past_key_values"}
    assert set(beams) == shared | {"sequences_scores", "beam_indices"}
    assert beams.cross_attentions[1][0].shape == (4, 3, 1, 5)
    assert beams.encoder_attentions[0].shape == (2, 3, 5, 5)
    assert [step.shape for step in beams.scores] == [(4, VOCAB)] * 3
    greedy, beams = (rembert.generate(source, num_beams=n, **options) for n in (1, 2))
    assert type(greedy).__name__ == "GenerateDecoderOnlyOutput"
    assert type(beams).__name__ == "GenerateBeamDecoderOnlyOutput"
    # The cache goes on where generation stopped.
    step = rembert(greedy.sequences[:, -1:], past_key_values=greedy.past_key_values)
    whole = rembert(greedy.sequences)
    torch.testing.assert_close(step.logits[:, -1], whole.logits[:, -1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("groups", [1, 2])
def test_transition_scores(rembert, groups: int) -> None:
    options = {"num_beams": 4, "num_beam_groups": groups, "num_return_sequences": 4,
               "max_new_tokens": 6, "length_penalty": 0.5, "eos_token_id": [1, 4, 5]}  # fmt: skip
    found = rembert.generate(
        prompts(3, 2), return_dict_in_generate=True, output_scores=True, **options
    )
    scores = rembert.compute_transition_scores(found.sequences, found.scores, found.beam_indices)
    lengths = (found.beam_indices >= 0).sum(1)
    total = scores.sum(1) / lengths**0.5
    single = (found.sequences[:, 2:] != 1).all(1)  # an end token may stand for another
    assert single.any()
    torch.testing.assert_close(total[single], found.sequences_scores[single], atol=1e-4, rtol=1e-4)
    greedy = rembert.generate(
        prompts(3, 2), max_new_tokens=4, return_dict_in_generate=True, output_scores=True
    )
    logs = rembert.compute_transition_scores(greedy.sequences, greedy.scores, normalize_logits=True)
    assert logs.shape == (3, len(greedy.scores))
    expected = greedy.scores[0].log_softmax(-1).gather(1, greedy.sequences[:, 2:3])[:, 0]
    torch.testing.assert_close(logs[:, 0], expected)


# Errors


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_beem": 2}, "unknown argument 'num_beem'; did you mean 'num_beams'"),
        ({"attention_masks": 1}, "'attention_masks'; did you mean 'attention_mask'"),
        ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences: received 3"),
        ({"penalty_alpha": 0.6}, "penalty_alpha=0.6 is not supported"),
        ({"force_words_ids": [[3]]}, "force_words_ids"),
        ({"max_length": 3}, "max_length: received 3, expected more than the 3 tokens"),
        ({"attention_mask": torch.ones(2, 4)}, r"attention_mask: expected shape \(2, 3\)"),
        ({"attention_mask": torch.tensor([[1, 1, 1], [0, 0, 0]])}, "row 1 holds no token"),
        ({"max_new_tokens": 60, "eos_token_id": None}, "max_position_embeddings is 40"),
        ({"generation_config": {"num_beams": 2}}, "expected a GenerationConfig, got dict"),
        ({"input_ids": torch.ones(1, 1)}, "either inputs or input_ids, got both"),
        ({"num_beams": 2, "streamer": TextStreamer(Words())}, "streamer: expected num_beams=1"),
        ({"prefix_allowed_tokens_fn": lambda row, ids: []}, "got none for row 0"),
        ({"bad_words_ids": [[99]]}, "below the vocabulary's 23, got 99"),
    ],
    ids=shown,
)
def test_errors_name_the_argument(rembert, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        rembert.generate(prompts(2, 3), **options)


def test_errors_of_models(rembert, both) -> None:
    with pytest.raises(ValueError, match=r"input_ids: expected integers of shape"):
        rembert.generate(torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="neither"):
        both.generate(prompts(1, 2), decoder_start_token_id=None, bos_token_id=None)
    with pytest.raises(ValueError, match="expected input_ids or bos_token_id"):
        rembert.generate(bos_token_id=None)
    encoder = pt_models.RemBertForCausalLM(RemBertConfig.from_dict(
        rembert.config.to_dict() | {"is_decoder": False}
    ))  # fmt: skip
    with pytest.raises(ValueError, match="is_decoder=True"):
        encoder.generate(prompts(1, 2))
    assert rembert.generate(max_new_tokens=2).shape == (1, 3)  # starts with bos_token_id


def test_fields_without_effect_are_named(rembert, caplog) -> None:
    with caplog.at_level(logging.WARNING, "zoo"):
        rembert.generate(prompts(1, 2), temperature=0.5, length_penalty=2.0, max_new_tokens=1)
    assert "temperature=0.5 does nothing without do_sample=True" in caplog.text
    assert "length_penalty=2.0 does nothing without num_beams above 1" in caplog.text


# How it is done


def test_generate_leaves_the_mode_alone(rembert) -> None:
    rembert.train()
    try:
        rembert.gradient_checkpointing_enable()
        rembert.generate(prompts(1, 2), max_new_tokens=2)
        assert rembert.training
    finally:
        rembert.gradient_checkpointing_disable()
        rembert.eval()


@pytest.mark.parametrize("rows", [1, 4])
def test_packed_layers(rembert, rows: int, monkeypatch) -> None:
    before = {name: id(p) for name, p in rembert.named_parameters()}
    twin = packed(rembert, rembert, rows, 2**30)
    kinds = [type(module) for module in twin.modules()]
    assert PackedLinear in kinds
    assert (torch.nn.Linear in kinds) == (rows == 1)
    assert {name: id(p) for name, p in rembert.named_parameters()} == before
    assert PackedLinear not in [type(module) for module in rembert.modules()]
    ids = prompts(rows, 1)
    torch.testing.assert_close(twin(ids).logits, rembert(ids).logits, atol=1e-4, rtol=1e-4)
    assert packed(rembert, rembert, rows, 0).state_dict().keys() == rembert.state_dict().keys()
    expected = rembert.generate(ids, max_new_tokens=20, eos_token_id=None, num_beams=2)
    monkeypatch.setattr(engine, "PACK_AFTER", 10**6)
    assert torch.equal(
        rembert.generate(ids, max_new_tokens=20, eos_token_id=None, num_beams=2), expected
    )


def compiled_calls(part: Any, run: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """What `run` gives with the model's forward compiled, and how many graphs that took."""
    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    part.forward = torch.compile(part.forward, backend=backend)
    try:
        return run(), len(graphs)
    finally:
        del part.forward
        torch._dynamo.reset()


@pytest.mark.parametrize(("name", "beams"), [("rembert", 1), ("both", 3)])
def test_compiled_forward(name: str, beams: int, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    options = {"max_new_tokens": 20, "num_beams": beams, "eos_token_id": None}
    expected = model.generate(prompts(2, 3), **options)
    part = model.decoder if name == "both" else model
    found, graphs = compiled_calls(part, lambda: model.generate(prompts(2, 3), **options))
    assert torch.equal(found, expected)
    # One for the prompt, then a few until sizes are taken as variable; none per token.
    assert graphs <= 6
