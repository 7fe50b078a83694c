"""Text generation without a framework: its configuration, its outputs, hooks and streamers.

`pt_models/generation.py` and `tf_models/generation.py` hold the engines, which share what is here.
"""

from __future__ import annotations

import copy
import logging
import os
import queue
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

from . import hub
from .configs.fields import Fields, plain, read_json, suggested
from .configs.rules import (
    Count,
    Flag,
    NonNegative,
    PositiveInt,
    Probability,
    Rule,
    TokenId,
    TokenIds,
    is_integer,
    is_number,
)
from .outputs import ModelOutput

logger = logging.getLogger("zoo")

GENERATION_CONFIG_NAME = "generation_config.json"


def _is_list_of(accepts: Callable[[Any], bool], empty: bool = False) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, list | tuple) and (empty or len(value) > 0) and all(map(accepts, value))
    )


def _or_none(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or accepts(value)


def _is_token(value: Any) -> bool:
    return is_integer(value) and value >= 0


def _is_bias(value: Any) -> bool:
    """`{(token, ...): bias}`, or as JSON has it: pairs of a list and a number."""
    pairs = value.items() if isinstance(value, Mapping) else value
    return (
        isinstance(value, Mapping | list | tuple)
        and len(value) > 0
        and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs)
        and all(_is_list_of(_is_token)(tokens) and is_number(bias) for tokens, bias in pairs)
    )


_POSITIVE = Rule("a number above 0", lambda value: is_number(value) and value > 0)
Positive = Annotated[float, _POSITIVE]
OptionalCount = Annotated[
    int | None,
    Rule("an integer, 0 or above, or None", _or_none(lambda x: is_integer(x) and x >= 0)),
]
OptionalPositiveInt = Annotated[
    int | None, Rule("an integer above 0, or None", _or_none(lambda x: is_integer(x) and x > 0))
]
OptionalPositive = Annotated[
    float | None, Rule("a number above 0, or None", _or_none(_POSITIVE.accepts))
]
OptionalFlag = Annotated[
    bool | None, Rule("True, False or None", _or_none(lambda x: isinstance(x, bool)))
]
Number = Annotated[float, Rule("a number", is_number)]
Mass = Annotated[float, Rule("a number above 0, at most 1", lambda x: is_number(x) and 0 < x <= 1)]
Cutoff = Annotated[float, Rule("a number from 0 to below 1", lambda x: is_number(x) and 0 <= x < 1)]
EarlyStopping = Annotated[
    bool | str,
    Rule("True, False or 'never'", lambda x: isinstance(x, bool) or x == "never"),
]
TokenList = Annotated[
    list[int] | None, Rule("a list of token ids, or None", _or_none(_is_list_of(_is_token, True)))
]
TokenLists = Annotated[
    list[list[int]] | None,
    Rule(
        "a list of lists of token ids, none empty, or None",
        _or_none(_is_list_of(_is_list_of(_is_token))),
    ),
]
Decay = Annotated[
    tuple[int, float] | None,
    Rule(
        "a pair (start, factor) of an integer and a number above 0, or None",
        _or_none(
            lambda x: (
                isinstance(x, list | tuple)
                and len(x) == 2
                and is_integer(x[0])
                and _POSITIVE.accepts(x[1])
            )
        ),
    ),
]
SequenceBias = Annotated[
    Any,
    Rule(
        "a dictionary of tuples of token ids to numbers, or a list of such pairs, or None",
        _or_none(_is_bias),
    ),
]

