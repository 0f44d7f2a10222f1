"""The HorizontalPodAutoscalers of workloads, as kube-state-metrics tells them."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.report.history import NOT_ASKED, ScalerHistory
from optiinfra.domain.report.joining_frames import Answers

_LABEL: Final = "horizontalpodautoscaler"
_KEDA: Final = "keda-hpa-"
"""What KEDA puts before the name of a ScaledObject, unless that object says otherwise."""


@dataclass(frozen=True, slots=True)
class Scalers:
    """The scalers of a fleet, by namespace and workload."""

    known: dict[tuple[str, str], ScalerHistory]
    told: bool
    """kube-state-metrics is there, so that a workload without one surely has none."""

    def of(self, key: tuple[str, str]) -> ScalerHistory | Unknown:
        """Return the scaler of a workload."""
        if key in self.known:
            return self.known[key]
        if self.told:
            return Unknown(UnknownReason.NOT_CONFIGURED, "no HorizontalPodAutoscaler scales it")
        return Unknown(UnknownReason.NOT_MEASURED, "without kube-state-metrics nobody tells what scales it")


def scalers(answers: Answers) -> Scalers:
    """Read all scalers."""
    known: dict[tuple[str, str], ScalerHistory] = {}
    for labels, _, _ in answers.each("state.scaler_targets"):
        namespace, name = labels["namespace"], labels[_LABEL]
        desired = next(
            (values for one, values, _ in answers.each("state.scaler_desired") if _is(one, namespace, name)), None
        )
        targets = [
            (one["metric_name"], one["metric_target_type"], newest)
            for one, _, newest in answers.each("state.scaler_metrics")
            if _is(one, namespace, name) and np.isfinite(newest)
        ]
        known[namespace, labels["scaletargetref_name"]] = ScalerHistory(
            name=name,
            min_replicas=_newest(answers, "state.scaler_min", namespace, name),
            max_replicas=_newest(answers, "state.scaler_max", namespace, name),
            desired=NOT_ASKED if desired is None else desired,
            targets=tuple(sorted(targets)),
            keda=name.removeprefix(_KEDA) if name.startswith(_KEDA) else "",
        )
    return Scalers(known, told=answers.has("state.owners", "state.spec_replicas.Deployment", "state.capacity"))


def _is(labels: dict[str, str], namespace: str, name: str) -> bool:
    return labels["namespace"] == namespace and labels[_LABEL] == name


def _newest(answers: Answers, question: str, namespace: str, name: str) -> Value:
    for labels, _, newest in answers.each(question):
        if _is(labels, namespace, name) and np.isfinite(newest):
            return newest
    return Unknown(UnknownReason.NOT_MEASURED, "kube-state-metrics does not tell it")
