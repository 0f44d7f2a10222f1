"""The driver library: opened once a process, and its return codes sorted by what they mean for a measurement.

NVML counts its initialisations and is thread-safe but not fork-safe, so the session is opened once, bound to the
process id, and opened again only after an error that says that the session itself is gone. It never opens and closes
per scrape: that touches every GPU.

`pynvml` (from nvidia-ml-py) is imported only once the library has been loaded: a node without a driver need not pay
for the binding (measured: 2 MiB, and 15 where the image carries no compiled bytecode and it is parsed at each
start). Messages come from the table below and never from `nvmlErrorString`, which would be one more call into a
driver that has just failed.
"""

import ctypes
import importlib
import os
from enum import Enum, auto
from typing import Any

from optiinfra_agent.errors import (
    GpuLostError,
    SourceDeniedError,
    SourceError,
    SourceFailedError,
    SourceUnavailableError,
    SourceUnsupportedError,
    ValueUnknownError,
)
from optiinfra_agent.snapshot import Reason

LIBRARY = "libnvidia-ml.so.1"


class CodeClass(Enum):
    """What a return code says about the measurement."""

    ABSENT = auto()
    DENIED = auto()
    GPU_LOST = auto()
    NODE = auto()
    OTHER = auto()


FUNCTION_NOT_FOUND = 13
TIMEOUT = 10
ARGUMENT_VERSION_MISMATCH = 25
GPU_NOT_FOUND = 28
UNKNOWN = 999
LIB_RM_VERSION_MISMATCH = 18
NOT_SUPPORTED = 3
NOT_FOUND = 6

# code: name, class, reason of the single value
_CODES: dict[int, tuple[str, CodeClass, Reason]] = {
    1: ("not initialised", CodeClass.NODE, Reason.FAILED),
    3: ("not supported", CodeClass.ABSENT, Reason.UNSUPPORTED),
    4: ("no permission", CodeClass.DENIED, Reason.DENIED),
    6: ("not found", CodeClass.ABSENT, Reason.UNAVAILABLE),
    9: ("driver not loaded", CodeClass.NODE, Reason.UNAVAILABLE),
    10: ("driver time-out", CodeClass.OTHER, Reason.FAILED),
    12: ("library not found", CodeClass.NODE, Reason.UNAVAILABLE),
    13: ("function not found: the driver is older", CodeClass.ABSENT, Reason.UNSUPPORTED),
    15: ("GPU is lost", CodeClass.GPU_LOST, Reason.FAILED),
    16: ("GPU needs a reset", CodeClass.GPU_LOST, Reason.FAILED),
    17: ("blocked by the operating system", CodeClass.DENIED, Reason.DENIED),
    18: ("driver was replaced underneath: restart the pod", CodeClass.NODE, Reason.FAILED),
    20: ("out of memory", CodeClass.OTHER, Reason.FAILED),
    21: ("no data", CodeClass.ABSENT, Reason.UNAVAILABLE),
    25: ("structure version not known: the driver is older", CodeClass.ABSENT, Reason.UNSUPPORTED),
    26: ("deprecated and removed", CodeClass.ABSENT, Reason.UNSUPPORTED),
    27: ("not ready", CodeClass.ABSENT, Reason.WARMING_UP),
    28: ("driver present but no GPU visible", CodeClass.NODE, Reason.FAILED),
    999: ("unknown error: the container may have lost its GPUs", CodeClass.NODE, Reason.FAILED),
}


def code_class(code: int) -> CodeClass:
    """Return what a return code means."""
    return _CODES[code][1] if code in _CODES else CodeClass.OTHER


def code_reason(code: int) -> Reason:
    """Return why the value behind a call that returned this code is unknown."""
    return _CODES[code][2] if code in _CODES else Reason.FAILED


def code_name(code: int) -> str:
    """Return the code in words."""
    return f"{_CODES[code][0]} (NVML {code})" if code in _CODES else f"NVML error {code}"


def source_error(code: int, call: str) -> SourceError:
    """Return the error of the whole source that this code of this call means."""
    text = f"{call}: {code_name(code)}"
    if code in {9, 12}:
        return SourceUnavailableError(text, code=code)
    if code_class(code) is CodeClass.DENIED:
        return SourceDeniedError(text, code=code)
    if code in {FUNCTION_NOT_FOUND, NOT_SUPPORTED}:
        return SourceUnsupportedError(text, code=code)
    return SourceFailedError(text, code=code)


class NvmlSession:
    """One initialised driver library. Not for use by two threads at once: its owner is one worker."""

    def __init__(self) -> None:
        self._library: Any = None
        self._pid: int | None = None
        self.openings = 0
        """How often it was opened: what the library gave out before is gone with each."""

    @property
    def is_open(self) -> bool:
        """Whether the library is initialised in this very process."""
        return self._pid == os.getpid()

    def open(self) -> None:
        """Initialise the library; raise the SourceError that tells why it cannot be."""
        if self._library is None:
            self._library = _load()
        if self._pid is not None:
            # After a fork, or after the driver lost us, the library still counts an initialisation that is dead:
            # without the shutdown the next initialisation would only count up and change nothing.
            self.close()
        try:
            self._library.nvmlInit()
        except self._library.NVMLError as error:
            raise source_error(error.value, "initialise") from error
        self._pid = os.getpid()
        self.openings += 1

    def close(self) -> None:
        """Give the session up. A failure is expected here: what is closed is often already dead."""
        self._pid = None
        try:
            self._library.nvmlShutdown()
        except self._library.NVMLError:
            return

    def call(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Return what one driver call gives.

        Raises ValueUnknownError when only this value is missing, GpuLostError when the GPU is, and a SourceError
        when the session is: then the caller has to stop and to open it again.
        """
        try:
            return getattr(self._library, name)(*arguments, **options)
        except self._library.NVMLError as error:
            code = int(error.value)
            kind = code_class(code)
            if kind is CodeClass.NODE:
                raise source_error(code, name) from error
            failure = GpuLostError if kind is CodeClass.GPU_LOST else ValueUnknownError
            raise failure(f"{name}: {code_name(code)}", reason=code_reason(code), code=code) from error
        except UnicodeDecodeError as error:
            raise ValueUnknownError(f"{name}: not text", reason=Reason.FAILED, code=0) from error

    def constant(self, name: str) -> Any:
        """Return a constant of the binding."""
        return getattr(self._library, name)


def _load() -> Any:
    try:
        ctypes.CDLL(LIBRARY)
    except OSError as error:
        # A file that is there and does not load (a wrong architecture, a missing symbol) is not "no driver".
        if "cannot open shared object file: No such file" not in str(error):
            raise SourceFailedError(f"{LIBRARY} does not load: {error}", code=12) from error
        raise SourceUnavailableError(
            f"{LIBRARY} not found: no NVIDIA driver on this node, or not mounted into this container", code=12
        ) from error
    return importlib.import_module("pynvml")
