"""T5 (Raffel et al. 2019, "Exploring the limits of transfer learning").

An encoder and a decoder that know positions by their distances alone, with a norm in front of each
part. Published weights: t5-small to t5-11b, google/t5-v1_1-* (gated feed-forward, a head of its
own) and models made of them; RAG's other generator.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

import numpy as np

from .base import PretrainedConfig
from .rules import (
    ACTIVATIONS,
    Flag,
    NonNegative,
    PositiveInt,
    Probability,
    Rule,
    TokenId,
    TokenIds,
    is_integer,
    one_of,
)

GATED = "gated-"
FEED_FORWARD = Rule(
    f"an activation ({', '.join(ACTIVATIONS)}), with {GATED!r} in front for a gated one",
    lambda value: isinstance(value, str) and value.removeprefix(GATED) in ACTIVATIONS,
)
OptionalLayers = Annotated[
    int | None,
    Rule(
        "an integer above 0 or None",
        lambda value: value is None or (is_integer(value) and value > 0),
    ),
]


class T5Config(PretrainedConfig):
    """Sizes and settings of a T5 model; the defaults are those of t5-small.

    Args:
        vocab_size: number of token ids.
        d_model: width of the model.
        d_kv: width of an attention head; `num_heads * d_kv` need not be `d_model`.
        d_ff: width inside the feed-forward part of a layer.
        num_layers: number of the encoder's layers.
        num_decoder_layers: number of the decoder's; as many as the encoder's if None.
        num_heads: number of attention heads per layer.
        relative_attention_num_buckets: how many distances are told apart, an even number.
        relative_attention_max_distance: from where on all distances count as one.
        dropout_rate: dropout everywhere.
        layer_norm_epsilon: epsilon of the norms.
        initializer_factor: multiplies the standard deviations of new weights.
        feed_forward_proj: activation of the feed-forward part, such as "relu"; with "gated-" in
            front one of its two first layers gates the other ("gated-gelu" in v1.1, which uses
            the tanh approximation).
        is_encoder_decoder: True, as readers of the file expect.
        use_cache: whether the decoder returns keys and values for the next step.
        pad_token_id: id of padding.
        eos_token_id: id, or ids, at the end of a sequence.
        classifier_dropout: of classification heads; kept for the files that have it.
        **kwargs: fields that all families have, see `PretrainedConfig`. `dense_act_fn` and
            `is_gated_act` follow from `feed_forward_proj`.

    Raises:
        ValueError: an impossible value or a misspelt keyword.
    """

    model_type: ClassVar[str] = "t5"
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
    }
    optional_fields: ClassVar[dict[str, Rule]] = PretrainedConfig.optional_fields | {
        "dense_act_fn": one_of(ACTIVATIONS),
        "is_gated_act": Rule("True or False", lambda value: isinstance(value, bool)),
    }

    vocab_size: PositiveInt = 32128
    d_model: PositiveInt = 512
    d_kv: PositiveInt = 64
    d_ff: PositiveInt = 2048
    num_layers: PositiveInt = 6
    num_decoder_layers: OptionalLayers = None
    num_heads: PositiveInt = 8
    relative_attention_num_buckets: PositiveInt = 32
    relative_attention_max_distance: PositiveInt = 128
    dropout_rate: Probability = 0.1
    layer_norm_epsilon: NonNegative = 1e-6
    initializer_factor: NonNegative = 1.0
    feed_forward_proj: Annotated[str, FEED_FORWARD] = "relu"
    is_encoder_decoder: Flag = True
    use_cache: Flag = True
    pad_token_id: TokenId = 0
    eos_token_id: TokenIds = 1
    classifier_dropout: Probability = 0.0

    def _fill(self, values: Mapping[str, Any]) -> None:
        values = {self.attribute_map.get(name, name): value for name, value in values.items()}
        if values.get("num_decoder_layers") is None:
            values["num_decoder_layers"] = values.get("num_layers", type(self).num_layers)
        # First what others follow from.
        feed_forward = values.pop("feed_forward_proj", type(self).feed_forward_proj)
        super()._fill({"feed_forward_proj": feed_forward, **values})

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "feed_forward_proj" and FEED_FORWARD.accepts(value):
            self.dense_act_fn, self.is_gated_act = _parts(value)

    @classmethod
    def from_dict(
        cls, config_dict: Mapping[str, Any], return_unused_kwargs: bool = False, **overrides: Any
    ) -> Any:
        # Newer files say of a head of its own only that nothing is scaled in front of it.
        config_dict = dict(config_dict)
        if config_dict.pop("scale_decoder_outputs", True) is False:
            config_dict["tie_word_embeddings"] = False
        if "feed_forward_proj" in overrides:  # another one than the file's: so is what follows
            derived = ("dense_act_fn", "is_gated_act")
            config_dict = {name: x for name, x in config_dict.items() if name not in derived}
        return super().from_dict(config_dict, return_unused_kwargs, **overrides)

    def _conflicts(self) -> Iterator[tuple[str, Any, str]]:
        for name, value in zip(
            ("dense_act_fn", "is_gated_act"), _parts(self.feed_forward_proj), strict=True
        ):
            if getattr(self, name) != value:
                yield (
                    name,
                    getattr(self, name),
                    f"{value!r}, as feed_forward_proj {self.feed_forward_proj!r} says",
                )
        buckets, distance = (
            self.relative_attention_num_buckets,
            self.relative_attention_max_distance,
        )
        if buckets % 2 or buckets < 4:
            yield "relative_attention_num_buckets", buckets, "an even number, 4 or above"
        elif distance <= buckets // 2:
            yield (
                "relative_attention_max_distance",
                distance,
                f"more than half of relative_attention_num_buckets ({buckets // 2})",
            )
        yield from self._unknown_padding(self.vocab_size)


def _parts(feed_forward: str) -> tuple[str, bool]:
    """Activation, and whether it is gated, of a `feed_forward_proj`."""
    # Published so: the "gelu" of a gated layer is the tanh approximation.
    activation = "gelu_new" if feed_forward == "gated-gelu" else feed_forward.removeprefix(GATED)
    return activation, feed_forward.startswith(GATED)


def distance_buckets(config: T5Config, both_ways: bool) -> list[int]:
    """The row of the table of scores for each distance of a query behind a key.

    Args:
        config: gives the number of rows, and the distance from which on all count as one.
        both_ways: whether keys may come behind the query; else these have the distance 0.
    Returns:
        The rows of the distances from `-farthest` to `farthest`, which stands for larger ones.
    """
    count, farthest = config.relative_attention_num_buckets, config.relative_attention_max_distance
    count = count // 2 if both_ways else count
    # T5, section 2.1: each of the shorter distances by itself, logarithmic ranges of the others.
    exact = count // 2
    ahead = np.arange(farthest + 1)
    ratio = np.log(np.maximum(ahead, exact).astype(np.float32) / np.float32(exact))
    ratio = ratio / np.float32(math.log(farthest / exact)) * np.float32(count - exact)
    behind = np.where(ahead < exact, ahead, np.minimum(exact + ratio.astype(int), count - 1))
    before = behind + count if both_ways else np.zeros_like(behind)
    return [*before[:0:-1].tolist(), *behind.tolist()]
