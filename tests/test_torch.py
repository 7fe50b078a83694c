"""What is PyTorch's own: compile, export, DDP, autocast, pickling, dtypes, memory."""

from __future__ import annotations

import copy
import pickle
import socket
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import (
    BATCH,
    CASE,
    CASES,
    HEAD_CASES,
    LABELS,
    POSITIONS,
    SEQUENCE,
    TINY,
    VOCAB,
    make_inputs,
    make_weight,
    names,
    numbers,
)
from frameworks import TORCH, flat

torch = pytest.importorskip("torch")

import pt_models  # noqa: E402
from zoo.configs import RemBertConfig  # noqa: E402

every_case = pytest.mark.parametrize("case", CASES, ids=names(CASES))
every_head = pytest.mark.parametrize("case", HEAD_CASES, ids=names(HEAD_CASES))
SAME = 3e-6


@cache
def shared(name: str) -> Any:
    """A model that no test changes."""
    return TORCH.build(CASE[name]).eval()


def tensors(name: str) -> dict[str, Any]:
    return {key: torch.from_numpy(value) for key, value in make_inputs(CASE[name]).items()}


def assert_same(got: Any, expected: Any, tolerance: float = SAME) -> None:
    got, expected = flat(got), flat(expected)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, tolerance, tolerance, err_msg=name)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Any:
    yield
    torch._dynamo.reset()


# Compiling and exporting.


@every_case
def test_compiled_as_one_graph(case: Any) -> None:
    """Forward and backward, without a break; the tracer is what can fail, not the generator."""
    model, inputs = TORCH.build(case, num_hidden_layers=1).eval(), tensors(case.name)
    if case.name in ("model-decoder", "causal-lm-cross"):
        inputs |= {"output_attentions": True, "output_hidden_states": True}
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    output = compiled(**inputs)
    assert type(output) is type(model(**inputs))
    assert_same(output, model(**inputs))
    if case.label_names:
        output.loss.backward()
        used = [(name, p) for name, p in model.named_parameters() if case.is_used(name)]
        got = {name: p.grad.clone() for name, p in used}
        model.zero_grad()
        model(**inputs).loss.backward()
        assert_same(got, {name: p.grad for name, p in used}, 1e-5)


# torch's own; it warns while it sets itself up.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_compiled_to_machine_code() -> None:
    """The default backend, with lengths that vary."""
    case = CASE["token-labels"]
    model = TORCH.build(case, num_hidden_layers=1)
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    for length in (5, 8):
        ids = torch.from_numpy(numbers("compiled").integers(0, VOCAB, (2, length)))
        model.zero_grad()
        compiled(ids, labels=ids % LABELS).loss.backward()
        used = [(name, p) for name, p in model.named_parameters() if case.is_used(name)]
        got = {name: p.grad.clone() for name, p in used}
        model.zero_grad()
        model(ids, labels=ids % LABELS).loss.backward()
        assert_same(got, {name: p.grad for name, p in used}, 1e-5)


def test_compiled_decoding() -> None:
    model = TORCH.build(CASE["causal-lm"], num_hidden_layers=1).eval()
    ids = tensors("causal-lm")["input_ids"]
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
    expected, cached, found = model(ids).logits, None, []
    with torch.no_grad():
        for piece in (ids[:, :4], ids[:, 4:6], ids[:, 6:]):
            output = compiled(piece, past_key_values=cached, use_cache=True)
            cached = output.past_key_values
            found.append(output.logits)
    assert_same(torch.cat(found, 1), expected, 1e-5)


