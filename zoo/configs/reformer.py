"""Reformer (Kitaev, Kaiser and Levskaya 2020, "Reformer: The efficient Transformer").

Published weights: google/reformer-crime-and-punishment and google/reformer-enwik8.
"""

import logging
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

from .base import PretrainedConfig
from .rules import (
    Activation,
    Count,
    Flag,
    NonNegative,
    PositiveInt,
    Probability,
    Rule,
    TokenId,
    TokenIds,
    is_integer,
)

logger = logging.getLogger("zoo")

LAYER_TYPES = ("local", "lsh")


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0


def _is_sizes(value: Any) -> bool:
    return _is_list(value) and all(is_integer(size) and size > 0 for size in value)


def _is_even(value: Any) -> bool:
    return is_integer(value) and value > 0 and value % 2 == 0


LayerTypes = Annotated[
    list[str],
    Rule(
        "a list with 'local' or 'lsh' for each layer, at least one",
        lambda value: _is_list(value) and all(kind in LAYER_TYPES for kind in value),
    ),
]
Sizes = Annotated[list[int], Rule("a list of integers above 0", _is_sizes)]
Buckets = Annotated[
    int | list[int] | None,
    Rule(
        "an even number above 0, a list of even numbers that are multiplied, or None (half of a "
        "hash is another vector's opposite)",
        lambda value: (
            value is None or _is_even(value) or (_is_list(value) and all(map(_is_even, value)))
        ),
    ),
]
Seed = Annotated[
    int | None,
    Rule(
        "an integer of at most 64 bits, or None",
        lambda value: value is None or (is_integer(value) and -(2**63) <= value < 2**64),
    ),
]
Dropout = Annotated[
    float | None,
    Rule(
        "a number between 0 and 1, or None",
        lambda value: (
            value is None
            or (isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1)
        ),
    ),
]


