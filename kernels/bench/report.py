"""What the suite finds out, as plain data: the JSON that `vidapt bench kernels --json FILE` writes.

`{"schema": 1, "finished": bool, "quick": bool, "environment": {...}, "rows": [...]}`; `finished` is false while rows
are missing. The environment names device, versions, commit, command and time. A row has

- `id`, `label` (the id, with "@cpu" on the CPU), `family`, `group`, `about`, `shape` (sizes by name),
- `baseline` (the provider that ratios are taken over) and `modes` (what is timed; ratios go by the last),
- `status`: "ok", or "failed" where our operation (the first provider) gave a wrong result or raised; then nothing of
  the row is timed,
- `providers`: each with `name`, `ours`, `status` ("ok", "failed" = wrong, "error" = raised, "skipped" = does not fit),
  `note`, `gates` (`problem`, `quantity`, `error`, null if not finite, `allowed`, `passed`) and `modes`: by mode
  - `median_ms`, `p20_ms`, `p80_ms`, `repetitions`: of one call; `graph_ms`: median in a CUDA graph,
  - `tflops`, `gbps`: useful work over the median; `floor_ms`, `floor_share`: the least time, and it over the median,
  - `extra_mib`: peak memory beyond inputs, outputs and gradients; `launches`, `host_syncs`: of one call.

What is unknown is null: floors of other GPUs than those of `floors.CEILINGS`, launches on the CPU.
"""

import os
import platform
import subprocess
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import torch

from vidapt.kernels.bench.gates import Gate

SCHEMA = 1
COMMIT = "VIDAPT_COMMIT"
"""Environment variable that names the commit where the package does not lie in a checkout."""
Status = Literal["ok", "failed", "error", "skipped"]


@dataclass
class Cost:
    """What one mode of one provider costs; the module's docstring explains the fields."""

    median_ms: float
    p20_ms: float
    p80_ms: float
    repetitions: int
    graph_ms: float | None = None
    tflops: float | None = None
    gbps: float | None = None
    floor_ms: float | None = None
    floor_share: float | None = None
    extra_mib: float | None = None
    launches: int | None = None
    host_syncs: int | None = None


@dataclass
class ProviderResult:
    """How right and how fast one provider is on one row."""

    name: str
    ours: bool
    status: Status = "ok"
    note: str = ""
    gates: list[Gate] = field(default_factory=list)
    modes: dict[str, Cost] = field(default_factory=dict)


@dataclass
class RowResult:
    """All providers on one row."""

    id: str
    label: str
    family: str
    group: str
    about: str
    shape: dict[str, int | float | str]
    baseline: str
    modes: list[str]
    providers: list[ProviderResult] = field(default_factory=list)

    @property
    def status(self) -> Literal["ok", "failed"]:
        """Whether our own operation, the first provider, is right."""
        return "failed" if self.providers and self.providers[0].status != "ok" else "ok"

    @property
    def red(self) -> list[ProviderResult]:
        """The providers that gave a wrong result, and ours that raised."""
        return [found for found in self.providers if found.status == "failed" or (found.ours and found.status != "ok")]

    def speedup(self, provider: ProviderResult) -> float | None:
        """Return how many times faster than the baseline a provider is in the last mode; None without both times."""
        times = [
            found.modes[self.modes[-1]].median_ms
            for found in (*(other for other in self.providers if other.name == self.baseline), provider)
            if self.modes[-1] in found.modes
        ]
        return times[0] / times[1] if len(times) == 2 else None

    def data(self) -> dict[str, Any]:
        """Return the row as plain data."""
        found = asdict(self) | {"status": self.status}
        for provider, given in zip(found["providers"], self.providers, strict=True):
            provider["gates"] = [_gate_data(gate) for gate in given.gates]
        return found


def report_data(rows: list[RowResult], environment: dict[str, Any], *, quick: bool, finished: bool) -> dict[str, Any]:
    """Return everything that the JSON file holds."""
    head = {"schema": SCHEMA, "finished": finished, "quick": quick, "environment": environment}
    return head | {"rows": [row.data() for row in rows]}


def environment(device: torch.device, command: str) -> dict[str, Any]:
    """Return what the numbers depend on: device, versions, commit, threads, command and time."""
    gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if gpu else f"CPU ({platform.machine()})",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "triton": package_version("triton"),
        "cuda": (torch.version.cuda or torch.version.hip) if gpu else None,
        "driver": driver() if gpu else None,
        "python": platform.python_version(),
        "vidapt": package_version("vidapt"),
        "commit": commit(Path(__file__).parent) or os.environ.get(COMMIT),
        "command": command,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def driver() -> str | None:
    """Return the version of the NVIDIA driver, or None where nvidia-smi does not tell."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return found.strip().partition("\n")[0] or None


def package_version(name: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit(folder: Path) -> str | None:
    """Return the commit that a folder of a git checkout is at, with "-dirty" if tracked files differ, or None."""
    try:
        tracked = _git(folder, "ls-files", "--error-unmatch", Path(__file__).name)
        found = _git(folder, "rev-parse", "--short=12", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{found}{'-dirty' if changed else ''}" if tracked else None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()  # noqa: S603


def _gate_data(gate: Gate) -> dict[str, Any]:
    error = gate.error if isfinite(gate.error) else None  # JSON has no NaN
    return asdict(gate) | {"error": error, "passed": gate.passed}
