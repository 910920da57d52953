"""How fast arithmetic is chosen, by rule: bfloat16 where it is multiplied faster, compilation where work repays it.

The rules use what is known before the work begins (device, sizes, steps), never a stopwatch: the same run must
round the same way every time.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

# Training seconds from which on compiling the Generator pays. Measured on two CPU cores (benchmarks/results.md): it
# takes a minute and saves about a twelfth of each step, repaid after 20 minutes; as the measured range includes no
# saving at all, an hour is asked for. The value for a GPU is an assumption (a minute for a third of each step).
REPAYS_SECONDS = {"cpu": 3600, "cuda": 360}
# Training steps of the Generator reach about this many operations a second here (two CPU cores; one data-centre GPU).
TYPICAL_FLOPS = {"cpu": 2.2e11, "cuda": 5e13}


def autocast(device: str | torch.device, side: int | None = None) -> torch.autocast:
    """bfloat16 where the hardware multiplies it faster than float32; otherwise float32.

    side : height of the images, for networks whose work is so small below 16 pixels that converting costs more
        than it saves
    """
    kind = torch.device(device).type
    if kind == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = kind == "cpu" and _bfloat16_repays()
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=able and (side is None or side >= 16))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread for the sums while this lasts, as the workers of a search have: they come to the same bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@functools.cache
def _bfloat16_repays() -> bool:
    """Whether this processor multiplies bfloat16 faster than float32: with AMX, or AMD's AVX-512.

    Intel's AVX-512 instructions for it are there, but do no more multiplications a cycle than those for float32, and
    converting costs: without AMX a training step of the Generator took 1.6 times as long (benchmarks/results.md).
    """
    if torch.cpu._is_amx_tile_supported():
        return True
    return torch.cpu._is_avx512_bf16_supported() and "AuthenticAMD" in _processor()


def _processor() -> str:
    """What Linux says about the processor; empty elsewhere: an AMD processor then computes in float32."""
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def training_seconds(network: nn.Module, example: tuple[Tensor, ...], steps: int) -> float:
    """A rough estimate of `steps` training steps on batches like `example`: three forward passes' operations each."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(*example)
    return 3 * counter.get_total_flops() * steps / TYPICAL_FLOPS[example[0].device.type]


def compiled(network: nn.Module, example: tuple[Tensor, ...], steps: int) -> Callable:
    """`network`, compiled if `steps` training steps on batches like `example` repay it; the weights are shared.

    Without a C++ compiler (CPU) the network stays as it is.
    """
    kind = example[0].device.type
    if training_seconds(network, example, steps) < REPAYS_SECONDS[kind]:
        return network
    if kind == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
        return network
    return torch.compile(network, dynamic=False)
