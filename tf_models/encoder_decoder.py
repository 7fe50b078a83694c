"""An encoder and a decoder of the zoo in one sequence-to-sequence model.

Paper: Rothe et al. 2020, "Leveraging pre-trained checkpoints for sequence generation tasks",
section 2. Weights: google/roberta2roberta_L-24_*, google/bert2bert_L-24_*, or two checkpoints of
one's own. The decoder attends to the encoder's last hidden states, projected where the widths
differ; the halves may share their weights (section 2.2, "shared").
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import Any, Self

import keras

from zoo import checks, pretrained
from zoo.configs import EncoderDecoderConfig
from zoo.outputs import BaseModelOutput, ModelOutput, Seq2SeqLMOutput

from .auto import TFAutoModel, TFAutoModelForCausalLM
from .bert import Cache
from .generation import TFGenerationMixin, positions
from .layers import Dense
from .losses import cross_entropy, shift_tokens_right
from .modeling import TFPreTrainedModel, default, named_weights


@keras.saving.register_keras_serializable("tf_models")
class TFEncoderDecoderModel(TFGenerationMixin, TFPreTrainedModel):
    """An encoder and a decoder with cross-attention.

    Args:
        config: the configuration; by default made of those of the halves.
        encoder: a model without language-model head; by default a new one.
        decoder: a language model with cross-attention; by default a new one.
        kwargs: `dtype` (of new halves and of the projection), `name`, `trainable`.
    Raises:
        ValueError: nothing to build from, or halves that do not fit.
    """

    config_class = EncoderDecoderConfig
    base_model_prefix = "encoder_decoder"
    optional_weights = (r"\.crossattention\.", r"^encoder\.pooler\.", r"^enc_to_dec_proj\.")

    def __init__(
        self,
        config: EncoderDecoderConfig | None = None,
        encoder: TFPreTrainedModel | None = None,
        decoder: TFPreTrainedModel | None = None,
        **kwargs: Any,
    ) -> None:
        if config is None:
            checks.both_halves(encoder, decoder)
            config = EncoderDecoderConfig.from_encoder_decoder_configs(
                encoder.config, decoder.config
            )
        if decoder is not None:
            kwargs.setdefault("dtype", decoder.dtype_policy)
        super().__init__(config, **kwargs)
        if encoder is None:
            encoder = TFAutoModel.from_config(
                config.encoder, dtype=self.dtype_policy, name="encoder"
            )
        if decoder is None:  # released configurations leave out what goes without saying
            config.decoder.is_decoder = config.decoder.add_cross_attention = True
            decoder = TFAutoModelForCausalLM.from_config(
                config.decoder, dtype=self.dtype_policy, name="decoder"
            )
        checks.halves(encoder, decoder, decoder.call, config)
        self.encoder, self.decoder = encoder, decoder
        decoder.config.is_decoder = True
        # One object each: what is changed in a half is changed in the whole.
        config.encoder, config.decoder = self.encoder.config, self.decoder.config
        width = config.decoder.hidden_size
        if config.encoder.hidden_size != width:
            stddev = config.decoder.initializer_range
            self.enc_to_dec_proj = Dense(
                config.encoder.hidden_size, width, stddev, dtype=self.dtype_policy
            )
        self.post_init()

    def _parts(self) -> dict[str, TFPreTrainedModel]:
        return {"encoder": self.encoder, "decoder": self.decoder}

    def get_encoder(self) -> TFPreTrainedModel:
        return self.encoder

    def get_decoder(self) -> TFPreTrainedModel:
        return self.decoder

    def get_input_embeddings(self) -> keras.layers.Embedding:
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: keras.layers.Embedding) -> None:
        self.encoder.set_input_embeddings(value)

    def get_output_embeddings(self) -> keras.layers.Layer | None:
        return self.decoder.get_output_embeddings()

    def set_output_embeddings(self, value: keras.layers.Layer) -> None:
        self.decoder.set_output_embeddings(value)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None
    ) -> keras.layers.Embedding:
        """Gives the vocabulary that the halves share another size.

        Raises:
            NotImplementedError: the halves have a vocabulary each; resize theirs.
        """
        checks.one_vocabulary(self.config)
        self.decoder.resize_token_embeddings(new_num_tokens, pad_to_multiple_of)
        self.encoder.resize_token_embeddings(new_num_tokens, pad_to_multiple_of)
        self.tie_weights()
        self.train_function = self.test_function = self.predict_function = None
        return self.get_input_embeddings()

    def tied_weights(self) -> dict[str, str]:
        tied = super().tied_weights()
        if self.config.tie_encoder_decoder:
            of_decoder = dict(named_weights(self.decoder))
            for name, _ in named_weights(self.encoder):
                source = f"{self.decoder.base_model_prefix}.{name}"
                if source in of_decoder:
                    tied[f"encoder.{name}"] = f"decoder.{source}"
        return tied

    @classmethod
    def from_encoder_decoder_pretrained(
        cls,
        encoder_pretrained_model_name_or_path: str | os.PathLike[str] | None = None,
        decoder_pretrained_model_name_or_path: str | os.PathLike[str] | None = None,
        *model_args: Any,
        **kwargs: Any,
    ) -> Self:
        """Joins two checkpoints; what the decoder lacks (its cross-attention) starts anew.

        Args:
            encoder_pretrained_model_name_or_path: folder or repository of the encoder.
            decoder_pretrained_model_name_or_path: the same of the decoder.
            model_args: further positional arguments of the encoder's constructor.
            kwargs: `encoder_` or `decoder_` and an argument of that half's `from_pretrained`;
                `encoder_model`, `decoder_model` for a half that is there already; `dtype` and
                where to look on the hub, for both; fields of the whole configuration, such as
                `tie_encoder_decoder`.
        """
        places = (encoder_pretrained_model_name_or_path, decoder_pretrained_model_name_or_path)
        of_encoder, of_decoder, fields = pretrained.split_halves(*places, kwargs)
        encoder, decoder = of_encoder.pop("model", None), of_decoder.pop("model", None)
        if encoder is None:
            encoder = TFAutoModel.from_pretrained(places[0], *model_args, **of_encoder)
        if decoder is None:
            decoder = TFAutoModelForCausalLM.from_pretrained(places[1], **of_decoder)
        config = EncoderDecoderConfig.from_encoder_decoder_configs(
            encoder.config, decoder.config, **fields
        )
        return cls(config, encoder, decoder)

    def _generation_inputs(self) -> tuple[str, ...]:
        own = (
            "attention_mask", "inputs_embeds", "encoder_outputs", "decoder_input_ids",
            "decoder_attention_mask", "decoder_head_mask",
        )  # fmt: skip
        further = ("token_type_ids", "position_ids", "head_mask")
        takes = inspect.signature(self.encoder.call).parameters
        return (*own, *(name for name in further if name in takes))

    def _encode(
        self, inputs: dict[str, Any], flags: Mapping[str, bool]
    ) -> tuple[ModelOutput, dict[str, Any]]:
        inputs = dict(inputs)
        encoder_outputs = inputs.pop("encoder_outputs", None)
        head_mask, mask = inputs.pop("decoder_head_mask", None), inputs.get("attention_mask")
        if encoder_outputs is None:
            takes = inspect.signature(self.encoder.call).parameters
            if mask is not None and len(mask.shape) == 2 and "position_ids" in takes:
                # Padding in front of a text does not move it.
                inputs.setdefault("position_ids", positions(mask))
            encoder_outputs = self.encoder(**inputs, **flags, return_dict=True)
        elif not isinstance(encoder_outputs, ModelOutput):
            encoder_outputs = BaseModelOutput(*encoder_outputs)
        encoded = {"encoder_hidden_states": self._projected(encoder_outputs[0])}
        further = {"encoder_attention_mask": mask, "head_mask": head_mask}
        encoded |= {name: x for name, x in further.items() if x is not None}
        return encoder_outputs, encoded

    def _decode(
        self,
        input_ids: Any,
        attention_mask: Any | None,
        position_ids: Any,
        past_key_values: Any,
        encoded: Mapping[str, Any],
        **kwargs: Any,
    ) -> Any:
        return self.decoder._decode(
            input_ids, attention_mask, position_ids, past_key_values, encoded, **kwargs
        )

    def _projected(self, encoded: Any) -> Any:
        """The encoder's states at the decoder's width: `(batch, sequence, hidden)`."""
        same = self.config.encoder.hidden_size == self.config.decoder.hidden_size
        return encoded if same else self.enc_to_dec_proj(encoded)

    def call(
        self,
        input_ids: Any | None = None,
        attention_mask: Any | None = None,
        decoder_input_ids: Any | None = None,
        decoder_attention_mask: Any | None = None,
        encoder_outputs: ModelOutput | tuple[Any, ...] | None = None,
        past_key_values: tuple[Cache, ...] | None = None,
        inputs_embeds: Any | None = None,
        decoder_inputs_embeds: Any | None = None,
        labels: Any | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput | tuple[Any, ...]:
        """
        Args:
            input_ids: `(batch, sequence)`, of the encoder.
            attention_mask: `(batch, sequence)`; 1 attend, 0 do not; in both halves.
            decoder_input_ids: `(batch, decoder_sequence)`; made of the labels if not given.
            decoder_attention_mask: `(batch, decoder_sequence)` with the past's positions.
            encoder_outputs: of an earlier call, instead of the encoder's inputs; the first is its
                last hidden states `(batch, sequence, encoder_hidden)`.
            past_key_values: of an earlier call; then only the new tokens are passed.
            inputs_embeds: `(batch, sequence, encoder_embedding)`, instead of `input_ids`.
            decoder_inputs_embeds: the same for the decoder.
            labels: `(batch, decoder_sequence)`, what the decoder predicts at each position, not
                shifted; -100 is left out of the loss.
            use_cache, output_attentions, output_hidden_states, return_dict: what to return;
                by default as the configurations say.
            kwargs: further inputs of the encoder, and of the decoder with `decoder_` in front.
        """
        return_dict = default(return_dict, self.config.use_return_dict)
        wanted = {"return_dict": return_dict, "training": training}
        # Where neither the call nor the whole asks, the halves' own configurations do.
        if output_attentions is not None or self.config.output_attentions:
            wanted["output_attentions"] = default(output_attentions, True)
        if output_hidden_states is not None or self.config.output_hidden_states:
            wanted["output_hidden_states"] = default(output_hidden_states, True)
        of_encoder, of_decoder = checks.inputs_of_halves(
            kwargs, self.encoder.call, self.decoder.call
        )
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                inputs_embeds=inputs_embeds,
                **wanted,
                **of_encoder,
            )
        elif not isinstance(encoder_outputs, ModelOutput):
            encoder_outputs = BaseModelOutput(*encoder_outputs)
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            checks.decoder_inputs(self.config, labels is not None)
            decoder_input_ids = shift_tokens_right(
                labels, self.config.pad_token_id, self.config.decoder_start_token_id
            )
        decoded = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            inputs_embeds=decoder_inputs_embeds,
            encoder_hidden_states=self._projected(encoder_outputs[0]),
            encoder_attention_mask=attention_mask,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **wanted,
            **of_decoder,
        )
        loss = None if labels is None else cross_entropy(decoded[0], labels)
        if not return_dict:
            encoder_outputs = (
                encoder_outputs.to_tuple()
                if isinstance(encoder_outputs, ModelOutput)
                else encoder_outputs
            )
            return (() if loss is None else (loss,)) + decoded + encoder_outputs
        return Seq2SeqLMOutput(
            loss,
            decoded.logits,
            decoded.past_key_values,
            decoded.hidden_states,
            decoded.attentions,
            decoded.cross_attentions,
            encoder_outputs.last_hidden_state,
            encoder_outputs.hidden_states,
            encoder_outputs.attentions,
        )
