"""Runs the stage in real time: follows the cluster, advances ten times a second, records once a second.

The only module here that reads clocks. Virtual time follows the monotonic clock, so that a corrected wall clock can
neither stop the engines nor send them back; after a stall (a suspended laptop) time goes on in slices, never in a jump
that would block the listeners.
"""

import asyncio
import logging
import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

import orjson

from optiinfra_sim.agents import Agents
from optiinfra_sim.cluster import ClusterFollower, ClusterView
from optiinfra_sim.errors import SimulatorError
from optiinfra_sim.scenario import Scenario
from optiinfra_sim.server import Server
from optiinfra_sim.stage import Stage

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.1
RECORD_SECONDS = 1.0
LONGEST_SLICE_SECONDS = 1.0


class Simulator:
    """One running simulator."""

    def __init__(self, scenario: Scenario, *, folder: Path, kubeconfig: Path, record: Path | None) -> None:
        self._epoch = time.time()
        self._start = time.monotonic()
        self.stage = Stage(scenario, folder=folder, epoch=self._epoch)
        self._agents = Agents(started=self._epoch, load=self.stage.load)
        self._server = Server(stage=self.stage, agents=self._agents)
        self._follower = ClusterFollower(kubeconfig=kubeconfig, on_view=self._follow)
        self._record = record

    async def run(self, *, engine_port: int, agent_port: int, control_port: int) -> None:
        """Play until SIGTERM or SIGINT, or until a part fails."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        try:
            await self._server.start(engine_port=engine_port, agent_port=agent_port, control_port=control_port)
        except OSError as error:
            await self._server.stop()
            raise SimulatorError(f"a port cannot be opened: {error}") from error
        logger.info("serving: engines on port %s, agents on %s, control on %s", engine_port, agent_port, control_port)
        parts = [asyncio.create_task(part) for part in (self._follower.run(), self._pace(), stop.wait())]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            await self._server.stop()
            logger.info("stopped")

    def _follow(self, view: ClusterView) -> None:
        self.stage.follow(view.pods)
        self._agents.follow(view)

    async def _pace(self) -> None:
        record = self._record.open("w", encoding="utf-8") if self._record is not None else None
        try:
            recorded = -RECORD_SECONDS
            while True:
                due = time.monotonic() - self._start
                self.stage.advance(to=min(due, self.stage.now + LONGEST_SLICE_SECONDS))
                self._agents.advance(to=self._epoch + self.stage.now)
                if record is not None and self.stage.now - recorded >= RECORD_SECONDS:
                    recorded = self.stage.now
                    self._write(record)
                await asyncio.sleep(0 if due > self.stage.now else TICK_SECONDS)
        finally:
            if record is not None:
                record.close()

    def _write(self, record: TextIO) -> None:
        for state in self.stage.states():
            line = {"time": self._epoch + self.stage.now, **asdict(state)}
            del line["decisions"]  # every line has its replica count: the history is the file itself
            record.write(orjson.dumps(line).decode() + "\n")
        record.flush()
