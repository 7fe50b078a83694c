"""The zoo's models in Keras 3 on TensorFlow."""

from .auto import (
    TFAutoModel,
    TFAutoModelForCausalLM,
    TFAutoModelForMaskedLM,
    TFAutoModelForMultipleChoice,
    TFAutoModelForQuestionAnswering,
    TFAutoModelForSeq2SeqLM,
    TFAutoModelForSequenceClassification,
    TFAutoModelForTokenClassification,
)
from .bert_generation import (
    TFBertGenerationDecoder,
    TFBertGenerationEncoder,
    TFBertGenerationPreTrainedModel,
)
from .encoder_decoder import TFEncoderDecoderModel
from .generation import TFGenerationMixin
from .logits import TFLogitsProcessor, TFLogitsProcessorList
from .modeling import TFPreTrainedModel
from .rembert import (
    TFRemBertForCausalLM,
    TFRemBertForMaskedLM,
    TFRemBertForMultipleChoice,
    TFRemBertForQuestionAnswering,
    TFRemBertForSequenceClassification,
    TFRemBertForTokenClassification,
    TFRemBertModel,
    TFRemBertPreTrainedModel,
)

__all__ = [
    "TFAutoModel",
    "TFAutoModelForCausalLM",
    "TFAutoModelForMaskedLM",
    "TFAutoModelForMultipleChoice",
    "TFAutoModelForQuestionAnswering",
    "TFAutoModelForSeq2SeqLM",
    "TFAutoModelForSequenceClassification",
    "TFAutoModelForTokenClassification",
    "TFBertGenerationDecoder",
    "TFBertGenerationEncoder",
    "TFBertGenerationPreTrainedModel",
    "TFEncoderDecoderModel",
    "TFGenerationMixin",
    "TFLogitsProcessor",
    "TFLogitsProcessorList",
    "TFPreTrainedModel",
    "TFRemBertForCausalLM",
    "TFRemBertForMaskedLM",
    "TFRemBertForMultipleChoice",
    "TFRemBertForQuestionAnswering",
    "TFRemBertForSequenceClassification",
    "TFRemBertForTokenClassification",
    "TFRemBertModel",
    "TFRemBertPreTrainedModel",
]