# What only sampling, or only beam search, looks at: field -> the value that changes nothing.
SAMPLING_FIELDS = {
    "temperature": 1.0, "top_k": 50, "top_p": 1.0, "typical_p": 1.0, "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}  # fmt: skip
BEAM_FIELDS = {"early_stopping": False, "length_penalty": 1.0}
# Published fields of methods that the zoo does not have: field -> the value that asks for nothing.
UNSUPPORTED_FIELDS: dict[str, Any] = {
    "penalty_alpha": None, "force_words_ids": None, "constraints": None, "guidance_scale": None,
    "low_memory": None, "forced_decoder_ids": None, "cache_implementation": None,
    "prompt_lookup_num_tokens": None, "generation_kwargs": {},
}  # fmt: skip
NOT_SAVED = ("_commit_hash",)


class GenerationConfig(Fields):
    """How text is generated; see the fields' published names for what each does.

    A keyword that is close to the name of a field but is none is refused, with the suggestion; any
    other unknown keyword becomes an attribute and is saved, and so does an unknown key of a file.

    Raises:
        ValueError: an impossible value, naming the field, the value and what is expected, or a
            misspelt keyword.
    """

    # Length.
    max_length: PositiveInt = 20
    max_new_tokens: OptionalPositiveInt = None
    min_length: Count = 0
    min_new_tokens: OptionalCount = None
    early_stopping: EarlyStopping = False
    max_time: OptionalPositive = None

    # Method.
    do_sample: Flag = False
    num_beams: PositiveInt = 1
    num_beam_groups: PositiveInt = 1
    penalty_alpha: Any = None
    use_cache: Flag = True

    # Scores.
    temperature: Positive = 1.0
    top_k: OptionalCount = 50
    top_p: Probability = 1.0
    typical_p: Mass = 1.0
    epsilon_cutoff: Cutoff = 0.0
    eta_cutoff: Cutoff = 0.0
    diversity_penalty: NonNegative = 0.0
    repetition_penalty: Positive = 1.0
    encoder_repetition_penalty: Positive = 1.0
    length_penalty: Number = 1.0
    no_repeat_ngram_size: Count = 0
    bad_words_ids: TokenLists = None
    force_words_ids: Any = None
    renormalize_logits: Flag = False
    constraints: Any = None
    forced_bos_token_id: TokenId = None
    forced_eos_token_id: TokenIds = None
    remove_invalid_values: Flag = False
    exponential_decay_length_penalty: Decay = None
    suppress_tokens: TokenList = None
    begin_suppress_tokens: TokenList = None
    forced_decoder_ids: Any = None
    sequence_bias: SequenceBias = None
    guidance_scale: Any = None
    low_memory: Any = None

    # Output.
    num_return_sequences: PositiveInt = 1
    output_attentions: Flag = False
    output_hidden_states: Flag = False
    output_scores: Flag = False
    output_logits: OptionalFlag = None
    return_dict_in_generate: Flag = False

    # Special tokens.
    pad_token_id: TokenId = None
    bos_token_id: TokenId = None
    eos_token_id: TokenIds = None

    # Encoder-decoder models.
    encoder_no_repeat_ngram_size: Count = 0
    decoder_start_token_id: TokenId = None

    # Kept for the files that have them.
    num_assistant_tokens: Any = 5
    num_assistant_tokens_schedule: Any = "heuristic"
    cache_implementation: Any = None
    prompt_lookup_num_tokens: Any = None
    max_matching_ngram_size: Any = None
    generation_kwargs: Any = {}
    _from_model_config: Flag = False

    def __init__(self, **kwargs: Any) -> None:
        self._check_keywords(kwargs)
        self._fill(kwargs)

    def _fill(self, values: Mapping[str, Any]) -> None:
        self._set_defaults()
        for name, value in values.items():
            setattr(self, name, value)
        self.validate()

    def _conflicts(self) -> Iterator[tuple[str, Any, str]]:
        beams, groups = self.num_beams, self.num_beam_groups
        if groups > beams or beams % groups:
            yield "num_beam_groups", groups, f"a divisor of num_beams ({beams})"
        if groups > 1 and self.do_sample:
            yield "do_sample", True, f"False with num_beam_groups={groups}"
        if self.diversity_penalty and groups == 1:
            yield (
                "diversity_penalty",
                self.diversity_penalty,
                "0.0 unless num_beam_groups is above 1",
            )
        count = self.num_return_sequences
        if beams > 1 and count > beams:
            yield "num_return_sequences", count, f"at most num_beams ({beams})"
        if beams == 1 and count > 1 and not self.do_sample:
            yield "num_return_sequences", count, "1 with greedy search; set do_sample or num_beams"

    # To and from dictionaries and files

    def to_dict(self) -> dict[str, Any]:
        """All fields and unknown keys as a deep copy."""
        values = {name: value for name, value in self.__dict__.items() if name not in NOT_SAVED}
        if isinstance(self.sequence_bias, Mapping):  # JSON has no keys but strings
            values["sequence_bias"] = list(self.sequence_bias.items())
        return {name: plain(value) for name, value in values.items()}

    def to_diff_dict(self) -> dict[str, Any]:
        """What `generation_config.json` holds: what differs from the defaults, and unknown keys."""
        return {
            name: value
            for name, value in self.to_dict().items()
            if name not in self._fields or value != self._fields[name][0]
        }

    def to_json_string(self, use_diff: bool = True, ignore_metadata: bool = False) -> str:
        """The text of `generation_config.json`.

        Args:
            use_diff: False writes every field, also those at their defaults.
            ignore_metadata: leaves out where the configuration came from.

        Raises:
            ValueError: a value that JSON cannot hold.
        """
        values = self.to_diff_dict() if use_diff else self.to_dict()
        if ignore_metadata:
            metadata = ("_from_model_config", "transformers_version")
            values = {name: value for name, value in values.items() if name not in metadata}
        return self._as_json(values)

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], config_file_name: str | None = None
    ) -> None:
        """Writes `generation_config.json`, all or nothing; the folder's other files stay.

        Raises:
            ValueError: an impossible value, or one that JSON cannot hold.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.to_json_file(folder / (config_file_name or GENERATION_CONFIG_NAME))

    @classmethod
    def from_dict(
        cls, config_dict: Mapping[str, Any], return_unused_kwargs: bool = False, **overrides: Any
    ) -> Any:
        """Makes a configuration of what a `generation_config.json` holds.

        Args:
            config_dict: unknown keys are kept; None stands for a default.
            return_unused_kwargs: whether overrides that name no field are given back.
            **overrides: fields to set to other values.

        Returns:
            The configuration, or (configuration, unused overrides) with `return_unused_kwargs`.

        Raises:
            ValueError: a misspelt override or an impossible value.
        """
        values = {
            name: value
            for name, value in config_dict.items()
            if not cls._is_reserved(name) and (value is not None or name not in cls._fields)
        }
        unused = {}
        if return_unused_kwargs:
            known = {*cls._fields, *values}
            unused = {name: value for name, value in overrides.items() if name not in known}
        changes = {name: value for name, value in overrides.items() if name not in unused}
        cls._check_keywords(name for name in changes if name not in values)
        config = cls.__new__(cls)
        config._fill({**copy.deepcopy(values), **changes})
        return (config, unused) if return_unused_kwargs else config

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name: str | os.PathLike[str],
        config_file_name: str | None = None,
        *,
        return_unused_kwargs: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Opens a checkpoint's `generation_config.json`.

        Args:
            pretrained_model_name: a folder or a repository of the hub.
            config_file_name: of the file, if it has another name.
            return_unused_kwargs: whether overrides that name no field are given back.
            **kwargs: `revision`, `cache_dir`, `token`, `local_files_only`, `force_download` and
                `subfolder` say where and how to look; the others override fields.

        Raises:
            HubError: there is no such folder, repository or file, or it cannot be reached.
            ValueError: the file is broken, or a value is impossible.
        """
        name = config_file_name or GENERATION_CONFIG_NAME
        looking = {key: kwargs.pop(key) for key in hub.ARGUMENTS if key in kwargs}
        path = hub.resolve_file(pretrained_model_name, name, **looking)
        if path is None:
            raise hub.HubError(f"{pretrained_model_name} has no {name}")
        return cls.from_file(path, return_unused_kwargs, **kwargs)

    @classmethod
    def from_file(cls, path: Path, return_unused_kwargs: bool = False, **overrides: Any) -> Any:
        """Reads the configuration in the file `path`; see `from_dict`."""
        values = read_json(path)
        try:
            return cls.from_dict(values, return_unused_kwargs, **overrides)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def from_model_config(cls, model_config: Any) -> Self:
        """The generation fields of a model's configuration.

        Args:
            model_config: one of an encoder-decoder model leaves what it does not say itself to
                the configuration of its decoder.
        """
        values: dict[str, Any] = {}
        parts = (getattr(model_config, name, None) for name in ("decoder", "generator"))
        for part in (*parts, model_config):
            if part is None:
                continue
            for name, (default, _) in cls._fields.items():
                value = getattr(part, name, None)
                if value is not None and value != default and name not in _CALL_FIELDS:
                    values[name] = copy.deepcopy(value)
        return cls.from_dict({**values, "_from_model_config": True})

    def update(self, **kwargs: Any) -> dict[str, Any]:
        """Sets several fields; none is changed if one of them is impossible.

        Returns:
            The keywords that name no field.

        Raises:
            ValueError: an impossible value.
        """
        fields = {name: value for name, value in kwargs.items() if name in self.__dict__}
        with self._all_or_nothing():
            self.__dict__.update(fields)
        return {name: value for name, value in kwargs.items() if name not in fields}

    @property
    def eos_token_ids(self) -> list[int]:
        """The ids that end a text, none to many."""
        eos = self.eos_token_id
        return [] if eos is None else [eos] if is_integer(eos) else list(eos)  # type: ignore

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GenerationConfig):
            return NotImplemented
        left, right = self.to_dict(), other.to_dict()
        for name in ("_from_model_config", "transformers_version"):
            left.pop(name, None), right.pop(name, None)
        return left == right


