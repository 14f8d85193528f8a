"""Reads the arrays of FaceNet weights from files, in any of their published forms."""

import io
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from facecluster.errors import InputError
from facecluster.model_export.weights.facenet_names import (
    Naming,
    VariableNames,
    deepface_names,
    early_tensorflow_names,
    keras_facenet_names,
    own_names,
    pytorch_names,
    tensorflow_names,
)

ACCEPTED = (
    "FaceNet weights may be a frozen TensorFlow graph (.pb), a TensorFlow 1 checkpoint (its "
    "folder, prefix, .index or .meta), a Keras model or its weights (.h5, .hdf5, .keras) or a "
    "PyTorch state dict (.pt, .pth)"
)


class WeightsError(InputError):
    """A file that does not contain the network's weights, each variable in its shape."""


class WeightFile(NamedTuple):
    """The arrays of a file by their names in it, and the namings that it may follow."""

    path: Path
    arrays: Mapping[str, np.ndarray]
    namings: tuple[Naming, ...]

    def embedding_size(self) -> int:
        kernels = [naming("Bottleneck", []).kernel for naming in self.namings]
        name = next((name for name in kernels if name in self.arrays), kernels[0])
        kernel = self.take(name)
        if kernel.ndim != 2:
            raise self._wrong_shape(name, "two dimensions")
        return kernel.shape[1]

    def choose_names(self, scopes: list[str]) -> dict[str, VariableNames]:
        """{scope: names} by the naming under which the file has the most layers."""
        choices = [{s: naming(s, scopes) for s in scopes} for naming in self.namings]
        return max(choices, key=lambda names: sum(n.kernel in self.arrays for n in names.values()))

    def take(self, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """An array as float32.

        Raises:
          WeightsError: there is no array of that name, or it has not the shape, if one is given.
        """
        if name not in self.arrays:
            raise WeightsError(
                f"{self.path} has no {name}: is it a complete FaceNet Inception-ResNet-v1?"
            )
        if shape not in (None, self.arrays[name].shape):
            raise self._wrong_shape(name, shape)
        return np.asarray(self.arrays[name], np.float32)

    def _wrong_shape(self, name: str, expected: object) -> WeightsError:
        return WeightsError(
            f"{self.path}: {name} has shape {self.arrays[name].shape}, "
            f"Inception-ResNet-v1 needs {expected}"
        )


def read_weights(path: Path) -> WeightFile:
    """Reads a file, or the checkpoint that `path` names (see `load_facenet`).

    Raises:
      WeightsError: there is no such file, or it cannot be read.
    """
    file_format, path = _find_format(path)
    try:
        arrays = file_format.read(path)
    except Exception as error:  # every library raises other errors for a damaged file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{path} cannot be read as {file_format.name}: {reason}") from error
    return WeightFile(path, arrays, file_format.namings)


class _Format(NamedTuple):
    name: str
    read: Callable[[Path], Mapping[str, np.ndarray]]
    namings: tuple[Naming, ...]


def _find_format(path: Path) -> tuple[_Format, Path]:
    """The format of a file, and the file's path; of a checkpoint that is its prefix."""
    if prefix := _find_checkpoint(path):
        return CHECKPOINT, prefix
    if path.is_dir():
        raise WeightsError(f"{path} is a folder without a checkpoint; {ACCEPTED}")
    if not path.exists():
        raise WeightsError(f"{path} does not exist; {ACCEPTED}")
    if path.suffix.lower() not in FORMATS:
        raise WeightsError(f"{path} is of an unknown kind; {ACCEPTED}")
    return FORMATS[path.suffix.lower()], path


def _find_checkpoint(path: Path) -> Path | None:
    """The prefix of the checkpoint with the most steps that a folder, file or prefix names."""
    if path.is_dir():
        found = list(path.glob("*.index"))
        models = {re.sub(r"-\d+$", "", index.stem) for index in found}
        if len(models) > 1:
            raise WeightsError(f"{path} has checkpoints of several models: name the .index of one")
    else:
        name = re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", path.name)
        found = [index for index in [path.with_name(f"{name}.index")] if index.exists()]
        if not found and path.suffix == ".meta":  # one .meta for all checkpoints of a model
            found = [p for p in path.parent.glob("*.index") if p.name.startswith(f"{name}.ckpt-")]
    return max(found, key=_n_steps).with_suffix("") if found else None


def _n_steps(index: Path) -> int:
    steps = re.search(r"-(\d+)$", index.stem)
    return int(steps[1]) if steps else -1


def _read_frozen_graph(path: Path) -> dict[str, np.ndarray]:
    import tensorflow as tf

    graph = tf.compat.v1.GraphDef.FromString(path.read_bytes())
    nodes = (node for node in graph.node if node.op == "Const")
    return {node.name: tf.make_ndarray(node.attr["value"].tensor) for node in nodes}


def _read_checkpoint(prefix: Path) -> dict[str, np.ndarray]:
    """The network's variables, without those that only training needs, which are most."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(prefix))
    endings = ("/weights", "/biases", "/beta", "/gamma", "/moving_mean", "/moving_variance")
    names = (name for name in reader.get_variable_to_shape_map() if name.endswith(endings))
    return {name: reader.get_tensor(name) for name in names if not name.startswith("Logits/")}


def _read_keras_archive(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        return _read_hdf5(io.BytesIO(archive.read("model.weights.h5")))


def _read_hdf5(path_or_file: Path | io.BytesIO) -> dict[str, np.ndarray]:
    """{layer/variable: array} of the legacy layout or that of Keras 3."""
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
        # A whole model has its weights in a group, beside the optimizer's.
        file.get("model_weights", file).visititems(read)
    if not arrays:
        raise ValueError(
            "it does not name its layers, as early versions of Keras 3 did not: load the model "
            "there and save it as .h5"
        )
    return arrays


def _read_numbered(item: h5py.Dataset) -> dict[str, np.ndarray]:
    """A variable of Keras 3, which numbers those of a layer in the order of their creation."""
    variables = {
        1: ["kernel"],
        2: ["kernel", "bias"],
        3: ["beta", "moving_mean", "moving_variance"],
        4: ["gamma", "beta", "moving_mean", "moving_variance"],
    }.get(len(item.parent))
    if variables is None or "name" not in item.parent.attrs:  # the optimizer's
        return {}
    number = int(item.name.rpartition("/")[2])
    return {f"{item.parent.attrs['name']}/{variables[number]}": item[()]}


def _read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """The arrays with TensorFlow's axes: height, width, channels in and out; or in and out."""
    try:
        import torch
    except ImportError as error:
        raise ValueError("it needs PyTorch: pip install facecluster[torch]") from error

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


CHECKPOINT = _Format(
    "a TensorFlow checkpoint", _read_checkpoint, (tensorflow_names, early_tensorflow_names)
)
FORMATS = {
    ".pb": _Format(
        "a frozen TensorFlow graph", _read_frozen_graph, (tensorflow_names, early_tensorflow_names)
    ),
    ".keras": _Format(
        "a Keras model", _read_keras_archive, (own_names, keras_facenet_names, deepface_names)
    ),
    ".h5": _Format(
        "a Keras HDF5 file", _read_hdf5, (keras_facenet_names, deepface_names, own_names)
    ),
    ".pt": _Format("a PyTorch state dict", _read_state_dict, (pytorch_names,)),
}
FORMATS |= {".hdf5": FORMATS[".h5"], ".pth": FORMATS[".pt"]}
