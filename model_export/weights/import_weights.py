"""FaceNet weights, in every form in which they are held, into our Inception-ResNet-v1."""

import io
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import h5py
import keras
import numpy as np

from facecluster.errors import InputError
from facecluster.model_export.networks.inception_resnet_v1 import (
    fold_batch_norm,
    inception_resnet_v1,
)

SCOPE = "InceptionResnetV1/"
ACCEPTED = (
    "FaceNet weights may be a frozen TensorFlow graph (.pb), a TensorFlow 1 checkpoint (its "
    "folder, prefix, .index or .meta), a Keras model or its weights (.h5, .hdf5, .keras) or a "
    "PyTorch state dict (.pt, .pth)"
)


class WeightsError(InputError):
    """A file that is not the network's weights: it has not every variable in its shape."""


def load_facenet(path: str | os.PathLike) -> keras.Model:
    """Inception-ResNet-v1 in its inference form with the weights that `path` holds.

    Args:
      path: any of
        x.pb: a frozen TensorFlow 1 graph, as trained or with batch normalisation folded;
        a folder, x.index, x.meta, or the prefix x: a TensorFlow 1 checkpoint of
          davidsandberg/facenet; of several, the one of the most steps;
        x.h5, x.keras: a model or weights, with the layer names of nyoki-mtl/keras-facenet, of
          serengil/deepface or of our own two forms. Only arrays are read, no code in it is run;
        x.pt: a state dict of timesler/facenet-pytorch.

    Returns:
      A network as inception_resnet_v1 builds it. Its embeddings have the size of the file's.

    Raises:
      WeightsError: names the file, and its first variable that is missing or misshapen.
    """
    file = _read(Path(path))
    network = inception_resnet_v1(file.embedding_size())
    layers = {_scope(layer): layer for layer in network.layers if layer.weights}
    names = file.names(list(layers))
    has_gamma = any(of_layer.gamma in file.arrays for of_layer in names.values())
    for scope, layer in layers.items():
        shapes = (tuple(variable.shape) for variable in layer.weights)
        layer.set_weights(_kernel_and_bias(file, names[scope], *shapes, has_gamma))
    return network


class _Names(NamedTuple):
    """What a file calls the variables of a layer; of the biases it has one, or none."""

    kernel: str
    biases: tuple[str, ...]
    beta: str
    mean: str
    variance: str
    gamma: str


# From a layer's scope and those of all layers, without `InceptionResnetV1/`.
_Naming = Callable[[str, list[str]], _Names]


