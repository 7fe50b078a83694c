"""Reformer: rotations, chunks and hashes, reversible layers, lengths, caches, tokenizers."""

from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frameworks import KERAS, TORCH, Framework, flat
from test_tokenizers import replay
from tokenizer_fixtures import train

import zoo
from zoo import ReformerByteTokenizer, ReformerConfig, ReformerTokenizer, ReformerTokenizerFast
from zoo.rotations import hash_rotations, randn

both = pytest.mark.parametrize("framework", [TORCH, KERAS], ids=["pt", "tf"])
VOCAB, HIDDEN, HEADS, HEAD_DIM, LENGTH = 31, 16, 2, 6, 48
TINY: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "attention_head_size": HEAD_DIM,
    "feed_forward_size": 12,
    "axial_pos_shape": [6, 8],
    "axial_pos_embds_dim": [6, 10],
    "max_position_embeddings": LENGTH,
    "attn_layers": ["local", "lsh", "lsh"],
    "lsh_attn_chunk_length": 8,
    "local_attn_chunk_length": 4,
    "num_buckets": 4,
    "num_hashes": 2,
    "hash_seed": 5,
    "hidden_dropout_prob": 0.0,
    "local_attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.4,
    "eos_token_id": None,
}
DROPOUT = {
    "hidden_dropout_prob": 0.2,
    "local_attention_probs_dropout_prob": 0.3,
    "lsh_attention_probs_dropout_prob": 0.3,
}
DECODER = {"is_decoder": True}
IDS = np.random.default_rng(0).integers(3, VOCAB, (2, LENGTH))
LM = {"input_ids": IDS, "labels": IDS}


def build(framework: Framework, name: str, **fields: Any) -> Any:
    model = framework.model_class(name)(ReformerConfig(**{**TINY, **fields}))
    framework.fill(model)
    return model


def assert_close(got: dict, expected: dict, tolerance: float) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, tolerance, tolerance, err_msg=name)


# Rotations.


def test_recorded_rotations(goldens: Path) -> None:
    recorded = np.load(goldens / "rotations.npz")
    assert len(recorded) > 100
    for name, value in recorded.items():
        seed = int(name.removeprefix("seed").partition("_")[0])
        assert randn(seed, value.shape).tobytes() == value.tobytes(), name


@pytest.mark.parametrize("seed", [0, -1, 2**40 + 3, 2**64 - 1])
def test_rotations_are_torch_s(seed: int) -> None:
    import torch

    for shape in [(1,), (2, 7), (15,), (16,), (17,), (3, 8, 2, 2), (5, 7, 3, 1), (4099,)]:
        torch.manual_seed(seed)
        assert torch.randn(shape).numpy().tobytes() == randn(seed, shape).tobytes()
    assert hash_rotations(seed, 3, 5, 2, 8).shape == (3, 5, 2, 4)
    with pytest.raises(ValueError, match="read-only"):
        randn(seed, (3,))[0] = 1
    with pytest.raises(ValueError, match="seed: expected"):
        randn(2**64, (3,))


