"""The table of model families: a family is one row here, and every Auto class reads it."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """Names of a family's classes.

    Args:
        module: the family's file in `zoo/configs`, `pt_models` and `tf_models`.
        config: configuration class.
        slow_tokenizer: tokenizer class in Python, or None.
        fast_tokenizer: tokenizer class on the `tokenizers` library, or None.
        prefix: what stands before the base model's names in a head model's; empty where a head
            model is no base model with something more.
        models: task (the ending of an Auto class's name) -> PyTorch class; the Keras class has
            the same name with TF in front.
    """

    module: str
    config: str
    slow_tokenizer: str | None
    fast_tokenizer: str | None
    prefix: str
    models: Mapping[str, str]


# model_type in config.json -> family
FAMILIES: dict[str, Family] = {
    "rembert": Family(
        module="rembert",
        config="RemBertConfig",
        slow_tokenizer="RemBertTokenizer",
        fast_tokenizer="RemBertTokenizerFast",
        prefix="rembert",
        models={
            "Model": "RemBertModel",
            "ForMaskedLM": "RemBertForMaskedLM",
            "ForCausalLM": "RemBertForCausalLM",
            "ForSequenceClassification": "RemBertForSequenceClassification",
            "ForMultipleChoice": "RemBertForMultipleChoice",
            "ForTokenClassification": "RemBertForTokenClassification",
            "ForQuestionAnswering": "RemBertForQuestionAnswering",
        },
    ),
    "realm": Family(
        module="realm",
        config="RealmConfig",
        slow_tokenizer="RealmTokenizer",
        fast_tokenizer="RealmTokenizerFast",
        prefix="",  # the embedder has a head as the others do
        models={
            "Model": "RealmEmbedder",
            "Embedder": "RealmEmbedder",
            "Scorer": "RealmScorer",
            "KnowledgeAugEncoder": "RealmKnowledgeAugEncoder",
            "Reader": "RealmReader",
            "ForOpenQA": "RealmForOpenQA",
        },
    ),
    "reformer": Family(
        module="reformer",
        config="ReformerConfig",
        slow_tokenizer="ReformerTokenizer",
        fast_tokenizer="ReformerTokenizerFast",
        prefix="reformer",
        models={
            "Model": "ReformerModel",
            "ForMaskedLM": "ReformerForMaskedLM",
            "ForCausalLM": "ReformerModelWithLMHead",
            "ForSequenceClassification": "ReformerForSequenceClassification",
            "ForQuestionAnswering": "ReformerForQuestionAnswering",
        },
    ),
    "bert-generation": Family(
        module="bert_generation",
        config="BertGenerationConfig",
        slow_tokenizer="BertGenerationTokenizer",
        fast_tokenizer=None,
        prefix="bert",
        models={"Model": "BertGenerationEncoder", "ForCausalLM": "BertGenerationDecoder"},
    ),
    "encoder-decoder": Family(
        module="encoder_decoder",
        config="EncoderDecoderConfig",
        slow_tokenizer=None,  # the encoder's
        fast_tokenizer=None,
        prefix="",
        models={"Model": "EncoderDecoderModel", "ForSeq2SeqLM": "EncoderDecoderModel"},
    ),
    "dpr": Family(
        module="dpr",
        config="DPRConfig",
        slow_tokenizer="DPRQuestionEncoderTokenizer",
        fast_tokenizer="DPRQuestionEncoderTokenizerFast",
        prefix="",
        models={
            "Model": "DPRQuestionEncoder",
            "ContextEncoder": "DPRContextEncoder",
            "Reader": "DPRReader",
        },
    ),
    "bart": Family(
        module="bart",
        config="BartConfig",
        slow_tokenizer="BartTokenizer",
        fast_tokenizer="BartTokenizerFast",
        prefix="model",
        models={"Model": "BartModel", "ForSeq2SeqLM": "BartForConditionalGeneration"},
    ),
    "t5": Family(
        module="t5",
        config="T5Config",
        slow_tokenizer="T5Tokenizer",
        fast_tokenizer="T5TokenizerFast",
        prefix="",
        models={
            "Model": "T5Model",
            "ForSeq2SeqLM": "T5ForConditionalGeneration",
            "EncoderModel": "T5EncoderModel",
        },
    ),
    "rag": Family(
        module="rag",
        config="RagConfig",
        slow_tokenizer="RagTokenizer",
        fast_tokenizer=None,
        prefix="rag",
        models={
            "Model": "RagModel",
            "ForSeq2SeqLM": "RagTokenForGeneration",
            "Sequence": "RagSequenceForGeneration",
        },
    ),
}


# Published model types that the zoo has tokenizers of, but no models: slow and fast class.
TOKENIZERS: dict[str, tuple[str | None, str | None]] = {
    "bert": ("BertTokenizer", "BertTokenizerFast"),
}

# Tokenizers that a file may name and no model type stands for: slow and fast class.
FURTHER_TOKENIZERS: tuple[tuple[str, str | None], ...] = (
    ("DPRContextEncoderTokenizer", "DPRContextEncoderTokenizerFast"),
    ("DPRReaderTokenizer", "DPRReaderTokenizerFast"),
    ("ReformerByteTokenizer", None),
)


def tokenizers_of(model_type: str | None) -> tuple[str | None, str | None]:
    """The slow and the fast tokenizer class of a `model_type`, None for one that there is not.

    Raises:
        ValueError: the type is missing or unknown; lists those that are known.
    """
    if model_type in TOKENIZERS:
        return TOKENIZERS[model_type]
    family = family_of(model_type)
    return family.slow_tokenizer, family.fast_tokenizer


def family_of(model_type: str | None) -> Family:
    """The row of a `model_type`.

    Raises:
        ValueError: the type is missing or unknown; lists those that are known.
    """
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    raise ValueError(f"model_type: received {model_type!r}, expected one of {sorted(FAMILIES)}")
