"""RAG's training in both frameworks: curves, gradients, refreshes, resuming, processes, CLI."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from frameworks import KERAS, TORCH, Framework
from test_realm_training import (  # noqa: F401  (fixtures)
    EAGER,
    PLAN,
    QUICK_WORKER,
    assert_bitwise_equal,
    assert_same_curves,
    cut_back,
    eager,
    free_port,
    losses,
    one_thread,
    run_python,
    run_workers,
)
from training_fixtures import documents, questions, texts
from typer.testing import CliRunner

from zoo import BartConfig, DPRConfig, RagConfig, RagTokenizer
from zoo.retrieval import build_index
from zoo.retrieval.passages import PassageStore
from zoo.training import state
from zoo.training.batches import InverseCloze
from zoo.training.copying import fits
from zoo.training.corpus import BlockCorpus, CorpusError
from zoo.training.gaps import GapMaker
from zoo.training.questions import Question, holds, made_questions, plain_words
from zoo.training.rag import (
    Denoising,
    Example,
    FoundPassages,
    Gaps,
    Mixed,
    Pairs,
    RagQuestions,
    Reading,
    examples,
    retriever_of,
)
from zoo.training.vocabulary import train_rag_tokenizer

BOTH = pytest.mark.parametrize("framework", [TORCH, KERAS], ids=["pt", "tf"])
LENGTHS: dict[str, Any] = {"query_length": 24, "block_length": 80}
DROPOUT = {"dropout": 0.2}
QUIET = pytest.mark.filterwarnings("ignore:Even though the `tf.config")


class Setting(NamedTuple):
    """Passages in a folder, tokenized, with the checkpoints that all runs start from."""

    corpus: BlockCorpus
    store: PassageStore
    tokenizer: Any
    folder: Path


def rag(framework: Framework) -> Any:
    return importlib.import_module(f"{framework.package().__name__}.rag_training")


def reopened(folder: str | Path) -> Setting:
    folder = Path(folder)
    tokenizer = RagTokenizer.from_pretrained(folder / "tokenizer")
    return Setting(
        BlockCorpus.open(folder / "corpus"), PassageStore(folder / "store"), tokenizer, folder
    )


@pytest.fixture(scope="session")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    import torch

    from pt_models import BartForConditionalGeneration, DPRContextEncoder, DPRQuestionEncoder

    folder = tmp_path_factory.mktemp("rag")
    tokenizer = train_rag_tokenizer(texts(), folder / "tokenizer", 330)
    words, letters = tokenizer.question_encoder, tokenizer.generator
    store = PassageStore.create(folder / "store")
    store.add(documents())
    BlockCorpus.build(store, words, folder / "corpus", spans="rules")
    torch.manual_seed(0)
    dpr = DPRConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=80, initializer_range=0.2,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, pad_token_id=words.pad_token_id,
    )  # fmt: skip
    bart = BartConfig(
        vocab_size=len(letters), d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=24,
        decoder_ffn_dim=24, max_position_embeddings=256, dropout=0.0, init_std=0.2,
        forced_eos_token_id=None,
    )  # fmt: skip
    for name in ("question_encoder", "generator"):
        getattr(tokenizer, name).save_pretrained(folder / name)
    DPRQuestionEncoder(dpr).save_pretrained(folder / "question_encoder")
    DPRContextEncoder(dpr).save_pretrained(folder / "context_encoder")
    BartForConditionalGeneration(bart).save_pretrained(folder / "generator")
    return reopened(folder)


def part(framework: Framework, setting: Setting, name: str, **fields: Any) -> Any:
    published = {
        "question_encoder": "DPRQuestionEncoder", "context_encoder": "DPRContextEncoder",
        "generator": "BartForConditionalGeneration",
    }[name]  # fmt: skip
    return framework.model_class(published).from_pretrained(setting.folder / name, **fields)


def rag_config(question_encoder: Any, generator: Any, **fields: Any) -> RagConfig:
    return RagConfig.from_question_encoder_generator_configs(
        question_encoder, generator,
        **{"n_docs": 3, "max_combined_length": 240, "retrieval_vector_size": 16,
           "index_name": "custom", **fields},
    )  # fmt: skip


def make_model(
    framework: Framework, setting: Setting, kind: str = "Token", fields: Any = None
) -> tuple[Any, Any]:
    """A model that looks passages up by the vectors of a context encoder, and that encoder."""
    encoder = part(framework, setting, "question_encoder")
    generator = part(framework, setting, "generator", **(fields or {}))
    contexts = part(framework, setting, "context_encoder")
    model = framework.model_class(f"Rag{kind}ForGeneration")(
        rag_config(encoder.config, generator.config),
        question_encoder=encoder, generator=generator,
    )  # fmt: skip
    vectors = rag(framework).embed_corpus(contexts, setting.corpus, 80)
    index = build_index(vectors, kind="exact")
    model.set_retriever(retriever_of(model.config, setting.tokenizer, index, setting.store))
    return model, contexts


def run_finetuning(
    framework: Framework, setting: Setting, kind: str = "Token", fields: Any = None,
    contexts: bool = False, steps: int = 4, **more: Any,
) -> Any:  # fmt: skip
    model, encoder = make_model(framework, setting, kind, fields)
    options: dict[str, Any] = {"batch_size": 4, **LENGTHS, **PLAN}
    if contexts:
        options |= {
            "context_encoder": encoder, "corpus": setting.corpus, "refresh_every": 1,
            "tokenizer": setting.tokenizer.question_encoder, "index": {"kind": "exact"},
        }  # fmt: skip
    history = rag(framework).finetune(model, questions(), steps, **(options | more))
    return history, model.question_encoder, model.generator, encoder


def run_encoders(framework: Framework, setting: Setting, **more: Any) -> Any:
    encoders = [part(framework, setting, f"{name}_encoder") for name in ("question", "context")]
    found = examples(questions(), setting.corpus)
    options = {"batch_size": 8, "cloze": 1, "drop": 0.5, **LENGTHS, **PLAN} | more
    history = rag(framework).train_pairs(
        *encoders, found, setting.corpus, setting.tokenizer.question_encoder, 4, **options
    )
    return history, *encoders


def run_reading(framework: Framework, setting: Setting, steps: int = 4, **more: Any) -> Any:
    model, _ = make_model(framework, setting, fields=more.pop("fields", None))
    found = examples(questions(), setting.corpus)
    options = {"batch_size": 4, "widen": 3, "corpus": setting.corpus, "gaps": 1, **PLAN} | more
    return rag(framework).train_reader(model.generator, found, model.retriever, steps, **options)


# Batches ------------------------------------------------------------------------------------------


def test_examples_have_the_passage_that_answers(setting: Setting) -> None:
    found = examples(questions(), setting.corpus)
    assert len(found) == len(questions())
    for example in found:
        assert holds(plain_words(setting.store[example.row].text), example.answers)
    assert [example.row for example in found[:5]] == list(range(5))
    # Only within the paragraph that was asked about, where there is one.
    asked = questions()[0]
    elsewhere = Question(asked.text, ("the",), context=documents()[7].text)
    assert [example.row for example in examples([elsewhere], setting.corpus)] == [7]
    assert examples([Question(asked.text, ("nobody",))], setting.corpus) == []


def test_answers_are_what_the_decoder_reads(setting: Setting) -> None:
    model, _ = make_model(TORCH, setting)
    asked = [
        ("Who?", ("Ada", "Ada of a town with a very long name indeed")),
        ("None?", ("é" * 40,)),
    ]
    batches = RagQuestions(asked, model.retriever, 1, answer_length=12)
    assert batches.left_out == 1 and batches.examples == 1
    batch = batches(3)
    config, letters = model.generator.config, setting.tokenizer.generator
    [labels] = batch["labels"].tolist()
    assert labels[:2] == [config.decoder_start_token_id, config.bos_token_id]
    assert labels[-1] == config.eos_token_id
    assert letters.decode(labels, skip_special_tokens=True).strip() == "Ada"
    with pytest.raises(ValueError, match="batch_size: 2 is more than the 1 examples"):
        RagQuestions(asked, model.retriever, 2, answer_length=12)


def test_reading_widens_its_view(setting: Setting) -> None:
    model, _ = make_model(TORCH, setting)
    words = setting.tokenizer.generator
    found = examples(questions(), setting.corpus)
    batches = Reading(found, model.retriever, 4, widen=10, narrowest=30)
    lengths = []
    for step in (0, 5, 10):
        batch = batches(step)
        shown = words.batch_decode(batch["input_ids"], skip_special_tokens=True)
        answers = words.batch_decode(batch["labels"], skip_special_tokens=True)
        for text, answer in zip(shown, answers, strict=True):
            assert answer.strip() in text and "In which year" in text
        lengths.append(np.mean([len(text) for text in shown]))
        # The mean over all tokens, whoever does which part of the batch.
        assert (
            np.isclose(batch["label_weights"].sum(), 4) and not batch["label_weights"][:, 0].any()
        )
    assert lengths[0] < lengths[1] < lengths[2]
    whole = setting.store[0].text
    assert any(whole in text for text in words.batch_decode(
        Reading(found[:1], model.retriever, 1)(0)["input_ids"], skip_special_tokens=True
    ))  # fmt: skip


def test_batches_are_pure_and_mixed(setting: Setting) -> None:
    found = examples(questions(), setting.corpus)
    words = setting.tokenizer.question_encoder
    pairs = Pairs(found, setting.corpus, words, 8, **LENGTHS)
    cloze = InverseCloze(setting.corpus, 8, drop=0.9, **LENGTHS)
    mixed = Mixed([pairs, cloze], [1, 2])
    for step, (batches, own) in enumerate([(pairs, 0), (cloze, 0), (cloze, 1), (pairs, 1)]):
        for name, array in mixed(step).items():
            np.testing.assert_array_equal(array, batches(own)[name])
    whole = InverseCloze(setting.corpus, 8, **LENGTHS)(0)
    some = cloze(0)
    assert some["attention_mask"].sum() < whole["attention_mask"].sum()
    for one, other in zip(some["input_ids"], whole["input_ids"], strict=True):
        left = iter(other.tolist())
        assert all(token in left for token in one.tolist() if token)  # in their order
    gaps = [Example(q.text, q.answers, row) for row, q in made_questions(setting.corpus, 40)]
    assert gaps and all(holds(plain_words(setting.store[g.row].text), g.answers) for g in gaps)


def test_sentences_are_written_down_again(setting: Setting) -> None:
    model, _ = make_model(TORCH, setting)
    letters = setting.tokenizer.generator
    batches = Denoising(setting.corpus, model.retriever, 16, length=80, hidden=0.5)
    batch = batches(1)
    wholes = letters.batch_decode(batch["labels"], skip_special_tokens=True)
    corpus = "\n".join(setting.corpus.texts)
    assert all(whole.strip() in corpus for whole in wholes)
    spoilt = letters.batch_decode(batch["input_ids"])
    assert 0 < sum("<mask>" in text for text in spoilt)
    for text, whole in zip(spoilt, wholes, strict=True):
        pieces = text.replace("<s>", "").replace("</s>", "").replace("<pad>", "").split("<mask>")
        assert all(piece.strip() in whole for piece in pieces)
    assert all(row[0] == letters.bos_token_id for row in batch["input_ids"])


def test_gaps_ask_for_what_the_passage_says(setting: Setting) -> None:
    model, _ = make_model(TORCH, setting)
    letters = setting.tokenizer.generator
    batches = Gaps(setting.corpus, model.retriever, 8, copying=2, spoil=4, exchanged=0.0)
    for step in (2, 9):
        batch = batches(step)
        np.testing.assert_array_equal(batch["labels"], batches(step)["labels"])
        if step == 2:
            continue  # nearly all have other tokens
        shown = letters.batch_decode(batch["input_ids"], skip_special_tokens=True)
        answers = letters.batch_decode(batch["labels"], skip_special_tokens=True)
        for text, answer in zip(shown, answers, strict=True):
            passage, question = text.split(" // ")
            assert answer.strip() and answer.strip() in passage
            assert passage.split(" / ")[1].strip() in "\n".join(setting.corpus.texts)
            assert question.endswith("?") and len(question) > 5
    # Few words and most of them asked for, with tokens exchanged, the same for the same.
    batch = batches(0)
    assert batch["input_ids"].shape[1] < batches(9)["input_ids"].shape[1]
    assert batch["labels"].shape[1] > batches(9)["labels"].shape[1]
    for ids, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        answer = [token for token in labels if token not in letters.all_special_ids]
        places = range(len(ids) - len(answer) + 1)
        assert any(ids[place : place + len(answer)] == answer for place in places)


def test_gaps_of_a_passage() -> None:
    text = "Ada Bell was born in Oslo. She had 12 cats, and in 1901 she left for the sea."
    maker = GapMaker(text, [(0, 8), (21, 25)])
    rng = np.random.default_rng(0)
    plain = {"drop": 0.7, "front": 0.7}
    found = {maker.asked(rng, 0.0, salient=1.0, **plain)[1:] for _ in range(200)}
    assert {answer for _, answer in found} == {"Ada Bell", "Oslo", "12", "1901"}
    asked = dict.fromkeys(question for question, answer in found if answer == "1901")
    assert any(one.endswith("and in when she left for the sea?") for one in asked)
    assert all("Oslo" not in one for one in asked)  # which is another sentence
    spoilt = [maker.asked(rng, 1.0, salient=1.0, **plain) for _ in range(200)]
    assert np.mean([len(one.question) for one in spoilt]) < np.mean([len(q) for q, _ in found])
    assert np.mean([one.question[0].isupper() for one in spoilt]) > 0.6
    others = {maker.asked(rng, 0.0, salient=0.0, **plain).answer for _ in range(200)}
    assert "sea" in others and not others & {"the", "in", "left for the"}
    assert all("," not in answer for answer in others)


def test_a_new_generator_looks_at_neighbours_and_the_same() -> None:
    """And it is the same one in both frameworks."""
    import torch

    config = BartConfig(
        vocab_size=90, d_model=64, encoder_layers=2, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64,
        max_position_embeddings=64, dropout=0.0, init_std=0.125,
    )  # fmt: skip
    one, other = (
        f.model_class("BartForConditionalGeneration")(config) for f in (TORCH, KERAS)
    )  # fmt: skip
    rag(TORCH).start_generator(one, 3)
    rag(KERAS).start_generator(other, 3)
    weights = KERAS.weights(other)
    for name, value in TORCH.weights(one).items():
        np.testing.assert_array_equal(weights[name], value, err_msg=name)
    # The second half says the first again; the token behind the one at 5 is that at 6.
    half = np.random.default_rng(0).permutation(np.arange(4, 84))[:20]
    ids = torch.from_numpy(np.concatenate([half, half]))[None]
    found = one.eval()(
        ids, decoder_input_ids=ids[:, 5:15], output_attentions=True, return_dict=True
    )
    first, second = (layer[0].detach().numpy() for layer in found.encoder_attentions)
    places = np.arange(1, 40)
    assert first[0][places, places - 1].mean() > 0.8 < first[1][places - 1, places].mean()
    again = (np.arange(40) + 20) % 40
    inner = again[3:18]
    for weights in (first[2], second[0], second[1]):
        assert weights[np.arange(3, 18), inner].mean() > 0.5
    across = found.cross_attentions[0][0, 0].detach().numpy()
    seen = across[np.arange(10), np.arange(6, 16)] + across[np.arange(10), np.arange(26, 36)]
    assert seen.mean() > 0.5
    narrow = BartConfig.from_dict(config.to_dict(), d_model=32)
    assert not fits(narrow) and fits(config)


def test_a_passage_of_two_questions_is_right_for_both() -> None:
    import tensorflow as tf
    import torch

    from pt_models.matching import match
    from tf_models.matching import match as tf_match

    rng = np.random.default_rng(0)
    queries, blocks = rng.standard_normal((2, 4, 3)).astype(np.float32)
    blocks[2] = blocks[0]
    rows = np.array([5, 6, 5, 7])
    arrays = (queries, blocks, rows)
    found = match(*map(torch.from_numpy, arrays))
    scores = queries @ blocks.T
    scores[0, 2] = scores[2, 0] = -np.inf
    wanted = np.mean(np.log(np.exp(scores).sum(1)) - np.diag(scores))
    np.testing.assert_allclose(found["loss"], wanted, rtol=1e-5)
    np.testing.assert_allclose(tf_match(*map(tf.constant, arrays))["loss"], wanted, rtol=1e-5)


# Curves -------------------------------------------------------------------------------------------


@EAGER
@QUIET
def test_encoders_and_reader_in_both(setting: Setting) -> None:
    one, *first = run_encoders(TORCH, setting)
    other, *second = run_encoders(KERAS, setting)
    assert_same_curves(one, other)
    for left, right in zip(first, second, strict=True):
        found = KERAS.weights(right)
        for name, value in TORCH.weights(left).items():
            if not name.endswith(("key.bias", "output.LayerNorm.bias")):  # none but rounding
                np.testing.assert_allclose(found[name], value, 1e-3, 2e-4, err_msg=name)
    assert_same_curves(run_reading(TORCH, setting), run_reading(KERAS, setting))


@EAGER
@QUIET
@pytest.mark.parametrize("kind", ["Token", "Sequence"])
def test_end_to_end_in_both(kind: str, setting: Setting) -> None:
    one, *_ = run_finetuning(TORCH, setting, kind)
    other, *_ = run_finetuning(KERAS, setting, kind)
    assert_same_curves(one, other)
    assert 0 < np.mean([entry["right"] for entry in one]) < 1


@EAGER
@QUIET
def test_the_context_encoder_learns_in_both(setting: Setting, tmp_path: Path) -> None:
    """With three versions of the index, each made by the framework itself."""
    one, _, _, contexts = run_finetuning(TORCH, setting, contexts=True, out=tmp_path / "pt")
    other, *_ = run_finetuning(KERAS, setting, contexts=True, out=tmp_path / "tf")
    assert_same_curves(one, other)
    newest = state.latest(tmp_path / "pt").folder
    opened = KERAS.model_class("DPRContextEncoder").from_pretrained(newest / "context_encoder")
    for name, value in KERAS.weights(opened).items():
        np.testing.assert_array_equal(value, TORCH.weights(contexts)[name])


# What a step computes -----------------------------------------------------------------------------


def step_of(setting: Setting, kind: str, contexts: bool) -> tuple[Any, Any, Any]:
    from pt_models.training import tensor

    model, encoder = make_model(TORCH, setting, kind)
    batches = RagQuestions(questions(), model.retriever, 4)
    corpus = setting.corpus if contexts else None
    passages = FoundPassages(model.retriever, batches, None, corpus, 80)
    step = rag(TORCH).RagStep(model, passages, encoder if contexts else None)
    return step, model, {name: tensor(array) for name, array in batches(0).items()}


@pytest.mark.parametrize("kind", ["Token", "Sequence"])
def test_gradients_reach_who_learns(kind: str, setting: Setting) -> None:
    """The step's loss is the model's own, which retrieves by itself."""
    step, model, batch = step_of(setting, kind, contexts=False)
    found = step(batch)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    np.testing.assert_allclose(
        found["loss"].item(), model(**inputs, reduce_loss=True).loss.item() / 4, rtol=1e-5
    )
    found["loss"].backward()
    for trained in (model.question_encoder, model.generator):
        gradients = [p.grad for p in trained.parameters() if p.grad is not None]
        assert sum(g.abs().sum() for g in gradients) > 1e-4
    assert list(step.models) == ["question_encoder", "generator"]
    step, model, batch = step_of(setting, kind, contexts=True)
    again = step(batch)
    np.testing.assert_allclose(again["loss"].item(), found["loss"].item(), rtol=1e-4)
    again["loss"].backward()
    table = step.context_encoder.get_input_embeddings().weight.grad
    assert table.abs().sum() > 1e-4


def test_loss_falls(setting: Setting) -> None:
    history, *_ = run_finetuning(
        TORCH, setting, steps=40, learning_rate=1e-2, warm_up=4, batch_size=8
    )
    assert np.mean(losses(history)[-5:]) < 0.6 * np.mean(losses(history)[:5])
    history = run_reading(TORCH, setting, 40, learning_rate=1e-2, warm_up=4, batch_size=8)
    assert np.mean(losses(history)[-5:]) < 0.7 * np.mean(losses(history)[:5])


def test_the_index_is_refreshed_at_the_promised_steps(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 2 steps between versions, version k is searched from step 2(k + 1) on."""
    monkeypatch.setattr(rag(TORCH), "EMBEDDER", QUICK_WORKER)
    seen = []
    search = FoundPassages.__call__

    def watched(self: Any, *arguments: Any) -> Any:
        seen.append(id(self.index))
        kept.append(self.index)
        return search(self, *arguments)

    kept: list[Any] = []
    monkeypatch.setattr(FoundPassages, "__call__", watched)
    run_finetuning(TORCH, setting, contexts=True, steps=6, refresh_every=2)
    assert seen[0] == seen[3] != seen[4] == seen[5]


