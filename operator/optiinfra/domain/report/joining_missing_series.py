"""What is told of series themselves: names, copies, values that cannot be, clocks, holes and resets."""

from collections.abc import Iterator
from typing import Final

import numpy as np

from optiinfra.domain.readings import Unknown
from optiinfra.domain.report.history import Lack, Missing, ModelHistory, OwnerSource
from optiinfra.domain.report.joining_lacks import Joined, some

_DAY_S: Final = 86_400.0
_PART: Final = 0.1
"""Share of replicas' time without an engine's sample before it is told."""
_QUIET_S: Final = 900.0
"""How old the newest sample may be."""


def of_names(joined: Joined) -> Iterator[Missing]:
    """Whose pods they are, and by which labels that is told."""
    found = joined.found
    guessed = [model.key for model in joined.models if model.owner_source is OwnerSource.POD_NAMES]
    if found.engines.by_service and joined.models:
        yield Missing(
            Lack.NO_POD_NAMES,
            "replicas are scrape targets, and GPUs cannot be given to models",
            f"the engines' series name no pod; the label {found.engines.pod[-1]} stands for the workload",
            "scrape with a PodMonitor, or keep __meta_kubernetes_pod_name as the label pod",
            where=some(guessed),
            count=len(guessed),
        )
    elif guessed:
        yield Missing(
            Lack.OWNERS_BY_NAME,
            "kind and name of these workloads are taken from their pods' names",
            "kube_pod_owner says nothing of their pods",
            "let this server scrape kube-state-metrics with honorLabels: true",
            where=some(guessed),
            count=len(guessed),
        )
    odd = sorted({*found.engines.unusual, *found.gpus.unusual, *found.state.unusual, *found.containers.unusual})
    if odd and found.looked:
        yield Missing(
            Lack.RELABELLED,
            "nothing is lost, and other labels than usual were read",
            f"series name their pods by {', '.join(odd)}",
            "scrape with honorLabels: true and the labels namespace, pod and container for shorter queries",
            where=some(odd),
            count=len(odd),
        )
    if found.copies:
        yield Missing(
            Lack.DUPLICATES,
            "nothing is lost, and copies of a series count once",
            f"{len(found.copies)} copies of the metrics server hold the same series",
            "ask an address that removes duplicates (Thanos Query, Mimir) to halve what is read",
            where=found.copies,
            count=len(found.copies),
        )
    if found.clusters:
        yield Missing(
            Lack.SEVERAL_CLUSTERS,
            "workloads and nodes of the same name in two clusters are told as one",
            f"this server holds series of {len(found.clusters)} clusters",
            'ask for one of them: --label cluster="NAME"',
            where=found.clusters,
            count=len(found.clusters),
        )


def of_values(joined: Joined) -> Iterator[Missing]:
    """Values that cannot be, and counters that began anew."""
    absurd = joined.answers.absurd
    if absurd:
        total = sum(absurd.values())
        worst = sorted(absurd, key=lambda name: (-absurd[name], name))
        yield Missing(
            Lack.ABSURD_VALUES,
            f"{total} values are left out as unknown",
            f"they are negative, infinite or larger than can be; most of them answer {worst[0]}",
            "look at that query: DCGM writes 9223372036854775794 for what a GPU does not support",
            where=some(worst),
            count=total,
        )
    if joined.resets:
        yield Missing(
            Lack.COUNTER_RESETS,
            "what was served between a pod's last scrape and its restart is not counted",
            f"counters began anew {joined.resets} times while pods kept their names: engines were restarted",
            "look for crashes and out-of-memory kills of these workloads",
            where=some(joined.restarted),
            count=joined.resets,
        )


def of_time(joined: Joined) -> Iterator[Missing]:
    """Clocks, holes, and how far back anything is known."""
    answers = joined.answers
    if answers.future:
        yield Missing(
            Lack.FUTURE,
            f"{answers.future} values are left out",
            "their time lies in the future: the clock of this machine or of the metrics server is wrong",
            "set both clocks by NTP",
            count=answers.future,
        )
    known = answers.known
    seen = np.flatnonzero(known)
    if not seen.size:
        return
    begin, end = float(answers.times[seen[0]]), float(answers.times[seen[-1]])
    late = min(answers.now, float(answers.times[-1])) - end
    if late > max(_QUIET_S, 2.0 * answers.step_s):
        yield Missing(
            Lack.HOLES,
            f"the last {late / 3600.0:.1f} h are not known",
            "no engine's and no GPU's sample is newer: scraping stopped, or the server's clock is behind",
            "look at the server's targets, and compare its clock with this machine's",
        )
    short = begin - float(answers.times[0])
    if short > 0.1 * (float(answers.times[-1]) - float(answers.times[0])):
        yield Missing(
            Lack.SHORT,
            f"the first {short / _DAY_S:.1f} of {len(answers.times) * answers.step_s / _DAY_S:.1f} days are not known",
            "the series begin later: the server keeps no longer, or scraping began then",
            "use a shorter --since, or a longer retention",
        )
    holes = int((~known[seen[0] : seen[-1] + 1]).sum())
    if holes:
        yield Missing(
            Lack.HOLES,
            f"{holes * answers.step_s / 3600.0:.1f} h in between are not known, and nothing is filled in",
            "at those times this server holds no sample of any engine or GPU",
            "look for restarts of the metrics server at those times",
            count=holes,
        )
    dark = [model.key for model in joined.models if _unscraped(model) > _PART]
    if dark:
        yield Missing(
            Lack.HOLES,
            "the load of these models is known in part only",
            "a tenth or more of their available replicas' time has no sample of an engine",
            "look at the targets of their PodMonitor",
            where=some(dark),
            count=len(dark),
        )


def _unscraped(model: ModelHistory) -> float:
    """Share of the available replicas' time in which no engine answered."""
    if isinstance(model.available, Unknown) or isinstance(model.serving, Unknown):
        return 0.0
    there = np.nan_to_num(model.available)
    if not there.any():
        return 0.0
    return float(np.maximum(there - np.nan_to_num(model.serving), 0.0).sum() / there.sum())
