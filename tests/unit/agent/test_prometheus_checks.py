"""What a Prometheus server asks of the agent: pages that its linter likes, a bounded number of series, flat memory.

`promtool check metrics` reads Prometheus text alone: its rules stand here as tests, for both formats, and the program
itself is asked as well, the one on PATH or else Debian's.
"""

import gc
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from bench.agent_hour import WARM_UP, slope
from hack.binaries.catalogue import architecture
from hack.binaries.debian import PACKAGES, ensure_packaged
from optiinfra import metrics as operators
from optiinfra_agent import capabilities, events, gpu_families, value_sources
from optiinfra_agent.deadline import DeadlineWorker
from optiinfra_agent.errors import SourceUnavailableError
from optiinfra_agent.snapshot import ClockSeconds, SourceName
from tests.kubelet_stub import Kubelet, device, pod
from tests.nvml_stub import Stub
from tests.unit.agent.conftest import Agent, environment, eventually

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = ROOT / "docs" / "reference" / "metrics.md"
UUID = "GPU-{0:08d}-0000-4000-8000-{0:012d}"
BUSY = (
    "value gpm -1 1",
    *(f"value gpm_{number} -1 50" for number in (2, 3, 5, 10)),
    "value processes -1 4",
    "value utilization -1 73",
)
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
# From prometheus/client_golang's testutil/promlint, of which `promtool check metrics` is the command.
UNITS = {
    "bytes": {"kilobytes", "megabytes", "gigabytes", "kibibytes", "mebibytes", "gibibytes", "bits"},
    "seconds": {"milliseconds", "microseconds", "nanoseconds", "minutes", "hours", "days", "weeks"},
    "ratio": {"percent", "percents"},
    "celsius": {"kelvin", "fahrenheit"},
    "joules": {"millijoules", "kilojoules", "calories"},
    "meters": {"kilometers", "millimeters"},
    "volts": {"millivolts"},
    "amperes": {"milliamperes"},
    "grams": {"kilograms"},
}
ABBREVIATED = {"s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "tb", "pb", "m", "h", "d"}
NOT_BASE = {wrong for several in UNITS.values() for wrong in several}
# Hours and GiB are what a ledger of GPU-hours is kept in; a base unit would make numbers that nobody can check by hand.
TOLD = {
    "optiinfra_savings_gpu_hours",
    "optiinfra_savings_cpu_core_hours",
    "optiinfra_savings_memory_gib_hours",
}


def complaints(families: list[Metric]) -> list[str]:
    """Return what promlint would say of these families."""
    found = []
    for family in families:
        words = family.name.split("_")
        samples = {sample.name for sample in family.samples}
        labels = {label for sample in family.samples for label in sample.labels}
        histogram = family.type in {"histogram", "summary"}
        tests = {
            "no help": not family.documentation,
            "not a base unit": family.name not in TOLD and not NOT_BASE.isdisjoint(words),
            "abbreviated unit": not ABBREVIATED.isdisjoint(words),
            "type in name": bool({"counter", "gauge", "histogram", "summary", "untyped"} & set(words)),
            "colon": ":" in family.name,
            "camel case": any(re.search("[a-z][A-Z]", name) for name in (family.name, *labels)),
            "counter without _total": family.type == "counter"
            and not all(name.endswith(("_total", "_created")) for name in samples),
            "_total on what is no counter": family.type != "counter" and family.name.endswith("_total"),
            "suffix of a histogram": not histogram and family.name.endswith(("_count", "_sum", "_bucket")),
            "label of a histogram": not histogram and bool(labels & {"le", "quantile"}),
        }
        found += [f"{family.name}: {text}" for text, broken in tests.items() if broken]
    counts = Counter(family.name for family in families)
    return found + [f"{name}: twice on a page" for name, count in counts.items() if count > 1]


def page(agent: Agent, accept: str) -> str:
    status, headers, body = agent.request("/metrics", headers={"accept": accept})
    assert status == 200
    assert accept.split(";", maxsplit=1)[0] in headers["content-type"]
    return body.decode()


def uuids(count: int) -> list[str]:
    return [UUID.format(index) for index in range(count)]


@pytest.fixture
def full(start: Callable[..., Agent], stub: Stub, kubelet: Kubelet) -> Callable[[int], Agent]:
    def run(gpus: int) -> Agent:
        stub.rules(f"gpus {gpus}", *BUSY)
        kubelet.serve(
            *(pod(f"llama-{index}", device(uuid)) for index, uuid in enumerate(uuids(gpus))),
            allocatable=[device(uuid) for uuid in uuids(gpus)],
        )
        agent = start(OPTIINFRA_AGENT_POD_RESOURCES=str(kubelet.folder), **stub.environment)
        # GPM needs two collections.
        eventually(lambda: 'optiinfra_gpu_sm_active_ratio{uuid="' in page(agent, "text/plain"))
        return agent

    return run


def series(text: str) -> Counter[str]:
    """Return how many samples of each family a page in Prometheus text has, those of the process left out."""
    return Counter(
        sample.name for family in parse_text(text) for sample in family.samples if sample.name.startswith("optiinfra_")
    )


def test_the_agents_pages_are_clean(full: Callable[[int], Agent]) -> None:
    agent = full(8)
    text, openmetrics = page(agent, "text/plain"), page(agent, OPENMETRICS)
    assert complaints(list(parse_text(text))) == []
    # This parser is strict: it refuses what is out of order, without end mark, or of a type that its name denies.
    families = list(parse_openmetrics(openmetrics))
    assert complaints(families) == []
    assert sum(len(family.samples) for family in families) >= 300


def test_the_operators_page_is_clean() -> None:
    assert complaints(list(parse_text(generate_latest(operators.REGISTRY).decode()))) == []


@pytest.mark.skipif(
    shutil.which("promtool") is None and architecture() not in PACKAGES["promtool"].sha256,
    reason=f"promtool is not on the PATH, and no package is pinned for {architecture()}",
)
@pytest.mark.parametrize("whose", ["agent", "operator"])
def test_promtool_has_nothing_to_say(full: Callable[[int], Agent], whose: str) -> None:
    program = ensure_packaged("promtool")
    text = page(full(8), "text/plain") if whose == "agent" else generate_latest(operators.REGISTRY).decode()
    done = subprocess.run(
        [program, "check", "metrics"], input=text, capture_output=True, text=True, check=False, timeout=60
    )
    said = [
        line
        for line in (done.stdout + done.stderr).splitlines()
        if line.split(" ")[0].removesuffix("_total") not in TOLD
    ]
    assert said == []


def test_the_rules_find_what_they_are_for() -> None:
    wrong = (
        "# TYPE a_count gauge\na_count 1\n# HELP memory_mb M.\n# TYPE memory_mb gauge\nmemory_mb 1\n"
        "# HELP usage_percent P.\n# TYPE usage_percent gauge\nusage_percent 1\n# HELP aB_x_total C.\n"
        "# TYPE aB_x_total gauge\naB_x_total 1\n"
    )
    assert complaints(list(parse_text(wrong))) == [
        "a_count: no help",
        "a_count: suffix of a histogram",
        "memory_mb: abbreviated unit",
        "usage_percent: not a base unit",
        "aB_x_total: camel case",
        "aB_x_total: _total on what is no counter",
    ]


def bounds() -> dict[str, int]:
    """Return the numbers of the table of series in the reference, by what they are for each of."""
    rows = re.findall(r"^\| each ([a-zA-Z ]+?) \|.*\| (\d+) \|$", DOCUMENT.read_text(), flags=re.MULTILINE)
    return {what: int(number) for what, number in rows}


def test_the_bound_of_each_gpu_is_what_the_code_can_write() -> None:
    reasons = len(gpu_families.CLOCK_REASONS) + len(fields(ClockSeconds))
    assert bounds()["GPU"] == 1 + len(gpu_families.GPU) + reasons + events.MAX_NUMBERS + 1 + 2
    assert bounds()["MIG device"] == 1 + len(gpu_families.MIG)
    assert bounds()["source"] == 4
    assert bounds()["capability"] == 1
    assert len(capabilities.NAMES) == 24, "the reference counts them"
    assert len(value_sources.USUAL) == 47, "the reference counts them"
    assert len(SourceName) == 10, "the reference names the sources and counts them"


def test_eight_gpus_stay_within_the_bounds(full: Callable[[int], Agent]) -> None:
    agent = full(8)
    counted = series(page(agent, "text/plain"))
    bound = bounds()
    of_gpus = {name: count for name, count in counted.items() if name.startswith("optiinfra_gpu_")}
    allocations = of_gpus.pop("optiinfra_gpu_allocation_info")
    given = of_gpus.pop("optiinfra_gpu_value_sources")
    assert given <= len(value_sources.USUAL) * bound["value of a GPU"]
    used = sum(of_gpus.pop(name) for name in list(of_gpus) if name.startswith("optiinfra_gpu_workload_"))
    assert used <= 8 * bound["container with processes on a GPU"]  # the stub's processes are in no pod
    able = counted["optiinfra_agent_capability_state"]
    assert able == len(capabilities.NAMES) * bound["capability"]
    assert allocations == 8 * bound["device that a container holds"]
    assert 8 * 30 <= sum(of_gpus.values()) <= 8 * bound["GPU"]
    numa = sum(count for name, count in counted.items() if "_numa_" in name)
    sources = sum(count for name, count in counted.items() if name.startswith("optiinfra_agent_source_"))
    assert sources <= len(SourceName) * bound["source"]
    resources = counted["optiinfra_node_allocatable_devices"]
    rest = sum(counted.values()) - sum(of_gpus.values()) - allocations - numa - sources - resources
    rest -= given + used + able
    assert rest <= bound["node"]
    assert rest >= bound["node"] - 12, "the reference promises far more than there is"


def live(passes: int, settings: dict[str, str]) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.agent_hour", "--passes", str(passes)],
        env=environment(**{"OPTIINFRA_AGENT_INTERVAL": "15", "PYTHONPATH": str(ROOT), **settings}),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# The blocks that stay are noise of some hundred, however long it runs; one object kept a collection is already more.
@pytest.mark.parametrize("driver", ["absent", "failing", "good"])
def test_memory_does_not_grow_with_collections(stub: Stub, kubelet: Kubelet, tmp_path: Path, driver: str) -> None:
    settings: dict[str, str] = {}
    if driver != "absent":
        stub.rules(
            "gpus 8",
            *BUSY,
            "value processes -1 4",
            "value mps -1 2",
            *(["code nvmlInitWithFlags -1 9"] if driver == "failing" else []),
        )
        (tmp_path / "cgroups").mkdir()
        kubelet.serve(*(pod(f"llama-{index}", device(uuid)) for index, uuid in enumerate(uuids(8))))
        settings = {name: value for name, value in stub.environment.items() if name != "NVML_STUB_CALLS"} | {
            "OPTIINFRA_AGENT_POD_RESOURCES": str(kubelet.folder),
            "OPTIINFRA_AGENT_CGROUPS": str(tmp_path / "cgroups"),
        }
    passes = 200
    lived = live(passes, settings)
    assert lived["passes"] == passes > WARM_UP
    assert lived["blocks"] < 3 * passes


def test_a_source_that_fails_again_and_again_holds_one_error() -> None:
    worker: DeadlineWorker[None] = DeadlineWorker("test")
    alive = set()

    class Kept:
        """Stands for what a collection has read when a source fails."""

        def __init__(self) -> None:
            alive.add(id(self))

        def __del__(self) -> None:
            alive.discard(id(self))

    def fail() -> None:
        raise SourceUnavailableError("not there")

    def collect() -> Exception | None:
        kept = Kept()
        try:
            worker.run(fail, deadline_s=10)
        except SourceUnavailableError as error:
            assert kept
            return error
        return None

    last = None
    for _ in range(50):
        last = collect()

    gc.collect()
    assert last is not None
    assert len(alive) <= 1


def test_the_slope_is_that_of_a_line() -> None:
    assert slope([]) == slope([3.0]) == 0.0
    assert slope([5.0, 5.0, 5.0]) == pytest.approx(0.0)
    assert slope([1.0, 3.0, 5.0, 7.0]) == pytest.approx(2.0)
