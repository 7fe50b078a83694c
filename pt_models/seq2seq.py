"""What families with an encoder and a decoder of one vocabulary share: BART and T5.

Source: Vaswani et al. 2017, section 3.1. A family says how a half embeds its tokens, which layers
it has and what follows them; masks, caches, outputs and the hooks of generation are here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo import checks
from zoo.outputs import (
    BaseModelOutput,
    BaseModelOutputWithPastAndCrossAttentions,
    CausalLMOutputWithCrossAttentions,
    ModelOutput,
    Seq2SeqLMOutput,
    Seq2SeqModelOutput,
)

from .attention import (
    AttentionBias,
    Buffer,
    attention_bias,
    causal_mask,
    layer_head_masks,
    packing_of,
)
from .bert import Cache, run_layers
from .generation import GenerationMixin
from .layers import Embedding
from .losses import cross_entropy, shift_tokens_right
from .modeling import PreTrainedModel, assert_values, default


class Sizes(NamedTuple):
    """The sizes of a half, under the names that `zoo.checks` looks for.

    Args:
        max_position_embeddings: the longest text, None where there is no such.
        is_decoder: whether the half is a decoder, which has cross-attention.
    """

    hidden_size: int
    num_attention_heads: int
    num_hidden_layers: int
    max_position_embeddings: int | None
    is_decoder: bool

    @property
    def add_cross_attention(self) -> bool:
        return self.is_decoder


class Stack(PreTrainedModel):
    """An encoder, or a decoder with cross-attention.

    A family provides `embed`, `layer_list`, and where it has them `bias` and `finish`.

    Args:
        config: of the whole model.
        sizes: of this half.
        embed_tokens: the table of words that the halves share.
        layer_drop: how often a layer is left out in training.
    """

    def __init__(
        self, config: Any, sizes: Sizes, embed_tokens: Embedding, layer_drop: float = 0.0
    ) -> None:
        super().__init__(config)
        self.sizes = sizes
        self.embed_tokens = embed_tokens
        self.layer_drop = layer_drop

    def embed(self, words: Tensor, position_ids: Tensor) -> Tensor:
        """What the first layer gets: `(batch, sequence, hidden)` of embedded words."""
        raise NotImplementedError(f"{type(self).__name__} does not define embed")

    def words(self, input_ids: Tensor) -> Tensor:
        """Embedded words, `(batch, sequence, hidden)`."""
        return self.embed_tokens(input_ids)

    def layer_list(self) -> nn.ModuleList:
        """The layers, which take and return what `bert.Layer` does, with a pair of head masks."""
        raise NotImplementedError(f"{type(self).__name__} does not define layer_list")

    def bias(
        self, bias: AttentionBias | None, queries: int, keys: int, times: Tensor | None
    ) -> AttentionBias | None:
        """What is added to the scores of self-attention; of `times` see `attention.distances`."""
        return bias

    def finish(self, hidden: Tensor) -> Tensor:
        """What follows the layers."""
        return hidden

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embed_tokens

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        head_mask: Tensor | None = None,
        cross_attn_head_mask: Tensor | None = None,
        past_key_values: tuple[Cache, ...] | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        position_ids: Tensor | None = None,
        packs: bool = False,
    ) -> BaseModelOutputWithPastAndCrossAttentions | tuple[Any, ...]:
        """
        Args:
            input_ids: `(batch, sequence)`.
            attention_mask: `(batch, sequence)` with the past's positions, or
                `(batch, sequence, keys)`; 1 attend, 0 do not.
            encoder_hidden_states: `(batch, encoder_sequence, hidden)`, for cross-attention.
            encoder_attention_mask: `(batch, encoder_sequence)`.
            inputs_embeds: `(batch, sequence, hidden)`, instead of `input_ids`.
            head_mask: `(heads,)` or `(layers, heads)`; 1 keep, 0 silence.
            cross_attn_head_mask: the same for cross-attention.
            past_key_values: of an earlier call; then only the new tokens are passed.
            use_cache, output_attentions, output_hidden_states, return_dict: what to return;
                by default as the config says.
            position_ids: `(batch or 1, sequence)`.
            packs: whether an encoder's last states may be anything where there is padding, which
                saves the work on them. Differs: not in Keras, see `attention.Packing`.
        """
        config, sizes = self.config, self.sizes
        decoder = sizes.is_decoder
        use_cache = decoder and default(use_cache, config.use_cache)
        recomputes = self.gradient_checkpointing and torch.is_grad_enabled()
        if self.training and (recomputes or self.layer_drop):
            use_cache = False  # a cache is of all layers, and recomputation has none
        output_attentions = default(output_attentions, config.output_attentions)
        output_hidden_states = default(output_hidden_states, config.output_hidden_states)
        past, times = 0, None
        if past_key_values is not None:
            checks.caches(sizes, past_key_values, encoder_hidden_states is not None)
            keys = past_key_values[0][0]
            past, times = keys.shape[2], keys.times if isinstance(keys, Buffer) else None
        tensors = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": None,
            "position_ids": position_ids,
            "head_mask": head_mask,
            "inputs_embeds": inputs_embeds,
            "encoder_hidden_states": encoder_hidden_states,
            "encoder_attention_mask": encoder_attention_mask,
        }
        shapes = {name: None if x is None else x.shape for name, x in tensors.items()}
        batch, sequence = checks.encoder_inputs(sizes, sizes.hidden_size, past, **shapes)
        if cross_attn_head_mask is not None:
            checks.head_masks(sizes, cross_attn_head_mask=cross_attn_head_mask.shape)

        assert_values("input_ids", input_ids, self.embed_tokens.num_embeddings)
        words = self.words(input_ids) if inputs_embeds is None else inputs_embeds
        if position_ids is None:
            position_ids = torch.arange(past, past + sequence, device=words.device)[None]
        else:
            limit = sizes.max_position_embeddings
            assert_values("position_ids", position_ids, limit or 2**31)
        embeddings = self.embed(words, position_ids)
        alone = attention_mask is None and sequence == 1  # sees all that there is
        if decoder and not alone and (attention_mask is None or attention_mask.dim() == 2):
            if attention_mask is None:
                attention_mask = embeddings.new_ones(batch, past + sequence)
            attention_mask = causal_mask(attention_mask, sequence)
        layers = self.layer_list()
        bias, packing = attention_bias(attention_mask, embeddings.dtype), None
        if packs and not (output_attentions or output_hidden_states):
            packing = packing_of(attention_mask, bias)
        masks = [layer_head_masks(mask, len(layers)) for mask in (head_mask, cross_attn_head_mask)]
        found = run_layers(
            layers,
            embeddings,
            self.bias(bias, sequence, past + sequence, times),
            list(zip(*masks, strict=True)),
            encoder_hidden_states,
            attention_bias(encoder_attention_mask, embeddings.dtype),
            past_key_values,
            use_cache,
            output_attentions,
            output_hidden_states,
            packing=packing,
            call=self._call_or_drop(),
        )
        last = self.finish(found.last_hidden_state)
        states = found.hidden_states
        output = BaseModelOutputWithPastAndCrossAttentions(
            last,
            found.past_key_values,
            None if states is None else (*states[:-1], last),
            found.attentions,
            found.cross_attentions,
        )
        return self._returned(output, return_dict)

    def _call_or_drop(self) -> Callable[..., Any]:
        """How a layer is called: recomputed, or now and then left out, in training."""
        call = self._layer_caller()
        if not (self.training and self.layer_drop):
            return call

        def maybe(layer: nn.Module, hidden: Tensor, *inputs: Any) -> tuple[Any, ...]:
            found = call(layer, hidden, *inputs)
            # All layers run, so that data-parallel processes agree on which gradients there are.
            kept = (torch.rand((), device=hidden.device) >= self.layer_drop).to(hidden.dtype)
            return (hidden + kept * (found[0] - hidden), *found[1:])

        return maybe


class Seq2SeqPreTrainedModel(PreTrainedModel):
    """Base of models whose base model has the parts `shared`, `encoder` and `decoder`."""

    def get_encoder(self) -> Stack:
        return self.base_model.encoder

    def get_decoder(self) -> Stack:
        return self.base_model.decoder

    def _parts(self) -> dict[str, PreTrainedModel]:
        return {"encoder": self.get_encoder(), "decoder": self.get_decoder()}

    def get_input_embeddings(self) -> nn.Embedding:
        return self.base_model.shared

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.base_model.shared = value
        for half in self._parts().values():
            half.embed_tokens = value
        self.tie_weights()

    def tied_weights(self) -> dict[str, str]:
        path = f"{self.base_model_prefix}." if self.base_model is not self else ""
        return {
            f"{path}{half}.embed_tokens.weight": f"{path}shared.weight" for half in self._parts()
        }

    def _decoder_ids(self, input_ids: Tensor | None, labels: Tensor | None) -> Tensor:
        """What the decoder reads where it is not given: the labels, shifted right.

        Raises:
            ValueError: there are none.
        """
        checks.decoder_inputs(self.config, labels is not None)
        config = self.config
        return shift_tokens_right(labels, config.pad_token_id, config.decoder_start_token_id)

    def _run(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        decoder_input_ids: Tensor | None,
        decoder_attention_mask: Tensor | None,
        head_mask: Tensor | None,
        decoder_head_mask: Tensor | None,
        cross_attn_head_mask: Tensor | None,
        encoder_outputs: ModelOutput | tuple[Any, ...] | None,
        past_key_values: tuple[Cache, ...] | None,
        inputs_embeds: Tensor | None,
        decoder_inputs_embeds: Tensor | None,
        labels: Tensor | None,
        use_cache: bool | None,
        output_attentions: bool | None,
        output_hidden_states: bool | None,
    ) -> tuple[ModelOutput, ModelOutput]:
        """What the decoder and the encoder return."""
        wanted = {
            "output_attentions": output_attentions,
            "output_hidden_states": output_hidden_states,
            "return_dict": True,
        }
        if encoder_outputs is None:
            encoder_outputs = self.get_encoder()(
                input_ids,
                attention_mask,
                inputs_embeds=inputs_embeds,
                head_mask=head_mask,
                **wanted,
            )
        elif not isinstance(encoder_outputs, ModelOutput):
            encoder_outputs = BaseModelOutput(*encoder_outputs)
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self._decoder_ids(input_ids, labels)
        decoded = self.get_decoder()(
            decoder_input_ids,
            decoder_attention_mask,
            encoder_outputs[0],
            attention_mask,
            decoder_inputs_embeds,
            decoder_head_mask,
            cross_attn_head_mask,
            past_key_values,
            use_cache,
            **wanted,
        )
        return decoded, encoder_outputs


class Seq2SeqModel(Seq2SeqPreTrainedModel):
    """An encoder and a decoder without a head."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        decoder_head_mask: Tensor | None = None,
        cross_attn_head_mask: Tensor | None = None,
        encoder_outputs: ModelOutput | tuple[Any, ...] | None = None,
        past_key_values: tuple[Cache, ...] | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Seq2SeqModelOutput | tuple[Any, ...]:
        """
        Args:
            input_ids: `(batch, sequence)`, of the encoder.
            attention_mask: `(batch, sequence)`; 1 attend, 0 do not; in both halves.
            decoder_input_ids: `(batch, decoder_sequence)`.
            decoder_attention_mask: `(batch, decoder_sequence)` with the past's positions.
            head_mask, decoder_head_mask, cross_attn_head_mask: `(heads,)` or `(layers, heads)` of
                the encoder, of the decoder and of its cross-attention; 1 keep, 0 silence.
            encoder_outputs: of an earlier call, instead of the encoder's inputs; the first is its
                last hidden states `(batch, sequence, hidden)`.
            past_key_values: of an earlier call; then only the new tokens are passed.
            inputs_embeds: `(batch, sequence, hidden)`, instead of `input_ids`.
            decoder_inputs_embeds: the same for the decoder.
            use_cache, output_attentions, output_hidden_states, return_dict: what to return;
                by default as the config says.
        """
        decoded, encoded = self._run(
            input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, head_mask,
            decoder_head_mask, cross_attn_head_mask, encoder_outputs, past_key_values,
            inputs_embeds, decoder_inputs_embeds, None, use_cache, output_attentions,
            output_hidden_states,
        )  # fmt: skip
        output = Seq2SeqModelOutput(
            decoded.last_hidden_state,
            decoded.past_key_values,
            decoded.hidden_states,
            decoded.attentions,
            decoded.cross_attentions,
            encoded.last_hidden_state,
            encoded.hidden_states,
            encoded.attentions,
        )
        return self._returned(output, return_dict)


