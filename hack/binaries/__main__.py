"""`python -m hack.binaries [name ...]`: get the binaries and print where each one is."""

import argparse
import sys
import time

from hack.binaries.catalogue import CATALOGUE, BinaryError
from hack.binaries.find import ensure


def main() -> int:
    """Get the named binaries, all of them by default."""
    parser = argparse.ArgumentParser(prog="python -m hack.binaries", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"some of: {', '.join(CATALOGUE)}")
    names = parser.parse_args().names
    if unknown := [name for name in names if name not in CATALOGUE]:
        parser.error(f"unknown binary {unknown[0]}: choose from {', '.join(CATALOGUE)}")
    started = time.monotonic()
    try:
        paths = ensure(names or None)
    except BinaryError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, path in paths.items():
        print(f"{name:<24} {path}")
    print(f"{len(paths)} binaries ready in {time.monotonic() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
