"""vidapt: adapt panoptic segmentation to unlabelled video, then segment it with stable object ids.

The public names are loaded on first use, so that importing the package loads neither torch nor triton.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidapt.clip import Clip, PanopticFrame, PanopticTarget, Segment
    from vidapt.jobs.adapt import adapt
    from vidapt.jobs.evaluate import evaluate
    from vidapt.labels import LabelSpace
    from vidapt.segmenter import Segmenter, Stream, load

__version__ = "0.1.0"

# In a checkout the sibling folders kernels/, datasets/ and configs/ resolve as vidapt.*
_checkout = Path(__file__).parent.parent
if (_checkout / "setup.py").is_file():
    __path__.append(str(_checkout))

_HOME = {
    "Clip": "vidapt.clip",
    "PanopticFrame": "vidapt.clip",
    "PanopticTarget": "vidapt.clip",
    "Segment": "vidapt.clip",
    "LabelSpace": "vidapt.labels",
    "Segmenter": "vidapt.segmenter",
    "Stream": "vidapt.segmenter",
    "load": "vidapt.segmenter",
    "adapt": "vidapt.jobs.adapt",
    "evaluate": "vidapt.jobs.evaluate",
}

__all__ = [
    "Clip",
    "LabelSpace",
    "PanopticFrame",
    "PanopticTarget",
    "Segment",
    "Segmenter",
    "Stream",
    "__version__",
    "adapt",
    "evaluate",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'vidapt' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