# Resuming -----------------------------------------------------------------------------------------


@BOTH
@EAGER
@QUIET
def test_goes_on_as_if_never_stopped(
    framework: Framework, setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rag(framework), "EMBEDDER", QUICK_WORKER)
    options: dict[str, Any] = {"out": tmp_path, "checkpoint_every": 3, "contexts": True}
    options |= {"fields": DROPOUT, "refresh_every": 2, "rates": {"question_encoder": 0.5}}
    whole, *first = run_finetuning(framework, setting, **options)
    cut_back(tmp_path, 3)
    resumed, *second = run_finetuning(framework, setting, resume=True, **options)
    assert losses(resumed) == losses(whole) and len(resumed) == 4
    for one, other in zip(first, second, strict=True):
        assert_bitwise_equal(framework, one, other)
    with pytest.raises(state.TrainingError, match="begun with passages"):
        run_finetuning(framework, setting, resume=True, **options, n_docs=2)


# What is refused ----------------------------------------------------------------------------------


def test_what_is_refused(setting: Setting, tmp_path: Path) -> None:
    model, encoder = make_model(TORCH, setting)
    finetune = rag(TORCH).finetune
    with pytest.raises(ValueError, match="corpus: needed to train a context_encoder"):
        finetune(model, questions(), 2, context_encoder=encoder)
    with pytest.raises(ValueError, match="expected together with a context_encoder"):
        finetune(model, questions(), 2, corpus=setting.corpus)
    with pytest.raises(ValueError, match="query_length: 90 is more than config.max_position"):
        finetune(model, questions(), 2, query_length=90)
    other = train_rag_tokenizer(["Ada and Bela"] * 3, tmp_path / "other", 300)
    with pytest.raises(CorpusError, match="made with another tokenizer"):
        finetune(model, questions(), 2, context_encoder=encoder, corpus=setting.corpus,
                 tokenizer=other.question_encoder)  # fmt: skip
    model.set_retriever(None)
    with pytest.raises(ValueError, match="model: it has no retriever"):
        finetune(model, questions(), 2)
    with pytest.raises(ValueError, match="drop: received 2, expected a probability"):
        InverseCloze(setting.corpus, 8, drop=2)
    with pytest.raises(ValueError, match="vocab_size: received 200, expected at least 261"):
        train_rag_tokenizer(["Ada and Bela"] * 3, tmp_path / "small", 200)


