"""The OptiInfra operator: finds waste in clusters that serve LLMs, explains it, and acts where it is allowed to.

Layers, top to bottom: cli, handlers, control and web, cluster and analysis, api, engines, domain. Imports run
downwards only; `pyproject.toml` holds the contract and CI enforces it. This package never imports the agent.
"""

__version__ = "0.1.0"