GenerationConfig._collect_fields()

# A model's configuration has this too, where it is about training.
_CALL_FIELDS = ("use_cache", "_from_model_config")


class GenerateDecoderOnlyOutput(ModelOutput):
    """Of greedy search and sampling with a decoder alone.

    `sequences` `(batch * returned, length)`. Per step: `scores` (processed) and `logits`
    `(batch * returned, vocab)`; `attentions`, per layer `(batch * returned, heads, new, so far)`;
    `hidden_states`, per layer `(batch * returned, new, hidden)`, where `new` is the prompt's length
    in the first step and one thereafter. `past_key_values` as a call of the model takes them.
    """

    sequences: Any
    scores: Any
    logits: Any
    attentions: Any
    hidden_states: Any
    past_key_values: Any


class GenerateEncoderDecoderOutput(ModelOutput):
    """Of greedy search and sampling with an encoder and a decoder.

    As `GenerateDecoderOnlyOutput`, and: `encoder_attentions`, per layer `(batch, heads, source,
    source)`; `encoder_hidden_states`, per layer `(batch, source, hidden)`; `cross_attentions`, per
    step and layer `(batch * returned, heads, new, source)`.
    """

    sequences: Any
    scores: Any
    logits: Any
    encoder_attentions: Any
    encoder_hidden_states: Any
    decoder_attentions: Any
    cross_attentions: Any
    decoder_hidden_states: Any
    past_key_values: Any


