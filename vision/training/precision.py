"""Choose the precision of a training: bf16 where the hardware has it, fp32 where it would be emulated.

A run chooses once, before its first step, and writes its choice into its folder, so that it continues the same wherever
it is resumed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar, cast

import torch
from accelerate.utils import gather_object

from handeye.vision.config import Config, read_yaml
from handeye.vision.errors import ConfigError
from handeye.vision.training.distributed import is_main_process, process_state
from handeye.vision.training.run_folder import RunFolder

C = TypeVar("C", bound=Config)
Precision = Literal["auto", "fp32", "bf16", "fp16"]

SLOWDOWN = 8
"""How many times as long as in fp32 the nano detector took in bf16 with AVX2 at 320 px: forward and backward 8.5, a
whole step 7.4."""

BELOW_AVX512 = ("sse41", "avx", "avx2", "avx2_vnni", "avx2_vnni_2")
NO_BF16 = (*BELOW_AVX512, "avx512_mic", "avx512_mic_4ops", "avx512_core", "avx512_core_vnni")
NO_AMX = ("avx512_core_bf16", "avx512_core_fp16", "avx10_1_512")
"""Limits that oneDNN takes from ONEDNN_MAX_CPU_ISA and that leave bf16, or AMX at least, unused; it ignores others."""


class _HasPrecision(Protocol):
    @property
    def precision(self) -> Precision: ...


@dataclass(frozen=True, slots=True)
class Bf16:
    """Whether bf16 is fast on a device, and why."""

    is_fast: bool
    why: str
    """What computes it (AMX), or why it is slow."""


@dataclass(frozen=True, slots=True)
class Processor:
    """Instruction sets of a CPU, and limits on their use by the libraries."""

    has_amx: bool = False
    has_avx512_bf16: bool = False
    capability: str = "AVX2"
    """Of torch's own kernels; ATEN_CPU_CAPABILITY may hold it below the processor's."""
    has_onednn: bool = True
    onednn_limit: str = ""
    """ONEDNN_MAX_CPU_ISA; empty without one."""


def bf16_of_processor(processor: Processor) -> Bf16:
    """AMX or AVX512-BF16, unless torch or oneDNN is held below it.

    AVX512 alone does not count: oneDNN imitates bf16 with it.
    """
    limit = processor.onednn_limit.lower()
    if not (processor.has_amx or processor.has_avx512_bf16):
        return Bf16(is_fast=False, why="this processor does not compute bf16")
    if not processor.has_onednn:
        return Bf16(is_fast=False, why="this torch comes without oneDNN, which computes bf16")
    if not processor.capability.startswith("AVX512"):
        return Bf16(is_fast=False, why=f"ATEN_CPU_CAPABILITY holds torch to {processor.capability}")
    if limit in NO_BF16 or (limit in NO_AMX and not processor.has_avx512_bf16):
        return Bf16(is_fast=False, why=f"ONEDNN_MAX_CPU_ISA holds oneDNN to {limit.upper()}")
    return Bf16(is_fast=True, why="AMX" if processor.has_amx and limit not in NO_AMX else "AVX512")


def this_processor(environment: Mapping[str, str] = os.environ) -> Processor:
    """The processor of this process; oneDNN reads ONEDNN_MAX_CPU_ISA before the older DNNL_MAX_CPU_ISA."""
    return Processor(
        has_amx=torch.cpu._is_amx_tile_supported(),  # noqa: SLF001 - torch 2.6 has no public question
        has_avx512_bf16=torch.cpu._is_avx512_bf16_supported(),  # noqa: SLF001
        capability=torch.backends.cpu.get_cpu_capability(),
        has_onednn=torch.backends.mkldnn.is_available(),
        onednn_limit=environment.get("ONEDNN_MAX_CPU_ISA") or environment.get("DNNL_MAX_CPU_ISA", ""),
    )


def bf16_of_device(device: torch.device) -> Bf16:
    """The same for the device of a training. Device types that were not measured count as slow."""
    if device.type == "cpu":
        return bf16_of_processor(this_processor())
    if device.type != "cuda":
        return Bf16(is_fast=False, why=f"bf16 is not measured on {device.type}")
    name = torch.cuda.get_device_name(device)
    with torch.cuda.device(device):
        is_fast = torch.cuda.is_bf16_supported(including_emulation=False)
    return Bf16(is_fast, name if is_fast else f"{name} does not compute bf16")


def settle_precision(config: C, run: RunFolder, device: torch.device) -> tuple[C, str]:
    """The configuration with its precision settled, which is kept in the run folder; and a line that says so.

    `auto` is what the run started with, or bf16 where all processes have it: they wait for the slowest of them.
    Raises ConfigError for fp16 without a GPU.
    """
    asked = cast("_HasPrecision", config).precision
    if asked == "fp16" and device.type == "cpu":
        raise ConfigError("precision: fp16 needs a GPU, and none is used here; expected auto, fp32 or bf16")
    found, began_with = _of_all_processes(bf16_of_device(device), _stored(run))
    bf16 = weakest(found)
    settled = asked if asked != "auto" else began_with or ("bf16" if bf16.is_fast else "fp32")
    words = describe(settled, bf16, is_chosen=asked == "auto" and began_with is None)
    config = config.model_copy(update={"precision": settled})
    if asked == "auto" and run.config.is_file() and is_main_process():
        run.keep_config(config)
    return config, words


def with_settled(asked: C, stored: C) -> C:
    """A configuration whose precision is auto, with what a run has settled on."""
    if getattr(asked, "precision", None) != "auto":
        return asked
    return asked.model_copy(update={"precision": cast("_HasPrecision", stored).precision})


def weakest(found: Sequence[Bf16]) -> Bf16:
    """What all processes have: the first without bf16 decides, and is named where there are others."""
    for number, bf16 in enumerate(found):
        if not bf16.is_fast:
            return bf16 if len(found) == 1 else Bf16(is_fast=False, why=f"process {number}: {bf16.why}")
    return found[0]


def describe(precision: Precision, bf16: Bf16, *, is_chosen: bool) -> str:
    """The line at the start of a run; `is_chosen` where `auto` chose just now."""
    if precision == "bf16" and bf16.is_fast:
        return f"precision bf16 ({bf16.why})"
    if precision == "bf16":
        return f"precision bf16: slow here, {bf16.why}; processors with AVX2 take {SLOWDOWN} times as long as in fp32"
    return f"precision fp32: {bf16.why}" if is_chosen and not bf16.is_fast else f"precision {precision}"


def _stored(run: RunFolder) -> Precision | None:
    """What a run has settled on before; None for one that begins, or keeps nothing."""
    stored = read_yaml(run.config).get("precision") if run.config.is_file() else None
    return None if stored == "auto" else stored


def _of_all_processes(bf16: Bf16, stored: Precision | None) -> tuple[list[Bf16], Precision | None]:
    """Every process's finding, and what the main one has stored; afterwards it may be written anew."""
    if process_state().num_processes == 1:
        return [bf16], stored
    answers = gather_object([(bf16, stored)])
    return [answer[0] for answer in answers], answers[0][1]
