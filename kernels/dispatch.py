"""The one place that decides whether an operation runs its PyTorch reference or its Triton kernel.

The environment variable `VIDAPT_KERNELS` chooses: `reference` or `triton`. When it is unset, an operation runs its
kernel on CUDA tensors if it ships one, triton imports and the GPU is of compute capability 8.0 or later (or AMD's), and
its reference everywhere else. Triton is imported only
when a kernel is about to run.
"""

import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

Implementation = TypeVar("Implementation", bound=Callable[..., Any])

CHOICES = ("reference", "triton")
MIN_CAPABILITY = (8, 0)


def _paste_instances() -> Callable[..., Any]:
    from vidapt.kernels.paste.ops import paste_instances

    return paste_instances


def _instance_stats() -> Callable[..., Any]:
    from vidapt.kernels.paste.ops import instance_stats

    return instance_stats


def _supervised_contrast() -> Callable[..., Any]:
    from vidapt.kernels.contrast.ops import supervised_contrast

    return supervised_contrast


def _paired_contrast() -> Callable[..., Any]:
    from vidapt.kernels.contrast.ops import paired_contrast

    return paired_contrast


def _sample_anchors() -> Callable[..., Any]:
    from vidapt.kernels.contrast.ops_anchors import sample_anchors

    return sample_anchors


# Operation -> what imports its kernel, which has the signature of the reference that it replaces. An import statement,
# unlike importlib, can be traced by torch.compile.
SHIPPED_KERNELS: dict[str, Callable[[], Callable[..., Any]]] = {
    "paste_instances": _paste_instances,
    "instance_stats": _instance_stats,
    "supervised_contrast": _supervised_contrast,
    "paired_contrast": _paired_contrast,
    "sample_anchors": _sample_anchors,
}


def implementation(operation: str, reference: Implementation, tensor: Tensor) -> Implementation:
    """Return the function that computes `operation` on tensors like `tensor`: its Triton kernel or `reference`.

    Raises:
        ValueError: `VIDAPT_KERNELS` has another value than `reference` or `triton`.
        RuntimeError: `VIDAPT_KERNELS=triton` where the operation ships no kernel, where triton does not import, or on
            CPU tensors outside Triton's interpreter (`TRITON_INTERPRET=1`), or on a device that no kernel is for.
    """
    choice = requested()
    if choice == "triton":
        require_triton(operation, tensor)
        return cast(Implementation, kernel(operation))
    if choice is None and operation in SHIPPED_KERNELS and tensor.is_cuda and triton_imports() and suits(tensor):
        return cast(Implementation, kernel(operation))
    return reference


def requested() -> str | None:
    """Return what `VIDAPT_KERNELS` asks for: `"reference"`, `"triton"` or None when it is unset or empty."""
    choice = os.environ.get("VIDAPT_KERNELS", "")
    if choice and choice not in CHOICES:
        raise ValueError(f"VIDAPT_KERNELS={choice!r} is unknown; set it to one of {', '.join(CHOICES)} or unset it")
    return choice or None


def require_triton(operation: str, tensor: Tensor) -> None:
    """Raise RuntimeError where `operation` cannot run as a Triton kernel on tensors like `tensor`."""
    if operation not in SHIPPED_KERNELS:
        raise RuntimeError(
            f"VIDAPT_KERNELS=triton, but {operation} ships no Triton kernel yet; set it to reference or unset it"
        )
    if not triton_imports():
        raise RuntimeError("VIDAPT_KERNELS=triton, but triton does not import; install triton or unset VIDAPT_KERNELS")
    device = tensor.device.type
    if device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError(
            f"VIDAPT_KERNELS=triton, but {operation} got CPU tensors; move them to a GPU, set TRITON_INTERPRET=1 "
            "(interpreter, slow) or unset VIDAPT_KERNELS"
        )
    if device not in ("cpu", "cuda"):
        raise RuntimeError(
            f"VIDAPT_KERNELS=triton, but {operation} got {device} tensors; the kernels run on cuda; unset it"
        )
    if device == "cuda" and not suits(tensor):
        raise RuntimeError(
            f"VIDAPT_KERNELS=triton, but this GPU is older than compute capability {MIN_CAPABILITY[0]}.0, which the "
            "kernels need; unset VIDAPT_KERNELS"
        )


def suits(tensor: Tensor) -> bool:
    """Tell whether the GPU of a CUDA tensor is one that the kernels are compiled for."""
    return torch.version.hip is not None or torch.cuda.get_device_capability(tensor.device) >= MIN_CAPABILITY


def triton_imports() -> bool:
    """Tell whether triton can be imported here."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True


def kernel(operation: str) -> Callable[..., Any]:
    """Import and return the Triton implementation of `operation`."""
    return SHIPPED_KERNELS[operation]()