@pytest.mark.parametrize("name", ["model", "masked-lm", "multiple-choice", "causal-lm-cross"])
def test_exported_with_dynamic_batch_and_sequence(name: str) -> None:
    case, model = CASE[name], shared(name)
    inputs = {key: value for key, value in tensors(name).items() if key not in case.label_names}
    batch = torch.export.Dim("batch")
    sequence = torch.export.Dim("sequence", max=POSITIONS)
    encoder = torch.export.Dim("encoder")
    last = {"encoder_hidden_states": 1, "encoder_attention_mask": 1}
    dynamic = {
        key: {0: batch, last.get(key, value.dim() - 1): encoder if key in last else sequence}
        for key, value in inputs.items()
    }
    program = torch.export.export(model, (), inputs, dynamic_shapes=dynamic, strict=False)
    assert_same(program.module()(**inputs), model(**inputs))
    for rows, length in ((1, 1), (2, 7), (5, POSITIONS)):
        other = {}
        for key, value in inputs.items():
            size = list(value.shape)
            size[0], size[last.get(key, value.dim() - 1)] = rows, 4 if key in last else length
            if key == "encoder_hidden_states":
                other[key] = torch.randn(size)
            else:
                other[key] = torch.ones(size, dtype=torch.long)
        assert_same(program.module()(**other), model(**other))


def test_exported_to_a_file(tmp_path: Path) -> None:
    """It loads again with its outputs by name."""
    model, inputs = shared("single-label"), tensors("single-label")
    inputs.pop("labels")
    program = torch.export.export(model, (), inputs)
    torch.export.save(program, tmp_path / "model.pt2")
    again = torch.export.load(tmp_path / "model.pt2").module()(**inputs)
    assert_same(again, model(**inputs))
    assert again.logits is again["logits"] is again[0]


# Several processes.


