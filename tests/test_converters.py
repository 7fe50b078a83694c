"""Other formats in and out: files of older kinds, hostile and damaged ones, and the command."""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest
import torch
from cases import CASE, TINY
from frameworks import TORCH
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

import converters
import pt_models
from converters import cli, convert
from converters import verify as verification
from converters.info import info
from converters.keras_h5 import tensorflow_name
from converters.verify import make_inputs, print_table, summary, verify
from pt_models import rembert
from zoo import ReformerConfig, RemBertConfig
from zoo.checkpoint import Checkpoint, CheckpointError
from zoo.configs.rag import PARTS
from zoo.legacy_formats import published_key, with_published_names

HEADS = {
    "RemBertModel": {},
    "RemBertForMaskedLM": {},
    "RemBertForCausalLM": {"is_decoder": True, "add_cross_attention": True},
    "RemBertForSequenceClassification": {"num_labels": 5},
    "RemBertForMultipleChoice": {},
    "RemBertForTokenClassification": {"num_labels": 7},
    "RemBertForQuestionAnswering": {},
}


def make_model(folder: Path, head: str = "RemBertForMaskedLM", **changes: Any) -> Path:
    """A tiny checkpoint with weights large enough to tell them apart."""
    torch.manual_seed(11)
    config = RemBertConfig(**(TINY | {"initializer_range": 0.3} | HEADS[head] | changes))
    model = getattr(rembert, head)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def masked_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_model(tmp_path_factory.mktemp("masked_lm"))
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    (folder / "sentencepiece.model").write_bytes(b"\0\1tokens")
    return folder


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def assert_equal(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


# pytorch_model.bin -------------------------------------------------------------------------------


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().clone(memory_format=torch.contiguous_format)
    special = {torch.bfloat16: ml_dtypes.bfloat16, torch.float8_e4m3fn: ml_dtypes.float8_e4m3fn}
    if tensor.dtype in special:
        bits = {2: torch.int16, 1: torch.uint8}[tensor.element_size()]
        return tensor.view(bits).numpy().view(special[tensor.dtype])
    return tensor.numpy()


def all_sorts() -> dict[str, torch.Tensor]:
    numbers = torch.arange(24.0)
    return {
        "plain": numbers.reshape(2, 3, 4),
        "transposed": numbers.reshape(4, 6).t(),
        "permuted": numbers.reshape(2, 3, 4).permute(2, 0, 1),
        "offset": numbers[5:11],
        "every second": numbers[1::2].reshape(3, 4),
        "half": torch.randn(3, 5).half(),
        "bfloat16": torch.randn(7, 3).bfloat16(),
        "bfloat16 transposed": torch.randn(7, 3).bfloat16().t(),
        "double": torch.randn(3).double(),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "bool": torch.tensor([True, False, True]),
        "int64": torch.tensor([-5, 2**40]),
        "int32": torch.tensor([-5, 2**30], dtype=torch.int32),
        "int16": torch.tensor([-5, 2**14], dtype=torch.int16),
        "int8": torch.tensor([-5, 100], dtype=torch.int8),
        "uint8": torch.tensor([5, 200], dtype=torch.uint8),
        "parameter": torch.nn.Parameter(torch.randn(3, 4)),
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("as_zip", [True, False])
def test_bin_holds_what_torch_loads(tmp_path: Path, as_zip: bool, protocol: int) -> None:
    path = tmp_path / "pytorch_model.bin"
    tensors = all_sorts()
    if as_zip:
        tensors["uint16"] = torch.tensor([5, 60000], dtype=torch.uint16)
        tensors["float8"] = torch.randn(5).to(torch.float8_e4m3fn)
    torch.save(
        OrderedDict(tensors),
        path,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=as_zip,
    )
    with Checkpoint.open(tmp_path) as checkpoint:
        assert list(checkpoint) == list(tensors)
        for name, tensor in tensors.items():
            expected = as_numpy(tensor)
            array = checkpoint.array(name)
            assert checkpoint[name].shape == expected.shape
            assert checkpoint[name].dtype == expected.dtype.name
            assert not array.flags.writeable
            assert_equal(array, expected)
            copy = np.zeros_like(expected)
            checkpoint.copy_to(name, copy)
            checkpoint.release(name)
            assert_equal(copy, expected)
            assert_equal(array, expected)
    with pytest.raises(CheckpointError, match="closed"):
        checkpoint.array("plain")
    assert_equal(array, expected)


def test_bin_of_a_module(tmp_path: Path) -> None:
    """A module's state dict carries attributes of its own, and weights that share memory."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    module.tied = module[0].weight
    torch.save(module.state_dict(), tmp_path / "pytorch_model.bin")
    with Checkpoint.open(tmp_path) as checkpoint:
        assert set(checkpoint) == set(module.state_dict())
        assert checkpoint["tied"].offset == checkpoint["0.weight"].offset
        assert checkpoint["1.num_batches_tracked"].dtype == "int64"


def test_bin_is_mapped_not_read(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"big": torch.ones(1 << 18), "small": torch.ones(2)}, path)
    with Checkpoint.open(path) as checkpoint:
        array = checkpoint.array("big")
        with open(path, "r+b") as file:
            file.seek(checkpoint["big"].offset)
            file.write(struct.pack("<f", 7.0))
        assert array[0] == 7.0  # so it is the file's memory
        assert checkpoint["big"].nbytes == 4 << 18


def test_legacy_files_open_without_a_framework(tmp_path: Path, masked_lm: Path) -> None:
    convert(masked_lm, tmp_path / "bin", to="bin")
    convert(masked_lm, tmp_path / "h5", to="h5")
    code = f"""
import sys
from zoo.checkpoint import Checkpoint
for name in "bin", "h5":
    found = Checkpoint.open({str(tmp_path)!r} + "/" + name)
    assert len(found) == {len(load_file(masked_lm / "model.safetensors"))}, found
    assert ("h5py" in sys.modules) == (name == "h5"), name
assert not {{"torch", "tensorflow", "keras"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


class Call:
    """Pickles into a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def hostile(mark: Path) -> dict[str, tuple[Any, str]]:
    """Content -> the name that the refusal has to give."""
    command = f"touch {mark}"
    code = f"open({str(mark)!r}, 'w').close()"
    nested = Call(OrderedDict, [("weight", Call(eval, code))])
    parameter = Call(torch._utils._rebuild_parameter, Call(exec, code), True, OrderedDict())
    return {
        "system": (Call(os.system, command), "(posix|nt).system"),
        "eval": ({"weight": Call(eval, code)}, "builtins.eval"),
        "exec in a list": ({"weight": [1, (2, Call(exec, code))]}, "builtins.exec"),
        "nested": (nested, "builtins.eval"),
        "as a parameter": ({"weight": parameter}, "builtins.exec"),
        "process": (Call(subprocess.Popen, ["touch", str(mark)]), "subprocess.Popen"),
        "getattr": (Call(getattr, Call(__import__, "os"), "system"), "builtins.getattr"),
        "objects of numpy": ({"weight": np.array([Call(eval, code)])}, r"numpy\S*._reconstruct"),
        "bytes for torch.load": (
            Call(torch.storage._load_from_bytes, b"\x80"),
            "torch.storage._load_from_bytes",
        ),
        "a whole module": (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        "a class": ({"weight": Path(mark)}, r"pathlib\S*.PosixPath"),
        "a dtype": ({"weight": torch.float32, "x": Call(torch.load, str(mark))}, "torch.float32"),
    }


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
@pytest.mark.parametrize("name", list(hostile(Path("mark"))))
def test_bin_refuses_by_name_and_runs_nothing(tmp_path: Path, name: str, protocol: int) -> None:
    mark = tmp_path / "mark"
    content, refused = hostile(mark)[name]
    if protocol < 2:
        refused += "|copyreg._reconstructor"
    data = pickle.dumps(content, protocol, fix_imports=False)
    path = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
    with pytest.raises(CheckpointError, match=rf"{path} asks to run ({refused}); refused"):
        Checkpoint.open(path)
    if protocol >= 2:
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=rf"asks to run ({refused}); refused"):
            Checkpoint.open(path)
        head = b"".join(pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, SYSTEM))
        path.write_bytes(head + data)
        with pytest.raises(CheckpointError, match=rf"asks to run ({refused}); refused"):
            Checkpoint.open(path)
    assert not mark.exists()


SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"(S'touch mark'\nios\nsystem\n.", "asks to run os.system; refused"),
        (b"\x80\x02cos\nsystem\n.", "asks to run os.system; refused"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "asks to run os.system; refused"),
        (b"\x80\x02ctorch\nload\n.", "asks to run torch.load; refused"),
        (b"\x80\x02\x82\x01.", "opcode EXT1; refused"),
        (b"\x80\x02(ccollections\nOrderedDict\no.", "opcode OBJ; refused"),
        (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "opcode NEWOBJ; refused"),
        (b"\x80\x02}}b.", "no dictionary of tensors"),
        (b"\x80\x02ccollections\nOrderedDict\n}b.", "damaged pickle"),
        (b"\x80\x02ctorch\nFloatStorage\n)R.", "damaged pickle"),
        (b"\x80\x02X\x03\x00\x00\x00abc)R.", "damaged pickle"),
        (b"\x80\x02})K\x01s.", "damaged pickle"),  # a tuple as a key
        (b"\x80\x02h\x05.", "damaged pickle"),
        (b"\x80\x020.", "refused|damaged pickle"),
        (b"\x80\x02.", "damaged pickle"),
        (b"\x80\x02}", "damaged pickle"),
        (b"\x80\x02(.", "damaged pickle|no dictionary"),
        (b"\x80\x02\x8b\xff\xff\xff\x7f.", "damaged pickle"),
        (b"\x80\x02X\xff\xff\xff\xffabc.", "damaged pickle"),
        (b"\x80\x02r\xff\xff\xff\xff.", "damaged pickle"),
        (b"\x80\x02" + b")" + b"\x85" * 100_000 + b"K\x01K\x01\x86R.", "damaged pickle"),
    ],
)
def test_bin_refuses_odd_pickles(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(path)
    assert not Path("mark").exists()


def rewrite(path: Path, change: Any, compression: int = zipfile.ZIP_STORED) -> None:
    """Changes the entries of a zip file."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def replace_in(entry: str, old: bytes, new: bytes) -> Any:
    def change(entries: dict[str, bytes]) -> None:
        name = next(name for name in entries if name.endswith(entry))
        assert entries[name].count(old) == 1
        entries[name] = entries[name].replace(old, new)

    return change


def test_bin_refuses_damaged_archives(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    tensor = torch.arange(30.0).reshape(5, 6)

    def check(message: str, change: Any, **options: Any) -> None:
        torch.save({"weight": tensor}, path)
        rewrite(path, change, **options)
        with pytest.raises(CheckpointError, match=message):
            Checkpoint.open(path)

    keep = replace_in("data.pkl", b"weight", b"weight")
    torch.save({"weight": tensor}, path)
    rewrite(path, keep)
    assert_equal(Checkpoint.open(path).array("weight"), tensor.numpy())
    check("compressed", keep, compression=zipfile.ZIP_DEFLATED)
    check("big-endian", replace_in("byteorder", b"little", b"big"))
    check("no storage '0'", lambda entries: entries.pop("pytorch_model/data/0"))
    check("120 bytes, 116 expected", replace_in("data.pkl", b"K\x1e", b"K\x1d"))
    # Shape 5 x 6 with strides 6, 1 becomes 5 x 6 with strides 7, 1; and 6 x 6.
    check("larger than its storage", replace_in("data.pkl", b"K\x06K\x01", b"K\x07K\x01"))
    check("larger than its storage", replace_in("data.pkl", b"K\x05K\x06", b"K\x06K\x06"))
    check("damaged pickle", replace_in("data.pkl", b"K\x05K\x06", b"G\0\0\0\0\0\0\0\0K\x06"))
    check("no data.pkl", lambda entries: entries.pop("pytorch_model/data.pkl"))
    huge = torch.ones(1).expand(10**6, 10**6)
    torch.save({"weight": huge}, path)
    with pytest.raises(CheckpointError, match="larger than its storage"):
        Checkpoint.open(path)
    torch.save({"weight": tensor, "epoch": 3}, path)
    with pytest.raises(CheckpointError, match="'epoch', of kind int"):
        Checkpoint.open(path)
    torch.save([tensor], path)
    with pytest.raises(CheckpointError, match="no dictionary of tensors"):
        Checkpoint.open(path)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Checkpoint.open(path)
    path.write_bytes(b"not a checkpoint" * 100)
    with pytest.raises(CheckpointError, match="no file of torch.save"):
        Checkpoint.open(path)
    path.write_bytes(b"\0" * 257 + b"ustar" + b"\0" * 250)
    with pytest.raises(CheckpointError, match="tar format .* torch.load .* torch.save"):
        Checkpoint.open(path)


def disturb(data: bytes, draw: random.Random) -> bytes:
    """Cuts, flips or moves a few bytes."""
    damaged = bytearray(data)
    kind = draw.randrange(3)
    if kind == 0:
        return bytes(damaged[: draw.randrange(len(damaged))])
    for _ in range(draw.randrange(1, 4)):
        place = draw.randrange(len(damaged))
        if kind == 1:
            damaged[place] ^= 1 << draw.randrange(8)
        else:
            damaged[place : place + 4] = draw.randbytes(4)
    return bytes(damaged)


@pytest.mark.parametrize("as_zip", [True, False])
def test_fuzzed_bin_files_end_in_one_error(tmp_path: Path, as_zip: bool) -> None:
    path = tmp_path / "pytorch_model.bin"
    sound = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.ones(3).bfloat16()}
    torch.save(sound, path, _use_new_zipfile_serialization=as_zip)
    data, draw, refused = path.read_bytes(), random.Random(5), 0
    for _ in range(400):
        path.write_bytes(disturb(data, draw))
        try:
            with Checkpoint.open(path) as checkpoint:
                for name, tensor in checkpoint.items():
                    assert checkpoint.array(name).shape == tensor.shape
                    np.array(checkpoint.array(name))
        except CheckpointError:
            refused += 1
    assert refused > 100


def test_sharded_bin(tmp_path: Path, masked_lm: Path) -> None:
    written = convert(masked_lm, tmp_path / "bin", to="bin", max_shard_size=20_000)
    expected = load_file(masked_lm / "model.safetensors")
    assert len(written) > 2
    assert re.fullmatch(r"pytorch_model-00001-of-0000\d\.bin", written[0].name)
    index = tmp_path / "bin" / "pytorch_model.bin.index.json"
    content = json.loads(index.read_text())
    assert content["metadata"]["total_size"] == sum(a.nbytes for a in expected.values())
    state = {}
    for path in written:
        state |= torch.load(path, weights_only=True)
    assert set(state) == set(expected)
    for place in (tmp_path / "bin", index):
        with Checkpoint.open(place) as checkpoint:
            for name, array in expected.items():
                assert_equal(checkpoint.array(name), array)
                assert_equal(state[name].numpy(), array)

    def check(message: str, **weight_map: Any) -> None:
        index.write_text(json.dumps({"weight_map": content["weight_map"] | weight_map}))
        with pytest.raises(CheckpointError, match=message):
            Checkpoint.open(tmp_path / "bin")

    check("not list the same tensors: ghost", ghost=written[0].name)
    check("outside its folder", ghost="../" + written[0].name)
    check("which is not there", ghost="pytorch_model-00009-of-00009.bin")
    index.write_text("{}")
    with pytest.raises(CheckpointError, match="not an index"):
        Checkpoint.open(tmp_path / "bin")
    index.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="one of several files"):
        convert(written[0], tmp_path / "out")
    written[1].unlink()
    with pytest.raises(CheckpointError, match=f"{written[1].name}, which is not there"):
        Checkpoint.open(tmp_path / "bin")


# tf_model.h5 -------------------------------------------------------------------------------------

# Names and layout as the published TF class writes them, for one layer.
PUBLISHED = {
    "rembert/embeddings/word_embeddings/weight:0": ("embeddings.word_embeddings.weight", (5, 3)),
    "rembert/embeddings/position_embeddings/embeddings:0": (
        "embeddings.position_embeddings.weight",
        (7, 3),
    ),
    "rembert/embeddings/LayerNorm/gamma:0": ("embeddings.LayerNorm.weight", (3,)),
    "rembert/embeddings/LayerNorm/beta:0": ("embeddings.LayerNorm.bias", (3,)),
    "rembert/encoder/embedding_hidden_mapping_in/kernel:0": (
        "encoder.embedding_hidden_mapping_in.weight",
        (3, 4),
    ),
    "rembert/encoder/layer_._0/attention/self/query/kernel:0": (
        "encoder.layer.0.attention.self.query.weight",
        (4, 4),
    ),
    "rembert/encoder/layer_._0/attention/self/query/bias:0": (
        "encoder.layer.0.attention.self.query.bias",
        (4,),
    ),
    "rembert/encoder/layer_._11/intermediate/dense/kernel:0": (
        "encoder.layer.11.intermediate.dense.weight",
        (4, 6),
    ),
    "rembert/pooler/dense/kernel:0": ("pooler.dense.weight", (4, 4)),
}
HEAD = {
    "mlm___cls/predictions/decoder/weight:0": ("cls.predictions.decoder.weight", (5, 6)),
    "mlm___cls/predictions/decoder/bias:0": ("cls.predictions.decoder.bias", (5,)),
    "mlm___cls/predictions/dense/kernel:0": ("cls.predictions.dense.weight", (4, 6)),
    "mlm___cls/predictions/LayerNorm/gamma:0": ("cls.predictions.LayerNorm.weight", (6,)),
}


def h5_content() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Arrays by TF name, and by published key as PyTorch has them."""
    draw = np.random.default_rng(3)
    names = {name: ("rembert." + key, shape) for name, (key, shape) in PUBLISHED.items()} | HEAD
    by_name = {name: draw.normal(size=s).astype(np.float32) for name, (_, s) in names.items()}
    by_key = {
        key: by_name[name].T if name.endswith("/kernel:0") else by_name[name]
        for name, (key, _) in names.items()
    }
    return by_name, by_key


def write_h5(path: Path, arrays: dict[str, np.ndarray], model: str = "tf_rem_bert_x_1") -> None:
    """As Keras 2 saves the weights of a model: a group per layer, which lists its weights."""
    with h5py.File(path, "w") as file:
        layers: dict[str, list[str]] = {"dropout_3": []}
        for name in arrays:
            layers.setdefault(name.split("/")[0], []).append(f"{model}/{name}")
        file.attrs["layer_names"] = list(layers)
        file.attrs["backend"] = "tensorflow"
        for layer, names in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = names or np.zeros(0)
            for name in names:
                group.create_dataset(name, data=arrays[name.partition("/")[2]])


def test_h5_names_are_published_keys(tmp_path: Path) -> None:
    arrays, expected = h5_content()
    write_h5(tmp_path / "tf_model.h5", arrays)
    with Checkpoint.open(tmp_path) as checkpoint:
        assert set(checkpoint) == set(expected)
        for key, array in expected.items():
            assert checkpoint[key].shape == array.shape
            assert_equal(checkpoint.array(key), array)
            assert not checkpoint.array(key).flags.writeable
            copy = np.zeros(array.shape[::-1], array.dtype)
            checkpoint.copy_to(key, copy, transpose=True)
            checkpoint.release(key)
            assert_equal(copy, array.T)
    # A list of names that is too long for one attribute is cut into pieces.
    with h5py.File(tmp_path / "tf_model.h5", "r+") as file:
        names = [name.encode() for name in file["rembert"].attrs["weight_names"]]
        del file["rembert"].attrs["weight_names"]
        file["rembert"].attrs["weight_names0"] = np.array(names[:4])
        file["rembert"].attrs["weight_names1"] = np.array(names[4:])
    assert set(Checkpoint.open(tmp_path)) == set(expected)


def test_sharded_h5(tmp_path: Path) -> None:
    arrays, expected = h5_content()
    weight_map = {}
    for number, names in enumerate((list(arrays)[::2], list(arrays)[1::2]), start=1):
        file_name = f"tf_model-0000{number}-of-00002.h5"
        with h5py.File(tmp_path / file_name, "w") as file:
            file.attrs["layer_names"] = names
            for name in names:
                file.create_dataset(name, data=arrays[name])
                weight_map[f"tf_rem_bert_for_masked_lm/{name}"] = file_name
    (tmp_path / "tf_model.h5.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with Checkpoint.open(tmp_path) as checkpoint:
        assert set(checkpoint) == set(expected)
        for key, array in expected.items():
            assert_equal(checkpoint.array(key), array)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (
            "tf_bert_for_pre_training/bert/encoder/layer_._3/output/dense/kernel:0",
            "bert.encoder.layer.3.output.dense.weight",
        ),
        (
            "tf_bert_for_pre_training/nsp___cls/seq_relationship/bias:0",
            "cls.seq_relationship.bias",
        ),
        ("tf_x/a___b/c___d/gamma:0", "b.d.weight"),
        ("tf_x/shared/embeddings:0", "shared.weight"),
    ],
)
def test_the_rule_of_names(name: str, key: str) -> None:
    assert published_key(name) == key


def test_names_written_are_the_published_ones() -> None:
    names = {name: ("rembert." + key, shape) for name, (key, shape) in PUBLISHED.items()} | HEAD
    norms = {"rembert.embeddings.LayerNorm", "cls.predictions.LayerNorm"}
    for name, (key, shape) in names.items():
        assert tensorflow_name(key, shape, norms) == name


def test_h5_refuses_links_and_damage(tmp_path: Path) -> None:
    arrays, _ = h5_content()
    path = tmp_path / "tf_model.h5"
    write_h5(tmp_path / "other.h5", arrays)
    first = "tf_rem_bert_x_1/" + next(iter(arrays))

    def check(message: str, change: Any) -> None:
        write_h5(path, arrays)
        with h5py.File(path, "r+") as file:
            change(file, file["rembert"])
        with pytest.raises(CheckpointError, match=message):
            Checkpoint.open(path)

    def link(file: Any, layer: Any) -> None:
        del layer[first]
        layer[first] = h5py.ExternalLink("other.h5", f"/rembert/{first}")

    def soft(file: Any, layer: Any) -> None:
        layer["moved"] = layer[first]
        del layer[first]
        layer[first] = h5py.SoftLink("/rembert/moved")

    def chunked(file: Any, layer: Any) -> None:
        del layer[first]
        layer.create_dataset(first, data=np.zeros((50, 50)), compression="gzip")

    def outside(file: Any, layer: Any) -> None:
        del layer[first]
        source = tmp_path / "secret"
        source.write_bytes(bytes(4 * 15))
        layer.create_dataset(first, (5, 3), "f4", external=[(str(source), 0, 60)])

    def texts(file: Any, layer: Any) -> None:
        del layer[first]
        layer[first] = "text"

    def twice(file: Any, layer: Any) -> None:
        layer.attrs["weight_names"] = [first, first]

    check("is a link; refused", link)
    check("is a link; refused", soft)
    check("not stored in one piece; refused", chunked)
    check("not stored in one piece; refused", outside)
    check("unsupported kind", texts)
    check("two weights for 'rembert.embeddings.word_embeddings.weight'", twice)
    check("which it lists", lambda file, layer: layer.__delitem__(first))
    check("no attribute 'weight_names'", lambda file, layer: layer.attrs.clear())
    check("no attribute 'layer_names'", lambda file, layer: file.attrs.clear())
    check("lists no weights", lambda file, layer: file.attrs.update(layer_names=["dropout_3"]))
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(CheckpointError, match="no readable tf_model.h5"):
        Checkpoint.open(path)


def test_damaged_h5_files_end_in_one_error(tmp_path: Path) -> None:
    """Damage to the tables of HDF5 itself; its library is not made for hostile files."""
    arrays, _ = h5_content()
    path = tmp_path / "tf_model.h5"
    write_h5(path, arrays)
    data, draw = path.read_bytes(), random.Random(2)
    for _ in range(40):
        path.write_bytes(data[: draw.randrange(len(data))])
        with pytest.raises(CheckpointError):
            Checkpoint.open(path)


def test_safetensors_under_tensorflow_names(tmp_path: Path) -> None:
    arrays, expected = h5_content()
    save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "tf"})
    with Checkpoint.open(tmp_path) as opened:
        checkpoint = with_published_names(opened)
        assert with_published_names(checkpoint) is checkpoint
        assert set(checkpoint) == set(expected)
        for key, array in expected.items():
            assert checkpoint[key].shape == array.shape
            assert_equal(checkpoint.array(key), array)
            for transpose in (False, True):
                copy = np.zeros(array.shape[::-1] if transpose else array.shape, array.dtype)
                checkpoint.copy_to(key, copy, transpose=transpose)
                assert_equal(copy, array.T if transpose else array)
        with pytest.raises(CheckpointError, match="ghost"):
            checkpoint.array("ghost")
    convert(tmp_path, tmp_path / "out", to="bin")
    assert set(Checkpoint.open(tmp_path / "out")) == set(expected)


# convert -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["bin", "h5", "safetensors"])
@pytest.mark.parametrize("max_shard_size", ["5GB", "20KB"])
@pytest.mark.parametrize("head", ["RemBertModel", "RemBertForMaskedLM", "RemBertForCausalLM"])
def test_round_trip(tmp_path: Path, head: str, to: str, max_shard_size: str) -> None:
    source = make_model(tmp_path / "source", head)
    written = convert(source, tmp_path / "other", to=to, max_shard_size=max_shard_size)
    assert all(path.is_file() for path in written)
    assert len(written) == 1 if max_shard_size == "5GB" else len(written) > 2
    assert not (tmp_path / "other" / "model.safetensors").exists() or to == "safetensors"
    convert(tmp_path / "other", tmp_path / "back")
    assert weights(tmp_path / "back") == weights(source)
    assert (tmp_path / "back" / "config.json").read_text() == (source / "config.json").read_text()


@pytest.mark.parametrize(
    ("head", "to", "name"),
    [
        ("RemBertModel", "keras", "mine.keras"),
        ("RemBertModel", "weights.h5", ""),
        ("RemBertForTokenClassification", "keras", ""),
        ("RemBertForTokenClassification", "weights.h5", "mine.weights.h5"),
    ],
)
def test_round_trip_through_keras(tmp_path: Path, head: str, to: str, name: str) -> None:
    source = make_model(tmp_path / "source", head)
    (written,) = convert(source, tmp_path / "other" / name, to=to)
    assert written == tmp_path / "other" / (name or f"model.{to}")
    if name:
        assert os.listdir(tmp_path / "other") == [name]
        shutil.copy(source / "config.json", tmp_path / "other")
    convert(written, tmp_path / "back")
    assert weights(tmp_path / "back") == weights(source)
    assert converters.describe((tmp_path / "back" / "config.json").read_text()).head == head
    convert(tmp_path / "other", tmp_path / "bin", to="bin")
    convert(tmp_path / "bin", tmp_path / "again")
    assert weights(tmp_path / "again") == weights(source)


def test_both_frameworks_open_legacy_files(tmp_path: Path, masked_lm: Path) -> None:
    from tf_models import TFRemBertForMaskedLM

    expected = load_file(masked_lm / "model.safetensors")
    for to in ("bin", "h5"):
        convert(masked_lm, tmp_path / to, to=to)
        for cls in (rembert.RemBertForMaskedLM, TFRemBertForMaskedLM):
            cls.from_pretrained(tmp_path / to).save_pretrained(tmp_path / "back")
            found = load_file(tmp_path / "back" / "model.safetensors")
            assert found.keys() == expected.keys()
            for name, array in expected.items():
                assert_equal(found[name], array)
            shutil.rmtree(tmp_path / "back")


def test_companions_go_along(tmp_path: Path, masked_lm: Path) -> None:
    convert(masked_lm, tmp_path / "bin", to="bin")
    assert sorted(os.listdir(tmp_path / "bin")) == [
        "config.json",
        "pytorch_model.bin",
        "sentencepiece.model",
        "tokenizer_config.json",
    ]
    for name in ("config.json", "sentencepiece.model", "tokenizer_config.json"):
        assert (tmp_path / "bin" / name).read_bytes() == (masked_lm / name).read_bytes()


@pytest.mark.parametrize("to", ["safetensors", "bin", "h5"])
def test_dtype(tmp_path: Path, masked_lm: Path, to: str) -> None:
    dtype = "float16" if to == "h5" else "bfloat16"  # HDF5 has no bfloat16
    convert(masked_lm, tmp_path / "half", to=to, dtype=dtype)
    config = json.loads((tmp_path / "half" / "config.json").read_text())
    assert config["torch_dtype"] == dtype
    assert config["vocab_size"] == TINY["vocab_size"]
    with Checkpoint.open(tmp_path / "half") as checkpoint:
        for name, array in load_file(masked_lm / "model.safetensors").items():
            assert_equal(checkpoint.array(name), array.astype(dtype))
    convert(tmp_path / "half", tmp_path / "full", dtype="float32")
    with pytest.raises(ValueError, match="bfloat16, which tf_model.h5 cannot hold"):
        convert(masked_lm, tmp_path / "h5", to="h5", dtype="bfloat16")
    assert not (tmp_path / "h5").exists()


def test_dtype_refuses_overflow(tmp_path: Path) -> None:
    save_file({"weight": np.full(3, 1e9, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="weight"):
        convert(tmp_path, tmp_path / "out", dtype="float16")
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten_unasked(tmp_path: Path, masked_lm: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(masked_lm, source)
    with pytest.raises(ValueError, match="source's own folder; --force"):
        convert(source, source, to="bin")
    convert(source, source, to="bin", force=True)
    assert weights(source) == weights(masked_lm)
    with pytest.raises(ValueError, match="other weights|no longer be the same model"):
        convert(source, source, dtype="bfloat16", force=True)
    other = make_model(tmp_path / "other", "RemBertModel")
    before = weights(other)
    with pytest.raises(ValueError, match="holds model.safetensors; --force replaces"):
        convert(masked_lm, other)
    with pytest.raises(ValueError, match="choose another folder"):
        convert(masked_lm, other, to="bin", force=True)
    assert weights(other) == before
    convert(masked_lm, other, force=True)
    assert weights(other) == weights(masked_lm)
    convert(masked_lm, tmp_path / "bin", to="bin", max_shard_size="20KB")
    convert(masked_lm, tmp_path / "bin", to="bin", force=True)
    names = os.listdir(tmp_path / "bin")
    assert [name for name in names if ".bin" in name] == ["pytorch_model.bin"]


def test_a_failure_half_way_changes_nothing(
    tmp_path: Path, masked_lm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    convert(make_model(tmp_path / "old"), target, to="bin")
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    save, count = torch.save, []

    def failing(*arguments: Any, **options: Any) -> None:
        save(*arguments, **options)
        count.append(1)
        if len(count) == 2:
            raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", failing)
    for place in (target, tmp_path / "new"):
        count.clear()
        with pytest.raises(OSError, match="no space"):
            convert(masked_lm, place, to="bin", max_shard_size="20KB", force=True)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert not (tmp_path / "new").exists()


def test_arguments_are_checked(tmp_path: Path, masked_lm: Path) -> None:
    with pytest.raises(ValueError, match="to: received 'onnx'"):
        convert(masked_lm, tmp_path / "x", to="onnx")
    with pytest.raises(ValueError, match="dtype: received 'int8'"):
        convert(masked_lm, tmp_path / "x", dtype="int8")
    with pytest.raises(ValueError, match="head: received 'BertModel', expected one of RemBert"):
        convert(masked_lm, tmp_path / "x", to="h5", head="BertModel")
    with pytest.raises(ValueError, match="expected the name of a folder"):
        convert(masked_lm, tmp_path / "x.bin", to="bin")
    with pytest.raises(ValueError, match="max_shard_size"):
        convert(masked_lm, tmp_path / "x", max_shard_size="many")
    with pytest.raises(OSError, match="no such folder"):
        convert(tmp_path / "nothing", tmp_path / "x")
    (tmp_path / "bare").mkdir()
    shutil.copy(masked_lm / "model.safetensors", tmp_path / "bare")
    with pytest.raises(ValueError, match="config.json names no class"):
        convert(tmp_path / "bare", tmp_path / "x", to="h5")
    assert not (tmp_path / "x").exists()
    convert(tmp_path / "bare", tmp_path / "x", to="h5", head="RemBertForMaskedLM")
    convert(masked_lm / "model.safetensors", tmp_path / "y", to="bin")
    assert set(Checkpoint.open(tmp_path / "x")) == set(Checkpoint.open(tmp_path / "y"))


def test_keras_files_that_do_not_fit_are_refused(tmp_path: Path, masked_lm: Path) -> None:
    shutil.copy(masked_lm / "config.json", tmp_path)
    for name in ("model.keras", "model.weights.h5"):
        (tmp_path / name).write_bytes(b"no such file")
        with pytest.raises(CheckpointError, match=f"{name} cannot be read"):
            convert(tmp_path / name, tmp_path / "out")
    with pytest.raises(CheckpointError, match="lacks weights of TFRemBertForTokenClassification"):
        convert(masked_lm, tmp_path / "x", to="keras", head="RemBertForTokenClassification")


# verify ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", list(HEADS))
def test_verify_every_class(tmp_path: Path, head: str) -> None:
    rows = verify(make_model(tmp_path, head))
    worst = max(rows, key=lambda row: row.difference / row.tolerance)
    assert worst.passed, worst
    names = {row.name for row in rows}
    assert {"embeddings", "layer 1", "layer 2", "attention 1", "attention 2", "loss"} <= names
    assert ("cross_attention 2" in names) == (head == "RemBertForCausalLM")
    gradients = {row.name for row in rows if row.kind == "gradient"}
    assert gradients == set(load_file(tmp_path / "model.safetensors"))
    # Every gradient is there to be compared, but for those that are zero by nature.
    assert all(row.difference > 0 or row.shape == () for row in rows if "dense.weight" in row.name)


@pytest.mark.parametrize(
    "name",
    [
        "DPRReader",
        "BartForConditionalGeneration",
        "T5EncoderModel",
        "ReformerModelWithLMHead",
        "RagTokenForGeneration",
    ],
)
def test_verify_other_families(tmp_path: Path, name: str) -> None:
    if name.startswith("Reformer"):
        config = ReformerConfig(
            vocab_size=19, hidden_size=8, num_attention_heads=2, attention_head_size=4,
            feed_forward_size=8, attn_layers=["lsh", "local"], is_decoder=True,
            lsh_attn_chunk_length=4, local_attn_chunk_length=4, num_buckets=4, num_hashes=2,
            axial_pos_shape=[4, 8], axial_pos_embds_dim=[4, 4],
        )  # fmt: skip
        getattr(pt_models, name)(config).save_pretrained(tmp_path)
    elif name.startswith("Rag"):
        parts = (TORCH.build(CASE[part]) for part in ("dpr-question", "bart-lm"))
        model = getattr(pt_models, name)(**dict(zip(PARTS, parts, strict=True)))
        model.config.n_docs = 2
        model.save_pretrained(tmp_path)
    else:
        case = next(case for case in CASE.values() if case.model == name)
        TORCH.build(case).save_pretrained(tmp_path)
    assert converters.describe((tmp_path / "config.json").read_text()).head == name
    rows = verify(tmp_path)
    assert all(row.passed for row in rows)
    gradients = {row.name: row for row in rows if row.kind == "gradient"}
    # What is equal to the last digit was not reached, but for biases whose gradients cancel out.
    assert sum(row.difference == 0 for row in gradients.values()) < 0.1 * len(gradients)


@pytest.mark.parametrize(
    "changes",
    [
        {"problem_type": "regression", "num_labels": 1},
        {"problem_type": "multi_label_classification", "num_labels": 3},
        {"hidden_act": "relu", "max_position_embeddings": 4},
    ],
)
def test_verify_other_configurations(tmp_path: Path, changes: dict[str, Any]) -> None:
    rows = verify(make_model(tmp_path, "RemBertForSequenceClassification", **changes))
    assert all(row.passed for row in rows)


def test_verify_inputs_exercise_the_model() -> None:
    config = RemBertConfig(**TINY)
    inputs = make_inputs(config, "RemBertForMaskedLM", seed=0)
    mask = inputs["attention_mask"]
    assert mask.shape[1] % 2 == 1
    assert 0 < mask.sum() < mask.size
    assert set(np.unique(inputs["token_type_ids"])) == set(range(config.type_vocab_size))
    assert (inputs["input_ids"][mask == 0] == config.pad_token_id).all()
    assert (inputs["labels"][mask == 0] == -100).all() and (inputs["labels"] >= 0).any()
    again = make_inputs(config, "RemBertForMaskedLM", seed=0)
    assert all((inputs[name] == again[name]).all() for name in inputs)
    other = make_inputs(config, "RemBertForMaskedLM", seed=1)
    assert (inputs["input_ids"] != other["input_ids"]).any()


def test_verify_sees_a_difference(masked_lm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = verification.load_model

    def disturbed(package: str, *arguments: Any) -> Any:
        model = load(package, *arguments)
        if package == "tf_models":
            bias = model.rembert.encoder.layer[1].output_.dense.bias
            bias.assign(bias + np.eye(1, TINY["hidden_size"], 3)[0] * 1e-3)
        return model

    monkeypatch.setattr(verification, "load_model", disturbed)
    rows = {row.name: row for row in verify(masked_lm)}
    assert rows["layer 1"].passed and rows["embeddings"].passed
    assert not rows["layer 2"].passed and not rows["logits"].passed
    result = CliRunner().invoke(cli.app, ["verify", str(masked_lm)])
    assert result.exit_code == 1 and "DIFFER" in result.output
    loose = verify(masked_lm, tolerance=1.0)
    assert all(row.passed for row in loose)


def test_a_difference_that_is_no_number_fails() -> None:
    row = verification.Row("logits", "output", "logits", (), float("nan"), 1e-5)
    assert not row.passed
    fine = row._replace(difference=0.0)
    assert summary([fine, row])[0] is row and summary([row, fine])[0] is row


def test_verify_insists_on_the_weights(masked_lm: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="lacks weights .*qa_outputs.bias"):
        verify(masked_lm, head="RemBertForQuestionAnswering")
    with pytest.raises(ValueError, match="tolerance"):
        verify(masked_lm, tolerance=0.0)
    rows = verify(masked_lm, head="RemBertModel", seed=3)
    assert "last_hidden_state" in {row.name for row in rows}
    assert not any("pooler" in row.name for row in rows)


def test_table(masked_lm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = verification.Row("logits", "output", "logits", (3, 7), 2e-6, 1e-5)
    part = "rembert.encoder.layer.0"
    name = f"{part}.attention.output.LayerNorm.weight"
    weight = verification.Row(name, "gradient", part, (4,), 0.5, 1e-4)
    print_table([row, weight, weight._replace(name=f"{part}.y", difference=0.1)], "title")
    text = capsys.readouterr().out
    assert "title" in text and "3 x 7" in text and "2.0e-06" in text
    assert "gradient of layer.0" in text and "5.0e-01" in text and "1.0e-01" not in text


# info --------------------------------------------------------------------------------------------


def test_info(masked_lm: Path, tmp_path: Path) -> None:
    expected = load_file(masked_lm / "model.safetensors")
    found = info(masked_lm)
    assert found["class"] == "RemBertForMaskedLM"
    assert found["model_type"] == "rembert"
    assert found["parameters"] == sum(array.size for array in expected.values())
    assert found["bytes"] == 4 * found["parameters"]
    assert found["dtypes"] == {"float32": found["parameters"]}
    assert found["files"] == {"model.safetensors": len(weights(masked_lm))}
    assert found["tokenizer_files"] == ["sentencepiece.model", "tokenizer_config.json"]
    assert found["config"]["vocab_size"] == TINY["vocab_size"]
    assert {key["name"]: tuple(key["shape"]) for key in found["keys"]} == {
        name: array.shape for name, array in expected.items()
    }
    assert found["problems"] == []
    json.dumps(found)
    convert(masked_lm, tmp_path / "bin", to="bin", max_shard_size="20KB")
    sharded = info(tmp_path / "bin")
    assert sharded["weights"] == "pytorch_model.bin.index.json"
    assert sharded["parameters"] == found["parameters"]
    assert len(sharded["files"]) > 3


def test_info_finds_problems(masked_lm: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(masked_lm, folder)

    def problems() -> str:
        return "\n".join(info(folder)["problems"])

    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    assert "rembert.encoder.layer.0.attention.self.query.weight" in problems()
    (folder / "config.json").write_text(json.dumps(config | {"num_attention_heads": 5}))
    assert "num_attention_heads" in problems()
    (folder / "config.json").write_text(json.dumps(config | {"torch_dtype": "bfloat16"}))
    assert "torch_dtype bfloat16" in problems()
    (folder / "config.json").write_text(json.dumps(config | {"architectures": None}))
    assert "names no class" in problems()
    (folder / "config.json").unlink()
    assert "config.json is missing" in problems()
    shutil.copy(masked_lm / "config.json", folder)
    (folder / "pytorch_model.bin").write_bytes(b"x")
    assert "other weights: pytorch_model.bin" in problems()
    (folder / "model.safetensors").write_bytes(b"x" * 50)
    assert "no valid safetensors file" in problems()
    with pytest.raises(CheckpointError, match="no weights"):
        info(make_empty(tmp_path / "empty"))


def make_empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


# The command -------------------------------------------------------------------------------------


def test_command(masked_lm: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    result = run(cli.app, ["convert", str(masked_lm), str(tmp_path / "bin"), "--to", "bin"])
    assert result.exit_code == 0
    assert result.output.strip() == str(tmp_path / "bin" / "pytorch_model.bin")
    result = run(cli.app, ["info", str(tmp_path / "bin"), "--keys"])
    assert result.exit_code == 0
    assert "RemBertForMaskedLM" in result.output and "cls.predictions.decoder" in result.output
    found = json.loads(run(cli.app, ["info", str(tmp_path / "bin"), "--json"]).output)
    assert found["format"] == "bin"
    result = run(cli.app, ["verify", str(tmp_path / "bin"), "--json"])
    assert result.exit_code == 0
    found = json.loads(result.output)
    assert found["passed"] and {"logits", "loss"} <= {row["name"] for row in found["rows"]}
    (tmp_path / "bin" / "pytorch_model.bin").write_bytes(b"x")
    assert run(cli.app, ["info", str(tmp_path / "bin")]).exit_code == 1


def zoo_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "converters.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )


def test_command_tells_errors_in_one_line(tmp_path: Path) -> None:
    result = zoo_command("info", str(tmp_path / "nothing"))
    assert result.returncode == 1 and not result.stdout
    assert re.fullmatch(r"error: .*nothing.*\n", result.stderr)
    result = zoo_command("--debug", "info", str(tmp_path / "nothing"))
    assert result.returncode == 1 and "Traceback" in result.stderr
    assert zoo_command("convert", "a", "b", "--to", "onnx").returncode == 2
    assert zoo_command("convert").returncode == 2


def test_help_imports_no_framework() -> None:
    code = """
import sys
from converters import cli
sys.argv = ["zoo", "--help"]
try:
    cli.main()
except SystemExit as end:
    assert not end.code
heavy = {"torch", "tensorflow", "keras", "h5py", "tokenizers", "scann", "pyarrow"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert result.returncode == 0, result.stderr
    for command in ("convert", "info", "verify", "export", "demo"):
        assert command in result.stdout


def test_export_and_demo_are_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands only sort their arguments; the modules are imported when they run."""
    import types

    calls: list[Any] = []
    for module, function in (("saved_model", "export"), ("demo.realm", "run")):
        fake = types.SimpleNamespace(
            **{function: lambda *a, _name=function, **k: calls.append((_name, a, k))}
        )
        monkeypatch.setitem(sys.modules, f"converters.{module}", fake)
    run = CliRunner().invoke
    options = ["--batch-sizes", "1,4", "--max-length", "32", "--top-k", "3", "--version", "7"]
    assert run(cli.app, ["export", "model", str(tmp_path), *options]).exit_code == 0
    assert run(cli.app, ["demo", "--quick", "--seed", "5", "--output", "x"]).exit_code == 0
    assert isinstance(
        run(cli.app, ["export", "a", "b", "--batch-sizes", "x"]).exception, ValueError
    )
    sizes = {"batch_sizes": [1, 4], "max_length": 32, "top_k": 3, "version": 7, "head": None}
    assert calls == [
        ("export", ("model", tmp_path), sizes),
        ("run", (Path("x"),), {"quick": True, "seed": 5, "model": None, "squad": None}),
    ]
