"""The name of one of our objects, as the queue and every table use it."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["ResourceOptimization", "ClusterResourceOptimization"]


@dataclass(frozen=True, slots=True, order=True)
class ObjectKey:
    """Kind, namespace ("" for cluster-scoped kinds) and name."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        prefix = "ro" if self.kind == "ResourceOptimization" else "cro"
        return f"{prefix}/{self.namespace}/{self.name}" if self.namespace else f"{prefix}/{self.name}"
