"""Which kernels of a profile are ours."""

import re
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

_OPERATIONS = ("contrast", "paste")


@cache
def kernel_names() -> frozenset[str]:
    """Return the names of all Triton functions of this package, as profilers show them.

    Raises:
        ImportError: triton is missing.
    """
    from triton.runtime.jit import KernelInterface

    names = set()
    for operation in _OPERATIONS:
        package = import_module(f"vidapt.kernels.{operation}")
        for module in iter_modules(package.__path__):
            if module.name.startswith("kernel"):
                found = vars(import_module(f"{package.__name__}.{module.name}"))
                names |= {name for name, value in found.items() if isinstance(value, KernelInterface)}
    return frozenset(names)


def is_ours(name: str) -> bool:
    """Return whether a kernel of a profile is one of ours; Triton may append what it was specialised for."""
    return re.sub(r"_\d+d.*$", "", name) in kernel_names()
