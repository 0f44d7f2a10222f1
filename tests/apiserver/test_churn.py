"""A day of churn at speed: objects, services and pods come and go all the time, and the operator's memory stays flat.

A day at the default interval is 2,880 rounds of an object. Here rounds come every 0.3 s, so that as many pass in
a quarter of an hour; between two of them some objects are made, changed and deleted, which a real day hardly sees. It
ends when the operator has counted the rounds of a day, however long a busy machine takes for them.
"""

import contextlib
import itertools
import os
import random
import time
from pathlib import Path

import pytest

from tests.engine_pages import EnginePages, Page, Scene
from tests.operator_process import eventually, free_port, install

pytestmark = [pytest.mark.timeout(7200), pytest.mark.soak]

ROUNDS = int(os.environ.get("OPTIINFRA_CHURN_ROUNDS", "2880"))
MOST_MINUTES = float(os.environ.get("OPTIINFRA_CHURN_MINUTES", "inf"))
"""For who has no time for all rounds: how many hours of a day they came to is among the figures."""
EVERY = float(os.environ.get("OPTIINFRA_CHURN_SECONDS", "0.3"))
LOOK = 20
"""Steps between two looks at how many rounds the operator has counted."""
ALIVE = 12
TOPIC = "churn"
GROWTH_MIB = 8.0
"""Between the median of the second quarter and that of the last: history of living objects may still fill up."""


def resident_mib(process):
    lines = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


@pytest.fixture
def scene(apiserver, tmp_path):
    prefix = f"churn-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        pages = stack.enter_context(EnginePages(free_port()))
        installation = stack.enter_context(
            install(apiserver, folder=tmp_path, namespace=f"{prefix}-operator", values={"actuation.enabled": "true"})
        )
        operator = installation.operator(
            OPTIINFRA_INTERVAL_SECONDS=str(EVERY),
            OPTIINFRA_SCRAPE_INTERVAL_SECONDS="1",
            OPTIINFRA_SIGNAL_WINDOW_SECONDS="10",
        )
        made = Scene(apiserver, installation, operator, pages, prefix)
        stack.callback(made.remove)
        stack.callback(operator.kill)
        made.namespace("a")
        operator.start().wait_ready()
        yield made


class Churn:
    """Makes, changes and deletes services with their objects, by chance of one seed."""

    def __init__(self, scene):
        self.scene = scene
        self.space = scene.made["a"]
        self.chance = random.Random(24)
        self.numbers = itertools.count(1)
        self.alive = {}
        self.made = self.changed = self.deleted = 0

    def step(self):
        if len(self.alive) < ALIVE or self.chance.random() < 0.3:
            self.make()
        if len(self.alive) > ALIVE:
            self.delete(self.chance.choice(list(self.alive)))
        if self.alive:
            self.change(self.chance.choice(list(self.alive)))

    def make(self):
        name = f"svc-{next(self.numbers)}"
        page = Page(running=self.chance.randrange(60), waiting=self.chance.choice((0, 0, 200)))
        self.alive[name] = self.scene.engines(self.space, name, page)
        if self.chance.random() < 0.5:
            self.scene.hpa(self.space, name, manager="argocd", target=name)
        self.scene.optimize(self.space, name, scaling={"actuation": self.chance.choice(("Signal", "Floor"))})
        self.made += 1

    def change(self, name):
        mode = self.chance.choice(("Auto", "Recommend", "Approve"))
        self.scene.change(self.space, {"mode": mode, "suspend": self.chance.random() < 0.2}, name)
        for address in self.alive[name]:
            self.scene.pages.serve(address, Page(running=self.chance.randrange(60)))
        self.changed += 1

    def delete(self, name):
        request, space = self.scene.cluster.request, self.space
        request("DELETE", self.scene.path(space, name))
        request("DELETE", f"/apis/apps/v1/namespaces/{space}/deployments/{name}")
        request("DELETE", f"/api/v1/namespaces/{space}/pods/{name}-0?gracePeriodSeconds=0")
        del self.alive[name]
        self.deleted += 1


def rounds_of_objects(operator):
    """How many objects went through a round so far, counted once for each."""
    return operator.series("optiinfra_round_objects_total")[()]


def test_a_day_of_churn_leaves_memory_flat(scene, figures):
    churn, resident = Churn(scene), []
    began, counted = time.monotonic(), 0.0
    for number in itertools.count(1):
        churn.step()
        resident.append(resident_mib(scene.operator.process))
        time.sleep(max(0.0, began + number * EVERY - time.monotonic()))
        assert scene.operator.running
        if number % LOOK == 0:
            counted = rounds_of_objects(scene.operator)
        if counted >= ROUNDS * ALIVE or time.monotonic() - began >= 60.0 * MOST_MINUTES:
            break
    counted = rounds_of_objects(scene.operator)
    figures.add(TOPIC, "rounds of objects", counted)
    figures.add(TOPIC, "hours that so many rounds are at the default interval", round(counted / ALIVE / 120, 1))
    figures.add(TOPIC, "minutes that it took", round((time.monotonic() - began) / 60, 1))
    quarter = len(resident) // 4
    middle, last = (sorted(part)[quarter // 2] for part in (resident[quarter : 2 * quarter], resident[-quarter:]))
    figures.add(TOPIC, "objects made, each with its service", churn.made)
    figures.add(TOPIC, "objects changed", churn.changed)
    figures.add(TOPIC, "objects deleted", churn.deleted)
    figures.add(TOPIC, "resident memory in the second quarter", round(middle, 1), "MiB")
    figures.add(TOPIC, "resident memory in the last quarter", round(last, 1), "MiB")
    assert not scene.operator.complaints()
    names = {name for name, _ in zip(churn.alive, range(3), strict=False)}
    eventually(
        lambda: all(scene.status(churn.space, name).get("conditions") for name in names),
        seconds=60,
        what="those that live have their status",
    )
    assert last - middle <= GROWTH_MIB
