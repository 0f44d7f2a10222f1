"""The system calls that Python 3.11 does not offer: mount, unshare, setns, sethostname.

Thin on purpose: numbers are those of the kernel's headers (sched.h, mount.h), errors are OSError with the kernel's
words.
"""

import ctypes
import os
from pathlib import Path

NEW_MOUNTS = 0x0002_0000
NEW_CGROUP = 0x0200_0000
NEW_HOST_NAME = 0x0400_0000
NEW_IPC = 0x0800_0000
NEW_PROCESSES = 0x2000_0000
NEW_NETWORK = 0x4000_0000

READ_ONLY = 0x1
NO_SUID = 0x2
NO_DEVICES = 0x4
NO_EXEC = 0x8
BIND = 0x1000
RECURSIVE = 0x4000
PRIVATE = 0x4_0000
SHARED = 0x10_0000

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str | Path, target: str | Path, kind: str = "", *, flags: int = 0, options: str = "") -> None:
    """Put a file system or a folder in place, as the program of this name does."""
    arguments = (os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), options.encode())
    _checked(_libc.mount(*arguments), f"mounting {kind or source} on {target}")


def unmount(target: str | Path, *, lazy: bool = False) -> None:
    """Unmount something, as umount2(2) does."""
    _checked(_libc.umount2(os.fsencode(target), 2 if lazy else 0), f"unmounting {target}")


def unshare(flags: int) -> None:
    """Leave the namespaces of these kinds for new ones."""
    _checked(_libc.unshare(flags), "making namespaces")


def enter(namespace: Path) -> None:
    """Go into a namespace, by its file in /proc; for processes it counts for children only."""
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked(_libc.setns(descriptor, 0), f"entering {namespace}")
    finally:
        os.close(descriptor)


def set_host_name(name: str) -> None:
    """Name the machine, for those in the same namespace."""
    encoded = name.encode()
    _checked(_libc.sethostname(encoded, len(encoded)), "setting the host name")


def _checked(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
