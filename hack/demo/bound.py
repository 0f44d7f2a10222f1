"""`python -m hack.demo.bound PROGRAM ARGUMENTS...`: become that program, and be ended by the kernel with the parent.

A demonstration that is killed cannot end what it started. This asks the kernel to (PR_SET_PDEATHSIG, Linux only), in
the child and before the program begins, because Python's hook between fork and exec is not safe in a process with
threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """Replace this process by the program; return only if that fails."""
    if not arguments:
        sys.stderr.write(f"usage: {__doc__}\n")
        return 2
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.stderr.write(f"prctl: {os.strerror(ctypes.get_errno())}\n")
        return 1
    return os.execv(arguments[0], arguments)  # noqa: S606 - a command of this tool's own, no shell wanted


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