class ReformerConfig(PretrainedConfig):
    """Sizes and settings of a Reformer model; the defaults are the published ones.

    Lengths: training takes sequences whose length is `required_length` where positions are axial,
    and else a multiple of `chunk_multiple`; evaluation pads to that by itself.

    Args:
        attention_head_size: width of one attention head; the heads together need not be as wide
            as the model.
        attn_layers: the kind of attention of each layer, "local" or "lsh"; decides the depth.
        axial_norm_std: standard deviation of new axial position embeddings.
        axial_pos_embds: whether positions are axial (a row's vector joined with a column's) or
            have a vector each.
        axial_pos_shape: rows, columns and so on; their product is the length to train with.
        axial_pos_embds_dim: widths of these vectors; their sum is `hidden_size`.
        chunk_size_lm_head: positions that the language model's head takes at once, 0 for all.
        eos_token_id: id, or ids, at the end of a sequence.
        feed_forward_size: width inside the feed-forward part of a layer.
        hash_seed: makes hashing repeatable: the same rotations before every hash, those of the
            published classes. For tests; None draws new ones each time.
        hidden_act: activation of the feed-forward part, by name or as a function.
        hidden_dropout_prob: dropout after embeddings and dense layers.
        hidden_size: width of the model.
        initializer_range: standard deviation of new weights.
        is_decoder: whether attention is causal.
        layer_norm_eps: epsilon of the layer norms.
        local_num_chunks_before, local_num_chunks_after: neighbours that a chunk of local
            attention sees.
        local_attention_probs_dropout_prob: dropout of local attention's probabilities.
        local_attn_chunk_length: length of a chunk of local attention.
        lsh_attn_chunk_length: length of a chunk of LSH attention.
        lsh_attention_probs_dropout_prob: dropout of LSH attention's probabilities.
        lsh_num_chunks_before, lsh_num_chunks_after: neighbours that a chunk of LSH attention sees.
        max_position_embeddings: the longest sequence.
        num_attention_heads: number of attention heads per layer.
        num_buckets: number of hash buckets, or factors of it; None has the first call choose by
            its length and write the choice here.
        num_hashes: rounds of hashing.
        pad_token_id: id of padding.
        vocab_size: number of token ids.
        tie_word_embeddings: refused by the language models, whose head is twice as wide.
        use_cache: whether buckets and states are returned for the next step.
        classifier_dropout: dropout of the classifier; `hidden_dropout_prob` if None.
        num_hidden_layers: the length of `attn_layers`, and nothing else.
        **kwargs: fields that all families have, see `PretrainedConfig`.

    Raises:
        ValueError: an impossible value or a misspelt keyword.
    """

    model_type: ClassVar[str] = "reformer"

    attention_head_size: PositiveInt = 64
    attn_layers: LayerTypes = ["local", "lsh", "local", "lsh", "local", "lsh"]
    axial_norm_std: NonNegative = 1.0
    axial_pos_embds: Flag = True
    axial_pos_shape: Sizes = [64, 64]
    axial_pos_embds_dim: Sizes = [64, 192]
    chunk_size_lm_head: Count = 0
    eos_token_id: TokenIds = 2
    feed_forward_size: PositiveInt = 512
    hash_seed: Seed = None
    hidden_act: Activation = "relu"
    hidden_dropout_prob: Probability = 0.05
    hidden_size: PositiveInt = 256
    initializer_range: NonNegative = 0.02
    is_decoder: Flag = False
    layer_norm_eps: NonNegative = 1e-12
    local_num_chunks_before: Count = 1
    local_num_chunks_after: Count = 0
    local_attention_probs_dropout_prob: Probability = 0.05
    local_attn_chunk_length: PositiveInt = 64
    lsh_attn_chunk_length: PositiveInt = 64
    lsh_attention_probs_dropout_prob: Probability = 0.0
    lsh_num_chunks_before: Count = 1
    lsh_num_chunks_after: Count = 0
    max_position_embeddings: PositiveInt = 4096
    num_attention_heads: PositiveInt = 12
    num_buckets: Buckets = None
    num_hashes: PositiveInt = 1
    pad_token_id: TokenId = 0
    vocab_size: PositiveInt = 320
    tie_word_embeddings: Flag = False
    use_cache: Flag = True
    classifier_dropout: Dropout = None
    num_hidden_layers: PositiveInt = 6

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "attn_layers" and _is_list(value):
            self.num_hidden_layers = len(value)

    @classmethod
    def from_dict(
        cls, config_dict: Mapping[str, Any], return_unused_kwargs: bool = False, **overrides: Any
    ) -> Any:
        if "attn_layers" in overrides:  # with them goes the file's depth
            config_dict = {k: v for k, v in config_dict.items() if k != "num_hidden_layers"}
        return super().from_dict(config_dict, return_unused_kwargs, **overrides)

    def _conflicts(self) -> Iterator[tuple[str, Any, str]]:
        depth = len(self.attn_layers)
        if self.num_hidden_layers != depth:
            yield (
                "num_hidden_layers",
                self.num_hidden_layers,
                f"{depth}, the length of attn_layers, which decides the depth",
            )
        yield from self._unknown_padding(self.vocab_size)
        if self.axial_pos_embds:
            yield from self._axial_problems()

    def _axial_problems(self) -> Iterator[tuple[str, Any, str]]:
        shape, widths = self.axial_pos_shape, self.axial_pos_embds_dim
        if len(shape) != len(widths):
            yield (
                "axial_pos_embds_dim",
                widths,
                f"{len(shape)} widths, one for each axis of axial_pos_shape ({list(shape)})",
            )
        if sum(widths) != self.hidden_size:
            yield (
                "axial_pos_embds_dim",
                widths,
                f"widths whose sum is hidden_size ({self.hidden_size}), not {sum(widths)}: a "
                "position's vector is one of each axis, joined",
            )
        length, multiple = math.prod(shape), self.chunk_multiple
        if length > self.shortest_chunk and length % multiple:
            yield (
                "axial_pos_shape",
                shape,
                f"sizes whose product, the length to train with, is a multiple of {multiple} "
                f"({self._chunk_words()}), not {length}",
            )

    def _chunks(self) -> dict[str, int]:
        lengths = {
            "lsh_attn_chunk_length": self.lsh_attn_chunk_length,
            "local_attn_chunk_length": self.local_attn_chunk_length,
        }
        return {
            name: length
            for name, length in lengths.items()
            if name.partition("_")[0] in self.attn_layers
        }

    def _chunk_words(self) -> str:
        return " and ".join(f"{name} {length}" for name, length in self._chunks().items())

    # Lengths.

    @property
    def chunk_multiple(self) -> int:
        """What the length of a sequence has to be a multiple of, unless it is a short one."""
        return math.lcm(*self._chunks().values())

    @property
    def shortest_chunk(self) -> int:
        """Sequences up to that length are one chunk in every layer."""
        return min(self._chunks().values())

    @property
    def longest_sequence(self) -> int:
        """The number of positions that there are vectors for."""
        if self.axial_pos_embds:
            return min(math.prod(self.axial_pos_shape), self.max_position_embeddings)
        return self.max_position_embeddings

    @property
    def required_length(self) -> int | None:
        """The one length that can be trained with; None where positions are not axial."""
        return math.prod(self.axial_pos_shape) if self.axial_pos_embds else None

    def padding_for(self, length: int) -> int:
        """How many positions evaluation has to put behind a sequence."""
        return 0 if length <= self.shortest_chunk else -length % self.chunk_multiple

    def check_training_length(self, length: int) -> None:
        """Raises a ValueError with the length to use unless one can train with this one."""
        padding = self.padding_for(length)
        if self.required_length is not None and length != self.required_length:
            raise ValueError(
                f"training with axial positions takes sequences of {self.required_length}, the "
                f"product of config.axial_pos_shape {list(self.axial_pos_shape)}, got {length}: "
                f"pad or cut them to {self.required_length}, or set axial_pos_shape (and new "
                "position embeddings)"
            )
        if padding:
            raise ValueError(
                f"training takes sequences of a multiple of {self.chunk_multiple} "
                f"({self._chunk_words()}), got {length}: pad them to {length + padding}"
            )

    def check_decoder(self, name: str) -> None:
        """Raises a ValueError unless a causal language model can be made of this."""
        if not self.is_decoder:
            raise ValueError(
                f"{name}: config.is_decoder is False, expected True, or the model would see the "
                "tokens that it is to predict"
            )
        for field in ("local_num_chunks_after", "lsh_num_chunks_after"):
            if getattr(self, field):
                raise ValueError(
                    f"{name}: config.{field} is {getattr(self, field)}, expected 0: what comes "
                    "after is hidden from a causal model"
                )

    def check_encoder(self, name: str) -> None:
        """Raises a ValueError unless a masked language model can be made of this."""
        if self.is_decoder:
            raise ValueError(
                f"{name}: config.is_decoder is True, expected False, as masked tokens are "
                "predicted from both sides"
            )

    def choose_buckets(self, length: int) -> None:
        """Sets the number of buckets, where there is none, to what suits a length."""
        if self.num_buckets is None:
            self.num_buckets = self.buckets_for(max(length, self.lsh_attn_chunk_length))
            logger.warning("config.num_buckets is None: set to %s", self.num_buckets)

    def buckets_for(self, length: int) -> int | list[int]:
        """The number of buckets that suits a length: two for each chunk, as a power of two.

        Where that is many, its two factors: the sum of these is what hashing costs.
        """
        chunk = self.lsh_attn_chunk_length
        power = (2 * (length // chunk)).bit_length() - 1
        most = 2 * max(math.isqrt(self.max_position_embeddings // chunk), chunk)
        if 2**power <= most:
            return 2**power
        return [2 ** (power // 2), 2 ** (power - power // 2)]
