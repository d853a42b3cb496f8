"""What a compiled kernel takes of a chip, by its machine code: registers, spills, tensor cores, access widths."""

import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

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
_AMD_BITS |= dict.fromkeys(("short", "sshort", "ushort"), 16) | dict.fromkeys(("byte", "sbyte", "ubyte"), 8)

Key = TypeVar("Key", str, int)


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel takes.

    `spills` counts the instructions that move registers to and from local memory (on AMD the vector registers that are
    moved; scalar ones go to vector registers), `spill_bytes` is the stack of a thread, `shared_bytes` the shared memory
    of a block, `dots` the matrix instructions by name, `loads` and `stores` the accesses to global memory by bits.
    """

    registers: int
    spills: int
    spill_bytes: int
    shared_bytes: int
    dots: dict[str, int]
    loads: dict[int, int]
    stores: dict[int, int]


def resources(compiled: Compiled, disassemble: bool = True) -> Resources:
    """Read the resources of a kernel out of its cubin or its AMD assembly.

    Disassembling a cubin takes longer than compiling a small kernel; without it spills, dots, loads and stores are 0,
    but `spill_bytes` still tells whether there are spills.
    """
    if "cubin" in compiled.files:
        return _cuda_resources(compiled, disassemble)
    return _amd_resources(compiled)


def _cuda_resources(compiled: Compiled, disassemble: bool) -> Resources:
    cubin = compiled.files["cubin"]
    usage_text = _output(knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(cubin))
    usage = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage_text)}
    text = _machine_code(cubin) if disassemble else ""
    found = _CUDA_ACCESS.findall(text)
    return Resources(
        registers=usage["REG"],
        spills=len(_CUDA_SPILL.findall(text)),
        spill_bytes=usage["STACK"] + usage["LOCAL"],
        shared_bytes=compiled.shared_bytes,
        dots=_counted(_DOT.findall(text)),
        loads=_counted(_cuda_bits(modifiers) for instruction, modifiers in found if instruction != "STG"),
        stores=_counted(_cuda_bits(modifiers) for instruction, modifiers in found if instruction == "STG"),
    )


def _machine_code(cubin: Path) -> str:
    """Disassemble a cubin, once: the text stays beside it in Triton's cache."""
    kept = cubin.with_suffix(".sass")
    if not kept.exists():
        text = _output(knobs.nvidia.nvdisasm.path, "--print-code", "--no-dataflow", str(cubin))
        fresh = kept.with_suffix(f".sass.{os.getpid()}")
        fresh.write_text(text)
        fresh.replace(kept)
    return kept.read_text()


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
    found = _AMD_ACCESS.findall(text)
    return Resources(
        registers=usage["vgpr_count"],
        spills=usage["vgpr_spill_count"],
        spill_bytes=usage["private_segment_fixed_size"],
        shared_bytes=max(compiled.shared_bytes, usage["group_segment_fixed_size"]),
        dots=_counted(_DOT.findall(text)),
        loads=_counted(_AMD_BITS[width] for kind, width in found if kind == "load"),
        stores=_counted(_AMD_BITS[width] for kind, width in found if kind == "store"),
    )


def _counted(found: Iterable[Key]) -> dict[Key, int]:
    return dict(sorted(Counter(found).items()))