# Several processes --------------------------------------------------------------------------------


def train_one_rank(rank: int, port: int, folder: str, out: str) -> None:
    import torch

    torch.set_num_threads(1)
    rag(TORCH).EMBEDDER = QUICK_WORKER
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    try:
        setting = reopened(folder)
        histories = {
            "encoders": run_encoders(TORCH, setting)[0],
            "reading": run_reading(TORCH, setting),
            "rag": run_finetuning(TORCH, setting, contexts=True, out=Path(out) / "run")[0],
        }
    finally:
        torch.distributed.destroy_process_group()
    if rank == 0:
        (Path(out) / "histories.json").write_text(json.dumps(histories))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_two_processes_train_as_one(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This one is the first of them."""
    import torch

    monkeypatch.setattr(rag(TORCH), "EMBEDDER", QUICK_WORKER)
    arguments = (free_port(), str(setting.folder), str(tmp_path))
    other = torch.multiprocessing.get_context("spawn").Process(
        target=train_one_rank, args=(1, *arguments)
    )
    other.start()
    train_one_rank(0, *arguments)
    other.join()
    assert other.exitcode == 0
    found = json.loads((tmp_path / "histories.json").read_text())
    assert_same_curves(run_encoders(TORCH, setting)[0], found["encoders"])
    assert_same_curves(run_reading(TORCH, setting), found["reading"])
    alone, *_ = run_finetuning(TORCH, setting, contexts=True, out=tmp_path / "alone")
    assert_same_curves(alone, found["rag"])


REPLICAS = """
    import sys
    sys.path[:0] = [{tests!r}, {root!r}]
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    import json
    from pathlib import Path
    from test_rag_training import KERAS, reopened, run_finetuning
    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with two.scope():
        history, *_ = run_finetuning(KERAS, reopened({folder!r}), steps=3)
    Path({out!r}).write_text(json.dumps(history))
"""


@pytest.mark.slow  # REALM's test of it always runs; this has the search inside the step too
def test_two_replicas_train_as_one(setting: Setting, tmp_path: Path) -> None:
    """Through `fit` under a strategy, as a graph."""
    paths = {"tests": str(Path(__file__).parent), "root": str(Path(__file__).parents[1])}
    process = run_python(
        REPLICAS.format(folder=str(setting.folder), out=str(tmp_path / "out"), **paths)
    )
    output, _ = process.communicate()
    assert process.returncode == 0, output[-3000:]
    expected, *_ = run_finetuning(TORCH, setting, steps=3)
    assert_same_curves(expected, json.loads((tmp_path / "out").read_text()))


WORKERS = """
    import sys
    sys.path[:0] = [{tests!r}, {root!r}]
    import tensorflow as tf
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    import json
    from pathlib import Path
    from test_rag_training import KERAS, reopened, run_encoders, run_finetuning
    setting = reopened({folder!r})
    with strategy.scope():
        histories = {{
            "encoders": run_encoders(KERAS, setting)[0],
            "rag": run_finetuning(KERAS, setting, steps=3)[0],
        }}
    if strategy.cluster_resolver.task_id == 0:
        Path({out!r}).write_text(json.dumps(histories))
"""


@pytest.mark.slow
def test_two_workers_train_as_one(setting: Setting, tmp_path: Path) -> None:
    run_workers(WORKERS, folder=str(setting.folder), out=str(tmp_path / "out"))
    found = json.loads((tmp_path / "out").read_text())
    assert_same_curves(run_encoders(TORCH, setting)[0], found["encoders"])
    assert_same_curves(run_finetuning(TORCH, setting, steps=3)[0], found["rag"])


# The commands -------------------------------------------------------------------------------------


def command(*arguments: Any) -> Any:
    from converters.cli import app

    return CliRunner().invoke(app, [*map(str, arguments)])


def succeed(*arguments: Any) -> Any:
    result = command(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def squad(folder: Path) -> Path:
    """The fixtures' documents and questions in SQuAD's layout."""
    articles = [
        {"title": document.title, "paragraphs": [{
            "context": document.text,
            "qas": [{"id": document.id, "question": question.text,
                     "answers": [{"text": question.answers[0]}]}],
        }]}
        for document, question in zip(documents(), questions(), strict=True)
    ]  # fmt: skip
    path = folder / "squad.json"
    path.write_text(json.dumps({"data": articles}))
    return path


def test_train_and_evaluate_by_commands(tmp_path: Path) -> None:
    path, out = squad(tmp_path), tmp_path / "rag"
    train = [
        "train", "rag", "--corpus", path, "--questions", path, "--out", out, "--vocab-size", 330,
        "--generator-vocab-size", 300, "--cloze-steps", 2, "--pair-steps", 2,
        "--denoising-steps", 2, "--gap-steps", 16, "--reading-steps", 2,
        "--steps", 3, "--n-docs", 3, "--encoder-batch", 8, "--reading-batch", 4,
        "--batch-size", 4, "--held-out", 0.2,
        "--fields", "hidden_size=16,num_attention_heads=2", "--block-length", 96,
        "--generator-fields", "d_model=16,encoder_layers=1,decoder_layers=1,"
        "encoder_attention_heads=2,decoder_attention_heads=2", "--train-context-encoder",
        "--refresh-every", 1, "--checkpoint-every", 2, "--threads", 1, "--json",
    ]  # fmt: skip
    result = succeed(*train)
    assert "before training end to end, " in result.stderr and "(BM25 @1 " in result.stderr
    summary = json.loads(result.stdout)
    assert summary["steps"] == {
        "cloze": 2, "pairs": 2, "denoising": 2, "gaps": 16, "reading": 2, "rag": 3,
    }  # fmt: skip
    # The same command goes on from the newest checkpoint.
    cut_back(out / "run" / "rag", 2)
    again = json.loads(succeed(*train, "--resume").stdout)
    assert again["losses"]["rag"] == summary["losses"]["rag"]
    assert again["after"] == summary["after"]
    # A folder that is moved still opens, in either framework.
    moved = tmp_path / "moved"
    shutil.move(out, moved)
    evaluate = ["evaluate", "rag", "--model", moved, "--questions", path, "--held-out", 0.2]
    scores = [json.loads(succeed(*evaluate, "--framework", name, "--json").stdout)
              for name in ("pt", "tf")]  # fmt: skip
    assert scores[0] == scores[1] == summary["after"]
    assert set(scores[0]["recall"]) == set(scores[0]["bm25_paragraph"]) == {"1", "5", "20"}
    assert scores[0]["bm25"]["1"] > 90  # the questions share their rare words with the text
    assert "BM25, the paragraph" in succeed(*evaluate).stdout
    # And on from there, as RAG-sequence, with questions as NQ-open has them.
    lines = [json.dumps({"question": q.text, "answer": list(q.answers)}) for q in questions()]
    asked = tmp_path / "questions.jsonl"
    asked.write_text("\n".join(lines))
    succeed("train", "rag", "--corpus", moved / "index", "--questions", asked, "--model", moved,
            "--kind", "sequence", "--steps", 1, "--block-length", 96,
            "--out", tmp_path / "more")  # fmt: skip
    result = succeed("evaluate", "rag", "--model", tmp_path / "more", "--questions", asked,
                     "--no-bm25", "--num-beams", 2, "--json")  # fmt: skip
    found = json.loads(result.stdout)
    assert found["questions"] == 48 and found["bm25"] == {} == found["paragraph"]


def test_what_the_command_refuses(tmp_path: Path, setting: Setting) -> None:
    path = squad(tmp_path)
    common = ["train", "rag", "--corpus", path, "--questions", path, "--out", tmp_path / "out"]
    place = setting.folder
    for arguments, message in (
        (["--generator", place / "generator"], "--question-encoder: needed beside --generator"),
        (["--model", place, "--generator", place], "--model: its parts cannot be given too"),
        (["--model", place / "generator"], "--context-encoder: needed, as "),
        (["--question-encoder", place / "question_encoder", "--context-encoder",
          place / "context_encoder", "--generator", place / "generator", "--block-length", 112],
         "block_length: 112 is more than config.max_position_embeddings (80)"),
        (["--framework", "tf", "--device", "cuda:0"], "--device: of PyTorch"),
    ):  # fmt: skip
        result = command(*common, *arguments)
        assert result.exit_code == 1
        assert message in str(result.exception), (message, result.exception)
    result = command("evaluate", "rag", "--model", place / "generator", "--questions", path)
    assert result.exit_code == 1 and "model_type is 'bart'" in str(result.exception)
