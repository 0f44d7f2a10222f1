"""What several simulator tests read: the recordings, and a page as families."""

from importlib import resources
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from optiinfra_sim.replay import read_recording

PACKAGE = Path(str(resources.files("optiinfra_sim")))
EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture(scope="session")
def package():
    return PACKAGE


@pytest.fixture(scope="session")
def memory_bound():
    return read_recording(PACKAGE / "recordings/vllm-0.32-cpu-memory-bound-part1.tar.gz")


@pytest.fixture(scope="session")
def batch_bound():
    return read_recording(PACKAGE / "recordings/vllm-0.32-cpu-batch-bound.tar.gz")


@pytest.fixture(scope="session")
def demo_scenario():
    return EXAMPLES / "demo-scenario.yaml"


@pytest.fixture(scope="session")
def read_gauge():
    """The one sample of a family on a page."""

    def read(body, name):
        for family in text_string_to_metric_families(body.decode()):
            for sample in family.samples:
                if sample.name == name:
                    return sample.value
        raise AssertionError(f"{name} is not on the page")

    return read
