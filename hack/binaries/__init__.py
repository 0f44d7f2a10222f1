"""Brings the Kubernetes binaries that the tests and the demo run: `ensure()` answers with their paths.

`python -m hack.binaries` fills one cache folder, first hit wins for each binary: the folders named by
OPTIINFRA_KUBE_BIN and KUBEBUILDER_ASSETS, what an earlier run left in the cache, PATH, the official
release (checksum verified), and last a build from Go modules. It uses the standard library only, since it
runs before `.venv` is complete. It never takes a binary of a version that the tests were not written for,
and a broken run leaves nothing half done: a file enters the cache by one rename.
"""

from hack.binaries.catalogue import CATALOGUE, BinaryError
from hack.binaries.find import bin_folder, ensure

__all__ = ["CATALOGUE", "BinaryError", "bin_folder", "ensure"]
