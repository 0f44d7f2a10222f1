"""The version that upgrades are tested from: its chart, packaged, and its operator's code from the history.

A shallow clone has no history: `source` then returns None, and whoever asked says what it takes instead. What the older
operator would have learned in hours is made by its own code (`learned`), because what it writes is what is to be read.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSION = "0.1.0-alpha.1"
COMMIT = "e4d69b8cf02c909e93979065d1045b5d20ebad61"
CHART = ROOT / "tests" / "data" / "charts" / f"optiinfra-{VERSION}.tgz"
HOURS = 5
"""Of load that `learned` remembers: less than is kept, so that none of it falls out during a test."""
STEP_SECONDS = 15
NAMES_OF_KINDS = ("clusterresourceoptimizations", "optimizationcheckpoints", "resourceoptimizations")


def definition_files():
    """Return the text of each definition of that version, by its file's name."""
    with tarfile.open(CHART) as chart:
        return {
            Path(member.name).name: chart.extractfile(member).read().decode()
            for member in chart.getmembers()
            if "/files/crds/" in member.name
        }


def source(folder, *paths):
    """Unpack these paths of that version into a folder and return it; None in a clone without its history."""
    done = subprocess.run(
        ["git", "archive", COMMIT, *(paths or ("operator",))], cwd=ROOT, capture_output=True, timeout=60, check=False
    )
    if done.returncode:
        return None
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


_LEARNED = """
import base64, json, math, sys
from types import SimpleNamespace
from optiinfra.control import checkpoint
from optiinfra.control.memory import ObjectMemory
from optiinfra.domain.units import UnixTime

target, now, steps, step = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
memory = ObjectMemory()
history = memory.target(target).history
for number in range(steps, 0, -1):
    wave = 24.0 + 8.0 * math.sin(number / 40.0)
    history.observe(
        SimpleNamespace(
            time=UnixTime(now - number * step), running=wave, waiting=0.0, deferred=0.0, kv_cache_usage_mean=0.4,
            work_rate=wave * 20.0, replicas_expected=1, replicas_reporting=1,
        ),
        1,
    )
print(json.dumps({"version": checkpoint.VERSION, "state": base64.b64encode(checkpoint.pack(memory)).decode()}))
"""

_READ = """
import base64, json, sys
from optiinfra.control import checkpoint
from optiinfra.control.memory import ObjectMemory
from optiinfra.domain.history import Column

spec = json.load(sys.stdin)
memory = ObjectMemory()
checkpoint.unpack(base64.b64decode(spec["state"]), memory, version=spec["version"])
print(json.dumps({name: target.history.series(Column.RUNNING).times for name, target in memory.targets.items()}))
"""


def python(program, *arguments, code=None, text=None):
    """Run a program against the code in `code` (today's: None) and return what it prints as JSON."""
    environment = dict(os.environ) | ({"PYTHONPATH": str(code / "operator")} if code else {})
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=environment,
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def learned(name, target, *, uid, code=None):
    """Return an OptimizationCheckpoint of HOURS of load of one workload, as `code` writes it."""
    now = time.time()
    spec = python(_LEARNED, target, now, HOURS * 3600 // STEP_SECONDS, STEP_SECONDS, code=code)
    owner = {"apiVersion": "optiinfra.io/v1alpha1", "kind": "ResourceOptimization", "name": name, "uid": uid}
    return {
        "apiVersion": "optiinfra.io/v1alpha1",
        "kind": "OptimizationCheckpoint",
        "metadata": {"name": name, "ownerReferences": [owner]},
        "spec": {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)), **spec},
    }


def remembered(checkpoint, *, code=None):
    """Return when load is known for, by target, as `code` (today's: None) reads a checkpoint."""
    return python(_READ, code=code, text=json.dumps(checkpoint["spec"]))
