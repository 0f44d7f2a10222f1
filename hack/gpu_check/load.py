"""One load, in a process of its own: `python -m hack.gpu_check.load KIND PCI_BUS_ID SECONDS`.

It writes one line of JSON when it has begun and one when it has ended; between them it does nothing but its load.
"""

import ctypes
import json
import sys
import time
from enum import StrEnum
from typing import Final

from hack.gpu_check.cuda import CudaError, Gpu

SPIN_SECONDS: Final = 0.1
MATRIX: Final = 4096
_TILE: Final = 16
COPY_BYTES: Final = 1 << 28
HELD_BYTES: Final = 1 << 32
"""Held by every load, so that the agent's memory can be compared with something known."""


class Kind(StrEnum):
    """What is done."""

    SPIN = "spin"
    """One warp, all the time."""
    MULTIPLY = "multiply"
    """Large matrices, all multiprocessors."""
    COPY = "copy"
    """256 MiB to the GPU and back, again and again."""


def play(kind: Kind, pci_bus_id: str, seconds: float) -> None:
    """Run a load for some seconds and tell what it did."""
    with Gpu(pci_bus_id) as gpu, gpu.memory(HELD_BYTES) as held:
        _say(allocated_bytes=HELD_BYTES)
        end = time.monotonic() + seconds
        if kind is Kind.SPIN:
            rounds = _spin(gpu, end)
        elif kind is Kind.MULTIPLY:
            rounds = _multiply(gpu, held, end)
        else:
            rounds = _copy(gpu, held, end)
        copied = rounds * COPY_BYTES if kind is Kind.COPY else 0
        _say(rounds=rounds, copied_bytes_each_way=copied)


def _spin(gpu: Gpu, end: float) -> int:
    rounds = 0
    while time.monotonic() < end:
        gpu.launch("spin", ctypes.c_uint64(round(SPIN_SECONDS * 1e9)), blocks=(1, 1), threads=(32, 1))
        rounds += 1
    return rounds


def _multiply(gpu: Gpu, held: int, end: float) -> int:
    size, rounds = MATRIX * MATRIX * 4, 0
    arguments = [ctypes.c_uint64(held + number * size) for number in range(3)]
    while time.monotonic() < end:
        gpu.launch(
            "multiply",
            *arguments,
            ctypes.c_uint(MATRIX),
            blocks=(MATRIX // _TILE, MATRIX // _TILE),
            threads=(_TILE, _TILE),
        )
        rounds += 1
    return rounds


def _copy(gpu: Gpu, held: int, end: float) -> int:
    rounds = 0
    with gpu.pinned(COPY_BYTES) as host:
        while time.monotonic() < end:
            gpu.to_gpu(target=held, source=host, size=COPY_BYTES)
            gpu.from_gpu(target=host, source=held, size=COPY_BYTES)
            rounds += 1
    return rounds


def _say(**facts: int) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    try:
        play(Kind(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
    except CudaError as error:
        sys.exit(str(error))