# Configuration.


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"axial_pos_embds_dim": [6, 9]}, "sum is hidden_size .16., not 15"),
        ({"axial_pos_embds_dim": [16]}, "2 widths, one for each axis"),
        ({"axial_pos_shape": [6, 7]}, "a multiple of 8 .lsh_attn_chunk_length 8 and local"),
        ({"attn_layers": []}, "at least one"),
        ({"attn_layers": ["lsh", "full"]}, "'local' or 'lsh'"),
        ({"num_hidden_layers": 2}, "expected 3, the length of attn_layers"),
        ({"num_buckets": 3}, "even number"),
        ({"num_buckets": [2, 3]}, "even numbers"),
        ({"hash_seed": 2**64}, "64 bits"),
        ({"classifier_dropout": 1.5}, "between 0 and 1"),
        ({"pad_token_id": VOCAB}, "below vocab_size"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_impossible_configurations(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ReformerConfig(**{**TINY, **fields})


def test_the_depth_is_that_of_the_layers(tmp_path: Path) -> None:
    config = ReformerConfig(**TINY)
    assert config.num_hidden_layers == 3
    config.save_pretrained(tmp_path)
    other = ReformerConfig.from_pretrained(tmp_path, attn_layers=["lsh"])
    assert other.num_hidden_layers == 1
    other.attn_layers = ["lsh", "local"]
    assert other.num_hidden_layers == 2
    other.validate()


def test_the_number_of_buckets_that_suits_a_length() -> None:
    def chosen(length: int, chunk: int, positions: int) -> Any:
        chunks = {"lsh_attn_chunk_length": chunk, "local_attn_chunk_length": chunk}
        fields = {"axial_pos_embds": False, "max_position_embeddings": positions, **chunks}
        return ReformerConfig(**fields).buckets_for(length)

    # As the published classes choose.
    assert [chosen(length, 64, 4096) for length in (64, 128, 4096)] == [2, 4, 128]
    assert chosen(16384, 64, 16384) == [16, 32]
    assert [chosen(n, 2, 64) for n in (8, 20, 32, 64)] == [8, [4, 4], [4, 8], [8, 8]]


@both
def test_no_buckets_are_chosen_at_the_first_call(framework: Framework) -> None:
    model = build(framework, "ReformerModel", num_buckets=None)
    framework.call(model, {"input_ids": IDS[:, :8]})
    assert model.config.num_buckets is None  # one chunk needs none
    framework.call(model, {"input_ids": IDS})
    assert model.config.num_buckets == 8


# Chunks and hashes.


def vectors(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def full_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, causal: bool, own: bool) -> Any:
    """Over all keys, `(batch, sequence, heads, head_dim)`; a query sees its own key last."""
    scores = np.einsum("bqhd,bkhd->bhqk", q, k).astype(np.float64)
    length = q.shape[1]
    if not own:
        scores = np.where(np.eye(length, dtype=bool), -1e5, scores)
    if causal:
        scores = np.where(np.tri(length, dtype=bool), scores, -1e9)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bhqk,bkhd->bqhd", weights, v)


def attend(framework: Framework, q: Any, k: Any, v: Any, pattern: dict, order: Any) -> Any:
    """`chunked_attention`, and a second run with what the first left."""
    if framework is TORCH:
        from pt_models.lsh_attention import Memo, Pattern, chunked_attention
    else:
        from tf_models.lsh_attention import Memo, Pattern, chunked_attention
    memo, results = Memo(), []
    if order is not None:
        memo.order = framework.tensor(order.reshape(*order.shape[:2], -1).astype(np.int32))
        memo.rounds = order.shape[2]
    for _ in range(2):
        tensors = [framework.tensor(x) for x in (q, k, v)]
        found = chunked_attention(*tensors, Pattern(**pattern), memo)
        results.append(found.numpy())
    np.testing.assert_allclose(results[1], results[0], 1e-5, 1e-6)
    return results[0]


@both
@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
@pytest.mark.parametrize("rounds", [None, 1, 3], ids=["text", "1 round", "3 rounds"])
def test_seeing_all_chunks_is_full_attention(
    framework: Framework, causal: bool, rounds: int | None
) -> None:
    """Whatever the order: each chunk sees itself and all others once."""
    shape = (2, 12, HEADS, HEAD_DIM)
    q, k, v = (vectors(seed, *shape) for seed in range(3))
    order = None
    if rounds is not None:
        rng = np.random.default_rng(3)
        order = np.stack([rng.permutation(12) for _ in range(2 * HEADS * rounds)]).reshape(
            2, HEADS, rounds, 12
        )
    own = rounds is None
    expected = full_attention(q, k, v, causal, own)
    for chunk, before, after in [(12, 0, 0), (4, 2, 0), (4, 0, 2), (4, 1, 1), (3, 3, 0)]:
        if rounds not in (None, 1) and before + after:
            continue  # the chunks at the ends of a round see the next round
        pattern = {
            "chunk": chunk, "before": before, "after": after, "causal": causal,
            "excludes_own": not own,
        }  # fmt: skip
        got = attend(framework, q, k, v, pattern, order)
        # Rounds in which a query sees but itself are joined to the precision of their sums.
        np.testing.assert_allclose(got[:, 1:], expected[:, 1:], 1e-5, 1e-5)
        np.testing.assert_allclose(got[:, :1], expected[:, :1], 1e-2, 1e-2)


@both
@pytest.mark.parametrize("kind", ["lsh", "local"])
def test_one_chunk_is_full_attention(framework: Framework, kind: str) -> None:
    """The whole layer, against the same weights in plain matrix products."""
    name = "ReformerModel"
    model = build(framework, name, attn_layers=[kind], lsh_attn_chunk_length=LENGTH,
                  local_attn_chunk_length=LENGTH)  # fmt: skip
    output = framework.call(model, {"input_ids": IDS}, output_hidden_states=True,
                            output_attentions=True)  # fmt: skip
    weights = framework.weights(model)
    states = flat(output)["past_buckets_states.0.1"]
    where = "encoder.layers.0.attention.self_attention."

    def projected(part: str) -> np.ndarray:
        return (states @ weights[f"{where}{part}.weight"].T).reshape(2, LENGTH, HEADS, HEAD_DIM)

    if kind == "lsh":
        q = projected("query_key")
        k = q / np.sqrt((q**2).mean(-1, keepdims=True) + 1e-6) / np.sqrt(HEAD_DIM)
    else:
        q, k = projected("query"), projected("key") / np.sqrt(HEAD_DIM)
    context = full_attention(q, k, projected("value"), False, kind == "local")
    attended = (
        context.reshape(2, LENGTH, -1) @ weights["encoder.layers.0.attention.output.dense.weight"].T
    )  # noqa: E501
    hidden = flat(output)["hidden_states.0"]
    found = flat(output)["attentions.0"]
    assert found.shape == (2, HEADS, LENGTH, LENGTH)
    np.testing.assert_allclose(found.sum(-1), 1, 1e-5)
    # x1 + attended is what the feed-forward part starts from: y2 - x2 = feed(y1).
    y1 = hidden + attended
    layer = "encoder.layers.0.feed_forward."
    mean, var = y1.mean(-1, keepdims=True), y1.var(-1, keepdims=True)
    fed = (y1 - mean) / np.sqrt(var + 1e-12) * weights[f"{layer}layer_norm.weight"]
    fed = fed + weights[f"{layer}layer_norm.bias"]
    fed = np.maximum(fed @ weights[f"{layer}dense.dense.weight"].T
                     + weights[f"{layer}dense.dense.bias"], 0)  # fmt: skip
    fed = fed @ weights[f"{layer}output.dense.weight"].T + weights[f"{layer}output.dense.bias"]
    np.testing.assert_allclose(flat(output)["hidden_states.1"], hidden + fed, 1e-4, 1e-4)


def test_more_hashes_come_closer_to_full_attention() -> None:
    import torch

    from pt_models import lsh_attention as lsh

    length, chunk = 256, 16
    q, v = (torch.from_numpy(vectors(seed, 1, length, 1, 8)) for seed in range(2))
    k = lsh.normalised(q)
    full = full_attention(q.numpy(), k.numpy(), v.numpy(), False, False)
    errors = []
    for hashes in (1, 2, 4, 8, 16):
        total = 0.0
        for seed in range(4):
            rotations = torch.from_numpy(hash_rotations(seed, 1, 8, hashes, 16).copy())
            buckets = lsh.hash_vectors(q, rotations, 16)
            assert 0 <= buckets.min() and buckets.max() < 16
            memo = lsh.Memo()
            memo.order = lsh.sorted_order(buckets + 16 * torch.arange(hashes)[:, None])
            got = lsh.chunked_attention(q, k, v, lsh.Pattern(chunk, 1, 0, False, True), memo)
            total += float(np.abs(got.numpy() - full).mean())
        errors.append(total)
    assert all(later < 0.9 * earlier for earlier, later in zip(errors, errors[1:], strict=False))


def test_vectors_close_to_each_other_share_buckets() -> None:
    import torch

    from pt_models.lsh_attention import hash_vectors, sorted_order

    rotations = torch.from_numpy(hash_rotations(1, HEADS, HEAD_DIM, 3, 4 + 6).copy())
    x = torch.from_numpy(vectors(0, 2, 40, HEADS, HEAD_DIM))
    buckets = hash_vectors(x, rotations, [4, 6])
    assert buckets.shape == (2, HEADS, 3, 40) and buckets.unique().numel() > 12
    torch.testing.assert_close(hash_vectors(3.0 * x, rotations, [4, 6]), buckets)
    opposite = hash_vectors(-x, rotations, [4, 6])
    assert (opposite % 4 == (buckets % 4 + 2) % 4).all()
    order = sorted_order(buckets + 24 * torch.arange(3)[:, None]).view(2, HEADS, 3, 40)
    in_order = buckets.gather(-1, order.long())
    assert (in_order.diff(dim=-1) >= 0).all()
    same = in_order.diff(dim=-1) == 0
    assert (order.diff(dim=-1)[same] > 0).all()


def test_hashing_with_one_head() -> None:
    """TensorFlow's product that repeats one matrix for a batch is wrong with several threads."""
    from tf_models.lsh_attention import hash_vectors

    vectors_, rotations = vectors(0, 3, 64, 1, 16), vectors(1, 1, 16, 2, 4)
    rotated = np.einsum("blhd,hdrn->bhrln", vectors_, rotations)
    expected = np.concatenate([rotated, -rotated], -1).argmax(-1)
    found = hash_vectors(KERAS.tensor(vectors_), KERAS.tensor(rotations), 8)
    np.testing.assert_array_equal(found.numpy(), expected)


@both
def test_causal_outputs_ignore_the_future(framework: Framework) -> None:
    """No gradient comes from what is behind, through hashes, wrapped chunks and rounds."""
    model = build(framework, "ReformerModel", **DECODER)
    inputs = vectors(1, 1, LENGTH, HIDDEN)
    for position in (0, 7, 8, 29):
        if framework is TORCH:
            x = framework.tensor(inputs).requires_grad_()
            model.eval()(inputs_embeds=x).last_hidden_state[0, position].sum().backward()
            gradient = x.grad.numpy()
        else:
            import tensorflow as tf

            x = tf.constant(inputs)
            with tf.GradientTape() as tape:
                tape.watch(x)
                total = tf.reduce_sum(model(inputs_embeds=x).last_hidden_state[0, position])
            gradient = tape.gradient(total, x).numpy()
        seen = np.abs(gradient[0]).max(-1)
        assert not seen[position + 1 :].any() and seen[position] > 0


@both
def test_one_label_of_one_text(framework: Framework) -> None:
    """As the published usage example gives it."""
    model = build(framework, "ReformerForSequenceClassification")
    one, two = (
        framework.outputs(model, {"input_ids": IDS[:1, :8], "labels": np.array(labels)})["loss"]
        for labels in (1, [1])
    )
    assert one == two


@both
def test_evaluation_pads_as_one_would(framework: Framework) -> None:
    """Also what nobody is to look at: padding's attention, and rows that see no key."""
    model = build(framework, "ReformerModel", is_decoder=True, pad_token_id=7)
    mask = (np.arange(16) < 13) & (np.arange(16) > 5)
    mask = np.stack([mask, np.arange(16) < 13]).astype(np.int64)
    ids = np.where(np.arange(16) < 13, IDS[:, :16], 7)
    wanted = {"output_attentions": True, "use_cache": False}
    whole = framework.outputs(model, {"input_ids": ids, "attention_mask": mask}, **wanted)
    given = {"input_ids": ids[:, :13], "attention_mask": mask[:, :13]}
    found = framework.outputs(model, given, **wanted)
    whole["last_hidden_state"] = whole["last_hidden_state"][:, :13]
    assert_close(found, whole, 1e-5)


def test_windows_that_see_a_chunk_twice() -> None:
    """In one round, of a text shorter than they are; and rows without a key in a short text."""
    fields = {"attn_layers": ["lsh", "local"], "lsh_num_chunks_before": 2, "num_hashes": 1}
    inputs = {"input_ids": IDS[:, :16], "labels": IDS[:, :16]}
    pt, tf = (
        build(f, "ReformerModelWithLMHead", axial_pos_shape=[2, 8], **fields, **DECODER)
        for f in (TORCH, KERAS)
    )
    outputs = [f.outputs(model, inputs) for f, model in ((TORCH, pt), (KERAS, tf))]
    assert_close(*outputs, 1e-4)
    (_, ours), (_, theirs) = TORCH.gradients(pt, inputs), KERAS.gradients(tf, inputs)
    for name in ours:
        scale = np.abs(ours[name]).max()
        np.testing.assert_allclose(ours[name], theirs[name], 1e-3, 1e-4 * scale + 1e-6)
    short = {"input_ids": IDS[:, :3], "attention_mask": np.array([[0, 0, 1], [1, 1, 1]])}
    outputs = [f.outputs(model, short) for f, model in ((TORCH, pt), (KERAS, tf))]
    assert_close(*outputs, 1e-4)


@both
@pytest.mark.parametrize("decoder", [False, True], ids=["encoder", "decoder"])
def test_padding_changes_nothing_else(framework: Framework, decoder: bool) -> None:
    model = build(framework, "ReformerModel", is_decoder=decoder)
    length = 29
    alone = framework.outputs(model, {"input_ids": IDS[:, :length]})["last_hidden_state"]
    padded, mask = IDS[:, :32].copy(), np.ones((2, 32), np.int64)
    mask[:, length:] = 0
    for filling in (0, 9):
        padded[:, length:] = filling
        got = framework.outputs(model, {"input_ids": padded, "attention_mask": mask})
        np.testing.assert_allclose(got["last_hidden_state"][:, :length], alone, 1e-4, 1e-5)
    # What is masked, wherever it is, does not matter.
    mask[0, 3:9] = 0
    results = []
    for filling in (0, 9):
        padded[0, 3:9] = filling
        results.append(framework.outputs(model, {"input_ids": padded, "attention_mask": mask}))
    first, second = (x["last_hidden_state"][mask == 1] for x in results)
    np.testing.assert_allclose(first, second, 1e-4, 1e-5)


@both
def test_head_masks_and_hashes_of_a_call(framework: Framework) -> None:
    model = build(framework, "ReformerModel")
    plain = framework.outputs(model, {"input_ids": IDS})
    kept = framework.outputs(model, {"input_ids": IDS, "head_mask": np.ones(HEADS, np.float32)})
    np.testing.assert_allclose(kept["last_hidden_state"], plain["last_hidden_state"], 1e-5, 1e-5)
    silent = framework.outputs(model, {"input_ids": IDS, "head_mask": np.zeros((3, HEADS), "f4")})
    assert np.abs(silent["last_hidden_state"] - plain["last_hidden_state"]).max() > 0.1
    more = framework.outputs(model, {"input_ids": IDS}, num_hashes=3)
    assert more["past_buckets_states.1.0"].shape == (2, HEADS, 3, LENGTH)
    with pytest.raises(ValueError, match="num_hashes: expected an integer above 0, got 0"):
        framework.outputs(model, {"input_ids": IDS}, num_hashes=0)
    mask = np.ones((2, LENGTH, LENGTH), np.int64)
    with pytest.raises(ValueError, match="attention_mask: expected shape .batch, sequence."):
        framework.outputs(model, {"input_ids": IDS, "attention_mask": mask})


def test_the_frameworks_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs, buckets, losses, gradients, and weights after training."""
    from tf_models import lsh_attention

    monkeypatch.setattr(lsh_attention, "SCORES", 1)  # one head after another
    cases = [
        ("ReformerModelWithLMHead", LM, DECODER | {"chunk_size_feed_forward": 20}),
        ("ReformerForMaskedLM", LM, {"chunk_size_lm_head": 7, "num_buckets": [2, 4]}),
        ("ReformerForSequenceClassification", {"input_ids": IDS, "labels": IDS[:, 0] % 2}, {}),
        (
            "ReformerForQuestionAnswering",
            {"input_ids": IDS, "start_positions": IDS[:, 0], "end_positions": IDS[:, 1]},
            {"axial_pos_embds": False, "lsh_num_chunks_after": 1},
        ),
    ]
    for name, inputs, fields in cases:
        models = [build(framework, name, **fields) for framework in (TORCH, KERAS)]
        theirs, ours = (f.outputs(m, inputs) for f, m in zip((TORCH, KERAS), models, strict=True))
        assert_close(ours, theirs, 2e-5)
        (loss, expected), (other, got) = (
            f.gradients(m, inputs) for f, m in zip((TORCH, KERAS), models, strict=True)
        )
        assert other == pytest.approx(loss, 1e-5)
        assert_close(got, expected, 2e-4)
    step = [f.sgd(m, 0.01, 0.9) for f, m in zip((TORCH, KERAS), models, strict=True)]
    losses = [[run(inputs) for _ in range(4)] for run in step]
    np.testing.assert_allclose(losses[0], losses[1], 1e-4)
    assert losses[0][-1] < losses[0][0]


# Reversible layers.


def plainly(framework: Framework, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the layers to the framework's own differentiation."""
    if framework is TORCH:
        from pt_models import reformer, reversible

        def run(layer: Any, number: int, x1: Any, x2: Any, call: Any, tape: Any, keep: bool) -> Any:
            return reversible.run_plainly(layer, x1, x2, call)

        monkeypatch.setattr(reformer, "run_reversible", run)
    else:
        from tf_models import reformer, reversible

        reversibly = reversible.run_reversible
        monkeypatch.setattr(
            reformer, "run_reversible", lambda *given: reversibly(*given[:3], plain=True)
        )


def seeded_gradients(framework: Framework, model: Any, inputs: Any) -> Any:
    if framework is TORCH:
        import torch

        torch.manual_seed(3)
    else:
        model.reformer.seed_generator.state.assign([3, 4])
    return framework.gradients(model, inputs)


@both
@pytest.mark.parametrize("dropout", [False, True], ids=["", "dropout"])
def test_reversible_gradients_are_plain_ones(
    framework: Framework, dropout: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if framework is TORCH:  # several tiles, and pieces of the feed-forward networks
        from pt_models import lsh_attention, reformer

        monkeypatch.setitem(lsh_attention.TILE, "cpu", 1000)
        monkeypatch.setattr(reformer, "FEED_TILE", 2 * 12 * 10)
    else:
        from tf_models import lsh_attention

        monkeypatch.setattr(lsh_attention, "SCORES", 1)
    fields = DECODER | (DROPOUT if dropout else {}) | {"hash_seed": None if dropout else 5}
    if dropout and framework is KERAS:
        fields["hash_seed"] = 5
    model = build(framework, "ReformerModelWithLMHead", **fields)
    loss, gradients = seeded_gradients(framework, model, LM)
    assert len(gradients) == len(framework.weights(model)) - 1  # the bias has two names
    if dropout:
        again, _ = seeded_gradients(framework, model, LM)
        evaluated = framework.outputs(model, LM)["loss"]
        assert again == loss and abs(evaluated - loss) > 1e-3
    with monkeypatch.context() as patch:
        plainly(framework, patch)
        plain_loss, plain = seeded_gradients(framework, model, LM)
    assert loss == pytest.approx(plain_loss, 1e-6)
    assert_close(gradients, plain, 1e-4)


def test_activations_do_not_grow_with_the_layers() -> None:
    """What autograd keeps from the forward pass, but for the sort and the sums of each layer."""
    import torch

    kept = []
    for layers in (1, 2, 6):
        model = build(TORCH, "ReformerModelWithLMHead", attn_layers=["local", "lsh"] * layers,
                      **DECODER).train()  # fmt: skip
        sizes = []

        def pack(x: Any, sizes: list = sizes) -> Any:
            sizes.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            model(**{name: TORCH.tensor(x) for name, x in LM.items()})
        kept.append(sum(sizes))
    assert kept[0] == kept[1] == kept[2]


def test_halves_of_layers_run_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a call of a graph of its own, as are heads; layers of a kind share the graphs."""
    import tensorflow as tf

    from tf_models import lsh_attention

    monkeypatch.setattr(lsh_attention, "SCORES", 1)
    for layers in (1, 2):
        model = build(KERAS, "ReformerModelWithLMHead", attn_layers=["local", "lsh"] * layers,
                      use_cache=False, **DECODER)  # fmt: skip
        variables = [variable.value for variable in model.trainable_variables]

        def gradients(model: Any = model, variables: list = variables) -> list:
            with tf.GradientTape() as tape:
                loss = model(**LM, training=True).loss
            return tape.gradient(loss, variables)

        graph = tf.function(gradients).get_concrete_function().graph.as_graph_def()
        library = {function.signature.name: function for function in graph.library.function}
        calls = [node.attr["f"].func.name for node in graph.node if node.attr["f"].func.name]
        assert len(calls) == 2 * layers * 4  # either half, in either pass
        assert all(function.attr["_noinline"].b for function in library.values())
        assert not {"Exp", "Relu"} & {node.op for node in graph.node}
        halves = [library[name] for name in set(calls)]
        heads = [node for half in halves for node in half.node_def if node.attr["f"].func.name]
        assert len(heads) == HEADS * len(halves) * 3 // 4  # forward; forward again, and backward
        assert len(library) == 2 * 4 + 2 * 3


def test_gradients_of_single_layers() -> None:
    import torch

    model = build(TORCH, "ReformerModel").train()
    output = model(TORCH.tensor(IDS), output_hidden_states=True)
    output.hidden_states[1].square().sum().backward()
    first = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    assert any("layers.0.attention" in name for name in first)
    single = copy.deepcopy(model)
    del single.encoder.layers[1:]
    single.zero_grad()
    x = single.embeddings(TORCH.tensor(IDS), None, None, 0, [None, None])
    from pt_models.reformer import LayerCall
    from pt_models.reversible import run_plainly

    call = LayerCall(None, None, 2, [None] * 4, frozenset())
    run_plainly(single.encoder.layers[0], x, x, call)[1].square().sum().backward()
    for name, parameter in single.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(first[name], parameter.grad, rtol=1e-4, atol=1e-5)
    # A second time, from the kept graph.
    loss = model(TORCH.tensor(IDS)).last_hidden_state.sum()
    model.zero_grad()
    loss.backward(retain_graph=True)
    once = model.embeddings.word_embeddings.weight.grad.clone()
    loss.backward()
    torch.testing.assert_close(model.embeddings.word_embeddings.weight.grad, 2 * once)


def test_reversible_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run rounds what the first did, or streams and gradients would drift apart."""
    import torch

    fields = DECODER | {"attn_layers": ["lsh", "local", "lsh", "local"]}
    model = build(TORCH, "ReformerModelWithLMHead", **fields)
    inputs = {name: TORCH.tensor(x) for name, x in LM.items()}

    def gradients(inside: bool) -> dict[str, Any]:
        model.train().zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**inputs).loss
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    found, inside = gradients(False), gradients(True)
    with monkeypatch.context() as patch:
        plainly(TORCH, patch)
        plain = gradients(False)
    for name, value in plain.items():
        assert value.dtype == torch.float32
        # Streams differ by the rounding of float32, which moves a few numbers to the next bfloat16.
        assert (found[name] - value).norm() < 5e-3 * value.norm() + 1e-6, name
        torch.testing.assert_close(inside[name], found[name], rtol=1e-6, atol=1e-7)


def test_reversible_in_mixed_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """In Keras."""
    name, fields = "TFReformerModelWithLMHead", DECODER | {"attn_layers": ["lsh", "local"] * 2}
    config = ReformerConfig(**{**TINY, **fields})
    model = KERAS.package().__dict__[name](config, dtype="mixed_bfloat16")
    KERAS.fill(model)
    loss, gradients = KERAS.gradients(model, LM)
    plainly(KERAS, monkeypatch)
    plain_loss, plain = KERAS.gradients(model, LM)
    assert loss == plain_loss
    assert_close(gradients, plain, 1e-3)


def test_half_precision_and_frozen_weights() -> None:
    import torch

    model = build(TORCH, "ReformerModelWithLMHead", **DECODER)
    exact, _ = TORCH.gradients(model, LM)
    for parameter in model.reformer.embeddings.parameters():
        parameter.requires_grad_(False)
    model.reformer.encoder.layers[1].requires_grad_(False)
    _, gradients = TORCH.gradients(model, LM)
    assert not any("layers.1." in name or "embeddings" in name for name in gradients)
    assert any("layers.0." in name for name in gradients)
    model = model.bfloat16().train()
    output = model(TORCH.tensor(IDS), labels=TORCH.tensor(IDS))
    output.loss.backward()
    assert output.logits.dtype == torch.bfloat16
    assert abs(float(output.loss.detach()) - exact) < 0.05 * exact
    weight = model.reformer.encoder.layers[0].attention.self_attention.query.weight
    assert weight.grad.dtype == torch.bfloat16 and bool(weight.grad.isfinite().all())


def _replica(rank: int, folder: str) -> None:
    import torch
    from torch.nn.parallel import DistributedDataParallel

    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    torch.set_num_threads(1)
    model = build(TORCH, "ReformerModelWithLMHead", **DECODER).train()
    replica = DistributedDataParallel(model)
    row = TORCH.tensor(IDS[rank : rank + 1])
    replica(row, labels=row).loss.backward()
    if rank == 0:
        gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
        torch.save(gradients, f"{folder}/gradients.pt")
    torch.distributed.destroy_process_group()


def test_data_parallel(tmp_path: Path) -> None:
    """Two processes with a row each have the gradients of one with both."""
    import torch

    torch.multiprocessing.spawn(_replica, (str(tmp_path),), nprocs=2)
    model = build(TORCH, "ReformerModelWithLMHead", **DECODER)
    _, expected = TORCH.gradients(model, LM)
    found = torch.load(tmp_path / "gradients.pt", weights_only=True)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name].numpy(), value, 1e-4, 1e-5, err_msg=name)