class _File(NamedTuple):
    """The arrays of a file, under its own names, and the namings which it may follow."""

    path: Path
    arrays: Mapping[str, np.ndarray]
    namings: tuple[_Naming, ...]

    def embedding_size(self) -> int:
        kernels = [naming("Bottleneck", []).kernel for naming in self.namings]
        name = next((name for name in kernels if name in self.arrays), kernels[0])
        kernel = self.take(name)
        if kernel.ndim != 2:
            raise self._misshapen(name, "two dimensions")
        return kernel.shape[1]

    def names(self, scopes: list[str]) -> dict[str, _Names]:
        """{scope: names} in the naming under which the file has the most."""
        choices = [{s: naming(s, scopes) for s in scopes} for naming in self.namings]
        return max(choices, key=lambda names: sum(n.kernel in self.arrays for n in names.values()))

    def take(self, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """An array as float32; of any shape when none is given."""
        if name not in self.arrays:
            raise WeightsError(
                f"{self.path} has no {name}: is it the whole of a FaceNet Inception-ResNet-v1?"
            )
        if shape not in (None, self.arrays[name].shape):
            raise self._misshapen(name, shape)
        return np.asarray(self.arrays[name], np.float32)

    def _misshapen(self, name, needed) -> WeightsError:
        return WeightsError(
            f"{self.path}: {name} has shape {self.arrays[name].shape}, "
            f"Inception-ResNet-v1 needs {needed}"
        )


def _kernel_and_bias(file: _File, names: _Names, kernel_shape, bias_shape, has_gamma: bool):
    """A layer's weights, with its batch normalisation folded in where it has one.

    has_gamma: a file has one for each normalised layer (PyTorch's) or for none (TensorFlow's).
    """
    kernel = file.take(names.kernel, kernel_shape)
    bias = next((name for name in names.biases if name in file.arrays), None)
    is_normalised = any(name in file.arrays for name in names[2:])
    if bias and is_normalised:
        raise WeightsError(f"{file.path} has both {bias} and the batch normalisation {names.beta}")
    if bias:
        return [kernel, file.take(bias, bias_shape)]
    if not is_normalised:
        missing = " nor ".join((*names.biases, names.beta))
        raise WeightsError(f"{file.path} has neither {missing}")
    norm = [file.take(name, bias_shape) for name in (names.beta, names.mean, names.variance)]
    gamma = file.take(names.gamma, bias_shape) if has_gamma else 1.0
    return fold_batch_norm(kernel, *norm, gamma)


# ---- How the namings call a layer ----


def _scope(layer: keras.Layer) -> str:
    return layer.name.replace("-", "/")


def _tensorflow_names(scope, _, root=SCOPE) -> _Names:
    norm = f"{root}{scope}/BatchNorm/"
    return _Names(
        f"{root}{scope}/weights",
        # A bias that comes of folding, as TensorFlow's optimize_for_inference calls it, or learnt.
        (f"{root}{scope}/Conv2D_bn_offset", f"{root}{scope}/biases"),
        *(norm + name for name in ("beta", "moving_mean", "moving_variance", "gamma")),
    )


def _early_tensorflow_names(scope, scopes) -> _Names:
    """The models of early 2017 have their bottleneck beside the network, not in it."""
    return _tensorflow_names(scope, scopes, root="" if scope == "Bottleneck" else SCOPE)


def _keras_names(layer: str, norm: str) -> _Names:
    variables = ("beta", "moving_mean", "moving_variance", "gamma")
    return _Names(f"{layer}/kernel", (f"{layer}/bias",), *(f"{norm}/{name}" for name in variables))


def _own_names(scope, _) -> _Names:
    layer = scope.replace("/", "-")
    return _keras_names(layer, f"{layer}-BatchNorm")


def _keras_facenet_names(scope, _) -> _Names:
    layer = _keras_facenet_layer(scope)
    return _keras_names(layer, f"{layer}_BatchNorm")


def _deepface_names(scope, scopes) -> _Names:
    """As above, but branch 1 of the n-th block17 and block8 is called branch n."""
    scope = re.sub(r"^(Repeat_\d/\w+_(\d+)/Branch_)1/", r"\1\2/", scope)
    return _keras_facenet_names(scope, scopes)


def _keras_facenet_layer(scope: str) -> str:
    """Repeat_2/block8_1/Branch_0/Conv2d_1x1 is Block8_1_Branch_0_Conv2d_1x1; Block8 is Block8_6."""
    scope = re.sub(r"^Repeat(_\d)?/b", "B", scope)
    return re.sub(r"^Block8/", "Block8_6/", scope).replace("/", "_")


def _pytorch_names(scope, scopes) -> _Names:
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
    return _Names(
        f"{kernel}.weight", (f"{kernel}.bias",), *(f"{norm}.{name}" for name in variables)
    )


def _pytorch_repeat(match: re.Match) -> str:
    """Repeat/block35_1 is repeat_1.0, Repeat_1/block17_3 is repeat_2.2."""
    repeat, block = match.groups(default="_0")
    return f"repeat_{int(repeat[1:]) + 1}.{int(block) - 1}"


# ---- The forms of files ----


def _read(path: Path) -> _File:
    form, place = _form(path)
    try:
        arrays = form.read(place)
    except Exception as error:  # each library has its own ways to fail at a damaged file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{place} cannot be read as {form.kind}: {reason}") from error
    return _File(place, arrays, form.namings)


class _Form(NamedTuple):
    kind: str
    read: Callable[[Path], Mapping[str, np.ndarray]]
    namings: tuple[_Naming, ...]


def _form(path: Path) -> tuple[_Form, Path]:
    """The form of what is there, and its path, which of a checkpoint is the prefix."""
    if prefix := _checkpoint_prefix(path):
        return CHECKPOINT, prefix
    if path.is_dir():
        raise WeightsError(f"{path} is a folder without a checkpoint; {ACCEPTED}")
    if not path.exists():
        raise WeightsError(f"{path} does not exist; {ACCEPTED}")
    if path.suffix.lower() not in FORMS:
        raise WeightsError(f"{path} is of no known kind; {ACCEPTED}")
    return FORMS[path.suffix.lower()], path


def _checkpoint_prefix(path: Path) -> Path | None:
    if path.is_dir():
        found = list(path.glob("*.index"))
        models = {re.sub(r"-\d+$", "", index.stem) for index in found}
        if len(models) > 1:
            raise WeightsError(f"{path} has checkpoints of several models: name the .index of one")
    else:
        name = re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", path.name)
        found = [index for index in [path.with_name(f"{name}.index")] if index.exists()]
        if not found and path.suffix == ".meta":  # there may be one for a model's checkpoints
            found = [p for p in path.parent.glob("*.index") if p.name.startswith(f"{name}.ckpt-")]
    return max(found, key=_n_steps).with_suffix("") if found else None


def _n_steps(index: Path) -> int:
    steps = re.search(r"-(\d+)$", index.stem)
    return int(steps[1]) if steps else -1


def _read_frozen_graph(path):
    import tensorflow as tf

    graph = tf.compat.v1.GraphDef.FromString(path.read_bytes())
    nodes = (node for node in graph.node if node.op == "Const")
    return {node.name: tf.make_ndarray(node.attr["value"].tensor) for node in nodes}


def _read_checkpoint(prefix):
    """Without what only training needs, which is most of it."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(prefix))
    endings = ("/weights", "/biases", "/beta", "/gamma", "/moving_mean", "/moving_variance")
    names = (name for name in reader.get_variable_to_shape_map() if name.endswith(endings))
    return {name: reader.get_tensor(name) for name in names if not name.startswith("Logits/")}


def _read_keras_archive(path):
    with zipfile.ZipFile(path) as archive:
        return _read_hdf5(io.BytesIO(archive.read("model.weights.h5")))


def _read_hdf5(path_or_file):
    """{layer/variable: array} of either layout, the legacy one and that of Keras 3."""
    arrays = {}

    def read(name, item):
        if not isinstance(item, h5py.Dataset):
            return
        if "/vars/" in f"/{name}":
            arrays.update(_read_numbered(item))
        else:
            layer, variable = f"/{name}".split("/")[-2:]
            arrays[f"{layer}/{variable.removesuffix(':0')}"] = item[()]

    with h5py.File(path_or_file, "r") as file:
        # A whole model has these in a group, beside its optimiser's.
        file.get("model_weights", file).visititems(read)
    if not arrays:
        raise ValueError(
            "it does not name its layers, as early versions of Keras 3 did not: load the model "
            "there and save it as .h5"
        )
    return arrays


def _read_numbered(item: h5py.Dataset) -> dict[str, np.ndarray]:
    """Keras 3 numbers the variables of a layer in the order in which the layer made them."""
    variables = {
        1: ["kernel"],
        2: ["kernel", "bias"],
        3: ["beta", "moving_mean", "moving_variance"],
        4: ["gamma", "beta", "moving_mean", "moving_variance"],
    }.get(len(item.parent))
    if variables is None or "name" not in item.parent.attrs:  # an optimiser's
        return {}
    number = int(item.name.rpartition("/")[2])
    return {f"{item.parent.attrs['name']}/{variables[number]}": item[()]}


def _read_state_dict(path):
    """With the axes as TensorFlow has them: height, width, channels in and out; or in, out."""
    try:
        import torch
    except ImportError as error:
        raise ValueError("that takes PyTorch: pip install facecluster[torch]") from error

    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, Mapping):
        raise ValueError(f"it holds a {type(state).__name__}")
    arrays = {
        name: value.float().numpy()
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }
    axes = {4: (2, 3, 1, 0), 2: (1, 0)}
    return {name: array.transpose(axes.get(array.ndim)) for name, array in arrays.items()}


CHECKPOINT = _Form(
    "a TensorFlow checkpoint", _read_checkpoint, (_tensorflow_names, _early_tensorflow_names)
)
FORMS = {
    ".pb": _Form(
        "a frozen TensorFlow graph",
        _read_frozen_graph,
        (_tensorflow_names, _early_tensorflow_names),
    ),
    ".keras": _Form(
        "a Keras model",
        _read_keras_archive,
        (_own_names, _keras_facenet_names, _deepface_names),
    ),
    ".h5": _Form(
        "a Keras HDF5 file",
        _read_hdf5,
        (_keras_facenet_names, _deepface_names, _own_names),
    ),
    ".pt": _Form("a PyTorch state dict", _read_state_dict, (_pytorch_names,)),
}
FORMS |= {".hdf5": FORMS[".h5"], ".pth": FORMS[".pt"]}