class Seq2SeqLanguageModel(GenerationMixin, Seq2SeqPreTrainedModel):
    """An encoder and a decoder that predicts the next token.

    A family provides `lm_head`, or overrides `scores`.
    """

    caches_with_labels = True  # whether a call with labels returns a cache

    def scores(self, hidden: Tensor) -> Tensor:
        """`(batch, sequence, hidden)` -> `(batch, sequence, vocab)`."""
        return self.lm_head(hidden)

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.lm_head = value
        self.tie_weights()

    def tied_weights(self) -> dict[str, str]:
        tied = super().tied_weights()
        if self.config.tie_word_embeddings:
            tied["lm_head.weight"] = next(iter(tied.values()))
        return tied

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        decoder_head_mask: Tensor | None = None,
        cross_attn_head_mask: Tensor | None = None,
        encoder_outputs: ModelOutput | tuple[Any, ...] | None = None,
        past_key_values: tuple[Cache, ...] | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Seq2SeqLMOutput | tuple[Any, ...]:
        """As `Seq2SeqModel`, and:

        Args:
            labels: `(batch, decoder_sequence)`, what the decoder predicts at each position, not
                shifted; -100 is left out of the loss. The decoder's inputs are made of them where
                they are not given.
        """
        if labels is not None and not self.caches_with_labels:
            use_cache = False
        decoded, encoded = self._run(
            input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, head_mask,
            decoder_head_mask, cross_attn_head_mask, encoder_outputs, past_key_values,
            inputs_embeds, decoder_inputs_embeds, labels, use_cache, output_attentions,
            output_hidden_states,
        )  # fmt: skip
        logits = self.scores(decoded.last_hidden_state)
        output = Seq2SeqLMOutput(
            None if labels is None else cross_entropy(logits, labels),
            logits,
            decoded.past_key_values,
            decoded.hidden_states,
            decoded.attentions,
            decoded.cross_attentions,
            encoded.last_hidden_state,
            encoded.hidden_states,
            encoded.attentions,
        )
        return self._returned(output, return_dict)

    def _generation_inputs(self) -> tuple[str, ...]:
        return (
            "attention_mask", "inputs_embeds", "encoder_outputs", "head_mask", "decoder_input_ids",
            "decoder_attention_mask", "decoder_head_mask", "cross_attn_head_mask",
        )  # fmt: skip

    def _decoder_part(self) -> nn.Module:
        return nn.ModuleList([self.lm_head, self.get_decoder()])

    def _encode(
        self, inputs: dict[str, Any], flags: Mapping[str, bool]
    ) -> tuple[ModelOutput, dict[str, Any]]:
        inputs = dict(inputs)
        encoder_outputs = inputs.pop("encoder_outputs", None)
        of_decoder = {
            "head_mask": inputs.pop("decoder_head_mask", None),
            "cross_attn_head_mask": inputs.pop("cross_attn_head_mask", None),
            "encoder_attention_mask": inputs.get("attention_mask"),
        }
        if encoder_outputs is None:
            encoder_outputs = self.get_encoder()(**inputs, **flags, return_dict=True, packs=True)
        elif not isinstance(encoder_outputs, ModelOutput):
            encoder_outputs = BaseModelOutput(*encoder_outputs)
        encoded = {"encoder_hidden_states": encoder_outputs[0]}
        return encoder_outputs, encoded | {k: x for k, x in of_decoder.items() if x is not None}

    def _decode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor,
        past_key_values: Any,
        encoded: Mapping[str, Any],
        **kwargs: Any,
    ) -> CausalLMOutputWithCrossAttentions:
        decoded = self.get_decoder()(
            input_ids,
            attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
            use_cache=True,
            return_dict=True,
            **encoded,
            **kwargs,
        )
        return CausalLMOutputWithCrossAttentions(
            None,
            self.scores(decoded.last_hidden_state),
            decoded.past_key_values,
            decoded.hidden_states,
            decoded.attentions,
            decoded.cross_attentions,
        )
