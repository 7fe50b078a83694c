"""One row per public class and use of it: configuration, inputs, expected shapes.

Every dimension has a number of its own, so that swapped axes fail. Tolerances stand here too.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zoo.configs import (
    BartConfig,
    BertGenerationConfig,
    DPRConfig,
    EncoderDecoderConfig,
    RealmConfig,
    RemBertConfig,
    T5Config,
)

BATCH, SEQUENCE, HEADS, HEAD_DIM, LAYERS, CHOICES, LABELS, ENCODER = 3, 11, 4, 8, 2, 5, 7, 9
VOCAB, HIDDEN, INPUT, OUTPUT, INTERMEDIATE, POSITIONS, TYPES = 61, 32, 24, 40, 48, 29, 6

TINY: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "input_embedding_size": INPUT,
    "output_embedding_size": OUTPUT,
    "intermediate_size": INTERMEDIATE,
    "max_position_embeddings": POSITIONS,
    "type_vocab_size": TYPES,
    "classifier_dropout_prob": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

TINY_GENERATION = {
    name: value for name, value in TINY.items() if name in BertGenerationConfig._fields
} | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
PROJECTED, SPAN_HIDDEN, SPAN_WIDTH, BEAM, BLOCKS, ANSWERS, RECORDS = 10, 14, 4, 2, 6, 3, 17
SPANS = sum(SEQUENCE - more for more in range(SPAN_WIDTH))
TINY_REALM = {name: value for name, value in TINY.items() if name in RealmConfig._fields} | {
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "pad_token_id": 0,
    "retriever_proj_size": PROJECTED,
    "span_hidden_size": SPAN_HIDDEN,
    "max_span_width": SPAN_WIDTH,
    "reader_beam_size": BEAM,
    "searcher_beam_size": BLOCKS,
    "num_block_records": RECORDS,
}
TINY_DPR = {name: value for name, value in TINY.items() if name in DPRConfig._fields} | {
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
DECODER_HEADS, D_KV = 2, 6
TINY_BART = {
    "vocab_size": VOCAB,
    "d_model": HIDDEN,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": DECODER_HEADS,
    "encoder_ffn_dim": INTERMEDIATE,
    "decoder_ffn_dim": INPUT,
    "max_position_embeddings": POSITIONS,
    "dropout": 0.0,
}
TINY_T5 = {
    "vocab_size": VOCAB,
    "d_model": HIDDEN,
    "d_kv": D_KV,
    "d_ff": INTERMEDIATE,
    "num_layers": LAYERS,
    "num_heads": HEADS,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
}
# A decoder of other sizes than its encoder's.
TARGET, TARGET_VOCAB, TARGET_HIDDEN, TARGET_HEADS = 7, 53, 40, 5
SMALL: dict[str, Any] = {
    "vocab_size": TARGET_VOCAB,
    "hidden_size": TARGET_HIDDEN,
    "num_attention_heads": TARGET_HEADS,
}
FAMILIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "RemBert": (RemBertConfig, TINY),
    "BertGeneration": (BertGenerationConfig, TINY_GENERATION),
    "DPR": (DPRConfig, TINY_DPR),
    "Bart": (BartConfig, TINY_BART),
    "T5": (T5Config, TINY_T5),
    "Realm": (RealmConfig, TINY_REALM),
}

# Outputs and losses, at unit scale.
OUTPUT_TOLERANCE = 1e-5
# Of a gradient's own norm.
GRADIENT_TOLERANCE = 1e-4
# Of the norm of all gradients together: less than this is rounding.
GRADIENT_FLOOR = 1e-7
# After ten steps of SGD with momentum.
WEIGHT_TOLERANCE = 1e-5
# Along ten steps of AdamW, which divides by the size of gradients that are noise.
ADAM_LOSS_TOLERANCE = 1e-4

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """What is asked of a class.

    Args:
        name: of the row.
        model: PyTorch class; the Keras class has TF in front.
        config: what differs from the family's `TINY`; of an EncoderDecoderModel the fields of the
            whole, and for `encoder` and `decoder` a family and what differs there.
        inputs: name -> shape of the inputs, labels included.
        shapes: name -> shape of the outputs.
        init: further arguments of the constructor.
        unused: regular expression of the weights that the loss does not depend on.
    """

    name: str
    model: str
    inputs: Mapping[str, tuple[int, ...]]
    shapes: Mapping[str, tuple[int, ...]]
    config: Mapping[str, Any] = field(default_factory=dict)
    init: Mapping[str, Any] = field(default_factory=dict)
    unused: str | None = None

    @property
    def is_seq2seq(self) -> bool:
        return self.model == "EncoderDecoderModel"

    def is_used(self, weight: str) -> bool:
        return self.unused is None or not re.search(self.unused, weight)

    @property
    def label_names(self) -> list[str]:
        return [name for name in self.inputs if name in LABEL_NAMES]


LABEL_NAMES = ("labels", "start_positions", "end_positions", "has_answers")
TEXT = {
    "input_ids": (BATCH, SEQUENCE),
    "attention_mask": (BATCH, SEQUENCE),
    "token_type_ids": (BATCH, SEQUENCE),
}
ENCODED = {
    "encoder_hidden_states": (BATCH, ENCODER, HIDDEN),
    "encoder_attention_mask": (BATCH, ENCODER),
}
TOKENS = {"labels": (BATCH, SEQUENCE)}
DECODER = {"is_decoder": True}
CROSS = {"is_decoder": True, "add_cross_attention": True}
MULTI = {"problem_type": "multi_label_classification", "num_labels": LABELS}

STATES = (BATCH, SEQUENCE, HIDDEN)
SCORES = (BATCH, SEQUENCE, VOCAB)
IDS = {name: TEXT[name] for name in ("input_ids", "attention_mask")}
# With a cache, which is the default, a BertGeneration decoder masks nothing.
CAUSAL = {"use_cache": False}
TARGETS = {"labels": (BATCH, TARGET)}
TARGET_SCORES = {"loss": (), "logits": (BATCH, TARGET, TARGET_VOCAB)}
ENCODED_STATES = {"encoder_last_hidden_state": STATES}
CACHE = {
    f"past_key_values.{layer}.{part}": (BATCH, HEADS, SEQUENCE, HEAD_DIM)
    for layer in range(LAYERS)
    for part in range(2)
}
CROSS_CACHE = CACHE | {
    f"past_key_values.{layer}.{part}": (BATCH, HEADS, ENCODER, HEAD_DIM)
    for layer in range(LAYERS)
    for part in (2, 3)
}

TARGET_CACHE = {
    f"past_key_values.{layer}.{part}": (
        BATCH,
        TARGET_HEADS,
        SEQUENCE if part > 1 else TARGET,
        TARGET_HIDDEN // TARGET_HEADS,
    )
    for layer in range(LAYERS)
    for part in range(4)
}
SHARED_CACHE = {name: (BATCH, HEADS, shape[2], HEAD_DIM) for name, shape in TARGET_CACHE.items()}

CHOSEN = {name: (BATCH, CHOICES, SEQUENCE) for name in TEXT}
READ = {name: (BATCH, BEAM, SEQUENCE) for name in (*TEXT, "block_mask")}
# What they are asked beside the rest stands in test_realm.
REALM_CASES = [
    Case(
        "scorer",
        "RealmScorer",
        TEXT | {f"candidate_{name}": (BATCH, CHOICES, ENCODER) for name in TEXT},
        {
            "relevance_score": (BATCH, CHOICES),
            "query_score": (BATCH, PROJECTED),
            "candidate_score": (BATCH, CHOICES, PROJECTED),
        },
        unused=r"\bcls\.predictions\.",
    ),
    Case(
        "knowledge-aug",
        "RealmKnowledgeAugEncoder",
        CHOSEN | TOKENS | {"relevance_score": (BATCH, CHOICES), "mlm_mask": (BATCH, SEQUENCE)},
        {"loss": (), "logits": (BATCH * CHOICES, SEQUENCE, VOCAB)},
        unused=r"\.pooler\.",
    ),
    Case(
        "reader",
        "RealmReader",
        READ
        | {
            "relevance_score": (BATCH, BLOCKS),
            "start_positions": (BATCH, BLOCKS, ANSWERS),
            "end_positions": (BATCH, BLOCKS, ANSWERS),
            "has_answers": (BATCH, BLOCKS),
        },
        {
            "loss": (),
            "retriever_loss": (),
            "reader_loss": (),
            "retriever_correct": (BATCH, BLOCKS),
            "reader_correct": (BATCH, BEAM, SPANS),
            "block_idx": (BATCH,),
            "candidate": (BATCH,),
            "start_pos": (BATCH,),
            "end_pos": (BATCH,),
        },
        unused=r"\.pooler\.|^cls\.",
    ),
]

CASES = [
    Case(
        "embedder",
        "RealmEmbedder",
        TEXT,
        {"projected_score": (BATCH, PROJECTED)},
        unused=r"\bcls\.predictions\.",
    ),
    Case(
        "model", "RemBertModel", TEXT, {"last_hidden_state": STATES, "pooler_output": STATES[::2]}
    ),
    Case(
        "model-no-pooler",
        "RemBertModel",
        TEXT,
        {"last_hidden_state": STATES},
        init={"add_pooling_layer": False},
    ),
    Case(
        "model-decoder",
        "RemBertModel",
        TEXT,
        {"last_hidden_state": STATES, "pooler_output": STATES[::2]} | CACHE,
        DECODER,
    ),
    Case("masked-lm", "RemBertForMaskedLM", TEXT | TOKENS, {"loss": (), "logits": SCORES}),
    Case(
        "causal-lm",
        "RemBertForCausalLM",
        TEXT | TOKENS,
        {"loss": (), "logits": SCORES} | CACHE,
        DECODER,
    ),
    Case(
        "causal-lm-cross",
        "RemBertForCausalLM",
        TEXT | ENCODED | TOKENS,
        {"loss": (), "logits": SCORES} | CROSS_CACHE,
        CROSS,
    ),
    Case(
        "single-label",
        "RemBertForSequenceClassification",
        TEXT | {"labels": (BATCH,)},
        {"loss": (), "logits": (BATCH, LABELS)},
        {"num_labels": LABELS},
    ),
    Case(
        "multi-label",
        "RemBertForSequenceClassification",
        TEXT | {"labels": (BATCH, LABELS)},
        {"loss": (), "logits": (BATCH, LABELS)},
        MULTI,
    ),
    Case(
        "regression",
        "RemBertForSequenceClassification",
        TEXT | {"labels": (BATCH,)},
        {"loss": (), "logits": (BATCH, 1)},
        {"num_labels": 1},
    ),
    Case(
        "multiple-choice",
        "RemBertForMultipleChoice",
        {name: (BATCH, CHOICES, SEQUENCE) for name in TEXT} | {"labels": (BATCH,)},
        {"loss": (), "logits": (BATCH, CHOICES)},
    ),
    Case(
        "token-labels",
        "RemBertForTokenClassification",
        TEXT | TOKENS,
        {"loss": (), "logits": (BATCH, SEQUENCE, LABELS)},
        {"num_labels": LABELS},
    ),
    Case(
        "question-answering",
        "RemBertForQuestionAnswering",
        TEXT | {"start_positions": (BATCH,), "end_positions": (BATCH,)},
        {"loss": (), "start_logits": (BATCH, SEQUENCE), "end_logits": (BATCH, SEQUENCE)},
    ),
    Case("generation-encoder", "BertGenerationEncoder", IDS, {"last_hidden_state": STATES}),
    Case(
        "generation-bare-cross",
        "BertGenerationEncoder",
        IDS | ENCODED,
        {"last_hidden_state": STATES},
        CROSS | CAUSAL,
    ),
    Case(
        "causal-generation",
        "BertGenerationDecoder",
        IDS | TOKENS,
        {"loss": (), "logits": SCORES},
        DECODER | CAUSAL,
    ),
    Case(
        "causal-generation-cross",
        "BertGenerationDecoder",
        IDS | ENCODED | TOKENS,
        {"loss": (), "logits": SCORES},
        CROSS | CAUSAL,
    ),
    Case(
        "seq2seq",
        "EncoderDecoderModel",
        IDS | TARGETS,
        {"loss": (), "logits": (BATCH, TARGET, VOCAB)} | SHARED_CACHE | ENCODED_STATES,
        {"encoder": ("BertGeneration", {}), "decoder": ("BertGeneration", {})},
    ),
    Case(
        "seq2seq-shared",
        "EncoderDecoderModel",
        IDS | TARGETS,
        {"loss": (), "logits": (BATCH, TARGET, VOCAB)} | ENCODED_STATES,
        {
            "encoder": ("BertGeneration", {}),
            "decoder": ("BertGeneration", CAUSAL),
            "tie_encoder_decoder": True,
        },
    ),
    Case(
        "seq2seq-projected",
        "EncoderDecoderModel",
        TEXT
        | TARGETS
        | {"decoder_input_ids": (BATCH, TARGET), "decoder_attention_mask": (BATCH, TARGET)},
        TARGET_SCORES | ENCODED_STATES,
        {"encoder": ("RemBert", {}), "decoder": ("BertGeneration", SMALL | CAUSAL)},
        unused=r"^encoder\.pooler\.",
    ),
    Case(
        "seq2seq-rembert",
        "EncoderDecoderModel",
        IDS | TARGETS | {"decoder_token_type_ids": (BATCH, TARGET)},
        TARGET_SCORES | TARGET_CACHE | ENCODED_STATES,
        {"encoder": ("BertGeneration", {}), "decoder": ("RemBert", SMALL)},
    ),
]
# What they are asked beside the rest stands in test_bart and test_t5.
SOURCES = {
    **{name: (BATCH, SEQUENCE) for name in ("input_ids", "attention_mask")},
    **{f"decoder_{name}": (BATCH, TARGET) for name in ("input_ids", "attention_mask")},
}


def target_cache(heads: int, head_dim: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a cache of `TARGET` tokens."""
    return {
        f"past_key_values.{layer}.{part}": (
            BATCH,
            heads,
            SEQUENCE if part > 1 else TARGET,
            head_dim,
        )
        for layer in range(LAYERS)
        for part in range(4)
    }


