"""The zoo's models in PyTorch."""

from .auto import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from .bart import BartForConditionalGeneration, BartModel, BartPreTrainedModel
from .bert_generation import (
    BertGenerationDecoder,
    BertGenerationEncoder,
    BertGenerationPreTrainedModel,
)
from .dpr import DPRContextEncoder, DPRPreTrainedModel, DPRQuestionEncoder, DPRReader
from .encoder_decoder import EncoderDecoderModel
from .generation import GenerationMixin
from .logits import LogitsProcessor, LogitsProcessorList
from .modeling import PreTrainedModel
from .rag import RagModel, RagPreTrainedModel, RagSequenceForGeneration, RagTokenForGeneration
from .realm import (
    RealmEmbedder,
    RealmForOpenQA,
    RealmKnowledgeAugEncoder,
    RealmPreTrainedModel,
    RealmReader,
    RealmScorer,
)
from .reformer import (
    ReformerForMaskedLM,
    ReformerForQuestionAnswering,
    ReformerForSequenceClassification,
    ReformerModel,
    ReformerModelWithLMHead,
    ReformerPreTrainedModel,
)
from .rembert import (
    RemBertForCausalLM,
    RemBertForMaskedLM,
    RemBertForMultipleChoice,
    RemBertForQuestionAnswering,
    RemBertForSequenceClassification,
    RemBertForTokenClassification,
    RemBertModel,
    RemBertPreTrainedModel,
)
from .t5 import T5EncoderModel, T5ForConditionalGeneration, T5Model, T5PreTrainedModel

__all__ = [
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForMaskedLM",
    "AutoModelForMultipleChoice",
    "AutoModelForQuestionAnswering",
    "AutoModelForSeq2SeqLM",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "BartForConditionalGeneration",
    "BartModel",
    "BartPreTrainedModel",
    "BertGenerationDecoder",
    "BertGenerationEncoder",
    "BertGenerationPreTrainedModel",
    "DPRContextEncoder",
    "DPRPreTrainedModel",
    "DPRQuestionEncoder",
    "DPRReader",
    "EncoderDecoderModel",
    "GenerationMixin",
    "LogitsProcessor",
    "LogitsProcessorList",
    "PreTrainedModel",
    "RagModel",
    "RagPreTrainedModel",
    "RagSequenceForGeneration",
    "RagTokenForGeneration",
    "RealmEmbedder",
    "RealmForOpenQA",
    "RealmKnowledgeAugEncoder",
    "RealmPreTrainedModel",
    "RealmReader",
    "RealmScorer",
    "ReformerForMaskedLM",
    "ReformerForQuestionAnswering",
    "ReformerForSequenceClassification",
    "ReformerModel",
    "ReformerModelWithLMHead",
    "ReformerPreTrainedModel",
    "RemBertForCausalLM",
    "RemBertForMaskedLM",
    "RemBertForMultipleChoice",
    "RemBertForQuestionAnswering",
    "RemBertForSequenceClassification",
    "RemBertForTokenClassification",
    "RemBertModel",
    "RemBertPreTrainedModel",
    "T5EncoderModel",
    "T5ForConditionalGeneration",
    "T5Model",
    "T5PreTrainedModel",
]