@pytest.mark.parametrize("compiler", [{"jit_compile": False}, {"jit_compile": True}], ids=str)
def test_fit(compiler: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first loss is that of a step outside the graph, and training goes on from there."""
    import keras

    from tf_models import lsh_attention

    monkeypatch.setattr(lsh_attention, "SCORES", 1)
    fields = DECODER | {"num_hashes": 1, "attn_layers": ["local", "lsh"]}
    model = build(KERAS, "ReformerModelWithLMHead", **fields)
    expected = float(KERAS.outputs(model, LM)["loss"])
    model.compile(keras.optimizers.Adam(1e-2), **compiler)
    losses = model.fit(LM, batch_size=2, epochs=4, verbose=0).history["loss"]
    assert losses[0] == pytest.approx(expected, 1e-4)
    assert losses[-1] < losses[0] - 0.1


# Lengths.


@both
def test_training_says_what_length_it_takes(framework: Framework) -> None:
    model = build(framework, "ReformerModelWithLMHead", **DECODER)
    short = {name: x[:, :40] for name, x in LM.items()}
    with pytest.raises(ValueError, match="sequences of 48, the product.*got 40"):
        framework.gradients(model, short)
    learned = build(framework, "ReformerModelWithLMHead", axial_pos_embds=False, **DECODER)
    framework.gradients(learned, short)
    odd = {name: x[:, :43] for name, x in LM.items()}
    with pytest.raises(ValueError, match="multiple of 8 .* got 43: pad them to 48"):
        framework.gradients(learned, odd)
    long = np.concatenate([IDS, IDS[:, :1]], 1)
    with pytest.raises(ValueError, match="49 positions"):
        framework.outputs(model, {"input_ids": long})


@both
def test_heads_want_their_direction(framework: Framework) -> None:
    with pytest.raises(ValueError, match="is_decoder is False"):
        build(framework, "ReformerModelWithLMHead")
    with pytest.raises(ValueError, match="is_decoder is True"):
        build(framework, "ReformerForMaskedLM", **DECODER)
    with pytest.raises(ValueError, match="lsh_num_chunks_after is 1, expected 0"):
        build(framework, "ReformerModelWithLMHead", lsh_num_chunks_after=1, **DECODER)
    with pytest.raises(ValueError, match="cannot be tied"):
        build(framework, "ReformerModelWithLMHead", tie_word_embeddings=True, **DECODER)


def test_lengths_that_a_graph_does_not_know() -> None:
    """Short ones and such as need padding, in one graph."""
    import tensorflow as tf

    model = build(KERAS, "ReformerModelWithLMHead", **DECODER)
    spec = tf.TensorSpec((None, None), tf.int64)
    function = tf.function(
        lambda ids: model(ids, use_cache=False, training=False).logits, input_signature=[spec]
    )
    for length in (1, 5, 9, 48):
        ids = IDS[:, :length]
        expected = KERAS.outputs(model, {"input_ids": ids})["logits"]
        np.testing.assert_allclose(function(tf.constant(ids)).numpy(), expected, 1e-4, 1e-5)
    model.config.num_buckets = None
    with pytest.raises(ValueError, match="num_buckets is None, and the length"):
        tf.function(lambda ids: model(ids).logits, input_signature=[spec]).get_concrete_function()


# One token after another.


def stepwise(framework: Framework, model: Any, ids: np.ndarray, first: int, strip: bool) -> Any:
    caches, logits = None, []
    for start, end in [(0, first), *((at, at + 1) for at in range(first, ids.shape[1]))]:
        piece = {"input_ids": ids[:, start:end]}
        output = framework.call(model, piece, past_buckets_states=caches)
        caches = output.past_buckets_states
        if strip:  # what was computed from buckets and states is left out
            caches = [tuple(cache) for cache in caches]
        logits.append(flat(output)["logits"])
    return np.concatenate(logits, 1), caches


@both
def test_cached_local_attention_is_uncached(framework: Framework) -> None:
    model = build(framework, "ReformerModelWithLMHead", attn_layers=["local"] * 3, **DECODER)
    whole = framework.outputs(model, {"input_ids": IDS})["logits"]
    for first, strip in ((1, False), (10, True), (17, False)):
        logits, _ = stepwise(framework, model, IDS[:, : first + 9], first, strip)
        np.testing.assert_allclose(logits, whole[:, : first + 9], 1e-4, 1e-5)


@both
def test_cached_lsh_attention_is_uncached(framework: Framework) -> None:
    """Where the sort is the same: while all is one chunk, and behind the first chunk of it."""
    fields = DECODER | {"attn_layers": ["lsh"], "num_hashes": 1, "num_buckets": 2}
    model = build(framework, "ReformerModelWithLMHead", **fields)
    logits, _ = stepwise(framework, model, IDS[:, :8], 3, False)
    np.testing.assert_allclose(
        logits, framework.outputs(model, {"input_ids": IDS[:, :8]})["logits"], 1e-4, 1e-5
    )
    same, rows = 0, IDS[:1]
    for length in range(30, 46):
        _, caches = stepwise(framework, model, rows[:, :length], length, False)
        piece = {"input_ids": rows[:, length : length + 1]}
        output = framework.call(model, piece, past_buckets_states=caches)
        buckets = flat(output)["past_buckets_states.0.0"][0, :, 0]
        rank = (buckets <= buckets[:, -1:]).sum(1) - 1
        if (rank >= 8).all() and (rank // 8 * 8 + 8 <= length + 1).all():  # no chunk wraps
            whole = framework.outputs(model, {"input_ids": rows[:, : length + 1]})["logits"]
            np.testing.assert_allclose(flat(output)["logits"], whole[:, -1:], 1e-4, 1e-5)
            same += 1
    assert same > 1


@both
def test_caches_without_what_was_computed(framework: Framework) -> None:
    model = build(framework, "ReformerModelWithLMHead", **DECODER)
    for first in (3, 8, 13):
        kept, one = stepwise(framework, model, IDS[:1, : first + 6], first, False)
        stripped, other = stepwise(framework, model, IDS[:1, : first + 6], first, True)
        np.testing.assert_allclose(kept, stripped, 1e-4, 1e-5)
        assert_close(flat(other), flat(one), 1e-5)
    with pytest.raises(ValueError, match="expected one new token after them, got 2"):
        framework.call(model, {"input_ids": IDS[:1, :2]}, past_buckets_states=one)
    with pytest.raises(ValueError, match="expected 3 pairs of buckets and states, got 2 of 2"):
        framework.call(model, {"input_ids": IDS[:1, :1]}, past_buckets_states=one[:2])


@both
def test_numbering_of_buckets_behind_padding(framework: Framework) -> None:
    """As published: padding is taken for none unless a bucket shows it."""
    model = build(framework, "ReformerModelWithLMHead", num_buckets=[4, 4], **DECODER)
    _, caches = stepwise(framework, model, IDS[1:, :10], 10, False)
    shown = flat(caches)
    assert shown["1.0"].max() == 2 * 17 - 2
    assert shown["2.0"].max() < 2 * 16
    kept, one = stepwise(framework, model, IDS[1:, :15], 10, False)
    stripped, other = stepwise(framework, model, IDS[1:, :15], 10, True)
    np.testing.assert_allclose(kept, stripped, 1e-4, 1e-5)
    assert_close(flat(other), flat(one), 1e-5)


def test_a_first_row_that_has_ended() -> None:
    """With a `hash_seed` the other rows look at its states."""
    pt, tf = (build(f, "ReformerModelWithLMHead", **DECODER) for f in (TORCH, KERAS))
    ids = np.random.default_rng(2).integers(3, VOCAB, (2, 16))
    options = {"max_new_tokens": 16, "num_hashes": 1, "pad_token_id": 0, "eos_token_id": 24}
    found = pt.generate(TORCH.tensor(ids), **options).numpy()
    assert (found[0, 18:] == 0).all()
    assert 24 not in found[1, 16:-1]
    np.testing.assert_array_equal(tf.generate(KERAS.tensor(ids), **options), found)
    # A graph chooses the number of buckets by its first prompt, too.
    pt, tf = (
        build(f, "ReformerModelWithLMHead", num_buckets=None, **DECODER) for f in (TORCH, KERAS)
    )
    found = pt.generate(TORCH.tensor(ids), max_new_tokens=4).numpy()
    np.testing.assert_array_equal(tf.generate(KERAS.tensor(ids), max_new_tokens=4), found)
    assert tf.config.num_buckets == pt.config.num_buckets == 4


@both
def test_rows_do_not_see_each_other(framework: Framework) -> None:
    """As the published classes do in cached steps, which a `hash_seed` repeats."""
    model = build(framework, "ReformerModelWithLMHead", **DECODER)
    together, _ = stepwise(framework, model, IDS[:, :20], 16, False)
    alone, _ = stepwise(framework, model, IDS[1:, :20], 16, False)
    assert np.abs(together[1:] - alone).max() > 1e-2

    def seeded(*given: Any) -> Any:
        model.config.hash_seed = 5
        try:
            return hashing(*given)
        finally:
            model.config.hash_seed = None

    for layer in model.reformer.encoder.layers:
        attention = layer.attention.self_attention
        if attention.kind == "lsh":
            hashing = attention.hashing
            object.__setattr__(attention, "hashing", seeded)
    model.config.hash_seed = None
    together, _ = stepwise(framework, model, IDS[:, :20], 16, False)
    np.testing.assert_allclose(together[1:], alone, 1e-4, 1e-5)


def greedy(model: Any, ids: np.ndarray, steps: int) -> np.ndarray:
    caches, text = None, ids
    for _ in range(steps):
        piece = {"input_ids": text if caches is None else text[:, -1:]}
        output = TORCH.call(model, piece, past_buckets_states=caches)
        caches = output.past_buckets_states
        text = np.concatenate([text, output.logits[:, -1:].argmax(-1).numpy()], 1)
    return text


@pytest.mark.parametrize("length", [1, 13])
def test_generate_is_a_loop_over_caches(length: int) -> None:
    model = build(TORCH, "ReformerModelWithLMHead", **DECODER)
    expected = greedy(model, IDS[:, :length], 12)
    ids = TORCH.tensor(IDS[:, :length])
    output = model.generate(ids, max_new_tokens=12, return_dict_in_generate=True)
    np.testing.assert_array_equal(output.sequences.numpy(), expected)
    caches = flat(output.past_key_values)
    _, theirs = stepwise(TORCH, model, expected[:, :-1], length, False)
    assert_close(caches, flat(theirs), 1e-4)
    keras = build(KERAS, "ReformerModelWithLMHead", **DECODER)
    found = keras.generate(KERAS.tensor(IDS[:, :length]), max_new_tokens=12)
    np.testing.assert_array_equal(found.numpy(), expected)


@both
def test_generated_rows_are_as_alone(framework: Framework) -> None:
    """With beams and padding on either side; local attention, which no padding touches."""
    model = build(framework, "ReformerModelWithLMHead", attn_layers=["local"] * 2, **DECODER)
    if framework is TORCH:
        model.eval()
    lengths, width = (13, 4), 13
    for left in (True, False):
        ids, mask = np.zeros((2, width), np.int64), np.zeros((2, width), np.int64)
        for row, length in enumerate(lengths):
            part = slice(width - length, None) if left else slice(0, length)
            ids[row, part], mask[row, part] = IDS[row, :length], 1
        inputs = [framework.tensor(x) for x in (ids, mask)]
        for beams in (1, 3) if left else (1,):
            found = model.generate(
                inputs[0], attention_mask=inputs[1], max_new_tokens=7, num_beams=beams
            ).numpy()
            for row, length in enumerate(lengths):
                alone = framework.tensor(IDS[row : row + 1, :length])
                alone = model.generate(alone, max_new_tokens=7, num_beams=beams).numpy()
                np.testing.assert_array_equal(found[row, width:], alone[0, length:])
    with pytest.raises(ValueError, match="49 tokens|48 positions"):
        model.generate(framework.tensor(IDS), max_new_tokens=9)
    with pytest.raises(ValueError, match="output_attentions=True: Reformer"):
        model.generate(
            framework.tensor(IDS[:, :4]), max_new_tokens=2, output_attentions=True,
            return_dict_in_generate=True,
        )  # fmt: skip


def test_generate_compiled() -> None:
    model = build(KERAS, "ReformerModelWithLMHead", attn_layers=["local", "lsh"], **DECODER)
    ids = KERAS.tensor(IDS[:, :11])
    expected = model.generate(ids, max_new_tokens=6, output_hidden_states=True,
                              return_dict_in_generate=True)  # fmt: skip
    assert expected.hidden_states[0][0].shape == (2, 11, HIDDEN)
    assert expected.hidden_states[1][2].shape == (2, 1, HIDDEN)
    found = model.generate(ids, max_new_tokens=6, jit_compile=True)
    np.testing.assert_array_equal(found.numpy(), expected.sequences.numpy())


# Tokenizers.

TEXTS = ["A few words.", "  two  spaces ", "naïve Ångström ✓ 日本", "", "</s> <unk> a</s>b\nc\td"]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reformer")
    options: dict[str, Any] = {"unk_id": 0, "bos_id": -1, "eos_id": 2, "pad_id": -1}
    options |= {"unk_piece": "<unk>", "eos_piece": "</s>", "control_symbols": ["<s>"]}
    return train(folder, 400, **options)


def test_recorded_tokens_with_padding(goldens: Path) -> None:
    path = goldens / "tokenizers" / "reformer_padtok" / "golden.json.gz"
    recorded = json.loads(gzip.decompress(path.read_bytes()))
    for name, entry in recorded["classes"].items():
        tokenizer = getattr(zoo, name).from_pretrained(
            path.parent / entry["dir"], **recorded["init_kwargs"]
        )
        for record in entry["records"]:
            got = replay(tokenizer, record)
            if record["g"] in ("no_special", "offsets"):
                got = {key: got[key] for key in record["x"]}
            assert json.loads(json.dumps(got)) == record["x"], record


def test_sentencepiece_tokenizers(vocabulary: Path, tmp_path: Path) -> None:
    slow, fast = ReformerTokenizer(vocabulary), ReformerTokenizerFast(vocabulary)
    assert slow.pad_token is None and slow.model_input_names == ["input_ids", "attention_mask"]
    for text in (TEXTS[0], TEXTS[2]):
        ids = slow(text).input_ids
        assert ids == fast(text).input_ids and ids[-1] != 2
        assert slow.decode(ids, skip_special_tokens=True).startswith(text[:4])
    fast.save_pretrained(tmp_path)
    again = zoo.AutoTokenizer.from_pretrained(tmp_path)
    assert type(again) is ReformerTokenizerFast and again(TEXTS).input_ids == fast(TEXTS).input_ids
    with pytest.raises(ValueError, match="needs a tokenizer_file .* or a vocab_file"):
        ReformerTokenizerFast()


def test_byte_tokenizer(tmp_path: Path) -> None:
    tokenizer = ReformerByteTokenizer()
    assert len(tokenizer) == 258 and tokenizer.pad_token_id == 0
    batch = tokenizer(["ab", "é"], padding=True)
    assert batch.input_ids == [[99, 100], [197, 171]]
    assert tokenizer(["a", "bcd"], padding=True).attention_mask == [[1, 0, 0], [1, 1, 1]]
    texts = ["A few words.", "naïve ✓ 日本", "", "a\nb\0"]
    for text in texts:
        assert tokenizer(text).input_ids == [2 + byte for byte in text.encode()]
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.decode([197, 99]) == "\ufffda"
    assert tokenizer.tokenize("é") == ["<0xC3>", "<0xA9>"]
    assert tokenizer.convert_tokens_to_ids(["<0xC3>", "no byte"]) == [197, 1]
    with pytest.raises(ValueError, match="surrogate"):
        tokenizer("\ud800")
    tokenizer.save_pretrained(tmp_path)
    again = zoo.AutoTokenizer.from_pretrained(tmp_path)
    assert type(again) is ReformerByteTokenizer and again(texts[1]) == tokenizer(texts[1])


def test_tokenizers_in_the_graph(vocabulary: Path) -> None:
    import tensorflow as tf

    from tf_models.in_graph import TFReformerByteTokenizer, TFReformerTokenizer

    for cls in (ReformerTokenizer, ReformerTokenizerFast):
        tokenizer = cls(vocabulary, pad_token="<unk>")
        layer = TFReformerTokenizer.from_tokenizer(tokenizer)
        got, expected = layer(tf.constant(TEXTS)), tokenizer(TEXTS, padding=True)
        for name in expected:
            np.testing.assert_array_equal(got[name].numpy(), expected[name])
    tokenizer = ReformerByteTokenizer()
    layer = TFReformerByteTokenizer.from_tokenizer(tokenizer)
    got, expected = layer(tf.constant(TEXTS)), tokenizer(TEXTS, padding=True)
    for name in expected:
        np.testing.assert_array_equal(got[name].numpy(), expected[name])
    texts = [text.decode() for text in layer.detokenize(got["input_ids"]).numpy()]
    assert texts == tokenizer.batch_decode(expected["input_ids"], skip_special_tokens=True)
    again = TFReformerByteTokenizer.from_config(layer.get_config())
    np.testing.assert_array_equal(again(tf.constant(TEXTS))["input_ids"], got["input_ids"])
    with pytest.raises(ValueError, match="needs a pad_token"):
        TFReformerTokenizer.from_tokenizer(ReformerTokenizer(vocabulary))


# Files and exports.


@both
def test_files(framework: Framework, tmp_path: Path) -> None:
    """One file for both, one name for the tied bias, and the axial tables under theirs."""
    from safetensors.numpy import load_file

    model = build(framework, "ReformerModelWithLMHead", **DECODER)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors["reformer.embeddings.position_embeddings.weights.1"].shape == (1, 8, 10)
    assert "lm_head.decoder.bias" not in tensors
    other = KERAS if framework is TORCH else TORCH
    opened = other.package().__dict__["TF" * (other is KERAS) + "ReformerModelWithLMHead"]
    opened, info = opened.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert_close(other.weights(opened), framework.weights(model), 0)
    # New position embeddings have a width of their own.
    fresh = framework.model_class("ReformerModel")(
        ReformerConfig(**{**TINY, "axial_norm_std": 2.0, "initializer_range": 0.01})
    )
    weights = framework.weights(fresh)
    assert weights["embeddings.position_embeddings.weights.0"].std() > 1
    assert weights["embeddings.word_embeddings.weight"].std() < 0.02


def test_exported_text_is_generated_text(tmp_path: Path) -> None:
    import tensorflow as tf

    from converters.saved_model import export

    fields = DECODER | {"attn_layers": ["lsh"], "vocab_size": 258}
    model = build(TORCH, "ReformerModelWithLMHead", **fields).eval()
    tokenizer = ReformerByteTokenizer()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    export(tmp_path / "model", tmp_path / "out", max_length=32, max_new_tokens=5)
    (version,) = (tmp_path / "out").glob("[0-9]*")
    served = tf.saved_model.load(str(version))
    texts = ["import this, and that", "def"]
    got = served.signatures["serving_default"](text=tf.constant(texts))["text"]
    batch = tokenizer(texts, padding=True)
    ids = model.generate(
        **{name: TORCH.tensor(np.array(x)) for name, x in batch.items()}, max_new_tokens=5
    )
    expected = tokenizer.batch_decode(ids.tolist(), skip_special_tokens=True)
    assert [text.decode() for text in got.numpy()] == expected
