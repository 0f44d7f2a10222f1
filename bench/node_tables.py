"""What `bench.node` says as docs/real-node-costs.md: figures with what is needed of them. It measures nothing."""

from collections.abc import Sequence

from bench.agent_tables import Figure

_HEAD = """# What it costs on a real node

Written by `python -m bench.node --out docs/real-node-costs.md`, in one run on one machine: a kubelet and containerd of
their own ([a real node](how-to/real-node.md)), the images of the Dockerfile, the chart with default values. The eight
GPUs are made up, the engine is a pod that serves one page of vLLM; the other services are pods of simulated nodes,
whose pages the operator reads all the same.
"""
_TAIL = """
- **Resident memory** is VmRSS of the container's processes, pages of shared libraries included; the **working set** is
  what the kubelet counts against the limit. Both are the most of all looks, one every 15 s.
- **CPU** is the container's own, from its cgroup. Meanwhile the operator reads the agent's snapshot every 15 s, and the
  bench its `/metrics`, as a Prometheus does.
- **Container started to Ready** is from the moment at which the API server says that the container runs to that at
  which its pod is Ready, the probes' own waits included; one pod at a time, beside the others.
- The **first recommendation** is looked for in the object's status. The object is made as soon as the API server takes
  it; its engine had run before.
"""


def document(figures: Sequence[Figure], *, told: str) -> str:
    """Return the page."""
    lines = ["| | | measured | needed | aim |", "|---|---|---|---|---|"]
    for one in figures:
        needed = "" if one.needed is None else f"<= {one.needed.limit:g}"
        aim = "" if one.needed is None or one.needed.aim is None else f"<= {one.needed.aim:g}"
        value = f"{one.value:.3g} {one.unit}"
        cell = value if one.holds else f"**{value}**"
        lines.append(f"| {one.who} | {one.name.strip()} | {cell} | {needed} | {aim} |")
    return f"{_HEAD}\n{told}\n\n" + "\n".join(lines) + f"\n\n{_verdict(figures)}\n{_TAIL}"


def _verdict(figures: Sequence[Figure]) -> str:
    missed = [f"{one.who}: {one.name.strip()}" for one in figures if not one.holds]
    short = [f"{one.who}: {one.name.strip()}" for one in figures if one.verdict == "short of the aim"]
    if not missed and not short:
        return "Every figure keeps its limit and reaches its aim."
    words = [f"Missed: {'; '.join(missed)}."] if missed else ["Every figure keeps its limit."]
    return " ".join([*words, *([f"Short of the aim: {'; '.join(short)}."] if short else [])])
