"""A pretended GPU: tensors that lie on it, and what would make the host wait for it.

Everything runs on the CPU. Tensors count as lying on the device unless they were made on the host; they say so when
they are asked, so that code which depends on the device takes the way that it takes there.
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
    """Counts by place in the product what waits for the device: ``(file, function, operation)``."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple[str, str, str]] = Counter()
        self._host: dict[int, torch.UntypedStorage] = {}
        self._operations = _Operations(self)

    @contextmanager
    def watch(self) -> Iterator["Waits"]:
        """Count inside the block."""
        with ExitStack() as stack:
            from_numpy, generator = torch.from_numpy, torch.Generator
            stack.enter_context(patch.object(torch, "from_numpy", lambda array: self.on_host(from_numpy(array))))
            stack.enter_context(patch.object(torch, "Generator", lambda device="cpu": generator()))
            stack.enter_context(self._operations)
            stack.enter_context(self)
            yield self

    def on_host(self, tensor: torch.Tensor) -> torch.Tensor:
        """Say that a tensor lies on the host."""
        with torch._C.DisableTorchFunction():
            storage = tensor.untyped_storage()
            self._host[storage._cdata] = storage
        return tensor

    def is_host(self, tensor: torch.Tensor) -> bool:
        with torch._C.DisableTorchFunction():
            return tensor.untyped_storage()._cdata in self._host

    def note(self, operation: str) -> None:
        """Count a wait at the innermost place in the product."""
        frame = sys._getframe(1)
        while frame is not None:
            path = Path(frame.f_code.co_filename)
            if ROOT in path.parents and path.relative_to(ROOT).parts[0] in ("vidapt", "kernels"):
                place = path.relative_to(ROOT).as_posix(), frame.f_code.co_name
                break
            frame = frame.f_back
        else:
            place = ("", "")
        self.found[(*place, operation)] += 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if name == "__get__":
            return self._property(func, args, kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if name in FETCHES and not self.is_host(args[0]):
            self.note(name)
            return self.on_host(args[0].detach().clone()) if name == "cpu" else func(*args, **kwargs)
        wanted = _device_of(args[1:] if tensors and name == "to" else (), kwargs)
        args, kwargs = tree_map(_on_cpu, (args, kwargs))
        if name == "to" and wanted is not None:
            return self._moved(func, args, kwargs, wanted)
        result = func(*args, **kwargs)
        if name in MAKERS and (name == "new_tensor" or wanted == DEVICE):
            self.note(name)
        elif not tensors and isinstance(result, torch.Tensor) and wanted != DEVICE and "generator" not in kwargs:
            self.on_host(result)
        return result

    def _property(self, func: Any, args: Any, kwargs: Any) -> Any:
        value = func(*args, **kwargs)
        is_device = isinstance(value, torch.device)
        return DEVICE if is_device and not self.is_host(args[0]) else value

    def _moved(self, func: Any, args: Any, kwargs: Any, wanted: torch.device) -> torch.Tensor:
        here = HOST if self.is_host(args[0]) else DEVICE
        result: torch.Tensor = func(*args, **kwargs)
        if here.type == wanted.type:
            return result
        if not kwargs.get("non_blocking", False) or wanted == HOST:
            self.note("to host" if wanted == HOST else "to device")
        with torch._C.DisableTorchFunction():
            result = result.clone()
            if wanted == DEVICE:
                del self._host[result.untyped_storage()._cdata]
        return self.on_host(result) if wanted == HOST else result


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
        if host:
            for leaf in tree_leaves(result):
                if isinstance(leaf, torch.Tensor):
                    self._waits.on_host(leaf)
        return result


def _selects(name: str, args: Any) -> bool:
    """Whether an operation indexes with a mask, or repeats by counts; a mask that takes one value is only filled."""
    if name == "repeat_interleave":
        return True
    if name not in ("index", "index_put", "index_put_", "_index_put_impl_"):
        return False
    masked = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return masked and not (name != "index" and args[2].numel() == 1)


def _device_of(args: Any, kwargs: Any) -> torch.device | None:
    """The device that a call asks for."""
    found = kwargs.get("device", next((part for part in args if isinstance(part, torch.device)), None))
    return None if found is None else torch.device(found)


def _on_cpu(value: Any) -> Any:
    return HOST if isinstance(value, torch.device) else value
