"""The OptiInfra node agent: GPU, CPU and memory of one node, served as JSON and as Prometheus metrics.

It imports nothing of the operator and stays small: it runs on every node of the cluster.
"""

__version__ = "0.1.0"
AGENT_TYPE = "node"
"""What the orchestrator and the log lines call this kind of agent."""