BART_CACHE = target_cache(DECODER_HEADS, HIDDEN // DECODER_HEADS)
T5_CACHE = target_cache(HEADS, D_KV)
TARGET_STATES = {"last_hidden_state": (BATCH, TARGET, HIDDEN)}
LABELLED = SOURCES | {"labels": (BATCH, TARGET)}
WORDS = {"loss": (), "logits": (BATCH, TARGET, VOCAB)}
SEQ2SEQ_CASES = [
    Case("bart", "BartModel", SOURCES, TARGET_STATES | BART_CACHE | ENCODED_STATES),
    Case(
        "bart-lm",
        "BartForConditionalGeneration",
        LABELLED,
        WORDS | ENCODED_STATES,
        unused="final_logits_bias",
    ),
    Case(
        "bart-untied",
        "BartForConditionalGeneration",
        LABELLED,
        WORDS | ENCODED_STATES,
        {"tie_word_embeddings": False, "scale_embedding": True, "activation_function": "relu"},
        unused="final_logits_bias",
    ),
    Case("t5", "T5Model", SOURCES, TARGET_STATES | T5_CACHE | ENCODED_STATES),
    Case("t5-encoder", "T5EncoderModel", IDS, {"last_hidden_state": STATES}),
    Case("t5-lm", "T5ForConditionalGeneration", LABELLED, WORDS | T5_CACHE | ENCODED_STATES),
    Case(
        "t5-gated",
        "T5ForConditionalGeneration",
        LABELLED,
        WORDS | T5_CACHE | ENCODED_STATES,
        {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"},
    ),
]
# What they are asked beside the rest stands in test_dpr.
DPR_CASES = [
    Case("dpr-question", "DPRQuestionEncoder", TEXT, {"pooler_output": (BATCH, HIDDEN)}),
    Case(
        "dpr-passage",
        "DPRContextEncoder",
        TEXT,
        {"pooler_output": (BATCH, OUTPUT)},
        {"projection_dim": OUTPUT, "position_embedding_type": "relative_key_query"},
    ),
    Case(
        "dpr-reader",
        "DPRReader",
        IDS,
        {
            "start_logits": (BATCH, SEQUENCE),
            "end_logits": (BATCH, SEQUENCE),
            "relevance_logits": (BATCH,),
        },
    ),
]

CASE = {case.name: case for case in [*SEQ2SEQ_CASES, *DPR_CASES, *CASES, *REALM_CASES]}
# With labels.
HEAD_CASES = [case for case in CASE.values() if case.label_names]
# Of one part.
SINGLE_CASES = [case for case in CASES if not case.is_seq2seq]


def names(cases: list[Case]) -> list[str]:
    """For `ids=` of a parametrised test."""
    return [case.name for case in cases]


def shown(value: Any) -> str:
    """For `ids=`: a value without addresses, so that every process has the same names."""
    return re.sub(" at 0x[0-9a-f]+", "", str(value))[:80]


def numbers(name: str) -> np.random.Generator:
    """Random numbers that depend on the name alone."""
    return np.random.default_rng(zlib.crc32(name.encode()))


def make_config(case: Case, **overrides: Any) -> Any:
    """The row's configuration; overrides are those of both halves where there are two."""
    if case.is_seq2seq:
        fields = {"pad_token_id": 0, "decoder_start_token_id": 1, **case.config}
        halves = []
        for half in ("encoder", "decoder"):
            family, more = fields.pop(half)
            config_class, tiny = FAMILIES[family]
            halves.append(config_class(**{**tiny, **more, **overrides}))
        return EncoderDecoderConfig.from_encoder_decoder_configs(*halves, **fields)
    (family,) = [family for family in FAMILIES if case.model.startswith(family)]
    config_class, tiny = FAMILIES[family]
    return config_class(**{**tiny, **case.config, **overrides})


def make_inputs(case: Case) -> Arrays:
    """The inputs of a row: ragged padding, labels of which some do not count."""
    rng = numbers(case.name)
    config = TINY | dict(case.config)
    made: Arrays = {}
    for name, shape in case.inputs.items():
        if name.endswith("input_ids") and not name.startswith("decoder"):
            value = rng.integers(0, VOCAB, shape)  # the padding id among them
        elif name == "decoder_input_ids" or (case.is_seq2seq and name == "labels"):
            value = rng.integers(0, TARGET_VOCAB, shape)
            if name == "labels":
                value[:, ::3] = -100
        elif name.endswith("token_type_ids"):
            value = rng.integers(0, TYPES, shape)
        elif name.endswith("attention_mask"):
            # The first example is whole, each following one two tokens shorter.
            kept = shape[-1] - 2 * np.arange(int(np.prod(shape[:-1]))) % (shape[-1] - 1)
            value = (np.arange(shape[-1]) < kept[:, None]).astype(np.int64).reshape(shape)
            if name == "attention_mask" and config.get("is_decoder"):
                value = value[..., ::-1].copy()  # a decoder does not see what follows anyway
        elif name in ("encoder_hidden_states", "relevance_score"):
            value = rng.standard_normal(shape).astype(np.float32)
        elif name == "mlm_mask":
            value = rng.integers(0, 2, shape)
        elif name == "block_mask":
            value = (np.arange(shape[-1]) >= 4) & (made["attention_mask"] == 1)
        elif case.model == "RealmReader":
            # In every other block nothing is found.
            value = np.array(rng.integers(5, SEQUENCE - SPAN_WIDTH, shape))
            value += (SPAN_WIDTH - 2) * (name == "end_positions")
            value[:, 1::2] = -1
            if name == "end_positions":
                value = made["start_positions"] + (value >= 0) * (SPAN_WIDTH - 2)
            elif name == "has_answers":
                value = (made["start_positions"] >= 0).any(-1)
        elif name in ("start_positions", "end_positions"):
            value = rng.integers(0, SEQUENCE, shape)
            value[-1] = SEQUENCE + 3  # outside the sequence: does not count
        elif case.name == "regression":
            value = rng.standard_normal(shape).astype(np.float32)
        elif case.name == "multi-label":
            value = rng.integers(0, 2, shape).astype(np.float32)
        else:
            classes = {"multiple-choice": CHOICES, "single-label": LABELS, "token-labels": LABELS}
            value = rng.integers(0, classes.get(case.name, config["vocab_size"]), shape)
            if value.ndim == 2:
                value[:, ::3] = -100
        made[name] = value
    return made


def without_labels(inputs: Arrays) -> Arrays:
    return {name: value for name, value in inputs.items() if name not in LABEL_NAMES}


NORM = re.compile(r"layer_?norm(_embedding)?\.weight$", re.IGNORECASE)


def make_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values of a weight that keep outputs at unit scale and leave nothing at zero or one."""
    values = numbers(name).standard_normal(shape)
    if len(shape) == 1:
        values = 0.1 * values + bool(NORM.search(name))
    elif "embeddings" in name:
        values = 0.5 * values
    else:
        values = values / np.sqrt(shape[-1])
    return values.astype(np.float32)
