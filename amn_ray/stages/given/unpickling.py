"""Reading `.npy` files that hold a dictionary, without running what else may be in them.

Such a file is a pickle, and a pickle may name any function to be called. This reader knows NumPy's arrays, PyTorch's
tensors and plain containers. A tensor's storage is a pickle inside the pickle: PyTorch's own `torch.load` reads it with
`weights_only=True`, which refuses everything but weights.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_NUMPY = {("numpy.core.multiarray", "_reconstruct"), ("numpy.core.multiarray", "scalar"), ("numpy", "ndarray"),
          ("numpy", "dtype")}  # fmt: skip
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def load_dictionary(path: Path) -> dict[Any, Any]:
    """The dictionary in a `.npy` file, with arrays and tensors as NumPy arrays where they are values.

    Raises:
        ValueError: the file is damaged, or holds something else; nothing of it was called.
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        try:
            content = _content(stream)
        except OSError:
            raise
        except Exception as error:  # what a damaged pickle makes Python raise may be anything
            raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
    if not isinstance(content, dict):
        raise ValueError(f"holds {type(content).__name__}, expected a dictionary of maps")
    return {key: as_array(value) for key, value in content.items()}


def as_array(value: Any) -> Any:
    """A tensor as an array; everything else as it is."""
    if not hasattr(value, "detach"):
        return value
    tensor = value.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _content(stream: BinaryIO) -> Any:
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"is a .npy file of version {version}, which is not read")
    _, _, dtype = _HEADERS[version](stream)
    if not dtype.hasobject:
        raise ValueError(f"holds an array of {dtype}, expected a dictionary of maps")
    array = _Unpickler(stream).load()
    return array.item() if isinstance(array, np.ndarray) and array.shape == () else array


class _Unpickler(pickle.Unpickler):
    """Finds only what arrays and tensors are made of."""

    def find_class(self, module: str, name: str) -> Any:
        """See pickle.Unpickler.

        Raises:
            UnpicklingError: it is something else.
        """
        module = module.replace("numpy._core", "numpy.core")
        if (module, name) in _NUMPY:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        if (module, name) in _OTHERS:
            return _OTHERS[module, name]()
        raise pickle.UnpicklingError(
            f"holds {module}.{name}, and only arrays, tensors and dictionaries are read; nothing of it was run"
        )


def _latin1(text: str, encoding: str) -> bytes:
    """How older pickles write bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"holds text encoded as {encoding}, which no array is")
    return text.encode(encoding)


def _rebuild_tensor() -> Callable[..., Any]:
    import torch  # here: files without tensors are read without it

    return torch._utils._rebuild_tensor_v2


def _load_storage() -> Callable[[bytes], Any]:
    import torch

    def load(content: bytes) -> Any:
        try:
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:
            raise pickle.UnpicklingError(
                "holds a tensor whose storage is no storage, and only arrays, tensors and dictionaries are read; "
                "nothing of it was run"
            ) from error

    return load


_OTHERS: dict[tuple[str, str], Callable[[], Callable[..., Any]]] = {
    ("_codecs", "encode"): lambda: _latin1,
    ("collections", "OrderedDict"): lambda: OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch.storage", "_load_from_bytes"): _load_storage,
}
