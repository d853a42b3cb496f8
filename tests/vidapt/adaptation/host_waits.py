"""A pretended GPU: tensors that lie on it, and what makes the host wait for it.

Everything runs on the CPU. Tensors lie on the device unless they were made on the host, and say so when they are asked,
so that code which depends on the device goes the way that it goes there; operations with a kernel run their reference.
A copy to the device waits too unless it is ``non_blocking``, and so does making a tensor there from numbers.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ROOT = Path(__file__).parents[3]
HOST, DEVICE = torch.device("cpu"), torch.device("cuda", 0)
READS = {"_local_scalar_dense", "is_nonzero", "equal", "item"}
SIZES = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount"}
"""Operations whose result has a size that only the device knows; bincount looks for the largest number first."""
FETCHES = {"cpu", "numpy", "tolist", "__array__"}
MAKERS = {"tensor", "as_tensor", "new_tensor"}


class Waits(TorchFunctionMode):
    """Counts what waits for the device.

    Attributes:
        found: How often, by file, function and operation; file and function are the innermost of the product.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple[str, str, str]] = Counter()
        # holding a storage keeps its address from being used again
        self._host: dict[int, torch.UntypedStorage] = {}
        self._operations = _Operations(self)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Count inside the block."""
        from_numpy, generator = torch.from_numpy, torch.Generator
        with ExitStack() as stack:
            stack.enter_context(patch.object(torch, "from_numpy", lambda array: self.on_host(from_numpy(array))))
            stack.enter_context(patch.object(torch, "Generator", lambda device="cpu": generator()))
            stack.enter_context(self._operations)
            stack.enter_context(self)
            yield

    def on_host(self, tensor: torch.Tensor) -> torch.Tensor:
        """Say that a tensor lies on the host."""
        with torch._C.DisableTorchFunction():
            storage = tensor.untyped_storage()
        self._host[storage._cdata] = storage
        return tensor

    def on_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """Say that a tensor lies on the device."""
        with torch._C.DisableTorchFunction():
            self._host.pop(tensor.untyped_storage()._cdata, None)
        return tensor

    def is_host(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor lies on the host."""
        with torch._C.DisableTorchFunction():
            return tensor.untyped_storage()._cdata in self._host

    def note(self, operation: str) -> None:
        """Count a wait at the innermost place in the product."""
        frame, place = sys._getframe(1), ("", "")
        while frame is not None:
            path = Path(frame.f_code.co_filename)
            if ROOT in path.parents and path.relative_to(ROOT).parts[0] in ("vidapt", "kernels"):
                place = path.relative_to(ROOT).as_posix(), frame.f_code.co_name
                break
            frame = frame.f_back
        self.found[(*place, operation)] += 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name == "__get__":
            value = func(*args, **(kwargs or {}))
            return DEVICE if isinstance(value, torch.device) and not self.is_host(args[0]) else value
        if name in FETCHES and not self.is_host(args[0]):
            self.note(name)
            copy = self.on_host(args[0].detach().clone())
            return copy if name == "cpu" else func(copy, *args[1:], **(kwargs or {}))
        wanted = _device_of(args, kwargs or {})
        args, kwargs = tree_map(_on_cpu, (args, kwargs or {}))
        if name == "to" and wanted is not None:
            return self._moved(func, args, kwargs, wanted)
        result = func(*args, **kwargs)
        return self._made(name, result, wanted, args, kwargs) if isinstance(result, torch.Tensor) else result

    def _moved(self, func: Any, args: Any, kwargs: Any, wanted: torch.device) -> torch.Tensor:
        stays = self.is_host(args[0]) == (wanted.type == HOST.type)
        result: torch.Tensor = func(*args, **kwargs)
        if stays:
            return result
        to_host = wanted.type == HOST.type
        if to_host or not kwargs.get("non_blocking", False):
            self.note("to host" if to_host else "to device")
        with torch._C.DisableTorchFunction():
            copy = result.clone()
        return self.on_host(copy) if to_host else self.on_device(copy)

    def _made(
        self, name: str, result: torch.Tensor, wanted: torch.device | None, args: Any, kwargs: Any
    ) -> torch.Tensor:
        """Say where a result lies that no tensor was given for."""
        if any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves((args, kwargs))) and name not in MAKERS:
            return result
        on_device = wanted == DEVICE or "generator" in kwargs or (name == "new_tensor" and not self.is_host(args[0]))
        if name in MAKERS and on_device:
            self.note(name)
        return self.on_device(result) if on_device else self.on_host(result)


class _Operations(TorchDispatchMode):
    """What ``Waits`` learns from the operations themselves, those of backward passes too."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self._waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        host = bool(tensors) and all(self._waits.is_host(tensor) for tensor in tensors)
        name = func.overloadpacket.__name__
        if tensors and not host and (name in READS or name in SIZES or _selects(name, args)):
            self._waits.note(name)
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result) if host else ():
            if isinstance(leaf, torch.Tensor):
                self._waits.on_host(leaf)
        return result


def _selects(name: str, args: Any) -> bool:
    """Whether an operation indexes with a mask, or repeats by counts; a mask that takes one value is only filled."""
    if name not in ("index", "index_put", "index_put_", "_index_put_impl_"):
        return name == "repeat_interleave"
    masked = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return masked and not (name != "index" and args[2].numel() == 1)


def _device_of(args: Any, kwargs: Any) -> torch.device | None:
    """The device that a call asks for."""
    given = [part for part in (*args, kwargs.get("device")) if isinstance(part, torch.device)]
    if given:
        return given[0]
    named = [part for part in (*args[1:2], kwargs.get("device")) if part in ("cpu", "cuda")]
    return torch.device(named[0]) if named else None


def _on_cpu(value: Any) -> Any:
    return HOST if isinstance(value, torch.device) else value
