"""REALM: a BERT that looks things up, for questions over a corpus and masked language modelling.

Paper: Guu et al. 2020, "REALM: Retrieval-augmented language model pre-training"; the reader is
that of ORQA (Lee et al. 2019, "Latent retrieval for weakly supervised open domain question
answering"). Weights: google/realm-cc-news-pretrained-{embedder,scorer,encoder,openqa},
google/realm-orqa-{nq,wq}-{reader,openqa}.
It differs from BERT in what is done with it: an embedder of questions and blocks of evidence, an
encoder that sees a block with each text, and a reader that scores spans of blocks as answers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo import checks
from zoo.configs import RealmConfig
from zoo.outputs import (
    BaseModelOutputWithPoolingAndCrossAttentions,
    MaskedLMOutput,
    RealmEmbedderOutput,
    RealmForOpenQAOutput,
    RealmReaderOutput,
    RealmScorerOutput,
)
from zoo.retrieval import realm as retrieval
from zoo.retrieval.answers import Answer, span_bounds
from zoo.stages import stage

from .activations import activation
from .attention import attention_bias, layer_head_masks, packing_of
from .bert import Embeddings, Encoder, Pooler, run_layers
from .losses import IGNORED, marginal_loss
from .modeling import PreTrainedModel, assert_values, default
from .retrieval import top_products


class RealmPreTrainedModel(PreTrainedModel):
    config_class = RealmConfig
    base_model_prefix = "realm"
    optional_weights = (r"^pooler\.",)


class RealmBertModel(RealmPreTrainedModel):
    """The plain BERT inside all others.

    Args:
        config: the configuration.
    """

    def __init__(self, config: RealmConfig) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config, config.hidden_size)
        self.encoder = Encoder(config)
        self.pooler = Pooler(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        pooled_only: bool = False,
        wanted: Tensor | None = None,
    ) -> BaseModelOutputWithPoolingAndCrossAttentions | tuple[Any, ...]:
        """
        Args:
            input_ids: `(batch, sequence)`.
            attention_mask: `(batch, sequence)` or `(batch, sequence, sequence)`; 1 attend, 0 not.
            token_type_ids, position_ids: `(batch, sequence)`.
            head_mask: `(heads,)` or `(layers, heads)`; 1 keep, 0 silence.
            inputs_embeds: `(batch, sequence, hidden)`, instead of `input_ids`.
            output_attentions, output_hidden_states, return_dict: what to return; by default as
                the config says.
            pooled_only: whether nothing but `pooler_output` is wanted, which spares most of the
                last layer.
            wanted: `(batch, sequence)`; where states are wanted. Those of padding elsewhere may be
                zero, which saves the work on them.
        """
        config = self.config
        tensors = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "head_mask": head_mask,
            "inputs_embeds": inputs_embeds,
            "encoder_hidden_states": None,
            "encoder_attention_mask": None,
        }
        shapes = {name: None if x is None else x.shape for name, x in tensors.items()}
        checks.encoder_inputs(config, config.hidden_size, 0, **shapes)

        hidden = self.embeddings(input_ids, token_type_ids, position_ids, inputs_embeds)
        bias = attention_bias(attention_mask, hidden.dtype)
        asked = {
            "output_attentions": default(output_attentions, config.output_attentions),
            "output_hidden_states": default(output_hidden_states, config.output_hidden_states),
        }
        packing = None
        if (pooled_only or wanted is not None) and not any(asked.values()):
            packing = packing_of(attention_mask, bias, wanted)
        if pooled_only and not any(asked.values()):
            *masks, mask = layer_head_masks(head_mask, config.num_hidden_layers)
            *layers, last = self.encoder.layer
            hidden = run_layers(
                layers, hidden, bias, masks, packing=packing, call=self._layer_caller()
            ).last_hidden_state
            pooled = self.pooler(last.first(hidden, bias, mask))
            return BaseModelOutputWithPoolingAndCrossAttentions(pooler_output=pooled)
        encoded = self.encoder(
            hidden, bias, head_mask, **asked, packing=packing, call=self._layer_caller()
        )
        output = BaseModelOutputWithPoolingAndCrossAttentions(
            encoded.last_hidden_state,
            self.pooler(encoded.last_hidden_state),
            encoded.hidden_states,
            attentions=encoded.attentions,
        )
        return self._returned(output, return_dict)


class RealmPredictionHeadTransform(nn.Module):
    """What comes before the vocabulary in the masked-LM head."""

    def __init__(self, config: RealmConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = activation(config.hidden_act)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.LayerNorm(self.activation(self.dense(hidden)))


class RealmLMPredictionHead(nn.Module):
    """Scores the vocabulary; the bias has two published names."""

    def __init__(self, config: RealmConfig) -> None:
        super().__init__()
        self.transform = RealmPredictionHeadTransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.bias = self.decoder.bias

    def forward(self, hidden: Tensor) -> Tensor:
        """`(..., hidden)` -> `(..., vocab)`."""
        return self.decoder(self.transform(hidden))


class RealmOnlyMLMHead(nn.Module):
    """Holds the masked-LM head under its published name."""

    def __init__(self, config: RealmConfig) -> None:
        super().__init__()
        self.predictions = RealmLMPredictionHead(config)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.predictions(hidden)


class RealmScorerProjection(nn.Module):
    """Projects to the vectors that retrieval compares.

    The masked-LM head in it has weights in published files and is not used.
    """

    def __init__(self, config: RealmConfig) -> None:
        super().__init__()
        self.predictions = RealmLMPredictionHead(config)
        self.dense = nn.Linear(config.hidden_size, config.retriever_proj_size)
        self.LayerNorm = nn.LayerNorm(config.retriever_proj_size, eps=config.layer_norm_eps)

    def forward(self, pooled: Tensor) -> Tensor:
        """`(batch, hidden)` -> `(batch, retriever_proj_size)`."""
        return self.LayerNorm(self.dense(pooled))


class RealmReaderProjection(nn.Module):
    """Scores every span of up to `max_span_width` tokens as the answer."""

    def __init__(self, config: RealmConfig) -> None:
        super().__init__()
        self.max_span_width = config.max_span_width
        self.dense_intermediate = nn.Linear(config.hidden_size, 2 * config.span_hidden_size)
        self.dense_output = nn.Linear(config.span_hidden_size, 1)
        self.layer_normalization = nn.LayerNorm(
            config.span_hidden_size, eps=config.reader_layer_norm_eps
        )

    def forward(self, hidden: Tensor, block_mask: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            hidden: `(rows, sequence, hidden)`.
            block_mask: `(rows, sequence)`; where an answer may begin and end.
        Returns:
            Scores `(rows, spans)` in float32, in the order of `zoo.retrieval.answers.span_bounds`,
            and which of them are spans of the block.
        """
        # ORQA, section 4: a span is its first and its last token.
        starts, ends = self.dense_intermediate(hidden).chunk(2, dim=-1)
        mask, length = block_mask.bool(), hidden.shape[1]
        sums, masks = [], []
        for more in range(self.max_span_width):
            first = max(length - more, 0)
            sums.append(starts[:, :first] + ends[:, more:])
            masks.append(mask[:, :first] & mask[:, more:])
        # (rows, spans, span_hidden) -> (rows, spans)
        spans = self.layer_normalization(torch.relu(torch.cat(sums, 1)))
        return self.dense_output(spans).squeeze(-1).float(), torch.cat(masks, 1)


