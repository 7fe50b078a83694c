"""The three phases of REALM's training in both frameworks: curves, resuming, processes, CLI."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frameworks import KERAS, TORCH, Framework
from training_fixtures import Setting, documents, make_config, make_setting, questions
from typer.testing import CliRunner

from zoo.retrieval import build_index
from zoo.training import state
from zoo.training.batches import Candidates, InverseCloze, MaskedSpans, Questions
from zoo.training.corpus import BlockCorpus, CorpusError
from zoo.training.refresh import RefreshError

LENGTHS: dict[str, Any] = {"query_length": 32, "block_length": 80}
# With so small an epsilon Adam is the same in both frameworks from the first step on.
PLAN: dict[str, Any] = {"learning_rate": 2e-3, "epsilon": 1e-12, "clip": 0.5, "weight_decay": 0.05}
BOTH = pytest.mark.parametrize("framework", [TORCH, KERAS], ids=["pt", "tf"])
QUICK_WORKER = "fake_embedder:FakeEmbedder"  # imports no framework
EAGER = pytest.mark.usefixtures("eager")


def phases(framework: Framework) -> Any:
    return importlib.import_module(f"{framework.package().__name__}.realm_training")


def training(framework: Framework) -> Any:
    return importlib.import_module(f"{framework.package().__name__}.training")


@pytest.fixture(scope="session")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """With the checkpoints that all runs start from."""
    import torch

    from pt_models import RealmEmbedder, RealmKnowledgeAugEncoder

    made = make_setting(tmp_path_factory.mktemp("setting"))
    torch.manual_seed(0)
    config = make_config(made)
    RealmEmbedder(config).save_pretrained(made.folder / "embedder")
    RealmKnowledgeAugEncoder(config).save_pretrained(made.folder / "encoder")
    return made


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Models so small only lose by a second one."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def eager() -> Iterator[None]:
    """Keras without graphs, which take much longer to make than to run here."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def open_model(framework: Framework, name: str, setting: Setting, folder: str, **more: Any) -> Any:
    return framework.model_class(name).from_pretrained(setting.folder / folder, **more)


def embedder_of(framework: Framework, setting: Setting, **more: Any) -> Any:
    return open_model(framework, "RealmEmbedder", setting, "embedder", **more)


def encoder_of(framework: Framework, setting: Setting, **more: Any) -> Any:
    return open_model(framework, "RealmKnowledgeAugEncoder", setting, "encoder", **more)


