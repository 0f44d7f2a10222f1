"""Rules about other pods: affinity, anti-affinity (of the pod and of those already there) and topology spread.

Counted as kube-scheduler counts: a pod counts for an affinity only if it matches all of its terms; the first pod of an
affinity to itself may go anywhere; spread counts pods that are not going away, on the nodes that the pod's own rules
allow. Every distinct selector is matched once against every distinct set of the labels that selectors mention, and
counts are kept as pods move. Nodes that are being emptied still count as domains of a spread: they exist until they
are removed. Where a constraint leaves them out as tainted, both readings must allow the place.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, TypeAlias

import numpy as np

from optiinfra.domain.consolidation.terrain import ABSENT, BoolArray, IntArray, Terrain
from optiinfra.domain.label_rules import LabelSelector, selects
from optiinfra.domain.pod_rules import PodTerm, SpreadRule
from optiinfra.domain.workload import PodFacts

Signature: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]
"""A namespace and those labels that any selector mentions: all that selectors can tell of a pod."""


class _Matcher(NamedTuple):
    """Pods that match all of these, in their namespaces; `leaving` pods too, or not."""

    terms: tuple[tuple[frozenset[str] | None, LabelSelector | None], ...]
    leaving: bool

    def matches(self, namespace: str, labels: Mapping[str, str]) -> bool:
        return all(
            (names is None or namespace in names) and selector is not None and selects(selector, labels)
            for names, selector in self.terms
        )


class Neighbours:
    """Counts of pods by node, for every selector in use."""

    def __init__(self, terrain: Terrain, pods: Iterable[PodFacts]) -> None:
        """`pods` are all that may be asked about; nothing is counted before `add`."""
        self._terrain = terrain
        self._counts: dict[_Matcher, IntArray] = {}
        self._expected: dict[_Matcher, IntArray] = {}
        """Pods that are to come: they repel already, and are no company yet."""
        self._holders: dict[_Matcher, dict[str, IntArray]] = defaultdict(dict)
        """Pods that hold an anti-affinity against those matched, by its topology key."""
        self._mentioned: set[str] = set()
        self._by_namespace: dict[str | None, list[_Matcher]] = defaultdict(list)
        self._matching: dict[Signature, tuple[_Matcher, ...]] = {}
        seen: set[int] = set()
        for pod in pods:
            rules = pod.rules
            if not (rules.affinity or rules.anti_affinity or rules.spread):
                continue
            if rules.spread:
                for spread in rules.spread:
                    self._register(_spread_matcher(pod.namespace, spread))
            if id(rules) in seen:
                continue
            seen.add(id(rules))
            if rules.affinity:
                self._register(_affinity_matcher(rules.affinity))
            for term in rules.anti_affinity:
                matcher = _term_matcher(term)
                self._register(matcher)
                self._holders[matcher].setdefault(term.topology_key, np.zeros(len(terrain), dtype=np.int64))
        self._keys: Final = frozenset(self._mentioned)

    def _register(self, matcher: _Matcher) -> None:
        if matcher in self._counts:
            return
        self._counts[matcher] = np.zeros(len(self._terrain), dtype=np.int64)
        names = matcher.terms[0][0] if matcher.terms else None
        for namespace in [None] if names is None else sorted(names):
            self._by_namespace[namespace].append(matcher)
        for _, selector in matcher.terms:
            self._mentioned.update(rule.key for rule in selector or ())

    def add(self, pod: PodFacts, node: int, sign: int = 1) -> None:
        """Count a pod on a node, or (-1) no longer."""
        if not self._counts:
            return
        for matcher in self._matchers(pod):
            if matcher.leaving or not pod.terminating:
                self._counts[matcher][node] += sign
        self._hold(pod, node, sign)

    def expect(self, pod: PodFacts, node: int) -> None:
        """Count a pod that is to come to a node."""
        for matcher in self._matchers(pod):
            self._expected.setdefault(matcher, np.zeros(len(self._terrain), dtype=np.int64))[node] += 1
        self._hold(pod, node, 1)

    def _hold(self, pod: PodFacts, node: int, sign: int) -> None:
        for term in pod.rules.anti_affinity:
            self._holders[_term_matcher(term)][term.topology_key][node] += sign

    def allowed(self, pod: PodFacts, closed: BoolArray) -> BoolArray | None:
        """Nodes that the pod's neighbours allow; None where nobody minds. `closed` are nodes that are being emptied."""
        if not self._counts:
            return None
        rules = pod.rules
        found: BoolArray | None = None
        if rules.affinity:
            found = self._near(pod)
        for term in rules.anti_affinity:
            matcher = _term_matcher(term)
            repelled = self._counts[matcher]
            if matcher in self._expected:
                repelled = repelled + self._expected[matcher]
            found = _both(found, self._free_of(repelled, term.topology_key))
        for matcher in self._matchers(pod):
            # Not by [], which would make an entry for every matcher that nobody holds against.
            for key, holders in self._holders.get(matcher, {}).items():
                found = _both(found, self._free_of(holders, key))
        if rules.spread:
            found = _both(found, self._spread(pod, closed))
        return found

    def _matchers(self, pod: PodFacts) -> tuple[_Matcher, ...]:
        labels = tuple(sorted((key, pod.labels[key]) for key in self._keys if key in pod.labels))
        signature = (pod.namespace, labels)
        found = self._matching.get(signature)
        if found is None:
            candidates = [*self._by_namespace.get(pod.namespace, ()), *self._by_namespace.get(None, ())]
            held = dict(labels)
            found = tuple(matcher for matcher in candidates if matcher.matches(pod.namespace, held))
            self._matching[signature] = found
        return found

    def _free_of(self, counts: IntArray, key: str) -> BoolArray:
        """Nodes in whose domain nobody of these is; nodes without the key are in no domain."""
        codes, values = self._terrain.column(key)
        if len(values) == len(codes):  # every node its own domain
            alone: BoolArray = counts == 0
            return alone
        here = codes != ABSENT
        by_domain = np.bincount(codes[here], weights=counts[here], minlength=len(values) + 1)
        by_domain[-1] = 0.0
        found: BoolArray = by_domain[codes] == 0.0
        return found

    def _near(self, pod: PodFacts) -> BoolArray:
        matcher = _affinity_matcher(pod.rules.affinity)
        counts = self._counts[matcher]
        keys = [term.topology_key for term in pod.rules.affinity]
        found = np.ones(len(self._terrain), dtype=np.bool_)
        first = not counts.any() and matcher in self._matchers(pod)
        for key in keys:
            codes, _ = self._terrain.column(key)
            found &= codes != ABSENT
            if not first:
                found &= ~self._free_of(counts, key)
        return found

    def _spread(self, pod: PodFacts, closed: BoolArray) -> BoolArray:
        rules = pod.rules
        found = np.ones(len(self._terrain), dtype=np.bool_)
        has_all = np.ones(len(self._terrain), dtype=np.bool_)
        for rule in rules.spread:
            has_all &= self._terrain.column(rule.topology_key)[0] != ABSENT
        for rule in rules.spread:
            counted = has_all
            if rule.honours_affinity:
                counted = counted & self._terrain.chosen(rules)
            if rule.honours_taints:
                counted = counted & self._terrain.borne(rules)
                found &= self._within_skew(pod, rule, counted & ~closed)
            found &= self._within_skew(pod, rule, counted)
        return found

    def _within_skew(self, pod: PodFacts, rule: SpreadRule, counted: BoolArray) -> BoolArray:
        matcher = _spread_matcher(pod.namespace, rule)
        codes, values = self._terrain.column(rule.topology_key)
        held = np.bincount(codes[counted], weights=self._counts[matcher][counted], minlength=len(values) + 1)
        domains = np.unique(codes[counted])
        if not len(domains):
            return np.zeros(len(self._terrain), dtype=np.bool_)
        least = held[domains].min() if len(domains) >= rule.min_domains else 0.0
        own = 1.0 if matcher in self._matchers(pod) else 0.0
        found: BoolArray = (codes != ABSENT) & (held[codes] + own - least <= rule.max_skew)
        return found


def _both(first: BoolArray | None, second: BoolArray) -> BoolArray:
    return second if first is None else first & second


def _term_matcher(term: PodTerm) -> _Matcher:
    return _Matcher(((term.namespaces, term.selector),), leaving=True)


def _affinity_matcher(terms: tuple[PodTerm, ...]) -> _Matcher:
    return _Matcher(tuple((term.namespaces, term.selector) for term in terms), leaving=True)


def _spread_matcher(namespace: str, rule: SpreadRule) -> _Matcher:
    return _Matcher(((frozenset({namespace}), rule.selector),), leaving=False)
