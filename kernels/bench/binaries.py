"""What a compiled kernel takes of a chip, by its machine code: registers, spills, tensor cores, access widths."""

import re
import subprocess
from collections import Counter
from dataclasses import dataclass

from triton import knobs

from vidapt.kernels.bench.fake_driver import Compiled

# HMMA is mma.sync, HGMMA Hopper's wgmma, UTCHMMA Blackwell's tcgen05; CDNA has v_mfma. QGMMA, IMMA, ... are their kin.
_DOT = re.compile(r"\b(UTC[A-Z]*MMA|[A-Z]+MMA|v_mfma)(?=[._ ])")
_CUDA_ACCESS = re.compile(r"\b(LDG|LDGSTS|STG)((?:\.\w+)*)\s")
_CUDA_SPILL = re.compile(r"\b(?:LDL|STL)\b")
_AMD_ACCESS = re.compile(
    r"^\s+(?:global|buffer|flat)_(load|store)_(dwordx[234]|dword|[us]?short|[us]?byte)", re.MULTILINE
)
_AMD_BITS = {"dwordx4": 128, "dwordx3": 96, "dwordx2": 64, "dword": 32}


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel takes.

    `spills` counts instructions that move registers to and from local memory (on AMD the registers moved),
    `spill_bytes` is the stack of a thread, `shared_bytes` the shared memory of a block, `dots` the matrix
    instructions by name, `loads` and `stores` the accesses to global memory by their width in bits.
    """

    registers: int
    spills: int
    spill_bytes: int
    shared_bytes: int
    dots: Counter[str]
    loads: Counter[int]
    stores: Counter[int]


def resources(compiled: Compiled) -> Resources:
    """Read the resources of a kernel out of its cubin or its AMD assembly."""
    if "cubin" in compiled.files:
        return _cuda_resources(compiled)
    return _amd_resources(compiled)


def _cuda_resources(compiled: Compiled) -> Resources:
    cubin = str(compiled.files["cubin"])
    text = _output(knobs.nvidia.cuobjdump.path, "--dump-resource-usage", cubin)
    text += _output(knobs.nvidia.nvdisasm.path, "--print-code", "--no-dataflow", cubin)
    usage = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL|SHARED):(\d+)", text)}
    loads, stores = Counter[int](), Counter[int]()
    for instruction, modifiers in _CUDA_ACCESS.findall(text):
        (stores if instruction == "STG" else loads)[_cuda_bits(modifiers)] += 1
    return Resources(
        registers=usage["REG"],
        spills=len(_CUDA_SPILL.findall(text)),
        spill_bytes=usage["STACK"] + usage["LOCAL"],
        shared_bytes=compiled.shared_bytes,
        dots=_dots(text),
        loads=loads,
        stores=stores,
    )


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603


def _cuda_bits(modifiers: str) -> int:
    """Return the width of an access such as LDG.E.128.CONSTANT or LDG.E.U8; without a modifier it is 32."""
    for modifier in modifiers.split("."):
        if match := re.fullmatch(r"[US]?(8|16|64|128|256)", modifier):
            return int(match.group(1))
    return 32


def _amd_resources(compiled: Compiled) -> Resources:
    text = compiled.asm("amdgcn").decode()
    usage = {name: int(value) for name, value in re.findall(r"^\s+\.(\w+):\s+(\d+)$", text, re.MULTILINE)}
    loads, stores = Counter[int](), Counter[int]()
    for kind, width in _AMD_ACCESS.findall(text):
        (stores if kind == "store" else loads)[_amd_bits(width)] += 1
    return Resources(
        registers=usage["vgpr_count"],
        spills=usage["vgpr_spill_count"] + usage["sgpr_spill_count"],
        spill_bytes=usage["private_segment_fixed_size"],
        shared_bytes=max(compiled.shared_bytes, usage["group_segment_fixed_size"]),
        dots=_dots(text),
        loads=loads,
        stores=stores,
    )


def _amd_bits(width: str) -> int:
    return 16 if width.endswith("short") else 8 if width.endswith("byte") else _AMD_BITS[width]


def _dots(text: str) -> Counter[str]:
    return Counter(_DOT.findall(text.replace("v_mfma_", "v_mfma ")))
