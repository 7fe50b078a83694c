"""Configurations: published fields and defaults, refusals, and files that lose nothing."""

import copy
import inspect
import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo import (
    AutoConfig,
    BartConfig,
    BertGenerationConfig,
    DPRConfig,
    HubError,
    PretrainedConfig,
    RemBertConfig,
)
from zoo.configs.rules import ACTIVATIONS, PositiveInt
from zoo.families import FAMILIES, family_of

GOLDENS = Path(__file__).parents[2] / "shared" / "goldens"
needs_goldens = pytest.mark.skipif(not GOLDENS.is_dir(), reason="no recorded reference outputs")

PUBLISHED = {
    "vocab_size": 250300,
    "hidden_size": 1152,
    "num_hidden_layers": 32,
    "num_attention_heads": 18,
    "input_embedding_size": 256,
    "output_embedding_size": 1664,
    "intermediate_size": 4608,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "classifier_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "use_cache": True,
    "pad_token_id": 0,
    "bos_token_id": 312,
    "eos_token_id": 313,
}

# A file as they were released: keys that no class declares, old names, fields at their defaults.
RELEASED = {
    "architectures": ["RemBertModel"],
    "attention_probs_dropout_prob": 0,
    "embedding_dropout_prob": 0,
    "embedding_size": 256,
    "hidden_size": 36,
    "is_decoder": False,
    "model_type": "rembert",
    "num_attention_heads": 6,
    "some_number": 1e-300,
    "some_nested": {"a": [{"b": None, "ü": "☃"}], "c": {"1": 2}},
    "to_dict": "the name of a method",
    "num_labels": 2,
    "name with spaces": True,
    "transformers_version": "4.5.0.dev0",
    "torch_dtype": "float32",
    "_name_or_path": "/home/somebody/rembert",
}


