"""The orchestrator side of the agents' three calls, and the list of who is there.

This table informs people; it decides nothing. Which agents are read, and what is believed of them, follows from the
pods that the API server knows, never from what somebody posted here. An agent is registered while it sends heartbeats
(every 30 s), silent once three are missing, and expired after five minutes: then it has to register again, and stays on
the list for an hour, so that people see who went without saying so. Bounded. A new leader starts with an empty table,
and every agent is back with its next heartbeat.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path, Request
from pydantic import BaseModel, ConfigDict, Field

from optiinfra import metrics
from optiinfra.web.authentication import authenticated

_MOST = 20_000
SILENT_AFTER = 90.0
"""Seconds: three heartbeats."""
EXPIRED_AFTER = 300.0
FORGOTTEN_AFTER = 3900.0
"""An hour after it expired."""
_Name = Annotated[str, Field(max_length=253, pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?$")]


class Registration(BaseModel):
    """What an agent says of itself when it starts."""

    model_config = ConfigDict(extra="ignore")

    agent_id: _Name
    agent_type: Annotated[str, Field(max_length=64)]
    capabilities: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=64)] = []
    endpoint: Annotated[str, Field(max_length=512)] = ""
    health_check_endpoint: Annotated[str, Field(max_length=512)] = ""
    version: Annotated[str, Field(max_length=64)] = ""
    status: Annotated[str, Field(max_length=32)] = "healthy"


class Heartbeat(BaseModel):
    """A sign of life."""

    model_config = ConfigDict(extra="ignore")

    agent_id: _Name
    status: Annotated[str, Field(max_length=32)]
    timestamp: float | Annotated[str, Field(max_length=64)]
    metrics: Annotated[
        dict[Annotated[str, Field(max_length=64)], float | int | Annotated[str, Field(max_length=256)] | bool | None],
        Field(max_length=64),
    ] = {}


class AgentState(StrEnum):
    """What became of an agent that registered."""

    REGISTERED = "Registered"
    """It sends heartbeats."""
    SILENT = "Silent"
    """Three heartbeats or more are missing."""
    EXPIRED = "Expired"
    """Nothing was heard for five minutes; it has to register again."""


class Agent(Registration):
    """An agent as listed."""

    registered_at: float
    last_heartbeat: float
    metrics: dict[str, Any] = {}
    state: AgentState = AgentState.REGISTERED


@dataclass(slots=True)
class AgentTable:
    """Registered agents by id."""

    clock: Callable[[], float] = time.time
    _agents: OrderedDict[str, Agent] = field(default_factory=OrderedDict)

    def register(self, registration: Registration) -> Agent:
        """Add or replace an agent."""
        now = self.clock()
        agent = Agent(**registration.model_dump(), registered_at=now, last_heartbeat=now)
        self._agents[agent.agent_id] = agent
        self._agents.move_to_end(agent.agent_id)
        while len(self._agents) > _MOST:
            self._agents.popitem(last=False)
        return agent

    def heartbeat(self, heartbeat: Heartbeat) -> bool:
        """Note a sign of life; False when the agent is not registered (it then registers again)."""
        agent = self._agents.get(heartbeat.agent_id)
        if agent is None or self._state(agent) is AgentState.EXPIRED:
            return False
        self._agents[heartbeat.agent_id] = agent.model_copy(
            update={"status": heartbeat.status, "metrics": heartbeat.metrics, "last_heartbeat": self.clock()}
        )
        return True

    def remove(self, agent_id: str) -> bool:
        """Forget an agent."""
        return self._agents.pop(agent_id, None) is not None

    def all(self) -> list[Agent]:
        """Return the agents with their states as of now, in order of registration."""
        limit = self.clock() - FORGOTTEN_AFTER
        for agent_id in [key for key, agent in self._agents.items() if agent.last_heartbeat < limit]:
            del self._agents[agent_id]
        return [agent.model_copy(update={"state": self._state(agent)}) for agent in self._agents.values()]

    def count(self, state: AgentState) -> int:
        """Return how many agents are in a state now."""
        limit = self.clock() - FORGOTTEN_AFTER
        known = (agent for agent in tuple(self._agents.values()) if agent.last_heartbeat >= limit)
        return Counter(self._state(agent) for agent in known)[state]

    def show(self) -> None:
        """Let the metric count this table whenever it is read: agents fall silent without anybody calling."""
        for state in AgentState:
            metrics.AGENTS.labels(state).set_function(partial(self.count, state))

    def _state(self, agent: Agent) -> AgentState:
        silent = self.clock() - agent.last_heartbeat
        if silent < SILENT_AFTER:
            return AgentState.REGISTERED
        return AgentState.SILENT if silent < EXPIRED_AFTER else AgentState.EXPIRED


router = APIRouter(prefix="/api/v1/agents", tags=["agents"], dependencies=[Depends(authenticated)])


def _table(request: Request) -> AgentTable:
    table: AgentTable = request.app.state.agents
    return table


@router.post("/register", status_code=201)
async def register(request: Request, registration: Registration) -> Agent:
    """Register an agent, or register it again."""
    await request.app.state.gate.demand(request, verb="create", resource="agents")
    return _table(request).register(registration)


@router.post("/heartbeat")
async def heartbeat(request: Request, beat: Heartbeat) -> dict[str, str]:
    """Take a sign of life; 404 asks the agent to register again."""
    await request.app.state.gate.demand(request, verb="update", resource="agents")
    if not _table(request).heartbeat(beat):
        raise HTTPException(404, f"agent {beat.agent_id} is not registered; register again")
    return {"status": "ok"}


@router.delete("/{agent_id}", status_code=204)
async def deregister(request: Request, agent_id: Annotated[str, Path(max_length=253)]) -> None:
    """Forget an agent that leaves."""
    await request.app.state.gate.demand(request, verb="delete", resource="agents")
    if not _table(request).remove(agent_id):
        raise HTTPException(404, f"agent {agent_id} is not registered")


@router.get("")
async def agents(request: Request) -> list[Agent]:
    """List the agents that registered, with their states; expired ones for an hour."""
    await request.app.state.gate.demand(request, verb="list", resource="agents")
    return _table(request).all()
