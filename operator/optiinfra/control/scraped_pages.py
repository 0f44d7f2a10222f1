"""Pages put together from the series of a metrics server: one for each scrape that the server made of an engine.

Pure: answers of a server in, readings out. Series belong to a pod by two labels and to a target of it by the labels of
`up`; where a pod has several targets (a sidecar, two monitors of one port, two replicas of Prometheus) one of them is
the engine's, and stays it as long as it is scraped, because counters of two scrapers are not one. The samples of one
scrape carry one time: together they are the page as it was then. A scrape counts once it was seen whole.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from optiinfra.cluster.series_window import RawSeries
from optiinfra.control.sources import EnginePod
from optiinfra.engines.series import NAME, TARGET_LABELS, UP, own_labels
from optiinfra.engines.text import Labels

PodName = tuple[str, str]
"""Namespace and name."""
MOST_PAGES: Final = 24
"""Of one pod in one turn, the newest."""
_FRESHER: Final = 90.0
"""Seconds by which another target must be fresher to take a place: a scrape or two that failed are no reason."""
_SETTLED: Final = 12.0
"""Seconds after which a scrape with fewer samples than the one before is believed to be whole."""

Page = list[tuple[str, Labels, float]]


@dataclass(slots=True)
class TargetSeen:
    """One target of a pod, as the first question of a turn showed it."""

    labels: Mapping[str, str] | None
    """Those of its `up`; None where there is none."""
    identity: Labels
    times: set[float] = field(default_factory=set)
    """Scrapes at which the engine was seen."""
    names: set[str] = field(default_factory=set)
    """Witnesses that were seen."""
    up_last: float | None = None
    """Newest value of `up`."""

    @property
    def newest(self) -> float:
        """Time of the newest scrape with the engine in it; -inf without one."""
        return max(self.times, default=float("-inf"))


@dataclass(frozen=True, slots=True)
class Chosen:
    """The target of a pod that is read, and its scrapes that are new."""

    pod: EnginePod
    target: TargetSeen
    times: tuple[float, ...]


@dataclass(slots=True)
class Labelling:
    """By which labels series belong to pods."""

    namespace: str = "namespace"
    pod: str = "pod"

    def of(self, labels: Mapping[str, str]) -> PodName:
        """Return the pod of a series."""
        return labels.get(self.namespace, ""), labels.get(self.pod, "")


def targets(series: Iterable[RawSeries], labelling: Labelling) -> dict[PodName, dict[Labels, TargetSeen]]:
    """Sort the first answer (`up` and the witnesses) by pod and target."""
    ups: dict[PodName, dict[Labels, TargetSeen]] = {}
    others: list[RawSeries] = []
    for one in series:
        labels = dict(one.labels)
        if labels.pop(NAME, "") != UP:
            others.append(one)
            continue
        identity = tuple(sorted(labels.items()))
        seen = TargetSeen(labels, identity, up_last=one.values[-1] if one.values else None)
        ups.setdefault(labelling.of(labels), {})[identity] = seen
    for one in others:
        labels = dict(one.labels)
        known = ups.setdefault(labelling.of(labels), {})
        target = _target_of(labels, known.values())
        if target is None:
            identity = _usual(labels, labelling)
            target = known.setdefault(identity, TargetSeen(None, identity))
        target.times.update(one.times)
        target.names.add(labels[NAME])
    return ups


def _target_of(labels: Mapping[str, str], known: Iterable[TargetSeen]) -> TargetSeen | None:
    fitting = [
        one
        for one in known
        if one.labels is not None and all(labels.get(name) == value for name, value in one.labels.items())
    ]
    # The most particular one: a target whose labels are a part of another's would claim the other's series.
    return max(fitting, key=lambda one: len(one.identity), default=None)


def _usual(labels: Mapping[str, str], labelling: Labelling) -> Labels:
    names = TARGET_LABELS | {labelling.namespace, labelling.pod}
    return tuple(sorted((name, value) for name, value in labels.items() if name in names))


def choose(pod: EnginePod, found: Collection[TargetSeen], *, before: Labels | None) -> TargetSeen | None:
    """Return the target that is the engine's: the named container's, else the one read before, else the best."""
    serving = [one for one in found if one.times]
    if pod.container:
        serving = [one for one in serving if dict(one.identity).get("container") == pod.container]
    if not serving:
        return None
    newest = max(one.newest for one in serving)
    fresh = [one for one in serving if newest - one.newest < _FRESHER]
    kept = next((one for one in fresh if one.identity == before), None)
    if kept is not None:
        return kept
    port = f":{pod.port}"
    return min(fresh, key=lambda one: (not dict(one.identity).get("instance", "").endswith(port), one.identity))


def is_down(pod: EnginePod, found: Collection[TargetSeen]) -> bool:
    """Tell whether every target of the pod that could be the engine's was down when it was last scraped."""
    could = [one for one in found if one.up_last is not None]
    if pod.container:
        could = [one for one in could if dict(one.identity).get("container") in {pod.container, None}]
    return bool(could) and all(one.up_last == 0.0 for one in could)


class Pages:
    """Collects the samples of chosen targets, answer by answer."""

    def __init__(self, chosen: Iterable[Chosen], labelling: Labelling) -> None:
        self._labelling = labelling
        self._pages: dict[PodName, tuple[Chosen, dict[float, Page]]] = {
            (one.pod.namespace, one.pod.name): (one, {time: [] for time in one.times}) for one in chosen
        }

    def add(self, series: Iterable[RawSeries]) -> None:
        """Take an answer; what belongs to another target, or to a scrape that is not wanted, is left out."""
        for one in series:
            labels = dict(one.labels)
            found = self._pages.get(self._labelling.of(labels))
            if found is None or not self._is_of(labels, found[0].target):
                continue
            own = own_labels(one.labels, found[0].target.labels)
            name, pages = labels.get(NAME, ""), found[1]
            for time, value in zip(one.times, one.values, strict=True):
                page = pages.get(time)
                if page is not None:
                    page.append((name, own, value))

    def _is_of(self, labels: Mapping[str, str], target: TargetSeen) -> bool:
        if target.labels is None:
            return _usual(labels, self._labelling) == target.identity
        return all(labels.get(name) == value for name, value in target.labels.items())

    def whole(self, *, now: float, sizes: dict[str, int]) -> Iterable[tuple[EnginePod, float, Page]]:
        """Yield the pages that are whole, oldest first a pod; `sizes` (by uid) is what a page had last.

        Servers that are written to in parts show a scrape in parts: fewer samples than before are an unfinished page
        until it is old enough that nothing comes any more.
        """
        for chosen, pages in self._pages.values():
            for time, page in sorted(pages.items()):
                if not page:
                    continue
                if len(page) < sizes.get(chosen.pod.uid, 0) and now - time < _SETTLED:
                    break
                sizes[chosen.pod.uid] = len(page)
                yield chosen.pod, time, page