def write(folder: Path, values: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(
        values if isinstance(values, str) else json.dumps(values), encoding="utf-8"
    )
    return folder


def saved(config: PretrainedConfig, folder: Path) -> dict[str, Any]:
    config.save_pretrained(folder)
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


# Fields and defaults


def test_published_signature() -> None:
    parameters = inspect.signature(RemBertConfig).parameters
    assert {name: parameters[name].default for name in PUBLISHED} == PUBLISHED
    assert list(parameters)[: len(PUBLISHED)] == list(PUBLISHED)
    config = RemBertConfig()
    assert {name: getattr(config, name) for name in PUBLISHED} == PUBLISHED


def test_positional_values_follow_the_signature() -> None:
    config = RemBertConfig(100, 24, 3, num_attention_heads=4)
    assert (config.vocab_size, config.hidden_size, config.num_hidden_layers) == (100, 24, 3)
    with pytest.raises(TypeError, match="vocab_size was given twice"):
        RemBertConfig(100, vocab_size=100)
    with pytest.raises(TypeError, match="at most"):
        RemBertConfig(*range(1, 40))


@needs_goldens
@pytest.mark.parametrize("config_class", [RemBertConfig, BertGenerationConfig, DPRConfig])
def test_equals_the_recorded_default(config_class: type[PretrainedConfig]) -> None:
    golden = json.loads((GOLDENS / "configs.json").read_text())[config_class.__name__]
    config = config_class()
    assert json.loads(config.to_json_string(use_diff=False)) == golden["to_dict"]
    # The version of the reference is not ours to write.
    assert sorted({*config.to_diff_dict(), "transformers_version"}) == golden["diff"]
    assert config.attribute_map == golden["attribute_map"]
    assert config.model_type == golden["model_type"]


@needs_goldens
def test_recorded_files_come_back(tmp_path: Path) -> None:
    for family in ("rembert", "bertgeneration", "rag"):
        paths = sorted(GOLDENS.glob(f"{family}/*/config.json"))
        assert paths
        for path in paths:
            config = AutoConfig.from_pretrained(path)
            assert saved(config, tmp_path) == json.loads(path.read_text())


def test_common_fields() -> None:
    config = RemBertConfig(output_attentions=True, is_decoder=True, chunk_size_feed_forward=5)
    assert (config.output_attentions, config.is_decoder) == (True, True)
    assert config.chunk_size_feed_forward == 5
    assert not config.add_cross_attention and not config.is_encoder_decoder
    assert config.use_return_dict
    assert not RemBertConfig(return_dict=False).use_return_dict
    assert not RemBertConfig(torchscript=True).use_return_dict
    config = RemBertConfig(name_or_path="google/rembert")
    assert config.to_dict()["_name_or_path"] == config.name_or_path == "google/rembert"


def test_defaults_are_not_shared() -> None:
    RemBertConfig().id2label[0] = "changed"
    RemBertConfig().pruned_heads[1] = [2]
    assert RemBertConfig().id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert RemBertConfig().pruned_heads == {}
    config = RemBertConfig()
    config.to_dict()["id2label"][0] = "changed"
    assert config.id2label[0] == "LABEL_0"


# Refusals


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_misspelt_keyword_is_refused_with_the_suggestion(name: str, tmp_path: Path) -> None:
    middle = len(name) // 2
    folder = write(tmp_path, {"model_type": "rembert"})
    for wrong in (name[:middle] + name[middle + 1 :], f"{name}s", name.upper()):
        if wrong.lower() == name and wrong != name:
            continue  # a matter of case is no matter of letters
        for refused in (
            lambda wrong=wrong: RemBertConfig(**{wrong: 1}),
            lambda wrong=wrong: RemBertConfig.from_pretrained(folder, **{wrong: 1}),
            lambda wrong=wrong: RemBertConfig.from_dict({}, True, **{wrong: 1}),
            lambda wrong=wrong: AutoConfig.from_pretrained(folder, **{wrong: 1}),
            lambda wrong=wrong: RemBertConfig().update({wrong: 1}),
        ):
            with pytest.raises(ValueError, match=f"'{wrong}'; did you mean .*'{name}'"):
                refused()


def test_the_example_of_a_misspelt_keyword() -> None:
    message = "no field 'num_hiden_layers'; did you mean 'num_hidden_layers'?"
    with pytest.raises(ValueError, match=re.escape(message)):
        RemBertConfig(num_hiden_layers=2)
    with pytest.raises(ValueError, match="'input_embedding_size'"):
        RemBertConfig(embedding_size=128)


def test_other_unknown_keywords_are_kept(tmp_path: Path) -> None:
    config = RemBertConfig(my_own_setting={"a": 1})
    config.update({"another": [2]})
    assert (config.my_own_setting, config.another) == ({"a": 1}, [2])
    assert saved(config, tmp_path)["my_own_setting"] == {"a": 1}
    again = RemBertConfig.from_pretrained(tmp_path, third=3)
    assert (again.my_own_setting, again.another, again.third) == ({"a": 1}, [2], 3)


def test_a_keyword_cannot_hide_a_method() -> None:
    with pytest.raises(ValueError, match="'to_dict' is no field"):
        RemBertConfig(to_dict=1)


IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    ({"hidden_size": 100}, "hidden_size: received 100, expected a multiple of .*heads .18"),
    ({"hidden_size": 0}, "hidden_size: received 0, expected an integer above 0"),
    ({"num_attention_heads": -1}, "num_attention_heads: received -1"),
    ({"num_hidden_layers": 0}, "num_hidden_layers: received 0"),
    ({"vocab_size": -5}, "vocab_size: received -5"),
    ({"vocab_size": True}, "vocab_size: received True"),
    ({"vocab_size": "100"}, "vocab_size: received '100'"),
    ({"vocab_size": 10.0}, "vocab_size: received 10.0"),
    ({"vocab_size": None}, "vocab_size: received None"),
    ({"type_vocab_size": 0}, "type_vocab_size: received 0"),
    ({"hidden_dropout_prob": 1.5}, "hidden_dropout_prob: received 1.5, .* between 0 and 1"),
    ({"classifier_dropout_prob": -0.1}, "classifier_dropout_prob: received -0.1"),
    ({"attention_probs_dropout_prob": "0"}, "attention_probs_dropout_prob: received '0'"),
    ({"hidden_dropout_prob": True}, "hidden_dropout_prob: received True"),
    ({"hidden_dropout_prob": float("nan")}, "hidden_dropout_prob: received nan"),
    ({"initializer_range": -1}, "initializer_range: received -1"),
    ({"layer_norm_eps": float("inf")}, "layer_norm_eps: received inf"),
    ({"hidden_act": "gellu"}, "hidden_act: received 'gellu', expected one of 'gelu', .*'tanh'"),
    ({"hidden_act": 3}, "hidden_act: received 3"),
    ({"hidden_act": ["gelu"]}, "hidden_act: received \\['gelu'\\]"),
    ({"use_cache": 1}, "use_cache: received 1, expected True or False"),
    ({"is_decoder": "yes"}, "is_decoder: received 'yes'"),
    ({"output_attentions": None}, "output_attentions: received None"),
    ({"chunk_size_feed_forward": -1}, "chunk_size_feed_forward: received -1"),
    ({"pad_token_id": 250300}, "pad_token_id: received 250300, .* below vocab_size .250300"),
    ({"pad_token_id": 1.0}, "pad_token_id: received 1.0"),
    ({"eos_token_id": [1, "2"]}, "eos_token_id: received \\[1, '2'\\]"),
    ({"eos_token_id": []}, "eos_token_id: received \\[\\]"),
    ({"problem_type": "ranking"}, "problem_type: received 'ranking', .*'regression'"),
    ({"position_embedding_type": "rotary"}, "position_embedding_type: .* 'relative_key_query'"),
    ({"num_labels": 0}, "num_labels: received 0"),
    ({"num_labels": True}, "num_labels: received True"),
    ({"num_labels": 3, "id2label": {0: "a", 1: "b"}}, "num_labels: received 3, expected 2"),
    ({"num_labels": 3, "label2id": {"a": 0}}, "num_labels: received 3, expected 1"),
    ({"id2label": {1: "a", 2: "b"}}, "id2label: received .*0, 1"),
    ({"id2label": {}}, "id2label: received {}"),
    ({"id2label": ["a", "b"]}, "id2label: received \\['a', 'b'\\]"),
    ({"label2id": ["a"]}, "label2id: received \\['a'\\]"),
    ({"torch_dtype": 5}, "torch_dtype"),
    ({"model_type": "bert"}, "'rembert' model, received model_type 'bert'"),
    ({"tie_word_embeddings": True}, "tie_word_embeddings: received True, expected False"),
]


