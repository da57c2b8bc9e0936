"""Reading `.npy` files that hold a dictionary, without running what else may be in them.

Such a file is a pickle, and a pickle may name any function to be called. This reader knows NumPy's arrays, PyTorch's
tensors and plain containers, and puts its own stand-ins in the place of NumPy's types: those would take whatever state
a pickle gives them, also one that makes bytes of a file count as addresses. A tensor's storage is a pickle inside the
pickle: PyTorch's own `torch.load` reads it with `weights_only=True`, which refuses everything but weights.
"""

from __future__ import annotations

import io
import pickle
import re
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_CODE = re.compile(r"[<>=|]?[?biuf]\d{0,2}")
"""Of numbers: what arrays in such files hold. The dictionary itself is an array of one object, O."""


def load_dictionary(path: Path) -> dict[Any, Any]:
    """The dictionary in a `.npy` file, with arrays and tensors as NumPy arrays.

    Raises:
        ValueError: the file is damaged, or holds something else; nothing of it was called.
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        try:
            content = _resolved(_content(stream))
        except OSError:
            raise
        except Exception as error:  # what a damaged pickle makes Python raise may be anything
            raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
    if not isinstance(content, dict):
        raise ValueError(f"holds {type(content).__name__}, expected a dictionary of maps")
    return content


def _content(stream: BinaryIO) -> Any:
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"is a .npy file of version {version}, which is not read")
    _, _, dtype = _HEADERS[version](stream)
    if not dtype.hasobject:
        raise ValueError(f"holds an array of {dtype}, expected a dictionary of maps")
    return _Unpickler(stream).load()


def _resolved(value: Any) -> Any:
    """With arrays in the place of stand-ins and tensors."""
    if isinstance(value, _Array):
        return _resolved(value.value)
    if isinstance(value, dict):
        return {_resolved(key): _resolved(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_resolved(item) for item in value]
    if "torch" in sys.modules and isinstance(value, sys.modules["torch"].Tensor):
        tensor = value.detach()
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return value


class _Unpickler(pickle.Unpickler):
    """Finds only what arrays and tensors are made of."""

    def find_class(self, module: str, name: str) -> Any:
        """See pickle.Unpickler.

        Raises:
            UnpicklingError: it is something else.
        """
        function = _FUNCTIONS.get((module.replace("numpy._core", "numpy.core"), name))
        if function is None:
            raise pickle.UnpicklingError(
                f"holds {module}.{name}, and only arrays, tensors and dictionaries are read; nothing of it was run"
            )
        return _Call(function)


class _Call:
    """A function that a pickle may call, but not change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)


class _Dtype:
    """In the place of numpy.dtype."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.is_object = code in ("O", "O8")
        if not self.is_object and not (isinstance(code, str) and _CODE.fullmatch(code)):
            raise pickle.UnpicklingError(f"holds an array of {code!r:.40}, and only arrays of real numbers are read")
        self.value = np.dtype(np.uint8 if self.is_object else code)

    def __setstate__(self, state: Any) -> None:
        """Take the order of bytes, and nothing else."""
        order = state[1]
        if order in ("<", ">"):
            self.value = self.value.newbyteorder(order)


class _Array:
    """In the place of numpy.ndarray."""

    def __init__(self, *_: Any) -> None:
        self.value: Any = None

    def __setstate__(self, state: Any) -> None:
        """(version, shape, dtype, whether Fortran's order, content)."""
        _, shape, dtype, is_fortran, content = state
        if not isinstance(dtype, _Dtype):
            raise pickle.UnpicklingError("holds an array without a type")
        if dtype.is_object:
            if shape != () or not isinstance(content, list) or len(content) != 1:
                raise pickle.UnpicklingError("holds an array of objects, expected a dictionary of maps")
            self.value = content[0]
        else:
            self.value = np.frombuffer(bytes(content), dtype.value).reshape(shape, order="F" if is_fortran else "C")


def _scalar(dtype: Any, content: bytes) -> Any:
    if not isinstance(dtype, _Dtype) or dtype.is_object:
        raise pickle.UnpicklingError("holds a number without a type")
    return np.frombuffer(bytes(content), dtype.value, 1)[0]


def _latin1(text: str, encoding: str) -> bytes:
    """How older pickles write bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"holds text encoded as {encoding}, which no array is")
    return text.encode(encoding)


def _load_storage(content: bytes) -> Any:
    import torch  # here: files without tensors are read without it

    try:
        storage = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        if isinstance(storage, torch.storage.TypedStorage):
            return storage
    except Exception as error:
        raise pickle.UnpicklingError(_NO_STORAGE) from error
    raise pickle.UnpicklingError(_NO_STORAGE)


_NO_STORAGE = (
    "holds a tensor with something else than numbers, and only arrays, tensors and dictionaries are read; nothing of "
    "it was run"
)


def _rebuild_tensor(storage: Any, *arguments: Any) -> Any:
    import torch

    if not isinstance(storage, torch.storage.TypedStorage):
        raise pickle.UnpicklingError(_NO_STORAGE)
    return torch._utils._rebuild_tensor_v2(storage, *arguments)


_FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy", "ndarray"): _Array,  # named by _reconstruct; called, it is an empty one
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _latin1,
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch.storage", "_load_from_bytes"): _load_storage,
}
