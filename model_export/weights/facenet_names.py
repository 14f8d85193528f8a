"""The names of Inception-ResNet-v1's variables in the published implementations.

A layer is identified by its scope in the published TensorFlow checkpoints, without
`InceptionResnetV1/`: Repeat_1/block17_3/Branch_1/Conv2d_0b_1x7, for example.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

SCOPE = "InceptionResnetV1/"


class VariableNames(NamedTuple):
    """The names of a layer's variables. A file has at most one of the biases."""

    kernel: str
    biases: tuple[str, ...]
    beta: str
    mean: str
    variance: str
    gamma: str


# From a layer's scope and the scopes of all layers.
Naming = Callable[[str, list[str]], VariableNames]


def layer_scope(layer_name: str) -> str:
    """The scope of a layer of our network."""
    return layer_name.replace("-", "/")


def tensorflow_names(scope: str, scopes: list[str], root: str = SCOPE) -> VariableNames:
    """davidsandberg/facenet."""
    norm = f"{root}{scope}/BatchNorm/"
    return VariableNames(
        f"{root}{scope}/weights",
        # Conv2D_bn_offset results from folding, by TensorFlow's optimize_for_inference; biases are
        # trained.
        (f"{root}{scope}/Conv2D_bn_offset", f"{root}{scope}/biases"),
        *(norm + name for name in ("beta", "moving_mean", "moving_variance", "gamma")),
    )


def early_tensorflow_names(scope: str, scopes: list[str]) -> VariableNames:
    """davidsandberg/facenet in early 2017: the bottleneck is outside the network's scope."""
    return tensorflow_names(scope, scopes, root="" if scope == "Bottleneck" else SCOPE)


def own_names(scope: str, scopes: list[str]) -> VariableNames:
    """Our two forms of the network."""
    layer = scope.replace("/", "-")
    return _keras_names(layer, f"{layer}-BatchNorm")


def keras_facenet_names(scope: str, scopes: list[str]) -> VariableNames:
    """nyoki-mtl/keras-facenet.

    Repeat_2/block8_1/Branch_0/Conv2d_1x1 is Block8_1_Branch_0_Conv2d_1x1, and Block8 is Block8_6.
    """
    scope = re.sub(r"^Repeat(_\d)?/b", "B", scope)
    layer = re.sub(r"^Block8/", "Block8_6/", scope).replace("/", "_")
    return _keras_names(layer, f"{layer}_BatchNorm")


def deepface_names(scope: str, scopes: list[str]) -> VariableNames:
    """serengil/deepface: as keras-facenet, with branch n in place of 1 in the n-th block17 or 8."""
    scope = re.sub(r"^(Repeat_\d/\w+_(\d+)/Branch_)1/", r"\1\2/", scope)
    return keras_facenet_names(scope, scopes)


def pytorch_names(scope: str, scopes: list[str]) -> VariableNames:
    """timesler/facenet-pytorch."""
    parent, _, layer = scope.rpartition("/")
    block, _, branch = parent.partition("/Branch_")
    block = re.sub(r"Repeat(_\d)?/\w+_(\d+)", _pytorch_repeat, block).lower()
    if scope == "Bottleneck":
        kernel, norm = "last_linear", "last_bn"
    elif not parent:  # Conv2d_1a_3x3 is conv2d_1a
        module = layer.lower().rpartition("_")[0]
        kernel, norm = f"{module}.conv", f"{module}.bn"
    elif not branch:
        kernel, norm = f"{block}.conv2d", f"{block}.bn"
    else:
        in_branch = [s for s in scopes if s.startswith(f"{parent}/")]
        position = f".{in_branch.index(scope)}" if len(in_branch) > 1 else ""
        module = f"{block}.branch{branch}{position}"
        kernel, norm = f"{module}.conv", f"{module}.bn"
    variables = ("bias", "running_mean", "running_var", "weight")
    return VariableNames(
        f"{kernel}.weight", (f"{kernel}.bias",), *(f"{norm}.{name}" for name in variables)
    )


def _keras_names(layer: str, norm: str) -> VariableNames:
    variables = ("beta", "moving_mean", "moving_variance", "gamma")
    return VariableNames(
        f"{layer}/kernel", (f"{layer}/bias",), *(f"{norm}/{name}" for name in variables)
    )


def _pytorch_repeat(match: re.Match) -> str:
    """Repeat/block35_1 is repeat_1.0, Repeat_1/block17_3 is repeat_2.2."""
    repeat, block = match.groups(default="_0")
    return f"repeat_{int(repeat[1:]) + 1}.{int(block) - 1}"
