"""An independent judge of drain plans: carries a plan out pod by pod, in plain loops, by the rules of Kubernetes.

It shares no code with the planner: it knows the facts and the plan, asks every rule anew before each eviction and each
placement, and returns what is wrong in words. What it accepts, a scheduler could do and an eviction API would allow.
"""

import itertools
from collections import Counter, defaultdict

GONE = {"Succeeded", "Failed"}


def complaints(cluster, policy, plan, *, now):
    """Carry the plan out; an empty list is a good plan."""
    return _Judge(cluster, now).judge(policy, plan)


def holds(rule, value):
    words = {
        "In": value is not None and value in rule.values,
        "NotIn": value is None or value not in rule.values,
        "Exists": value is not None,
        "DoesNotExist": value is None,
    }
    if str(rule.operator) in words:
        return words[str(rule.operator)]
    (bound,) = rule.values
    if value is None or not value.isdigit():
        return False
    return int(value) > int(bound) if str(rule.operator) == "Gt" else int(value) < int(bound)


def selected(selector, labels):
    return selector is not None and all(holds(rule, labels.get(rule.key)) for rule in selector)


class _Judge:
    def __init__(self, cluster, now):
        self.now = now
        self.cluster = cluster
        self.nodes = {node.name: node for node in cluster.nodes}
        self.state = {node.name: [p for p in node.pods if p.phase not in GONE] for node in cluster.nodes}
        self.everybody = {pod.uid: pod for pods in self.state.values() for pod in pods}
        self.start = {uid: name for name, pods in self.state.items() for uid in [p.uid for p in pods]}
        self.emptied = set()
        self.wrong = []
        self.evictions = Counter()
        self.lowest = {}

    def judge(self, policy, plan):
        freed = [node.node for node in plan.freed]
        self.before = {name: list(pods) for name, pods in self.state.items()}
        self.doubtful = {problem.node for problem in plan.problems}
        if len(plan.moves) > policy.max_moves:
            self.wrong.append("more moves than allowed")
        if len({move.pod_uid for move in plan.moves}) != len(plan.moves):
            self.wrong.append("a pod moves twice")
        for name in freed:
            node = self.nodes[name]
            if not node.ready or node.unschedulable or node.protection:
                self.wrong.append(f"{name} may not be freed")
        steps = itertools.groupby(plan.moves, key=lambda move: move.step)
        order = []
        for number, moves in steps:
            order.append(number)
            self._step(list(moves), set(freed))
        if order != sorted(set(order)):
            self.wrong.append("steps out of order")
        for name in freed:
            left = [pod.name for pod in self.state[name] if "DaemonSet" not in pod.blockers]
            if left:
                self.wrong.append(f"{name} is not empty: {left}")
        self._groups(plan)
        self._waiting(plan, set(freed))
        self._headroom(policy, set(freed), {problem.node for problem in plan.problems})
        return self.wrong

    def _step(self, moves, freed):
        for move in moves:
            pod = self.everybody[move.pod_uid]
            # From its first eviction on, the node is cordoned: whoever carries the plan out cordons it first.
            if move.source in freed:
                self.emptied.add(move.source)
            self._may_go(pod, move)
        for move in moves:
            pod = self.everybody[move.pod_uid]
            self.state[move.source] = [other for other in self.state[move.source] if other.uid != pod.uid]
        for move in moves:
            pod = self.everybody[move.pod_uid]
            why = self.why_not(pod, move.target, source=move.source)
            if move.target in freed:
                why = "it is to be freed"
            if why:
                self.wrong.append(f"{pod.name} cannot go to {move.target}: {why}")
            self.state[move.target].append(pod)

    def _may_go(self, pod, move):
        def wrong(text):
            self.wrong.append(f"{pod.name} may not be evicted: {text}")

        if move.source != self.start[pod.uid]:
            wrong("it is not there")
        if pod.blockers:
            wrong(str(pod.blockers))
        if pod.protected_until is not None and pod.protected_until > self.now:
            wrong("protected")
        if pod.terminating:
            wrong("terminating")
        if pod.rules.unreadable or pod.rules.scheduler != "default-scheduler":
            wrong("its rules are not known")
        if pod.gpus and not pod.ready and not pod.lost_readiness:
            wrong("it starts")
        for claim in pod.claims:
            if sum(claim in p.claims and p.namespace == pod.namespace for p in self.everybody.values()) > 1:
                wrong("shares a volume")
        budgets = [b for b in self.cluster.budgets if b.namespace == pod.namespace and selected(b.selector, pod.labels)]
        if pod.phase != "Pending" and len(budgets) > 1:
            wrong("several budgets")
        if pod.phase != "Pending" and len(budgets) == 1:
            (budget,) = budgets
            key = (budget.namespace, budget.name)
            free = not pod.ready and (
                budget.evicts_unready or (budget.desired > 0 and budget.healthy - self.evictions[key] >= budget.desired)
            )
            if not free:
                self.evictions[key] += 1
                if self.evictions[key] > budget.allowed or not budget.current:
                    wrong(f"budget {budget.name} is used up")
        if pod.owner[0] == "StatefulSet" and pod.group is None:
            ordinal = int(pod.name.rpartition("-")[2])
            if ordinal > self.lowest.get((pod.namespace, pod.owner), 10**9):
                wrong("a lower ordinal went before it")
            self.lowest[pod.namespace, pod.owner] = ordinal

    def _groups(self, plan):
        members = defaultdict(set)
        for pod in [*self.everybody.values(), *self.cluster.waiting]:
            if pod.group is not None and "DaemonSet" not in pod.blockers:
                members[pod.namespace, pod.group.kind, pod.group.name].add(pod.uid)
        steps = {move.pod_uid: move.step for move in plan.moves}
        for key, uids in members.items():
            moved = {uid for uid in uids if uid in steps}
            if moved and (moved != uids or len({steps[uid] for uid in moved}) > 1):
                self.wrong.append(f"group {key} is torn")

    def _waiting(self, plan, freed):
        """Those that waited and could have been placed at the start still can be, all together, at the end."""
        self._one_that_waits(freed)
        for pod in sorted(self.cluster.waiting, key=lambda p: f"{p.namespace}/{p.name}"):
            target = plan.reserved.get(f"{pod.namespace}/{pod.name}")
            if target is None:
                continue
            if target in freed:
                self.wrong.append(f"the place of waiting {pod.name} is freed")
                continue
            why = self._no_resources(pod, target)
            if why:
                self.wrong.append(f"waiting {pod.name} lost its place: {why}")
            self.state[target].append(pod)

    def _one_that_waits(self, freed):
        """Of a single one nobody has to tell where its place was: anywhere that is left will do."""
        if len(self.cluster.waiting) != 1 or self.cluster.waiting[0].rules.affinity:
            return
        (pod,) = self.cluster.waiting
        if pod.rules.spread:
            return
        after, self.state = self.state, self.before
        emptied, self.emptied = self.emptied, set()
        could = [name for name in self.nodes if name not in self.doubtful and not self.why_not(pod, name, source=name)]
        self.state, self.emptied = after, emptied
        if could and all(name in freed or self.why_not(pod, name, source=name) for name in self.nodes):
            self.wrong.append(f"waiting {pod.name} could have gone to {could}, and has no place any more")

    def _headroom(self, policy, freed, doubtful):
        pools = defaultdict(list)
        for node in self.cluster.nodes:
            pools[node.pool, node.gpu_model if node.gpus else None].append(node)
        for key, nodes in pools.items():
            if not any(node.name in freed for node in nodes):
                continue
            out = freed | doubtful
            left = [n for n in nodes if n.name not in out and n.ready and not n.unschedulable]
            for name, size, take in (
                ("GPUs", lambda n: n.gpus, lambda p: p.gpus),
                ("CPU", lambda n: n.cpu_cores, lambda p: p.cpu_request_cores),
                ("memory", lambda n: n.memory_bytes, lambda p: p.memory_request_bytes),
            ):
                whole = sum(map(size, left))
                used = sum(take(pod) for node in left for pod in self.state[node.name])
                # A millicore and a byte are rounded for each pod.
                if used > (1.0 - policy.headroom) * whole + 1e-6 * whole + 0.5:
                    self.wrong.append(f"{key}: {used} of {whole} {name} leaves no headroom of {policy.headroom}")

    def why_not(self, pod, target, *, source):
        node, old = self.nodes[target], self.nodes[source]
        rules = pod.rules
        if not node.ready or node.unschedulable or target in self.emptied:
            return "closed"
        if node.pool != old.pool or (pod.gpus and node.gpu_model != old.gpu_model):
            return "another kind of node"
        for taint in node.taints:
            if str(taint.effect) != "PreferNoSchedule" and not any(self._bears(t, taint) for t in rules.tolerations):
                return f"taint {taint.key}"
        if not self._chosen(rules, node):
            return "node affinity"
        if not all(any(self._term(term, node) for term in terms) for terms in pod.volume_terms):
            return "its volume is elsewhere"
        return self._no_resources(pod, target) or self._no_neighbours(pod, node)

    @staticmethod
    def _bears(toleration, taint):
        if toleration.effect is not None and toleration.effect != taint.effect:
            return False
        if toleration.exists:
            return toleration.key in ("", taint.key)
        return toleration.key == taint.key and toleration.value == taint.value

    @staticmethod
    def _term(term, node):
        if not term.labels and not term.names:
            return False
        return selected(term.labels, node.labels) and all(holds(rule, node.name) for rule in term.names)

    def _chosen(self, rules, node):
        if not selected(rules.node_selector, node.labels):
            return False
        return not rules.node_terms or any(self._term(term, node) for term in rules.node_terms)

    def _no_resources(self, pod, target):
        node, here = self.nodes[target], [*self.state[target], pod]
        if len(here) > node.pod_limit:
            return "pods"
        if sum(p.cpu_request_cores for p in here) > node.cpu_cores + 1e-6:
            return "cpu"
        if sum(p.memory_request_bytes for p in here) > node.memory_bytes + 1.0:
            return "memory"
        if not _devices(here, int(node.gpus)):
            return "gpus"
        offered = dict(node.resources)
        for name, _ in pod.rules.resources:
            if sum(dict(p.rules.resources).get(name, 0.0) for p in here) > offered.get(name, 0.0) + 1e-6:
                return name
        ports = Counter(port for p in here for port in p.rules.host_ports)
        if any(ports[port] > 1 for port in pod.rules.host_ports):
            return "port"
        return ""

    def _no_neighbours(self, pod, node):
        def domain(name, key):
            return self.nodes[name].labels.get(key)

        placed = [(p, name) for name, pods in self.state.items() for p in pods]

        def wants(term, owner, other):
            return (term.namespaces is None or other.namespace in term.namespaces) and selected(
                term.selector, other.labels
            )

        for term in pod.rules.anti_affinity:
            mine = node.labels.get(term.topology_key)
            if mine is not None and any(
                domain(name, term.topology_key) == mine and wants(term, pod, other) for other, name in placed
            ):
                return "anti-affinity"
        for other, name in placed:
            for term in other.rules.anti_affinity:
                there = domain(name, term.topology_key)
                if there is not None and there == node.labels.get(term.topology_key) and wants(term, other, pod):
                    return "anti-affinity of another"
        terms = pod.rules.affinity
        if terms:
            friends = [(o, name) for o, name in placed if all(wants(term, pod, o) for term in terms)]
            alone = not friends and all(wants(term, pod, pod) for term in terms)
            for term in terms:
                mine = node.labels.get(term.topology_key)
                if mine is None or not (alone or any(domain(name, term.topology_key) == mine for _, name in friends)):
                    return "affinity"
        return self._no_spread(pod, node, placed)

    def _no_spread(self, pod, node, placed):
        rules = pod.rules
        keys = [rule.topology_key for rule in rules.spread]
        for rule in rules.spread:
            mine = node.labels.get(rule.topology_key)
            if mine is None:
                return "spread: no domain"
            for without_emptied in (False, True) if rule.honours_taints else (False,):
                held = {}
                for other in self.nodes.values():
                    if not all(key in other.labels for key in keys):
                        continue
                    if rule.honours_affinity and not self._chosen(rules, other):
                        continue
                    bears = all(
                        str(t.effect) == "PreferNoSchedule" or any(self._bears(b, t) for b in rules.tolerations)
                        for t in other.taints
                    )
                    if rule.honours_taints and not bears:
                        continue
                    if without_emptied and other.name in self.emptied:
                        continue
                    held.setdefault(other.labels[rule.topology_key], 0)
                    held[other.labels[rule.topology_key]] += sum(
                        1
                        for p, name in placed
                        if name == other.name
                        and p.namespace == pod.namespace
                        and not p.terminating
                        and selected(rule.selector, p.labels)
                    )
                least = min(held.values()) if held and len(held) >= rule.min_domains else 0
                own = 1 if selected(rule.selector, pod.labels) else 0
                if held.get(mine, 0) + own - least > rule.max_skew:
                    return "spread"
        return ""


def _devices(pods, count):
    """Whether whole GPUs and shares fit; shares by first fit, the largest first, from those whose GPU is known on."""
    free = [1000] * count
    shares = [round(pod.gpus * 1000) for pod in pods if 0 < pod.gpus < 1]
    whole = sum(round(pod.gpus) for pod in pods if pod.gpus >= 1)
    for share in sorted(shares, reverse=True):
        place = next((n for n, left in enumerate(free) if left >= share), None)
        if place is None:
            return False
        free[place] -= share
    return whole <= sum(left == 1000 for left in free)