class GenerateBeamDecoderOnlyOutput(ModelOutput):
    """Of beam search with a decoder alone.

    As `GenerateDecoderOnlyOutput`, but per step `(batch * beams, ...)`, and: `sequences_scores`
    `(batch * returned,)`; `beam_indices` `(batch * returned, length)`, the row of `scores` that
    each new token came from, -1 behind the end.
    """

    sequences: Any
    sequences_scores: Any
    scores: Any
    logits: Any
    beam_indices: Any
    attentions: Any
    hidden_states: Any
    past_key_values: Any


class GenerateBeamEncoderDecoderOutput(ModelOutput):
    """Of beam search with an encoder and a decoder; the fields are those of the others."""

    sequences: Any
    sequences_scores: Any
    scores: Any
    logits: Any
    beam_indices: Any
    encoder_attentions: Any
    encoder_hidden_states: Any
    decoder_attentions: Any
    cross_attentions: Any
    decoder_hidden_states: Any
    past_key_values: Any


class StoppingCriteria:
    """Says when to stop; a hook for users, in either framework."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """
        Args:
            input_ids: `(batch * beams, length)`, what there is so far.
            scores: those of every step, `(batch * beams, vocab)` each, if they are to be returned.
        Returns:
            A bool for all, or a bool tensor `(batch * beams,)`. Beam search stops when all say so.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define __call__")


class StoppingCriteriaList(list):
    """Criteria of which any stops a row; plain functions will do as well."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        stop: Any = False
        for criterion in self:
            said = criterion(input_ids, scores)
            stop = said if stop is False else said | stop
        return stop


class MaxLengthCriteria(StoppingCriteria):
    """Stops at a length, the prompt counted in."""

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length

    def __call__(self, input_ids: Any, scores: Any) -> bool:
        return input_ids.shape[-1] >= self.max_length


class MaxTimeCriteria(StoppingCriteria):
    """Stops a number of seconds after it was made."""

    def __init__(self, max_time: float) -> None:
        self.end = time.monotonic() + max_time

    def __call__(self, input_ids: Any, scores: Any) -> bool:
        return time.monotonic() >= self.end


class BaseStreamer:
    """Receives the prompt and then each step's tokens, while they are generated."""

    def put(self, value: Any) -> None:
        """Takes the prompt `(batch, length)` first, then tokens `(batch,)`."""
        raise NotImplementedError(f"{type(self).__name__} does not define put")

    def end(self) -> None:
        """Called once, after the last token."""
        raise NotImplementedError(f"{type(self).__name__} does not define end")