class RealmHeadModel(RealmPreTrainedModel):
    """What the models with one BERT share: a masked-LM head at `cls.predictions`."""

    cls: nn.Module

    def get_output_embeddings(self) -> nn.Linear:
        return self.cls.predictions.decoder

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.cls.predictions.decoder = value
        self.cls.predictions.bias = value.bias
        self.tie_weights()

    def tied_weights(self) -> dict[str, str]:
        return {"cls.predictions.decoder.bias": "cls.predictions.bias"}


class RealmEmbedder(RealmHeadModel):
    """Turns questions and blocks into the vectors that retrieval compares.

    Args:
        config: the configuration.
    """

    def __init__(self, config: RealmConfig) -> None:
        super().__init__(config)
        self.realm = RealmBertModel(config)
        self.cls = RealmScorerProjection(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> RealmEmbedderOutput | tuple[Any, ...]:
        """
        Args:
            input_ids: `(batch, sequence)`.
            attention_mask, token_type_ids, position_ids: `(batch, sequence)`.
            head_mask: `(heads,)` or `(layers, heads)`; 1 keep, 0 silence.
            inputs_embeds: `(batch, sequence, hidden)`, instead of `input_ids`.
            output_attentions, output_hidden_states, return_dict: what to return; by default as
                the config says.
        """
        encoded = self.realm(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            head_mask,
            inputs_embeds,
            output_attentions,
            output_hidden_states,
            return_dict=True,
            pooled_only=True,
        )
        projected = self.cls(encoded.pooler_output)
        output = RealmEmbedderOutput(projected, encoded.hidden_states, encoded.attentions)
        return self._returned(output, return_dict)


class RealmComposite(RealmPreTrainedModel):
    """A model of models, each of which has a BERT and a vocabulary of its own."""

    base_model_prefix = ""
    parts: ClassVar[tuple[str, ...]] = ()  # their names; two may be one and the same

    def _parts(self) -> dict[str, PreTrainedModel]:
        """Each part once, under its first name."""
        named = [(name, getattr(self, name)) for name in self.parts]
        first = {id(part): name for name, part in reversed(named)}
        return {name: part for name, part in named if first[id(part)] == name}

    def tied_weights(self) -> dict[str, str]:
        tied = super().tied_weights()
        for name, part in self._parts().items():
            of_part = part.tied_weights()
            for other in self.parts:
                if other != name and getattr(self, other) is part:
                    for weight in part.state_dict():
                        tied[f"{other}.{weight}"] = f"{name}.{of_part.get(weight, weight)}"
        return tied

    def get_input_embeddings(self) -> nn.Embedding:
        return getattr(self, self.parts[0]).get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        getattr(self, self.parts[0]).set_input_embeddings(value)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None
    ) -> nn.Embedding:
        """As in `PreTrainedModel`, in every part."""
        before = self.config.vocab_size
        for part in self._parts().values():
            part.config.vocab_size = before  # they share a configuration
            part.resize_token_embeddings(new_num_tokens, pad_to_multiple_of)
            self.config.vocab_size = part.config.vocab_size
        return self.get_input_embeddings()


