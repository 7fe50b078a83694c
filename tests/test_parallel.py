"""The two model packages are the same package twice: files, classes, arguments."""

import ast
from pathlib import Path

import pytest

from zoo.families import FAMILIES

ROOT = Path(__file__).parents[1]
TENSORFLOW_ONLY = {
    "in_graph.py",  # text operations exist in TensorFlow only
    "text_heads.py",  # and so do heads that answer with text
    "question_answering.py",  # such as this one
    "rag_serving.py",  # and this
    "in_turn.py",  # PyTorch runs things in the order in which they are written
}
# What the framework's own layers lack, which is not the same in both.
FILLS_GAPS = {"layers.py"}
# Keras tells a layer by argument whether it trains, and its blocks the seeds of their dropout.
KERAS_ONLY = {"training", "seed", "seeds", "learns"}
# What TensorFlow's custom gradients, compiler and stateless dropout do without; and states without
# padding, whose number a graph does not know.
TORCH_ONLY_CLASSES = {"Tile", "Dropout", "Tape", "ReplayedCaches", "Packing"}
TORCH_ONLY = {"wanted", "packs"}
# A variable under its published name, PyTorch's state_dict has the names by itself; and what stands
# in the place of `Tile`.
KERAS_ONLY_CLASSES = {"Weight", "Heads"}


def files(package: str) -> set[str]:
    return {path.name for path in (ROOT / package).glob("*.py")}


COMMON = sorted((files("pt_models") & files("tf_models")) - FILLS_GAPS)


def public_classes(package: str, file: str) -> dict[str, ast.ClassDef]:
    tree = ast.parse((ROOT / package / file).read_text())
    return {
        node.name: node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    }


def is_model(name: str) -> bool:
    """Models carry published names: X in PyTorch, TFX in Keras."""
    return any(name in family.models.values() for family in FAMILIES.values())


def arguments(cls: ast.ClassDef, method: str) -> tuple[list[str], bool] | None:
    """The names of a method's arguments, and whether it hands any others on."""
    for node in cls.body:
        if isinstance(node, ast.FunctionDef) and node.name == method:
            args = node.args
            names = [arg.arg for arg in [*args.posonlyargs, *args.args, *args.kwonlyargs]]
            return names, args.vararg is not None
    return None


def test_same_files() -> None:
    assert files("tf_models") - TENSORFLOW_ONLY == files("pt_models")


@pytest.mark.parametrize("file", COMMON)
def test_same_classes_in_the_same_order(file: str) -> None:
    torch_names = [
        name for name in public_classes("pt_models", file) if name not in TORCH_ONLY_CLASSES
    ]
    keras_names = [
        name for name in public_classes("tf_models", file) if name not in KERAS_ONLY_CLASSES
    ]
    models = [name for name in torch_names if is_model(name)]
    assert [name for name in keras_names if is_model(name.removeprefix("TF"))] == [
        f"TF{name}" for name in models
    ]
    assert [name.removeprefix("TF") for name in keras_names] == torch_names


@pytest.mark.parametrize("file", COMMON)
def test_same_arguments_in_the_same_order(file: str) -> None:
    keras = {
        name.removeprefix("TF"): node for name, node in public_classes("tf_models", file).items()
    }
    for name, torch_class in public_classes("pt_models", file).items():
        if name not in keras:
            continue  # the test above says so
        forward = arguments(torch_class, "forward")
        call = arguments(keras[name], "call")
        if forward is None and call is None:
            continue
        assert forward is not None and call is not None, name
        (names, open_end), (keras_names, _) = forward, call
        extra = {"training"} if is_model(name) else KERAS_ONLY
        keras_names = [argument for argument in keras_names if argument not in extra]
        extra |= TORCH_ONLY
        names = [argument for argument in names if argument not in extra]  # Reformer's seeds
        if open_end and not is_model(name):  # *inputs: Keras spells out what it hands on
            keras_names = keras_names[: len(names)]
        assert keras_names == names, name


def test_every_published_model_exists() -> None:
    for family in FAMILIES.values():
        torch_names = public_classes("pt_models", f"{family.module}.py")
        keras_names = public_classes("tf_models", f"{family.module}.py")
        for name in family.models.values():
            assert name in torch_names
            assert f"TF{name}" in keras_names
