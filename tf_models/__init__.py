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
from .bart import TFBartForConditionalGeneration, TFBartModel, TFBartPreTrainedModel
from .bert_generation import (
    TFBertGenerationDecoder,
    TFBertGenerationEncoder,
    TFBertGenerationPreTrainedModel,
)
from .dpr import TFDPRContextEncoder, TFDPRPreTrainedModel, TFDPRQuestionEncoder, TFDPRReader
from .encoder_decoder import TFEncoderDecoderModel
from .generation import TFGenerationMixin
from .logits import TFLogitsProcessor, TFLogitsProcessorList
from .modeling import TFPreTrainedModel
from .rag import (
    TFRagModel,
    TFRagPreTrainedModel,
    TFRagSequenceForGeneration,
    TFRagTokenForGeneration,
)
from .realm import (
    TFRealmEmbedder,
    TFRealmForOpenQA,
    TFRealmKnowledgeAugEncoder,
    TFRealmPreTrainedModel,
    TFRealmReader,
    TFRealmScorer,
)
from .reformer import (
    TFReformerForMaskedLM,
    TFReformerForQuestionAnswering,
    TFReformerForSequenceClassification,
    TFReformerModel,
    TFReformerModelWithLMHead,
    TFReformerPreTrainedModel,
)
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
from .t5 import TFT5EncoderModel, TFT5ForConditionalGeneration, TFT5Model, TFT5PreTrainedModel

__all__ = [
    "TFAutoModel",
    "TFAutoModelForCausalLM",
    "TFAutoModelForMaskedLM",
    "TFAutoModelForMultipleChoice",
    "TFAutoModelForQuestionAnswering",
    "TFAutoModelForSeq2SeqLM",
    "TFAutoModelForSequenceClassification",
    "TFAutoModelForTokenClassification",
    "TFBartForConditionalGeneration",
    "TFBartModel",
    "TFBartPreTrainedModel",
    "TFBertGenerationDecoder",
    "TFBertGenerationEncoder",
    "TFBertGenerationPreTrainedModel",
    "TFDPRContextEncoder",
    "TFDPRPreTrainedModel",
    "TFDPRQuestionEncoder",
    "TFDPRReader",
    "TFEncoderDecoderModel",
    "TFGenerationMixin",
    "TFLogitsProcessor",
    "TFLogitsProcessorList",
    "TFPreTrainedModel",
    "TFRagModel",
    "TFRagPreTrainedModel",
    "TFRagSequenceForGeneration",
    "TFRagTokenForGeneration",
    "TFRealmEmbedder",
    "TFRealmForOpenQA",
    "TFRealmKnowledgeAugEncoder",
    "TFRealmPreTrainedModel",
    "TFRealmReader",
    "TFRealmScorer",
    "TFReformerForMaskedLM",
    "TFReformerForQuestionAnswering",
    "TFReformerForSequenceClassification",
    "TFReformerModel",
    "TFReformerModelWithLMHead",
    "TFReformerPreTrainedModel",
    "TFRemBertForCausalLM",
    "TFRemBertForMaskedLM",
    "TFRemBertForMultipleChoice",
    "TFRemBertForQuestionAnswering",
    "TFRemBertForSequenceClassification",
    "TFRemBertForTokenClassification",
    "TFRemBertModel",
    "TFRemBertPreTrainedModel",
    "TFT5EncoderModel",
    "TFT5ForConditionalGeneration",
    "TFT5Model",
    "TFT5PreTrainedModel",
]