class RealmScorer(RealmComposite):
    """Scores the relevance of candidate blocks to a text (REALM, section 3.1).

    Args:
        config: the configuration.
        query_embedder: embeds the texts; by default the embedder of the candidates does.
    """

    parts = ("embedder", "query_embedder")

    def __init__(self, config: RealmConfig, query_embedder: RealmEmbedder | None = None) -> None:
        super().__init__(config)
        self.embedder = RealmEmbedder(config)
        self.query_embedder = self.embedder if query_embedder is None else query_embedder
        self.tie_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        candidate_input_ids: Tensor | None = None,
        candidate_attention_mask: Tensor | None = None,
        candidate_token_type_ids: Tensor | None = None,
        candidate_inputs_embeds: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> RealmScorerOutput | tuple[Any, ...]:
        """
        Args:
            input_ids: `(batch, sequence)`.
            attention_mask, token_type_ids, position_ids: `(batch, sequence)`.
            candidate_input_ids: `(batch, candidates, candidate_sequence)`.
            candidate_attention_mask, candidate_token_type_ids: the same shape.
            candidate_inputs_embeds: `(batch * candidates, candidate_sequence, hidden)`, instead of
                `candidate_input_ids`.
            head_mask: `(heads,)` or `(layers, heads)`; 1 keep, 0 silence; in both embedders.
            inputs_embeds: `(batch, sequence, hidden)`, instead of `input_ids`.
            output_attentions, output_hidden_states: only False; the embedders return them.
            return_dict: by default as the config says.
        """
        checks.not_returned(
            "the scorer",
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        query = self.query_embedder(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            head_mask,
            inputs_embeds,
            return_dict=True,
        ).projected_score
        inputs = {
            "candidate_input_ids": candidate_input_ids,
            "candidate_attention_mask": candidate_attention_mask,
            "candidate_token_type_ids": candidate_token_type_ids,
        }
        checks.alike(("batch", "candidates", "candidate_sequence"), **_shapes(inputs))
        candidate = self.embedder(
            *map(_flat, inputs.values()),
            head_mask=head_mask,
            inputs_embeds=candidate_inputs_embeds,
            return_dict=True,
        ).projected_score
        checks.candidates(candidate.shape[0], query.shape[0])
        # (batch * candidates, retriever_proj_size) -> (batch, candidates, retriever_proj_size)
        candidate = candidate.view(query.shape[0], -1, candidate.shape[-1])
        relevance = torch.einsum("bd,bcd->bc", query, candidate)
        return self._returned(RealmScorerOutput(relevance, query, candidate), return_dict)


class RealmKnowledgeAugEncoder(RealmHeadModel):
    """Fills masked words with a block in sight, and weighs the blocks (REALM, section 3.2).

    Args:
        config: the configuration.
    """

    def __init__(self, config: RealmConfig) -> None:
        super().__init__(config)
        self.realm = RealmBertModel(config)
        self.cls = RealmOnlyMLMHead(config)
        self.post_init()

    def tied_weights(self) -> dict[str, str]:
        tied = super().tied_weights()
        if self.config.tie_word_embeddings:
            words = "realm.embeddings.word_embeddings.weight"
            tied["cls.predictions.decoder.weight"] = words
        return tied

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        relevance_score: Tensor | None = None,
        labels: Tensor | None = None,
        mlm_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> MaskedLMOutput | tuple[Any, ...]:
        """
        Args:
            input_ids: `(batch, candidates, sequence)`, each text with each of its blocks.
            attention_mask, token_type_ids, position_ids: the same shape.
            head_mask: `(heads,)` or `(layers, heads)`; 1 keep, 0 silence.
            inputs_embeds: `(batch, candidates, sequence, hidden)`, instead of `input_ids`.
            relevance_score: `(batch, candidates)` of `RealmScorer`; wanted with labels.
            labels: `(batch, sequence)`; -100 is left out of the loss.
            mlm_mask: `(batch, sequence)`; 0 is left out of the loss.
            output_attentions, output_hidden_states, return_dict: what to return; by default as
                the config says.
        Returns:
            `logits` `(batch * candidates, sequence, vocab)`; `loss`, minus the mean log likelihood
            of the labels, each summed over the blocks.
        """
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
        }
        shape = checks.alike(("batch", "candidates", "sequence"), **_shapes(inputs))
        encoded = self.realm(
            **{name: _flat(x) for name, x in inputs.items()},
            head_mask=head_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.cls(encoded.last_hidden_state)
        loss = None
        if labels is not None:
            targets = {"relevance_score": relevance_score, "labels": labels, "mlm_mask": mlm_mask}
            checks.marginal(shape, **_shapes(targets))
            loss = self._loss(logits, **targets)
        output = MaskedLMOutput(loss, logits, encoded.hidden_states, encoded.attentions)
        return self._returned(output, return_dict)

    def _loss(
        self, logits: Tensor, relevance_score: Tensor, labels: Tensor, mlm_mask: Tensor | None
    ) -> Tensor:
        assert_values("labels", labels, logits.shape[-1], IGNORED)
        # REALM, equation 1: p(y | x) is the sum over blocks z of p(z | x) p(y | z, x).
        batch, sequence = labels.shape
        targets = labels[:, None].expand(batch, relevance_score.shape[1], sequence)
        each = functional.cross_entropy(
            logits.flatten(0, 1).float(),
            targets.flatten().long(),
            ignore_index=IGNORED,
            reduction="none",
        )
        blocks = torch.log_softmax(relevance_score.float(), -1)
        joint = torch.logsumexp(blocks[..., None] - each.view(targets.shape), 1)
        counted = labels != IGNORED
        if mlm_mask is not None:
            counted = counted & (mlm_mask != 0)
        return -(joint * counted).sum() / counted.sum().clamp(min=1)


class RealmReader(RealmHeadModel):
    """Reads the answer to a question out of blocks of evidence.

    Args:
        config: the configuration.
    """

    def __init__(self, config: RealmConfig) -> None:
        super().__init__(config)
        self.realm = RealmBertModel(config)
        self.cls = RealmOnlyMLMHead(config)
        self.qa_outputs = RealmReaderProjection(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        relevance_score: Tensor | None = None,
        block_mask: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        has_answers: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> RealmReaderOutput | tuple[Any, ...]:
        """Reads the blocks of one question, or of several with one more axis in front.

        Args:
            input_ids: `(beam, sequence)` or `(batch, beam, sequence)`: the question with each of
                the blocks that are read, the most relevant first.
            attention_mask, token_type_ids, position_ids: the same shape.
            head_mask: `(heads,)` or `(layers, heads)`; 1 keep, 0 silence.
            inputs_embeds: the shape of `input_ids` and `hidden`, instead of `input_ids`.
            relevance_score: `([batch,] blocks)`, of all blocks that were retrieved: those that
                are read and possibly more, which count in the retriever's loss.
            block_mask: the shape of `input_ids`; True for the tokens of the block.
            start_positions, end_positions: `([batch,] blocks)` or `([batch,] blocks, answers)`,
                where an answer stands; -1 for nowhere.
            has_answers: `([batch,] blocks)`; which blocks hold an answer.
            output_attentions, output_hidden_states, return_dict: what to return; by default as
                the config says.
        Returns:
            The best span as `block_idx`, `candidate` (its number among the spans of the block),
            `start_pos` and `end_pos`. With positions and `has_answers` also the losses (of
            several questions the mean), and which blocks and spans are correct.
        """
        if relevance_score is None or block_mask is None:
            name = "relevance_score" if relevance_score is None else "block_mask"
            raise ValueError(f"{name}: the reader needs it, got None")
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
            "block_mask": block_mask,
        }
        labels = {
            "start_positions": start_positions,
            "end_positions": end_positions,
            "has_answers": has_answers,
        }
        single = block_mask.dim() == 2
        if single:
            inputs, labels = _with_axis(inputs), _with_axis(labels)
            relevance_score = relevance_score[None]
        shape = checks.alike(("batch", "beam", "sequence"), **_shapes(inputs))
        asked = checks.read_blocks(shape, relevance_score=relevance_score.shape, **_shapes(labels))
        scores, spans, encoded = self._read(
            inputs, head_mask, output_attentions, output_hidden_states
        )
        # ORQA, section 4: the reader's score and the retriever's.
        relevance = relevance_score.float()
        logits = scores + relevance[:, : shape[1], None]
        logits = logits.masked_fill(~spans, torch.finfo(logits.dtype).min)
        output = RealmReaderOutput()
        bounds = span_bounds(shape[2], self.config.max_span_width)
        starts, ends = (torch.from_numpy(x).to(logits.device) for x in bounds)
        if asked:
            output = _reader_losses(logits, spans, relevance, starts, ends, **labels)
        best = logits.flatten(1).argmax(-1)
        output.block_idx = best // logits.shape[2]
        output.candidate = best % logits.shape[2]
        output.start_pos, output.end_pos = starts[output.candidate], ends[output.candidate]
        if single:
            for name in ("retriever_correct", "reader_correct", "block_idx", "candidate"):
                if name in output:
                    output[name] = output[name][0]
        output.hidden_states, output.attentions = encoded.hidden_states, encoded.attentions
        return self._returned(output, return_dict)

    def _read(
        self,
        inputs: Mapping[str, Tensor | None],
        head_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> tuple[Tensor, Tensor, BaseModelOutputWithPoolingAndCrossAttentions]:
        """Scores of all spans `(batch, beam, spans)`, and which of them are of the block."""
        flat = {name: _flat(x) for name, x in inputs.items()}
        mask = flat.pop("block_mask")
        encoded = self.realm(
            **flat,
            head_mask=head_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            wanted=mask,
        )
        batch_beam = inputs["block_mask"].shape[:2]
        found = self.qa_outputs(encoded.last_hidden_state, mask)
        # (batch * beam, spans) -> (batch, beam, spans)
        scores, spans = (x.unflatten(0, batch_beam) for x in found)
        return scores, spans, encoded


def _reader_losses(
    logits: Tensor,
    spans: Tensor,
    relevance: Tensor,
    starts: Tensor,
    ends: Tensor,
    start_positions: Tensor,
    end_positions: Tensor,
    has_answers: Tensor,
) -> RealmReaderOutput:
    """Losses of retriever and reader, and what is correct.

    Args:
        logits, spans: `(batch, beam, spans)`.
        relevance, has_answers: `(batch, blocks)`.
        starts, ends: `(spans,)`, first and last tokens.
        start_positions, end_positions: `(batch, blocks)` or `(batch, blocks, answers)`.
    """
    beam = logits.shape[1]
    first, last = (
        (x if x.dim() == 3 else x[..., None])[:, :beam, :, None]
        for x in (start_positions, end_positions)
    )
    # (batch, beam, answers, spans) -> (batch, beam, spans)
    correct = ((first == starts) & (last == ends)).any(2)
    has_answers = has_answers.bool()
    # ORQA, equations 8 and 9: blocks with an answer are right, and so are spans that are one.
    retriever_loss = marginal_loss(relevance, has_answers).mean()
    reader_loss = marginal_loss(logits.flatten(1), (correct & spans).flatten(1)).mean()
    return RealmReaderOutput(
        retriever_loss + reader_loss, retriever_loss, reader_loss, has_answers, correct
    )


class RealmForOpenQA(RealmComposite):
    """Answers questions out of a corpus (REALM, section 3.3).

    Args:
        config: the configuration.
        retriever: gives the texts of blocks; see `RealmRetriever`.

    Attributes:
        block_emb: `(num_block_records, retriever_proj_size)`, the vectors of the blocks.
        index: what finds blocks in its place, see `set_index`.
    """

    parts = ("embedder", "reader")

    def __init__(self, config: RealmConfig, retriever: retrieval.RealmRetriever | None = None):
        super().__init__(config)
        self.embedder = RealmEmbedder(config)
        self.reader = RealmReader(config)
        size = (config.num_block_records, config.retriever_proj_size)
        self.register_buffer("block_emb", torch.zeros(size))
        self.retriever = retriever
        self.index: Any = None
        self.tie_weights()

    @property
    def searcher_beam_size(self) -> int:
        """Blocks that are retrieved; in evaluation only those that are read."""
        config = self.config
        return config.searcher_beam_size if self.training else config.reader_beam_size

    def block_embedding_to(self, device: str | torch.device) -> None:
        """Moves `block_emb`, and with it the search, to a device.

        Args:
            device: where to.
        """
        self.block_emb = self.block_emb.to(device)

    def set_index(self, index: Any) -> None:
        """Lets an index find the blocks, instead of the comparison with all of `block_emb`.

        Relevance is computed from the vectors that the index keeps, or else from `block_emb`.

        Args:
            index: any of `zoo.retrieval`, or another with `search(vectors, k) -> ids, scores`;
                None goes back to `block_emb`. Its ids are the numbers of the block records.
        """
        self.index = index

    def forward(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        answer_ids: Any = None,
        return_dict: bool | None = None,
    ) -> RealmForOpenQAOutput | tuple[Any, ...]:
        """
        Args:
            input_ids: `(batch, sequence)`, questions.
            attention_mask, token_type_ids: the same shape.
            answer_ids: ids of the answers of each question, as lists or `(batch, answers, answer)`
                with -1 behind the shorter; of a single question also without the first axis.
            return_dict: by default as the config says.
        """
        question = self.embedder(
            input_ids, attention_mask, token_type_ids, return_dict=True
        ).projected_score
        block_ids, relevance = self._search(question)
        evidence = self._evidence(block_ids, input_ids, answer_ids, self.config.reader_seq_len)
        inputs: dict[str, Any] = self._reader_inputs(evidence)
        inputs["relevance_score"] = relevance
        if answer_ids is not None:
            for name in ("start_positions", "end_positions", "has_answers"):
                inputs[name] = torch.from_numpy(getattr(evidence, name)).to(relevance.device)
        single = len(block_ids) == 1
        if single:  # as published: without an axis for one question
            inputs = {name: x[0] for name, x in inputs.items()}
        read = self.reader(**inputs, return_dict=True)
        predicted = self._words(inputs["input_ids"], read, single)
        return self._returned(RealmForOpenQAOutput(read, predicted), return_dict)

    def _words(self, input_ids: Tensor, read: RealmReaderOutput, single: bool) -> Tensor:
        """Ids of the answers: `(answer,)`, or `(batch, max_span_width)` with -1 behind."""
        blocks = input_ids[None] if single else input_ids
        start, end = read.start_pos, read.end_pos
        chosen = blocks[torch.arange(len(blocks), device=start.device), read.block_idx.reshape(-1)]
        more = torch.arange(self.config.max_span_width, device=start.device)
        # (batch, sequence) -> (batch, max_span_width)
        words = chosen.gather(1, (start[:, None] + more).clamp(max=chosen.shape[1] - 1))
        words = words.masked_fill(more > (end - start)[:, None], -1)
        return words[0, : int(end[0] - start[0]) + 1] if single else words

    def answer(
        self,
        questions: Sequence[str],
        n_best: int = 5,
        max_length: int | None = None,
        batch_size: int = 8,
    ) -> list[list[Answer]]:
        """Answers questions, with evidence. How they are put into batches changes nothing.

        Args:
            questions: texts.
            n_best: answers to each question; the same words count once.
            max_length: tokens of a question with a block; `config.reader_seq_len` by default.
            batch_size: questions at a time.
        Returns:
            For each question up to `n_best` answers, best first.
        """
        retrieval.check_questions(questions, n_best, batch_size)
        training = [module for module in self.modules() if module.training]
        self.eval()
        try:
            with torch.inference_mode():
                return [
                    answers
                    for start in range(0, len(questions), batch_size)
                    for answers in self._answer(
                        list(questions[start : start + batch_size]), n_best, max_length
                    )
                ]
        finally:  # parts may have been in evaluation before
            for module in training:
                module.training = True

    def _answer(
        self, questions: list[str], n_best: int, max_length: int | None
    ) -> list[list[Answer]]:
        retriever = self._checked_retriever()
        tokens = retriever.tokenize_questions(questions, self.config.max_position_embeddings)
        tensors = {name: torch.from_numpy(x).to(self.device) for name, x in tokens.items()}
        with stage("encode"):
            question = self.embedder(**tensors, return_dict=True).projected_score
        with stage("retrieve"):
            block_ids, relevance = self._search(question)
        length = self.config.reader_seq_len if max_length is None else max_length
        evidence = self._evidence(block_ids, tokens["input_ids"], None, length, offsets=True)
        with stage("read"):
            scores, spans, _ = self.reader._read(self._reader_inputs(evidence))
        scores = scores.masked_fill(~spans, torch.finfo(scores.dtype).min)
        return retriever.answers(
            evidence,
            scores.cpu().numpy(),
            relevance.cpu().numpy(),
            self.config.max_span_width,
            n_best,
        )

    def _search(self, question: Tensor) -> tuple[np.ndarray, Tensor]:
        """Numbers of the blocks `(batch, blocks)` and their relevance, best first.

        Only relevance passes gradients on, and only to the question (REALM, section 3.3).
        """
        count = self.searcher_beam_size
        if self.index is None:
            retrieval.check_records(self._checked_retriever(), len(self.block_emb))
            asked = question.detach().to(self.block_emb.device)
            rows, _ = top_products(asked, self.block_emb, count, retrieval.SEARCH_ROWS)
            block_ids = rows.cpu().numpy()
            vectors = self.block_emb[rows]
        else:
            asked = question.detach().float().cpu().numpy()
            block_ids = retrieval.search(self.index, asked, count)
            kept = retrieval.vectors_of(self.index, block_ids)
            if kept is None:
                rows = torch.from_numpy(block_ids).clamp(min=0).to(self.block_emb.device)
                vectors = self.block_emb[rows]
            else:
                vectors = torch.from_numpy(kept)
        vectors = vectors.to(question.device).float()
        relevance = torch.einsum("bd,bkd->bk", question.float(), vectors)
        missing = torch.from_numpy(block_ids < 0).to(question.device)
        return block_ids, relevance.masked_fill(missing, torch.finfo(relevance.dtype).min)

    def _checked_retriever(self) -> retrieval.RealmRetriever:
        if self.retriever is None:
            raise ValueError(f"{type(self).__name__}: retriever is None; give it a RealmRetriever")
        return self.retriever

    def _evidence(self, block_ids: np.ndarray, *inputs: Any, **options: Any) -> retrieval.Evidence:
        return self._checked_retriever().evidence(block_ids, *inputs, **options)

    def _reader_inputs(self, evidence: retrieval.Evidence) -> dict[str, Tensor]:
        """Of the blocks that are read: `(batch, beam, sequence)`."""
        beam = self.config.reader_beam_size
        names = ("input_ids", "attention_mask", "token_type_ids", "block_mask")
        arrays = {name: np.ascontiguousarray(getattr(evidence, name)[:, :beam]) for name in names}
        return {name: torch.from_numpy(x).to(self.device) for name, x in arrays.items()}

    def _init_parameter(self, module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        if module is self and name == "block_emb":
            parameter.zero_()
        else:
            super()._init_parameter(module, name, parameter)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *model_args: Any, **kwargs: Any
    ) -> Any:
        """As in `PreTrainedModel`; a folder may hold all that answers questions.

        Without a retriever, `block_records.npy` and a tokenizer in the same folder make one, and
        an index in its sub-folder `index` is used.

        Args:
            model_args: the retriever.
            kwargs: `retriever`, and as in `PreTrainedModel`.
        """
        found = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        model = found[0] if isinstance(found, tuple) else found
        if not model_args and "retriever" not in kwargs:
            folder = os.path.join(pretrained_model_name_or_path, kwargs.get("subfolder", ""))
            model.retriever, index = retrieval.open_folder(folder)
            model.set_index(index)
        return found


def _flat(x: Tensor | None) -> Tensor | None:
    """`(batch, candidates, ...)` -> `(batch * candidates, ...)`."""
    return None if x is None else x.flatten(0, 1)


def _with_axis(inputs: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
    """One question as a batch of one."""
    return {name: None if x is None else x[None] for name, x in inputs.items()}


def _shapes(inputs: Mapping[str, Tensor | None]) -> dict[str, Sequence[int] | None]:
    """Shapes for the checks; of embeddings without their width."""
    return {
        name: None if x is None else x.shape[:3] if name == "inputs_embeds" else x.shape
        for name, x in inputs.items()
    }
