"""The real KEDA: its operator and its metrics adapter, built from Go modules, on a control plane of `hack.cluster`.

Nothing of KEDA is doubled. What is not there is a cluster network: both run as processes beside the API server, which
reaches the adapter through a Service of type ExternalName, as any other aggregated API here. `crds.yaml` is KEDA's own;
of the kinds that KEDA wants to watch and nobody here uses, only the names are made.
"""

from hack.real_keda.stage import ADAPTER, NAMESPACE, OPERATOR, RealKeda

__all__ = ["ADAPTER", "NAMESPACE", "OPERATOR", "RealKeda"]