class TextStreamer(BaseStreamer):
    """Prints the text of one row as soon as whole words of it are there.

    Args:
        tokenizer: decodes the tokens.
        skip_prompt: whether to leave the prompt out.
        decode_kwargs: of `tokenizer.decode`.
    """

    def __init__(self, tokenizer: Any, skip_prompt: bool = False, **decode_kwargs: Any) -> None:
        self.tokenizer = tokenizer
        self.skip_prompt = skip_prompt
        self.decode_kwargs = decode_kwargs
        self._restart()

    def _restart(self) -> None:
        self._tokens: list[int] = []  # of the line that is being written
        self._printed = 0  # characters of its text that are out
        self._prompt_is_next = True

    def put(self, value: Any) -> None:
        tokens = value.tolist() if hasattr(value, "tolist") else list(value)
        if tokens and isinstance(tokens[0], list):
            if len(tokens) > 1:
                raise ValueError(f"{type(self).__name__}: takes one row, got {len(tokens)}")
            tokens = tokens[0]
        elif len(tokens) > 1:
            raise ValueError(f"{type(self).__name__}: takes one row, got {len(tokens)}")
        is_prompt, self._prompt_is_next = self._prompt_is_next, False
        if is_prompt and self.skip_prompt:
            return
        self._tokens += tokens
        text = self.tokenizer.decode(self._tokens, **self.decode_kwargs)
        if text.endswith("\n"):
            ready = text[self._printed :]
            self._tokens, self._printed = [], 0
        else:
            # The last word may go on with the next token; an ideograph is a word by itself.
            whole = len(text) if text and _is_ideograph(text[-1]) else text.rfind(" ") + 1
            ready = text[self._printed : whole]
            self._printed = max(self._printed, whole)
        self.on_finalized_text(ready)

    def end(self) -> None:
        text = self.tokenizer.decode(self._tokens, **self.decode_kwargs) if self._tokens else ""
        rest = text[self._printed :]
        self._restart()
        self.on_finalized_text(rest, stream_end=True)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Takes the next piece of text; prints it. To be overridden for another use."""
        print(text, flush=True, end="\n" if stream_end else "")


class TextIteratorStreamer(TextStreamer):
    """Hands the text to another thread, which iterates over it.

    Args:
        tokenizer, skip_prompt, decode_kwargs: as `TextStreamer` has them.
        timeout: seconds to wait for the next piece before `queue.Empty` is raised.
    """

    def __init__(
        self,
        tokenizer: Any,
        skip_prompt: bool = False,
        timeout: float | None = None,
        **decode_kwargs: Any,
    ) -> None:
        super().__init__(tokenizer, skip_prompt, **decode_kwargs)
        self.timeout = timeout
        self._pieces: queue.Queue[str | None] = queue.Queue()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self._pieces.put(text)
        if stream_end:
            self._pieces.put(None)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        piece = self._pieces.get(timeout=self.timeout)
        if piece is None:
            raise StopIteration
        return piece


def _is_ideograph(character: str) -> bool:
    """Whether the character is of the blocks of Chinese, Japanese and Korean ideographs."""
    code = ord(character)
    return (
        0x3400 <= code <= 0x4DBF
        or 0x4E00 <= code <= 0x9FFF
        or 0xF900 <= code <= 0xFAFF
        or 0x20000 <= code <= 0x2EBEF
        or 0x2F800 <= code <= 0x2FA1F
    )


class Request(NamedTuple):
    """What a call of `generate` asks for, after its arguments were sorted.

    Args:
        config: complete and checked.
        inputs: the model's inputs by name.
    """

    config: GenerationConfig
    inputs: dict[str, Any]


def request(
    own: GenerationConfig,
    given: GenerationConfig | None,
    kwargs: Mapping[str, Any],
    input_names: Iterable[str],
) -> Request:
    """Sorts the keywords of `generate` into fields of the configuration and inputs of the model.

    Args:
        own: the model's configuration, used if none is `given`.
        kwargs: override fields of it; None sets a field that may be None, and else says nothing.
        input_names: the inputs that this model takes.

    Raises:
        ValueError: an unknown keyword, an impossible value, or a method the zoo does not have.
    """
    if given is not None and not isinstance(given, GenerationConfig):
        raise ValueError(
            f"generation_config: expected a GenerationConfig, got {type(given).__name__}"
        )
    config = copy.deepcopy(own if given is None else given)
    names = {*input_names}
    public = [name for name in GenerationConfig._fields if not name.startswith("_")]
    fields, inputs = {}, {}
    for name, value in kwargs.items():
        if name in public:
            default, rule = GenerationConfig._fields[name]
            if value is not None or rule is None or rule.accepts(None):
                fields[name] = value
        elif name in names:
            if value is not None:
                inputs[name] = value
        else:
            suggestion = suggested(name, [*public, *names])
            hint = f"; did you mean {suggestion}?" if suggestion else ""
            raise ValueError(f"generate: unknown argument {name!r}{hint}")
    config.update(**fields)
    config.validate()
    for name, default in UNSUPPORTED_FIELDS.items():
        value = getattr(config, name)
        if value != default and value is not False:
            raise ValueError(f"generate: {name}={value!r} is not supported")
    _warn_of_idle_fields(config)
    return Request(config, inputs)


def _warn_of_idle_fields(config: GenerationConfig) -> None:
    idle = {**({} if config.do_sample else SAMPLING_FIELDS),
            **({} if config.num_beams > 1 else BEAM_FIELDS)}  # fmt: skip
    for name, default in idle.items():
        value = getattr(config, name)
        if value is not None and value != default:
            needs = "do_sample=True" if name in SAMPLING_FIELDS else "num_beams above 1"
            logger.warning("generate: %s=%r does nothing without %s", name, value, needs)
    if not config.use_cache:
        logger.warning("generate: use_cache=False does nothing, the cache is always used")


def settle_lengths(config: GenerationConfig, prompt: int) -> None:
    """Turns numbers of new tokens into lengths.

    Args:
        prompt: the length of the prompt, or of the decoder's first tokens.

    Raises:
        ValueError: there is no room for a new token.
    """
    if config.max_new_tokens is not None:
        config.max_length = prompt + config.max_new_tokens
    if config.min_new_tokens is not None:
        config.min_length = prompt + config.min_new_tokens
    if config.max_length <= prompt:
        raise ValueError(
            f"max_length: received {config.max_length}, expected more than the {prompt} tokens "
            "there are already; max_new_tokens leaves them out of account"
        )


def settle_tokens(config: GenerationConfig) -> None:
    """Fills finished rows with the end token where there is no padding token."""
    if config.pad_token_id is None and config.eos_token_ids:
        config.pad_token_id = config.eos_token_ids[0]
        logger.warning("generate: pad_token_id is not set; padding with %d", config.pad_token_id)


def start_token(config: GenerationConfig) -> int:
    """What the decoder of an encoder-decoder model starts with.

    Raises:
        ValueError: neither decoder_start_token_id nor bos_token_id says so.
    """
    for token in (config.decoder_start_token_id, config.bos_token_id):
        if token is not None:
            return token
    raise ValueError(
        "generate: expected decoder_start_token_id or bos_token_id, in the call or in "
        "model.generation_config, got neither"
    )


class Generator:
    """What a model that generates has besides its engine: its own generation configuration."""

    config: Any
    _generation_config: GenerationConfig | None = None
    _derived_generation_config: GenerationConfig | None = None

    @classmethod
    def can_generate(cls) -> bool:
        return True

    @property
    def generation_config(self) -> GenerationConfig:
        """Follows `model.config` until one of its fields is set, or it is replaced."""
        current = self._generation_config
        if current is None or current == self._derived_generation_config:
            derived = GenerationConfig.from_model_config(self.config)
            if current is None or derived != current:
                self._generation_config = current = derived
                self._derived_generation_config = copy.deepcopy(derived)
        return current

    @generation_config.setter
    def generation_config(self, value: GenerationConfig) -> None:
        if not isinstance(value, GenerationConfig):
            raise ValueError(
                f"generation_config: expected a GenerationConfig, got {type(value).__name__}"
            )
        self._generation_config = value
        derived = value._from_model_config
        self._derived_generation_config = (
            GenerationConfig.from_model_config(self.config) if derived else None
        )

    def _generation_config_text(self) -> str:
        """The text of `generation_config.json`, which says whether `config.json` says the same."""
        config = copy.deepcopy(self.generation_config)
        config._from_model_config = config == GenerationConfig.from_model_config(self.config)
        config.validate()
        return config.to_json_string()

    def _request(
        self,
        generation_config: GenerationConfig | None,
        kwargs: Mapping[str, Any],
        input_names: Sequence[str],
    ) -> Request:
        return request(self.generation_config, generation_config, kwargs, input_names)
