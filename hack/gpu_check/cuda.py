"""The few calls of the driver's CUDA interface that a load needs, by ctypes: memory, copies, and launching a kernel.

The library comes with the driver (libcuda.so.1). Every call's code is checked and named; nothing is caught here.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

LIBRARY: Final = "libcuda.so.1"
KERNELS: Final = Path(__file__).with_name("kernels.ptx")


class CudaError(Exception):
    """A call of the driver failed, or there is no driver."""


class Gpu:
    """One GPU's primary context, current in the calling thread. Use as a context manager."""

    def __init__(self, pci_bus_id: str) -> None:
        try:
            self._library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise CudaError(f"{LIBRARY} does not load: {error}") from error
        self._check("cuInit", ctypes.c_uint(0))
        self._device = ctypes.c_int()
        # By its place on the bus: CUDA and NVML count GPUs in different orders.
        self._check("cuDeviceGetByPCIBusId", ctypes.byref(self._device), pci_bus_id.encode())
        self._context = ctypes.c_void_p()
        self._module = ctypes.c_void_p()

    def __enter__(self) -> Self:
        self._check("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self._check("cuCtxSetCurrent", self._context)
        self._check("cuModuleLoadData", ctypes.byref(self._module), KERNELS.read_bytes() + b"\0")
        return self

    def __exit__(self, *_: object) -> None:
        self._check("cuDevicePrimaryCtxRelease_v2", self._device)

    @contextmanager
    def memory(self, size: int) -> Iterator[int]:
        """Hold memory of the GPU; yield its address."""
        address = ctypes.c_uint64()
        self._check("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        try:
            # Touched, so that it is really there.
            self._check("cuMemsetD32_v2", address, ctypes.c_uint(0), ctypes.c_size_t(size // 4))
            yield address.value
        finally:
            self._check("cuMemFree_v2", address)

    @contextmanager
    def pinned(self, size: int) -> Iterator[int]:
        """Hold memory of the host that the GPU reads without a detour; yield its address."""
        address = ctypes.c_void_p()
        self._check("cuMemAllocHost_v2", ctypes.byref(address), ctypes.c_size_t(size))
        try:
            yield address.value or 0
        finally:
            self._check("cuMemFreeHost", address)

    def launch(self, kernel: str, *arguments: Any, blocks: tuple[int, int], threads: tuple[int, int]) -> None:
        """Run a kernel and wait for its end. Arguments are ctypes values."""
        function = ctypes.c_void_p()
        self._check("cuModuleGetFunction", ctypes.byref(function), self._module, kernel.encode())
        pointers = (ctypes.c_void_p * len(arguments))(
            *(ctypes.cast(ctypes.pointer(one), ctypes.c_void_p) for one in arguments)
        )
        sizes = [ctypes.c_uint(number) for number in (*blocks, 1, *threads, 1)]
        self._check("cuLaunchKernel", function, *sizes, ctypes.c_uint(0), None, pointers, None)
        self._check("cuCtxSynchronize")

    def to_gpu(self, *, target: int, source: int, size: int) -> None:
        """Copy from the host."""
        self._check("cuMemcpyHtoD_v2", ctypes.c_uint64(target), ctypes.c_void_p(source), ctypes.c_size_t(size))

    def from_gpu(self, *, target: int, source: int, size: int) -> None:
        """Copy to the host."""
        self._check("cuMemcpyDtoH_v2", ctypes.c_void_p(target), ctypes.c_uint64(source), ctypes.c_size_t(size))

    def _check(self, name: str, *arguments: Any) -> None:
        try:
            code = int(getattr(self._library, name)(*arguments))
        except AttributeError as error:
            raise CudaError(f"this driver has no {name}") from error
        if code:
            text = ctypes.c_char_p()
            self._library.cuGetErrorName(ctypes.c_int(code), ctypes.byref(text))
            raise CudaError(f"{name}: {(text.value or b'unknown').decode()} ({code})")