def train_one_rank(rank: int, port: int, folder: str) -> None:
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    model = DistributedDataParallel(TORCH.build(CASE["single-label"]))
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    inputs = {key: value[[0, 1, 0, 2]] for key, value in tensors("single-label").items()}
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        output = model(**{key: value[rank * 2 :][:2] for key, value in inputs.items()})
        assert type(output).__name__ == "SequenceClassifierOutput"
        assert output.loss is output["loss"] is output[0]
        output.loss.backward()
        optimizer.step()
        losses.append(output.loss.item())
    torch.save((losses, model.module.state_dict()), Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(train_one_rank, (port, str(tmp_path)), nprocs=2)
    model = TORCH.build(CASE["single-label"])
    inputs = {key: value[[0, 1, 0, 2]].numpy() for key, value in tensors("single-label").items()}
    step = TORCH.sgd(model, rate=0.05, momentum=0.9)
    losses = [step(inputs) for _ in range(3)]
    (one, weights), (two, others) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    np.testing.assert_allclose((np.array(one) + np.array(two)) / 2, losses, 1e-5)
    assert_same(weights, others, 0)
    assert_same(weights, dict(model.state_dict()), 1e-5)


# Copies.


def test_models_are_copied_and_pickled() -> None:
    case = CASE["masked-lm"]
    model, inputs = shared(case.name), make_inputs(case)
    expected = TORCH.outputs(model, inputs)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(other) is type(model) and other.config == model.config
        assert_same_arrays(TORCH.outputs(other, inputs), expected)
        with torch.no_grad():
            other.cls.predictions.decoder.bias.add_(1)
    assert_same_arrays(TORCH.outputs(model, inputs), expected)


def assert_same_arrays(got: dict, expected: dict) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


def test_outputs_are_copied_and_pickled() -> None:
    model = shared("causal-lm")
    with torch.no_grad():
        output = model(**tensors("causal-lm"), output_hidden_states=True)
    for other in (
        copy.copy(output),
        copy.deepcopy(output),
        pickle.loads(pickle.dumps(output)),
        torch.utils._pytree.tree_map(lambda x: x, output),
    ):
        assert type(other) is type(output) and list(other) == list(output)
        assert_same(other, output, 0)
        assert other.logits is other[1]
        other.loss = None
        assert "loss" in output


def test_state_dict_and_its_keys() -> None:
    """A state dict of one model loads strictly into another, and nothing else is in it."""
    model = shared("causal-lm-cross")
    other = type(model)(model.config)
    assert other.load_state_dict(model.state_dict()).missing_keys == []
    inputs = make_inputs(CASE["causal-lm-cross"])
    assert_same_arrays(TORCH.outputs(other, inputs), TORCH.outputs(model, inputs))
    assert not list(model.buffers())
    assert not [key for key in model.state_dict() if "position_ids" in key]
    for key in (
        "rembert.embeddings.word_embeddings.weight",
        "rembert.encoder.embedding_hidden_mapping_in.weight",
        "rembert.encoder.layer.0.attention.self.query.weight",
        "rembert.encoder.layer.1.crossattention.output.LayerNorm.bias",
        "cls.predictions.decoder.bias",
    ):
        assert key in model.state_dict()


def test_a_new_model_starts_as_published() -> None:
    torch.manual_seed(0)
    model = pt_models.RemBertForMaskedLM(RemBertConfig(**TINY | {"initializer_range": 0.3}))
    for name, value in model.state_dict().items():
        if "LayerNorm.weight" in name:
            assert (value == 1).all()
        elif name.endswith("bias"):
            assert not value.any()
        elif "word_embeddings" in name:
            assert not value[0].any() and value[1:].std() == pytest.approx(0.3, 0.2)
        else:
            assert value.std() == pytest.approx(0.3, 0.2), name


# Precision.


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_half_precision_weights(kind: str, tmp_path: Path) -> None:
    """Opened in half precision by name, by type or as the file has it; saved, and opened again."""
    case = CASE["masked-lm"]
    shared(case.name).save_pretrained(tmp_path / "whole")
    cls, dtype = type(shared(case.name)), getattr(torch, kind)
    model = cls.from_pretrained(tmp_path / "whole", dtype=kind)
    assert model.dtype == dtype and {p.dtype for p in model.parameters()} == {dtype}
    model.save_pretrained(tmp_path / "half")
    assert RemBertConfig.from_pretrained(tmp_path / "half").torch_dtype == kind
    inputs = make_inputs(case)
    inputs["attention_mask"][-1] = 0  # rows that may attend to nothing
    for other, expected in (
        (cls.from_pretrained(tmp_path / "whole", torch_dtype=dtype), dtype),
        (cls.from_pretrained(tmp_path / "half", dtype="auto"), dtype),
        (cls.from_pretrained(tmp_path / "half"), torch.float32),
        (cls.from_pretrained(tmp_path / "whole", dtype="auto"), torch.float32),
    ):
        assert other.dtype == expected
        for name, value in other.state_dict().items():
            assert torch.equal(value.to(dtype), model.state_dict()[name])
    whole = shared(case.name)(**{key: torch.from_numpy(x) for key, x in inputs.items()})
    half = model(**{key: torch.from_numpy(x) for key, x in inputs.items()})
    assert half.logits.dtype == dtype and half.loss.dtype == torch.float32
    error = (half.logits.float() - whole.logits).abs().max()
    assert error < (0.2 if kind == "bfloat16" else 0.02)
    half.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    with pytest.raises(ValueError, match="dtype: expected 'auto' or a floating point type"):
        cls.from_pretrained(tmp_path / "whole", dtype="int8")


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("name", ["causal-lm-cross", "multi-label", "question-answering"])
def test_autocast(name: str, explicit: bool) -> None:
    model = TORCH.build(CASE[name])
    inputs = tensors(name)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**inputs, output_attentions=explicit)
    assert output.loss.dtype == torch.float32
    expected = shared(name)(**inputs)
    assert output.loss.item() == pytest.approx(expected.loss.item(), 0.05)
    output.loss.backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_other_modes() -> None:
    """Inference mode, float64, the meta device, functional calls."""
    case = CASE["token-labels"]
    model, inputs = shared(case.name), tensors(case.name)
    expected = model(**inputs)
    with torch.inference_mode():
        assert_same(model(**inputs), expected)
    assert_same(copy.deepcopy(model).double()(**inputs), expected)
    assert_same(torch.func.functional_call(model, dict(model.state_dict()), (), inputs), expected)
    meta = copy.deepcopy(model).to("meta")
    output = meta(**{key: value.to("meta") for key, value in inputs.items()})
    assert output.logits.shape == (BATCH, SEQUENCE, LABELS) and output.logits.is_meta


