"""Which node a series is about: exporters name it as `Hostname`, `node`, `instance`, or by their own pod.

What kube-state-metrics calls a node is its name. A host name may be the short form of it, an address may be the node's,
and an exporter that was not told its node gives the name of its own pod. What cannot be matched stays as it was told.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from optiinfra.domain.report.joining_frames import Answers

_LABELS: Final = ("node", "kubernetes_node", "nodename", "Hostname", "hostname")
_LAST: Final = ("instance",)


@dataclass(frozen=True, slots=True)
class Places:
    """The nodes of a cluster, by all that they are called."""

    names: frozenset[str]
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Address, short name, host name or pod of an exporter -> node."""

    def of(self, labels: Mapping[str, str]) -> str:
        """Return the node of a series; "" where it names none."""
        told = [labels[label] for label in _LABELS if labels.get(label)]
        addresses = [_host(labels[label]) for label in _LAST if labels.get(label)]
        pods = [labels["pod"]] if labels.get("pod") else []
        for text in (*told, *addresses, *pods):
            if text in self.names:
                return text
        for text in (*told, *addresses, *pods):
            known = self.aliases.get(text) or self.aliases.get(text.partition(".")[0])
            if known:
                return known
        return next(iter((*told, *addresses)), "")


def places(answers: Answers) -> Places:
    """Read what nodes are called."""
    names: set[str] = set()
    aliases: dict[str, str] = {}
    for labels, _, _ in answers.each("state.capacity"):
        names.add(labels["node"])
    for labels, _, _ in answers.each("state.node_addresses"):
        names.add(labels["node"])
        if labels["internal_ip"]:
            aliases[labels["internal_ip"]] = labels["node"]
    names.discard("")
    for short, full in _unique(names).items():
        aliases.setdefault(short, full)
    for labels, _, _ in answers.each("exporter.names"):
        node = labels["nodename"]
        aliases.setdefault(_host(labels["instance"]), node if node in names else aliases.get(node, node))
    for labels, _, _ in answers.each("state.pods"):
        if labels["node"]:
            aliases.setdefault(labels["pod"], labels["node"])
    return Places(frozenset(names), aliases)


def _unique(names: Iterable[str]) -> dict[str, str]:
    """Return the first parts of names that no other name shares."""
    short: dict[str, list[str]] = {}
    for name in names:
        short.setdefault(name.partition(".")[0], []).append(name)
    return {part: full[0] for part, full in short.items() if len(full) == 1}


def _host(address: str) -> str:
    """Return an address without its port."""
    host, separator, port = address.rpartition(":")
    return host.strip("[]") if separator and port.isdigit() else address