def assert_same_curves(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys()
        for name in left.keys() - {"seconds"}:
            np.testing.assert_allclose(right[name], left[name], 1e-4, 2e-5, err_msg=name)


def losses(history: list[dict[str, Any]]) -> list[float]:
    return [entry["loss"] for entry in history]


# Curves -------------------------------------------------------------------------------------------


def run_inverse_cloze(framework: Framework, setting: Setting, **more: Any) -> Any:
    embedder = embedder_of(framework, setting, **more.pop("fields", {}))
    options = {"batch_size": 8, "keep": 0.3, **LENGTHS, **PLAN} | more
    history = phases(framework).train_inverse_cloze(embedder, setting.corpus, 4, **options)
    return history, embedder


def run_pretraining(framework: Framework, setting: Setting, **more: Any) -> Any:
    fields = more.pop("fields", {})
    embedder, encoder = (make(framework, setting, **fields) for make in (embedder_of, encoder_of))
    options = {"refresh_every": 1, "batch_size": 4, "index": {"kind": "exact"}, **LENGTHS, **PLAN}
    history = phases(framework).pretrain(
        embedder, encoder, setting.corpus, setting.tokenizer, 4, **(options | more)
    )
    return history, embedder, encoder


def make_answering(framework: Framework, setting: Setting) -> Any:
    """A model whose index finds half of the right blocks."""
    return phases(framework).assemble(
        embedder_of(framework, setting), encoder_of(framework, setting), setting.corpus,
        setting.tokenizer, block_length=80, searcher_beam_size=24,
    )  # fmt: skip


@pytest.fixture(scope="session")
def answering(setting: Setting) -> Path:
    """A model that answers questions, whose scores of spans are the same for both frameworks."""
    import torch

    torch.manual_seed(1)
    folder = setting.folder / "answering"
    make_answering(TORCH, setting).save_pretrained(folder)
    return folder


def run_finetuning(framework: Framework, setting: Setting, folder: Path, **more: Any) -> Any:
    model = framework.model_class("RealmForOpenQA").from_pretrained(folder, retriever=None)
    options = {"batch_size": 6, "corpus": setting.corpus, **PLAN} | more
    history = phases(framework).finetune(model, questions(), setting.tokenizer, 4, **options)
    return history, model


@EAGER
@pytest.mark.filterwarnings("ignore:Even though the `tf.config")
def test_inverse_cloze_in_both(setting: Setting) -> None:
    one, first = run_inverse_cloze(TORCH, setting)
    other, second = run_inverse_cloze(KERAS, setting)
    assert_same_curves(one, other)
    assert_same_weights(first, second)
    assert losses(one)[0] != losses(one)[1]


@EAGER
@pytest.mark.filterwarnings("ignore:Even though the `tf.config")
def test_pretraining_in_both(setting: Setting, tmp_path: Path) -> None:
    """With three versions of the index, each made by the framework itself."""
    one, *first = run_pretraining(TORCH, setting, out=tmp_path / "pt")
    other, *second = run_pretraining(KERAS, setting, out=tmp_path / "tf")
    assert_same_curves(one, other)
    for left, right in zip(first, second, strict=True):
        assert_same_weights(left, right)
    # A checkpoint holds ordinary models, which open in the other framework.
    newest = state.latest(tmp_path / "pt")
    for name, model in zip(("embedder", "encoder"), first, strict=True):
        opened = KERAS.model_class(type(model).__name__).from_pretrained(newest.folder / name)
        for key, value in KERAS.weights(opened).items():
            np.testing.assert_array_equal(value, TORCH.weights(model)[key])
    moments = newest.moments()
    assert "exp_avg.embedder.cls.dense.weight" in moments
    assert "exp_avg_sq.encoder.realm.encoder.layer.0.attention.self.query.bias" in moments


@EAGER
@pytest.mark.filterwarnings("ignore:Even though the `tf.config")
def test_finetuning_in_both(setting: Setting, answering: Path) -> None:
    one, first = run_finetuning(TORCH, setting, answering)
    other, second = run_finetuning(KERAS, setting, answering)
    assert_same_curves(one, other)
    assert_same_weights(first, second)
    assert any(entry["reader_loss"] > 0 for entry in one)
    assert any(entry["retriever_loss"] > 0 for entry in one)
    for name, value in TORCH.weights(first).items():
        if name == "block_emb":  # stays as it is
            np.testing.assert_array_equal(value, KERAS.weights(second)[name])


# What is added to all scores has no gradient but rounding, which Adam blows up.
NO_GRADIENT = ("key.bias", "dense_output.bias", "layer_normalization.bias")


def assert_same_weights(one: Any, other: Any) -> None:
    expected, found = TORCH.weights(one), KERAS.weights(other)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        if not name.endswith(NO_GRADIENT):
            np.testing.assert_allclose(found[name], value, 1e-3, 2e-4, err_msg=name)


# What a step computes -----------------------------------------------------------------------------


def test_step_of_pretraining_is_the_published_loss(setting: Setting) -> None:
    """Words are scored only where something is hidden; the encoder's own loss is the same."""
    import torch

    from pt_models import RealmScorer
    from pt_models.realm_training import PretrainingStep, embed_corpus

    corpus = setting.corpus
    embedder, encoder = embedder_of(TORCH, setting).eval(), encoder_of(TORCH, setting).eval()
    index = build_index(embed_corpus(embedder, corpus, 80))
    candidates = Candidates(corpus, index, count=4, **LENGTHS)
    batch = MaskedSpans(corpus, 5, query_length=32)(3)
    step = PretrainingStep(embedder, encoder, candidates)
    with torch.no_grad():
        found = step({name: TORCH.tensor(array) for name, array in batch.items()})
        vectors = embedder(
            torch.tensor(batch["input_ids"]).long(), torch.tensor(batch["attention_mask"])
        ).projected_score
    rows = candidates.find(vectors.numpy(), batch["rows"])
    inputs = candidates.inputs(batch["input_ids"], batch["attention_mask"], rows)
    tensors = {name: torch.tensor(array) for name, array in inputs.items()}
    # The empty block for everyone, as the scorer wants its candidates.
    order = torch.tensor([[*range(3 * i, 3 * i + 3), 15] for i in range(5)])
    scorer = RealmScorer(embedder.config)
    scorer.embedder = scorer.query_embedder = embedder
    with torch.no_grad():
        relevance = scorer(
            torch.tensor(batch["input_ids"]).long(), torch.tensor(batch["attention_mask"]),
            candidate_input_ids=tensors["candidate_input_ids"][order].long(),
            candidate_attention_mask=tensors["candidate_attention_mask"][order],
            candidate_token_type_ids=tensors["candidate_token_type_ids"][order].long(),
        ).relevance_score  # fmt: skip
        length = tensors["joint_input_ids"].shape[-1]
        labels = np.full((5, length), -100)
        for row in range(5):
            count = int((batch["masked_weights"][row] > 0).sum())
            labels[row, batch["masked_positions"][row, :count]] = batch["masked_ids"][row, :count]
        loss = encoder(
            tensors["joint_input_ids"].long(), tensors["joint_attention_mask"],
            tensors["joint_token_type_ids"].long(), relevance_score=relevance,
            labels=torch.tensor(labels),
        ).loss  # fmt: skip
    np.testing.assert_allclose(found["loss"], loss, rtol=1e-5)


def test_gradients_of_pretraining_reach_both_sides_of_the_embedder(setting: Setting) -> None:
    """Question and blocks are embedded anew, the index only says which blocks."""
    import torch

    from pt_models.realm_training import PretrainingStep, embed_corpus

    corpus = setting.corpus
    embedder, encoder = embedder_of(TORCH, setting), encoder_of(TORCH, setting)
    candidates = Candidates(
        corpus, build_index(embed_corpus(embedder, corpus, 80)), count=4, **LENGTHS
    )
    batch = MaskedSpans(corpus, 5, query_length=32)(0)
    tensors = {name: TORCH.tensor(array) for name, array in batch.items()}
    PretrainingStep(embedder, encoder, candidates)(tensors)["loss"].backward()
    table = embedder.realm.embeddings.token_type_embeddings.weight.grad
    assert table[0].abs().sum() > 0 and table[1].abs().sum() > 0  # 1: only blocks have it
    embedder.zero_grad()
    fixed = PretrainingStep(embedder, encoder, candidates, train_embedder=False)
    assert list(fixed.models) == ["encoder"]
    fixed(tensors)["loss"].backward()
    assert all(p.grad is None for p in embedder.parameters())
    with torch.no_grad():
        assert not torch.equal(encoder.realm.embeddings.word_embeddings.weight.grad,
                               torch.zeros(()))  # fmt: skip


def test_groups_of_similar_lengths_change_nothing(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pt_models import matching

    vectors = []
    for groups in (1, 4):
        monkeypatch.setattr(matching, "GROUPS", groups)
        embedder = embedder_of(TORCH, setting)
        vectors.append(matching.embed_corpus(embedder, setting.corpus, 80))
    np.testing.assert_allclose(*vectors, rtol=1e-4, atol=1e-5)


@BOTH
def test_vectors_are_those_of_the_text_embedder(framework: Framework, setting: Setting) -> None:
    """So an index of `zoo index build` finds what training found."""
    from zoo.retrieval.passages import Passage

    embedder = embedder_of(framework, setting)
    ours = phases(framework).embed_corpus(embedder, setting.corpus, 80, batch_tokens=512)
    place = setting.folder / "embedder"
    setting.tokenizer.save_pretrained(place)
    module = importlib.import_module(f"{framework.package().__name__}.embedding")
    text_embedder = getattr(module, f"{framework.prefix}TextEmbedder")
    opened = text_embedder(place, encoder="RealmEmbedder", max_length=80)
    chosen = documents()[::12]
    passages = [Passage(0, d.text, d.title, d.id, 0, {}) for d in chosen]
    np.testing.assert_allclose(ours[::12], opened.embed_passages(passages), rtol=1e-4, atol=1e-5)
    asked = Questions(questions(), setting.tokenizer, 4)
    queries = phases(framework).embed_questions(embedder, asked, 20)
    texts = [q.text for q in questions()]
    np.testing.assert_allclose(queries, opened.embed(texts), rtol=1e-4, atol=1e-5)


def test_training_learns(setting: Setting) -> None:
    """Sentences that stay in their blocks are found, where 1 in 16 is by chance."""
    history = phases(TORCH).train_inverse_cloze(
        embedder_of(TORCH, setting), setting.corpus, 120, batch_size=16, keep=1.0,
        learning_rate=1e-2, **LENGTHS,
    )  # fmt: skip
    accuracy = [entry["accuracy"] for entry in history]
    assert np.mean(accuracy[:5]) < 0.25 and np.mean(accuracy[-10:]) > 0.6


# Resuming -----------------------------------------------------------------------------------------

DROPOUT = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.1}


def cut_back(out: Path, step: int) -> None:
    """Leaves a run as it was when it was killed after a checkpoint."""
    for folder in state.checkpoints(out):
        if folder.name != f"step-{step:08d}":
            shutil.rmtree(folder)


def assert_bitwise_equal(framework: Framework, one: Any, other: Any) -> None:
    expected = framework.weights(one)
    for name, value in framework.weights(other).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@BOTH
@EAGER
@pytest.mark.filterwarnings("ignore:Even though the `tf.config")
def test_inverse_cloze_goes_on_as_if_never_stopped(
    framework: Framework, setting: Setting, tmp_path: Path
) -> None:
    options = {"out": tmp_path, "checkpoint_every": 2, "fields": DROPOUT}
    whole, first = run_inverse_cloze(framework, setting, **options)
    cut_back(tmp_path, 2)
    resumed, second = run_inverse_cloze(framework, setting, resume=True, **options)
    assert losses(resumed) == losses(whole) and len(resumed) == 4
    assert_bitwise_equal(framework, first, second)
    with pytest.raises(state.TrainingError, match="holds a run already"):
        run_inverse_cloze(framework, setting, **options)
    with pytest.raises(state.TrainingError, match="begun with batches"):
        run_inverse_cloze(framework, setting, resume=True, **options, batch_size=16)
    # Dropout was on, and differs from step to step.
    without, _ = run_inverse_cloze(framework, setting)
    assert losses(without)[0] != losses(whole)[0]


@BOTH
@EAGER
@pytest.mark.filterwarnings("ignore:Even though the `tf.config")
def test_pretraining_goes_on_as_if_never_stopped(
    framework: Framework, setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the versions of the index that were in use, and being made."""
    monkeypatch.setattr(phases(framework), "EMBEDDER", QUICK_WORKER)
    options: dict[str, Any] = {"out": tmp_path, "checkpoint_every": 3, "refresh_every": 2}
    options |= {"fields": DROPOUT, "embedder_rate": 0.5}
    whole, *first = run_pretraining(framework, setting, **options)
    cut_back(tmp_path, 3)
    assert state.latest(tmp_path).indexes == (0,)  # version 1 would come into use at step 4
    resumed, *second = run_pretraining(framework, setting, resume=True, **options)
    assert losses(resumed) == losses(whole) and len(resumed) == 4
    for one, other in zip(first, second, strict=True):
        assert_bitwise_equal(framework, one, other)
    shutil.rmtree(tmp_path / "indexes")
    cut_back(tmp_path, 4)
    state_file = state.latest(tmp_path).folder / "state.json"
    content = json.loads(state_file.read_text()) | {"step": 3}
    state_file.write_text(json.dumps(content))
    with pytest.raises(RefreshError, match="version 0 of the index is needed to go on and is gone"):
        run_pretraining(framework, setting, resume=True, **options)


def test_finetuning_goes_on_as_if_never_stopped(
    setting: Setting, answering: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"out": tmp_path, "checkpoint_every": 3}
    whole, first = run_finetuning(TORCH, setting, answering, **options)
    cut_back(tmp_path, 3)
    resumed, second = run_finetuning(TORCH, setting, answering, resume=True, **options)
    assert losses(resumed) == losses(whole)
    assert_bitwise_equal(TORCH, first, second)


@EAGER
@pytest.mark.filterwarnings("ignore:Even though the `tf.config")
@pytest.mark.parametrize("begins", [TORCH, KERAS], ids=["pt", "tf"])
def test_a_run_goes_on_in_the_other_framework(
    begins: Framework, setting: Setting, tmp_path: Path
) -> None:
    ends = KERAS if begins is TORCH else TORCH
    options = {"out": tmp_path, "checkpoint_every": 2}
    whole, _ = run_inverse_cloze(begins, setting, **options)
    cut_back(tmp_path, 2)
    resumed, _ = run_inverse_cloze(ends, setting, resume=True, **options)
    assert_same_curves(whole, resumed)


@BOTH
def test_a_moment_of_another_model(framework: Framework, setting: Setting, tmp_path: Path) -> None:
    step = phases(framework).InverseClozeStep(embedder_of(framework, setting))
    trainer = training(framework).Trainer(step, phases(framework).Plan(3))

    def write(folder: Path) -> None:
        embedder_of(framework, setting).save_pretrained(folder / "embedder")

    state.save(tmp_path, 1, write, {"exp_avg.embedder.other": np.zeros(2, np.float32)}, {})
    with pytest.raises(state.TrainingError, match=r"no weights for exp_avg\.embedder\.other"):
        trainer.restore(state.latest(tmp_path))
    with pytest.raises(ValueError, match="rates: no model 'reader'; there are embedder"):
        training(framework).Trainer(step, phases(framework).Plan(3), {"reader": 1.0})


# What is refused ----------------------------------------------------------------------------------


def test_another_tokenizer_is_refused(setting: Setting, tmp_path: Path) -> None:
    from zoo.training.vocabulary import train_tokenizer

    other = train_tokenizer(["Ada and Bela"] * 3, tmp_path / "other", 40)
    with pytest.raises(CorpusError, match="made with another tokenizer"):
        phases(TORCH).pretrain(
            embedder_of(TORCH, setting), encoder_of(TORCH, setting), setting.corpus, other, 2
        )
    memory = BlockCorpus.build([d.text for d in documents()], setting.tokenizer, spans="rules")
    with pytest.raises(ValueError, match="corpus: expected one in a folder"):
        phases(TORCH).pretrain(
            embedder_of(TORCH, setting), encoder_of(TORCH, setting), memory, setting.tokenizer, 2,
            batch_size=4, **LENGTHS,
        )  # fmt: skip


def test_lengths_without_positions_are_refused(setting: Setting) -> None:
    """At once, and not when the first long batch comes."""
    embedder, encoder = embedder_of(TORCH, setting), encoder_of(TORCH, setting)
    positions = r"is more than config\.max_position_embeddings \(128\)"
    with pytest.raises(ValueError, match=f"block_length: 288 {positions}"):
        phases(TORCH).train_inverse_cloze(embedder, setting.corpus, 2, batch_size=4)
    with pytest.raises(ValueError, match=f"joint_length: 184 {positions}"):
        phases(TORCH).pretrain(
            embedder, encoder, setting.corpus, setting.tokenizer, 2, batch_size=4, block_length=120
        )
    model = make_answering(TORCH, setting)
    model.config.reader_seq_len = 300
    with pytest.raises(ValueError, match=f"reader_seq_len: 300 {positions}"):
        phases(TORCH).finetune(model, questions(), setting.tokenizer, 2)


def test_a_batch_that_cannot_be_divided(setting: Setting) -> None:
    with pytest.raises(ValueError, match="batch_size: 8 cannot be divided among 3 processes"):
        from zoo.training.batches import share

        share(InverseCloze(setting.corpus, 8, **LENGTHS)(0), 0, 3)


# Several processes --------------------------------------------------------------------------------


def train_one_rank(rank: int, port: int, folder: str, out: str) -> None:
    import torch

    torch.set_num_threads(1)
    phases(TORCH).EMBEDDER = QUICK_WORKER
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    try:
        setting = reopened(folder)
        histories = {
            "cloze": run_inverse_cloze(TORCH, setting)[0],
            "pretraining": run_pretraining(TORCH, setting, out=Path(out) / "run")[0],
            "questions": run_finetuning(TORCH, setting, Path(folder) / "answering")[0],
        }
    finally:
        torch.distributed.destroy_process_group()
    if rank == 0:
        (Path(out) / "histories.json").write_text(json.dumps(histories))


def reopened(folder: str) -> Setting:
    from zoo.tokenizers.realm import RealmTokenizerFast

    tokenizer = RealmTokenizerFast.from_pretrained(Path(folder) / "tokenizer")
    return Setting(BlockCorpus.open(Path(folder) / "corpus"), tokenizer, Path(folder))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_two_processes_train_as_one(
    setting: Setting, answering: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This one is the first of them."""
    import torch

    monkeypatch.setattr(phases(TORCH), "EMBEDDER", QUICK_WORKER)
    arguments = (free_port(), str(setting.folder), str(tmp_path))
    other = torch.multiprocessing.get_context("spawn").Process(
        target=train_one_rank, args=(1, *arguments)
    )
    other.start()
    train_one_rank(0, *arguments)
    other.join()
    assert other.exitcode == 0
    found = json.loads((tmp_path / "histories.json").read_text())
    assert_same_curves(run_inverse_cloze(TORCH, setting)[0], found["cloze"])
    expected, *_ = run_pretraining(TORCH, setting, out=tmp_path / "alone")
    assert_same_curves(expected, found["pretraining"])
    assert_same_curves(run_finetuning(TORCH, setting, answering)[0], found["questions"])
    assert len(state.checkpoints(tmp_path / "run")) == 1


REPLICAS = """
    import sys
    sys.path[:0] = [{tests!r}, {root!r}]
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    import json
    from pathlib import Path
    from test_realm_training import KERAS, reopened, run_inverse_cloze, run_pretraining
    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with two.scope():
        history, *_ = {run}(KERAS, reopened({folder!r}))
    Path({out!r}).write_text(json.dumps(history))
"""


def run_python(code: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | environment,
    )  # fmt: skip


@pytest.mark.parametrize(
    "run", [run_inverse_cloze, pytest.param(run_pretraining, marks=pytest.mark.slow)]
)
def test_two_replicas_train_as_one(run: Any, setting: Setting, tmp_path: Path) -> None:
    """Through `fit` under a strategy; devices have to be made before TensorFlow starts."""
    paths = {"tests": str(Path(__file__).parent), "root": str(Path(__file__).parents[1])}
    code = REPLICAS.format(
        run=run.__name__, folder=str(setting.folder), out=str(tmp_path / "out"), **paths
    )
    process = run_python(code)
    output, _ = process.communicate()
    assert process.returncode == 0, output[-3000:]
    expected, *_ = run(TORCH, setting)
    assert_same_curves(expected, json.loads((tmp_path / "out").read_text()))


WORKERS = """
    import sys
    sys.path[:0] = [{tests!r}, {root!r}]
    import tensorflow as tf
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    import json
    from pathlib import Path
    from test_realm_training import KERAS, reopened, run_pretraining
    setting = reopened({folder!r})
    with strategy.scope():
        history, *_ = run_pretraining(KERAS, setting, out=Path({out!r}))
    if strategy.cluster_resolver.task_id == 0:
        (Path({out!r}) / "history.json").write_text(json.dumps(history))
"""


def run_workers(code: str, **names: str) -> None:
    """Runs a program in two processes, each a worker of TensorFlow."""
    paths = {"tests": str(Path(__file__).parent), "root": str(Path(__file__).parents[1])}
    workers = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    processes = [
        run_python(
            code.format(**names, **paths),
            TF_CONFIG=json.dumps(
                {"cluster": {"worker": workers}, "task": {"type": "worker", "index": number}}
            ),
        )
        for number in range(2)
    ]
    outputs = [process.communicate()[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output[-3000:]


@pytest.mark.slow
def test_two_workers_train_as_one(setting: Setting, tmp_path: Path) -> None:
    run_workers(WORKERS, folder=str(setting.folder), out=str(tmp_path))
    history = json.loads((tmp_path / "history.json").read_text())
    assert_same_curves(run_pretraining(TORCH, setting)[0], history)
    assert len(state.checkpoints(tmp_path)) == 1


# The command --------------------------------------------------------------------------------------

FIELDS = (
    "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=24,"
    "retriever_proj_size=12,num_candidates=4,max_span_width=6"
)


def command(*arguments: Any) -> Any:
    from converters.cli import app

    return CliRunner().invoke(app, ["train", "realm", *map(str, arguments)])


def succeed(*arguments: Any) -> Any:
    result = command(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def test_all_phases_by_commands(tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    for document in documents():
        (folder / f"{document.title}.txt").write_text(document.text)
    lines = [json.dumps({"question": q.text, "answer": list(q.answers)}) for q in questions()]
    asked = tmp_path / "questions.jsonl"
    asked.write_text("\n".join(lines))
    result = succeed("tokenizer", "--corpus", folder, "--out", tmp_path / "a", "--vocab-size", 240)
    assert "240 tokens" in result.output
    common = ["--block-length", 96, "--seed", 3, "--report-every", 2, "--threads", 1]
    cloze = ["ict", "--corpus", folder, "--model", tmp_path / "a", "--steps", 4, "--batch-size", 8,
             "--fields", FIELDS, "--questions", asked, *common]  # fmt: skip
    result = succeed(*cloze, "--out", tmp_path / "ict", "--checkpoint-every", 2, "--json")
    assert "recall before training, 48 questions: @1" in result.stderr
    assert "ict 4/4  loss" in result.stderr
    summary = json.loads(result.stdout)
    assert summary["steps"] == 4 and set(summary["recall"]) == {"before", "after"}
    assert set(summary["recall"]["after"]) == {"1", "5", "20"}
    # The same command goes on from the newest checkpoint.
    cut_back(tmp_path / "ict" / "run", 2)
    again = succeed(
        *cloze, "--out", tmp_path / "ict", "--checkpoint-every", 2, "--json", "--resume"
    )
    assert json.loads(again.stdout)["loss"] == summary["loss"]
    result = succeed(
        "pretrain", "--corpus", tmp_path / "ict/run/corpus", "--model", tmp_path / "ict", "--out",
        tmp_path / "pre", "--steps", 4, "--batch-size", 4, "--refresh-every", 1, *common,
    )  # fmt: skip
    assert "version 2 of the index is searched" in result.output
    result = succeed(
        "finetune", "--corpus", tmp_path / "ict/run/corpus", "--model", tmp_path / "pre", "--out",
        tmp_path / "qa", "--questions", asked, "--held-out", 0.3, "--steps", 3, "--searched", 20,
        "--read", 3, "--json", *common,
    )  # fmt: skip
    scores = json.loads(result.stdout)
    assert 0 <= scores["exact_match"] <= scores["f1"] <= 100
    for framework in (TORCH, KERAS):
        model = framework.model_class("RealmForOpenQA").from_pretrained(tmp_path / "qa")
        (answers,) = model.answer([questions()[0].text], n_best=2)
        assert answers[0].block[answers[0].start : answers[0].end] == answers[0].text
        assert answers[0].block in [d.text for d in documents()]
    # And on from there, with questions of its own to test with.
    succeed(
        "finetune", "--corpus", tmp_path / "ict/run/corpus", "--model", tmp_path / "qa", "--out",
        tmp_path / "more", "--questions", asked, "--test-questions", asked, "--steps", 1, *common,
    )  # fmt: skip


def test_what_the_command_refuses(tmp_path: Path, setting: Setting) -> None:
    empty = tmp_path / "empty"
    setting.tokenizer.save_pretrained(empty)
    corpus = ["--corpus", setting.folder / "corpus", "--out", tmp_path / "out", "--steps", 1]
    for arguments, message in (
        (["--model", empty], "no weights; --fields says how large a new model is"),
        (["--model", setting.folder / "embedder", "--fields", "hidden_size=8"], "has weights"),
        (["--model", empty, "--fields", "hidden_size"], "--fields: received 'hidden_size'"),
        (["--model", empty, "--fields", "hiden_size=8"], "hiden_size"),
        (["--model", empty, "--fields", FIELDS, "--device", "cuda:0", "--framework", "tf"],
         "--device: of PyTorch"),
    ):  # fmt: skip
        setting.tokenizer.save_pretrained(setting.folder / "embedder")
        result = command("ict", *corpus, *arguments)
        assert result.exit_code == 1
        assert message in str(result.exception), (message, result.exception)