# Dropout and memory.


def test_dropout_in_training_only() -> None:
    for name, rates in (
        ("masked-lm", {"hidden_dropout_prob": 0.5}),
        ("masked-lm", {"attention_probs_dropout_prob": 0.5}),
        ("token-labels", {"classifier_dropout_prob": 0.5}),
        ("single-label", {"classifier_dropout_prob": 0.5}),
        ("multiple-choice", {"classifier_dropout_prob": 0.5}),
    ):
        model, inputs = TORCH.build(CASE[name], **rates), tensors(name)
        plain = shared(name)(**inputs)
        assert_same(model.eval()(**inputs), plain)
        model.train()
        for explicit in (False, True):
            one, two = (model(**inputs, output_attentions=explicit).logits for _ in range(2))
            assert (one - two).abs().max() > 0.1
            assert (one - plain.logits).abs().max() > 0.1
        torch.manual_seed(1)
        one = model(**inputs).logits
        torch.manual_seed(1)
        assert torch.equal(model(**inputs).logits, one)


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputing_saves_memory(reentrant: bool) -> None:
    """What the backward pass holds on to; and the options reach torch."""
    model = TORCH.build(CASE["token-labels"], num_hidden_layers=6).train()
    inputs = tensors("token-labels")

    def held() -> int:
        sizes: dict[int, int] = {}

        def pack(x: Any) -> Any:
            sizes[x.data_ptr()] = x.numel()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            model(**inputs).loss.backward()
        return sum(sizes.values())

    plain = held()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    if not reentrant:
        assert held() < plain / 2
    else:
        model(**inputs).loss.backward()
    assert_same({name: p.grad for name, p in model.named_parameters()}, expected, 1e-5)
    # In evaluation nothing is recomputed.
    model.eval()
    assert held() == pytest.approx(plain, 0.01)


def test_recomputed_layers_run_twice() -> None:
    model, calls = TORCH.build(CASE["token-labels"]).train(), []
    model.rembert.encoder.layer[0].register_forward_pre_hook(lambda *_: calls.append(1))
    model.gradient_checkpointing_enable()
    model(**tensors("token-labels")).loss.backward()
    assert len(calls) == 2


def test_recomputing_compiles() -> None:
    model = TORCH.build(CASE["token-labels"], num_hidden_layers=1).train()
    inputs = tensors("token-labels")
    model.gradient_checkpointing_enable()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    compiled(**inputs).loss.backward()
    got = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model(**inputs).loss.backward()
    assert_same(got, {name: p.grad for name, p in model.named_parameters()}, 1e-5)


# Saving what one is given.


def test_saving_a_given_state_dict(tmp_path: Path) -> None:
    model = shared("single-label")
    state = {name: 2 * value for name, value in model.state_dict().items()}
    model.save_pretrained(tmp_path, state_dict=state)
    loaded = type(model).from_pretrained(tmp_path)
    assert not loaded.training
    assert_same(dict(loaded.state_dict()), state, 0)


def test_saving_views_and_other_devices_layouts(tmp_path: Path) -> None:
    """A weight need not be contiguous, nor alone in its memory."""
    model = TORCH.build(CASE["single-label"])
    with torch.no_grad():
        dense = model.rembert.encoder.layer[0].attention.self
        both = torch.from_numpy(make_weight("both", (64, 32)))
        dense.query.weight = torch.nn.Parameter(both[:32].t())
        dense.key.weight = torch.nn.Parameter(both[32:])
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert_same(dict(loaded.state_dict()), dict(model.state_dict()), 0)


@every_head
def test_the_published_outputs_unpack(case: Any) -> None:
    """`loss, logits, *rest = model(..., return_dict=False)` and the same with `[:2]`."""
    output = shared(case.name)(**tensors(case.name))
    plain = shared(case.name)(**tensors(case.name), return_dict=False)
    assert torch.equal(plain[0], output.loss) and torch.equal(plain[1], output[1])
    assert len(output[:2]) == 2 and isinstance(output[:2], tuple)
