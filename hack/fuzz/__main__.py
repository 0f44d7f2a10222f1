"""Feed one of the agent's parsers with noise that follows its branches, until something breaks or the time is up.

    python -m hack.fuzz wire -max_total_time=60

Needs atheris (libFuzzer for Python), which is no dependency of the project: install it into an environment of its own,
beside what the agent needs (`pip install .[agent] atheris`).
What follows the target goes to libFuzzer. An input that breaks something is written to a file whose name is printed:
put it into the seeds of the target, so that the tests have it from then on.
"""

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

EXIT_USAGE = 2


def main(arguments: list[str]) -> int:
    """Run one target; libFuzzer ends the process."""
    try:
        atheris: Any = importlib.import_module("atheris")
    except ImportError:
        print("atheris is not installed: pip install atheris, in an environment of its own", file=sys.stderr)
        return EXIT_USAGE
    # Only what is imported here is watched for new branches.
    with atheris.instrument_imports(include=["optiinfra_agent"]):
        targets = importlib.import_module("hack.fuzz.targets")
    if not arguments or arguments[0] not in targets.TARGETS:
        print(f"usage: python -m hack.fuzz {{{','.join(targets.TARGETS)}}} [libFuzzer's options]", file=sys.stderr)
        return EXIT_USAGE
    name, *options = arguments
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        for number, seed in enumerate(targets.SEEDS[name]):
            (Path(folder) / f"seed-{number}").write_bytes(seed)
        atheris.Setup([sys.argv[0], *options, folder], targets.TARGETS[name])
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