@pytest.mark.parametrize(("values", "message"), IMPOSSIBLE, ids=lambda value: str(value)[:50])
def test_impossible_values(values: dict[str, Any], message: str) -> None:
    """Refused however they arrive, and a configuration that refuses stays as it was."""
    with pytest.raises(ValueError, match=message):
        RemBertConfig(**values)
    with pytest.raises(ValueError, match=message):
        RemBertConfig.from_dict(values)
    with pytest.raises(ValueError, match=message):
        RemBertConfig.from_dict({}, **values)
    config = RemBertConfig()
    with pytest.raises(ValueError, match=message):
        config.update(values)
    assert config == RemBertConfig()


def test_all_problems_at_once() -> None:
    with pytest.raises(ValueError) as error:
        RemBertConfig(vocab_size=0, hidden_act="x", use_cache=None)
    text = str(error.value)
    assert "vocab_size" in text and "hidden_act" in text and "use_cache" in text


def test_values_set_later_are_checked_on_use_and_on_saving(tmp_path: Path) -> None:
    config = RemBertConfig()
    config.save_pretrained(tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    config.hidden_size = 100
    with pytest.raises(ValueError, match="hidden_size"):
        config.validate()
    with pytest.raises(ValueError, match="hidden_size"):
        config.save_pretrained(tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_known_activations(name: str) -> None:
    assert RemBertConfig(hidden_act=name).hidden_act == name


def test_an_activation_as_a_function_works_in_code_only(tmp_path: Path) -> None:
    config = RemBertConfig(hidden_act=abs)
    assert config.hidden_act(-2) == 2
    assert copy.deepcopy(config) == config
    assert "abs" in repr(config)
    with pytest.raises(ValueError, match=r"hidden_act: .*abs.* cannot be saved.*gelu"):
        config.save_pretrained(tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_what_json_cannot_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="my_thing: .*cannot be saved"):
        RemBertConfig(my_thing=object()).save_pretrained(tmp_path)


# Labels and names


def test_num_labels_names_the_labels() -> None:
    config = RemBertConfig(num_labels=3)
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert config.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
    config.num_labels = 1
    assert (config.id2label, config.label2id) == ({0: "LABEL_0"}, {"LABEL_0": 0})


def test_label_names(tmp_path: Path) -> None:
    config = RemBertConfig(id2label={"0": "no", "1": "maybe", "2": "yes"})
    assert config.num_labels == 3
    assert config.id2label == {0: "no", 1: "maybe", 2: "yes"}
    assert config.label2id == {"no": 0, "maybe": 1, "yes": 2}
    assert saved(config, tmp_path)["id2label"] == {"0": "no", "1": "maybe", "2": "yes"}
    assert RemBertConfig.from_pretrained(tmp_path).id2label == config.id2label
    assert RemBertConfig(label2id={"no": 0, "yes": 1}).id2label == {0: "no", 1: "yes"}
    config.num_labels = 3
    assert config.id2label[0] == "no", "the same number keeps the names"
    config.id2label = {0: "a"}
    assert (config.num_labels, config.label2id) == (1, {"a": 0})


def test_label_overrides_replace_the_labels_of_the_file(tmp_path: Path) -> None:
    RemBertConfig(id2label={0: "no", 1: "maybe", 2: "yes"}).save_pretrained(tmp_path)
    same = RemBertConfig.from_pretrained(tmp_path, num_labels=3)
    assert same.id2label[2] == "yes"
    assert RemBertConfig.from_pretrained(tmp_path, num_labels=2).label2id == {
        "LABEL_0": 0,
        "LABEL_1": 1,
    }
    named = RemBertConfig.from_pretrained(tmp_path, id2label={0: "x"})
    assert (named.num_labels, named.label2id) == (1, {"x": 0})
    assert RemBertConfig.from_pretrained(tmp_path, label2id={"x": 0}).id2label == {0: "x"}


def test_two_ids_may_have_one_name(tmp_path: Path) -> None:
    config = RemBertConfig(id2label={0: "same", 1: "same"})
    assert config.num_labels == 2
    config.save_pretrained(tmp_path)
    assert RemBertConfig.from_pretrained(tmp_path) == config


def test_dtype_is_kept_as_a_string(tmp_path: Path) -> None:
    class Float16:  # what torch's look like from outside
        def __repr__(self) -> str:
            return "torch.float16"

    assert RemBertConfig(torch_dtype=Float16()).torch_dtype == "float16"
    assert RemBertConfig(torch_dtype="torch.bfloat16").torch_dtype == "bfloat16"
    assert RemBertConfig(dtype="bfloat16").torch_dtype == "bfloat16"
    assert RemBertConfig(torch_dtype=float).dtype == "float"
    newer = write(tmp_path, {"model_type": "rembert", "dtype": "float16"})
    config = RemBertConfig.from_pretrained(newer)
    assert config.torch_dtype == "float16"
    config.torch_dtype = "float32"
    values = saved(config, tmp_path)
    assert values["dtype"] == values["torch_dtype"] == "float32"
    assert RemBertConfig.from_pretrained(newer, dtype="float64").torch_dtype == "float64"


# Files


def test_released_keys_survive(tmp_path: Path) -> None:
    first = RemBertConfig.from_pretrained(write(tmp_path / "a", RELEASED))
    values = saved(first, tmp_path / "b")
    assert {name: values[name] for name in RELEASED} == RELEASED
    assert values.keys() - RELEASED.keys() <= PUBLISHED.keys() | {"tie_word_embeddings"}
    second = RemBertConfig.from_pretrained(tmp_path / "b")
    assert second == first
    assert saved(second, tmp_path / "c") == values
    assert first.embedding_size == 256
    assert callable(first.to_dict)
    assert RemBertConfig.from_pretrained(tmp_path / "a", embedding_size=128).embedding_size == 128


def test_file_format(tmp_path: Path) -> None:
    values = saved(RemBertConfig(pad_token_id=None), tmp_path)
    assert values["model_type"] == "rembert"
    assert values["pad_token_id"] is None, "None is not the default"
    assert "transformers_version" not in values
    text = (tmp_path / "config.json").read_text()
    assert text == json.dumps(values, indent=2, sort_keys=True) + "\n"


def test_saving_leaves_other_files_alone(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text("{}")
    RemBertConfig().save_pretrained(tmp_path)
    names = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert names == {"config.json", "generation_config.json"}
    with pytest.raises(OSError):
        RemBertConfig().save_pretrained(tmp_path / "config.json")


@pytest.mark.parametrize("as_text", [True, False])
def test_from_a_folder_or_a_file(tmp_path: Path, as_text: bool) -> None:
    RemBertConfig(num_labels=4).save_pretrained(tmp_path)
    for path in (tmp_path, tmp_path / "config.json"):
        place = str(path) if as_text else path
        config = RemBertConfig.from_pretrained(place)
        assert config.num_labels == 4
        assert config.name_or_path == str(path)
        assert "_name_or_path" not in config.to_diff_dict(), "where it lies is not saved"
    assert RemBertConfig.from_json_file(tmp_path / "config.json").num_labels == 4


def test_overrides_are_checked_with_the_file(tmp_path: Path) -> None:
    write(tmp_path, {"model_type": "rembert", "hidden_size": 36, "num_attention_heads": 6})
    config = RemBertConfig.from_pretrained(tmp_path, hidden_size=35, num_attention_heads=5)
    assert (config.hidden_size, config.num_attention_heads) == (35, 5)
    with pytest.raises(ValueError, match="hidden_size: received 35"):
        RemBertConfig.from_pretrained(tmp_path, hidden_size=35)


def test_unused_keywords(tmp_path: Path) -> None:
    RemBertConfig().save_pretrained(tmp_path)
    for opened in (
        RemBertConfig.from_pretrained(
            tmp_path, return_unused_kwargs=True, num_labels=3, revision="main", something=1
        ),
        AutoConfig.from_pretrained(
            tmp_path, return_unused_kwargs=True, num_labels=3, revision="main", something=1
        ),
        RemBertConfig.from_dict({}, return_unused_kwargs=True, num_labels=3, something=1),
    ):
        config, unused = opened
        assert unused == {"something": 1}
        assert config.num_labels == 3
        assert not hasattr(config, "something")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{\n "a": 1,\n}', r"config\.json, line 3, column 1"),
        ('{"a": 1', r"config\.json, line 1"),
        ("", r"config\.json, line 1"),
        ("[1]", r"config\.json: expected a JSON object, found list"),
        ("[" * 100_000, r"config\.json"),
        ('{"model_type": "bert"}', r"'bert' model, RemBertConfig opens 'rembert'"),
        ('{"model_type": "rembert", "hidden_size": "36"}', r"hidden_size: received '36'"),
    ],
)
def test_broken_files(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RemBertConfig.from_pretrained(write(tmp_path, content))


def test_broken_text(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ValueError, match=r"config\.json: not UTF-8"):
        RemBertConfig.from_pretrained(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(HubError, match=r"has no config\.json"):
        RemBertConfig.from_pretrained(tmp_path)
    with pytest.raises(OSError, match="no such folder"):
        RemBertConfig.from_pretrained(tmp_path / "nowhere")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text(min_size=1), JSON, max_size=4))
def test_any_unknown_keys_survive(unknown: dict[str, Any]) -> None:
    known = {*RemBertConfig._fields, "model_type", "num_labels", "dtype", "position_embedding_type"}
    unknown = {name: value for name, value in unknown.items() if name not in known}
    config = RemBertConfig.from_dict({**unknown, "model_type": "rembert"})
    values = json.loads(config.to_json_string())
    assert {name: values[name] for name in unknown} == json.loads(json.dumps(unknown))
    assert RemBertConfig.from_dict(values) == config


# The rest


def test_equality_copies_and_text() -> None:
    config = RemBertConfig(num_labels=3, my_own=[1])
    for same in (copy.deepcopy(config), pickle.loads(pickle.dumps(config)), copy.copy(config)):
        assert same == config
    assert RemBertConfig(**config.to_dict()) == config
    assert config != RemBertConfig() and config != "config"
    assert json.loads(repr(config).removeprefix("RemBertConfig "))["my_own"] == [1]


def test_other_names_of_a_field() -> None:
    class OtherConfig(PretrainedConfig):
        model_type = "other"
        attribute_map = {"hidden_size": "d_model"}
        d_model: PositiveInt = 8
        inner: Any = None

    config = OtherConfig(hidden_size=16)
    assert (config.d_model, config.hidden_size) == (16, 16)
    config.hidden_size = 32
    assert config.d_model == 32
    assert OtherConfig.from_dict({"hidden_size": 4}).d_model == 4
    assert OtherConfig.from_dict({"d_model": 2}, hidden_size=4).d_model == 4
    assert "hidden_size" not in config.to_dict()
    with pytest.raises(ValueError, match="d_model: received 0"):
        config.update({"hidden_size": 0})
    assert config.d_model == 32
    with pytest.raises(AttributeError, match="no field 'd_modle'"):
        _ = config.d_modle

    outer = OtherConfig(inner=RemBertConfig(num_labels=3))
    values = json.loads(outer.to_json_string())
    assert values["inner"]["model_type"] == "rembert"
    assert len(values["inner"]["id2label"]) == 3


def test_auto_config(tmp_path: Path) -> None:
    made = AutoConfig.for_model("rembert", num_labels=3)
    assert type(made) is RemBertConfig and made.num_labels == 3
    made.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path) == made
    assert AutoConfig.from_pretrained(tmp_path, num_labels=5).num_labels == 5
    with pytest.raises(ValueError, match="received 'bert', expected one of .*'rembert'"):
        AutoConfig.for_model("bert")
    with pytest.raises(ValueError, match="model_type 'bert', expected one of .*'rembert'"):
        AutoConfig.from_pretrained(write(tmp_path, {"model_type": "bert"}))
    with pytest.raises(ValueError, match="model_type None"):
        AutoConfig.from_pretrained(write(tmp_path, {}))
    with pytest.raises(TypeError, match="from_pretrained"):
        AutoConfig()


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_row_of_the_table(model_type: str) -> None:
    family = family_of(model_type)
    parts = {
        "encoder-decoder": {"encoder": RemBertConfig(), "decoder": BertGenerationConfig()},
        "rag": {"question_encoder": DPRConfig(), "generator": BartConfig()},
    }
    config = AutoConfig.for_model(model_type, **parts.get(model_type, {}))
    assert type(config).__name__ == family.config
    assert config.model_type == model_type
    config.validate()
