"""A double of NVIDIA's container runtime: gives containers that ask for GPUs a driver library, then lets runc go on.

`python gpu_runtime.py SETTINGS [arguments of runc]`, started by containerd for pods of the RuntimeClass `nvidia`. As
the real one does, it changes the container's specification at its creation: whoever has NVIDIA_VISIBLE_DEVICES in his
environment gets libnvidia-ml.so.1 mounted where the loader looks for it. The library is the tests' stand-in, steered by
a file of rules that is mounted with it. The environment of the container is not touched besides that.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

RUNC = "/usr/bin/runc"
LIBRARY = "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1"
RULES = "/run/nvml-stub"
_ASKS = "NVIDIA_VISIBLE_DEVICES="


def with_driver(specification: dict[str, Any], *, library: str, rules: str) -> dict[str, Any]:
    """Return an OCI specification with the driver's library mounted, or the same where no GPUs are asked for."""
    environment = specification["process"].get("env", [])
    if not any(each.startswith(_ASKS) and each not in {_ASKS, f"{_ASKS}void"} for each in environment):
        return specification
    mounts = [
        {"destination": destination, "type": "bind", "source": source, "options": ["rbind", "ro"]}
        for destination, source in ((LIBRARY, library), (RULES, rules))
    ]
    process = {**specification["process"], "env": [*environment, f"NVML_STUB_CONFIG={RULES}/nvml-rules"]}
    return {**specification, "process": process, "mounts": [*specification.get("mounts", []), *mounts]}


def main() -> int:
    """Change the specification of a container that is being created, and become runc."""
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    arguments = sys.argv[2:]
    if "create" in arguments and "--bundle" in arguments:
        path = Path(arguments[arguments.index("--bundle") + 1]) / "config.json"
        specification = with_driver(json.loads(path.read_text(encoding="utf-8")), **settings)
        path.write_text(json.dumps(specification), encoding="utf-8")
    os.execv(RUNC, [RUNC, *arguments])  # noqa: S606  the very program that would have run without us


if __name__ == "__main__":
    sys.exit(main())
