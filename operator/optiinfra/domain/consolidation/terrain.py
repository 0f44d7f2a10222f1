"""The nodes as arrays: where a pod's own rules let it go, whatever else runs there.

Node selectors, required node affinity, taints and the places of volumes depend on the pod's template and on nodes
alone. Labels become one column of small integers a key, so that a rule is judged once for each value and not once for
each node; whole templates are judged once. Pods stay within their pool and its architecture, and pods with GPUs on
their GPU model: what they do not state they were still chosen for.
"""

from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from optiinfra.domain.label_rules import LabelRule
from optiinfra.domain.pod_rules import NodeTerm, PodRules, Toleration
from optiinfra.domain.workload import NodeFacts, PodFacts

BoolArray: TypeAlias = npt.NDArray[np.bool_]
IntArray: TypeAlias = npt.NDArray[np.int64]

ABSENT: Final = -1
"""Code of a label that a node does not carry."""
_NAME: Final = "\0name"
_PLATFORM: Final = ("kubernetes.io/arch", "kubernetes.io/os")


class Terrain:
    """Nodes by index, in the order given."""

    def __init__(self, nodes: Sequence[NodeFacts]) -> None:
        self.nodes: Final = tuple(nodes)
        self.index: Final = {node.name: number for number, node in enumerate(self.nodes)}
        self.home: Final = _codes([(node.pool, *(node.labels.get(key) for key in _PLATFORM)) for node in self.nodes])[0]
        self.model: Final = _codes([node.gpu_model for node in self.nodes])[0]
        self._taint_code, self._taint_sets = _codes([node.taints for node in self.nodes])
        self._columns: dict[str, tuple[IntArray, list[str | None]]] = {}
        self._rules: dict[LabelRule, BoolArray] = {}
        self._borne: dict[tuple[Toleration, ...], BoolArray] = {}
        self._chosen: dict[tuple[object, ...], BoolArray] = {}
        self._own: dict[tuple[object, ...], BoolArray] = {}

    def __len__(self) -> int:
        return len(self.nodes)

    def column(self, key: str) -> tuple[IntArray, list[str | None]]:
        """Return a label as codes (`ABSENT` where a node lacks it) and the values of the codes."""
        found = self._columns.get(key)
        if found is None:
            written = [node.name if key == _NAME else node.labels.get(key) for node in self.nodes]
            codes, values = _codes(written)
            if None in values:
                missing = values.index(None)
                codes = np.where(codes == missing, ABSENT, np.where(codes > missing, codes - 1, codes))
                values = [value for value in values if value is not None]
            found = self._columns[key] = (codes, values)
        return found

    def own_rules(self, pod: PodFacts) -> BoolArray:
        """Nodes that a pod's selectors, affinity, tolerations and volumes allow."""
        rules = pod.rules
        key = (rules.tolerations, rules.node_selector, rules.node_terms, pod.volume_terms)
        found = self._own.get(key)
        if found is None:
            found = self.borne(rules) & self.chosen(rules)
            for terms in pod.volume_terms:
                found = found & self._any_term(terms)
            self._own[key] = found
        return found

    def chosen(self, rules: PodRules) -> BoolArray:
        """Nodes that node selector and required node affinity choose."""
        key = (rules.node_selector, rules.node_terms)
        found = self._chosen.get(key)
        if found is None:
            found = self._all(rules.node_selector, name=False)
            if rules.node_terms:
                found = found & self._any_term(rules.node_terms)
            self._chosen[key] = found
        return found

    def borne(self, rules: PodRules) -> BoolArray:
        """Nodes all of whose taints are tolerated."""
        found = self._borne.get(rules.tolerations)
        if found is None:
            good = [all(rules.tolerates(taint) for taint in taints) for taints in self._taint_sets]
            found = np.array(good, dtype=np.bool_)[self._taint_code] if good else np.zeros(0, dtype=np.bool_)
            self._borne[rules.tolerations] = found
        return found

    def alike(self, node: int, *, gpus: bool) -> BoolArray:
        """Nodes that may stand in for a node: same pool and platform, and the same GPU model for pods with GPUs."""
        found: BoolArray = self.home == self.home[node]
        return found & (self.model == self.model[node]) if gpus else found

    def _any_term(self, terms: Sequence[NodeTerm]) -> BoolArray:
        found = np.zeros(len(self.nodes), dtype=np.bool_)
        for term in terms:
            if term.labels or term.names:
                found |= self._all(term.labels, name=False) & self._all(term.names, name=True)
        return found

    def _all(self, rules: Sequence[LabelRule], *, name: bool) -> BoolArray:
        found = np.ones(len(self.nodes), dtype=np.bool_)
        for rule in rules:
            found &= self._rule(LabelRule(_NAME, rule.operator, rule.values) if name else rule)
        return found

    def _rule(self, rule: LabelRule) -> BoolArray:
        found = self._rules.get(rule)
        if found is None:
            codes, values = self.column(rule.key)
            # The last entry answers for nodes without the label: ABSENT is the last index.
            verdicts = np.array([*(rule.holds(value) for value in values), rule.holds(None)], dtype=np.bool_)
            found = self._rules[rule] = verdicts[codes]
        return found


def _codes(values: Sequence[object]) -> tuple[IntArray, list]:  # type: ignore[type-arg]  # of whatever was given
    seen: dict[object, int] = {}
    codes = [seen.setdefault(value, len(seen)) for value in values]
    return np.array(codes, dtype=np.int64), list(seen)
