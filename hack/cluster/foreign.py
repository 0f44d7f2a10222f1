"""A cluster that its user brought (kind, or any other): what the end-to-end tests may ask of it.

Everything goes through kubectl and the user's kubeconfig; nothing is installed beyond what a test applies,
and the cluster itself is neither started nor ended here.
"""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from hack.binaries import ensure
from hack.cluster.errors import ClusterError

KUBECTL_SECONDS = 60.0


class AnyCluster(Protocol):
    """What an end-to-end test may use: the same for our own control plane and for a user's cluster."""

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""

    def kubectl(self, *arguments: str, input: str | None = None) -> str:  # noqa: A002 - named as in subprocess
        """Run kubectl as administrator and return what it prints."""

    def service_account_kubeconfig(
        self, namespace: str, name: str, audience: str | None = None, *, seconds: int = 36000
    ) -> Path:
        """Make a kubeconfig with a token of an existing ServiceAccount."""


class ForeignCluster:
    """A running cluster behind a kubeconfig."""

    def __init__(self, kubeconfig: Path, *, scratch: Path) -> None:
        if not kubeconfig.is_file():
            raise ClusterError(f"OPTIINFRA_E2E_KUBECONFIG: no file {kubeconfig}")
        self._kubeconfig = kubeconfig.absolute()
        self._scratch = scratch
        self._kubectl = ensure(["kubectl"])["kubectl"]

    @property
    def kubeconfig(self) -> Path:
        """The user's kubeconfig."""
        return self._kubeconfig

    def kubectl(self, *arguments: str, input: str | None = None) -> str:  # noqa: A002 - named as in subprocess
        """Run kubectl with the user's kubeconfig and return what it prints."""
        return run_kubectl(self._kubectl, self._kubeconfig, arguments, input)

    def service_account_kubeconfig(
        self, namespace: str, name: str, audience: str | None = None, *, seconds: int = 36000
    ) -> Path:
        """Make a kubeconfig with a token of an existing ServiceAccount, in the scratch folder."""
        wanted = [f"--duration={seconds}s"] + ([f"--audience={audience}"] if audience else [])
        token = self.kubectl("create", "token", name, f"--namespace={namespace}", *wanted).strip()
        view = self.kubectl("config", "view", "--raw", "--minify", "--flatten", "--output=json")
        content: dict[str, Any] = json.loads(view)
        for user in content["users"]:
            user["user"] = {"token": token}
        path = self._scratch / f"account-{namespace}-{name}.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(json.dumps(content))
        return path


def run_kubectl(kubectl: Path, kubeconfig: Path, arguments: Sequence[str], text: str | None) -> str:
    """Run kubectl and return what it prints; raise ClusterError with its complaint when it fails."""
    command = [str(kubectl), f"--kubeconfig={kubeconfig}", *arguments]
    try:
        answer = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=KUBECTL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"kubectl {' '.join(arguments)}: not done after {KUBECTL_SECONDS:.0f} s") from error
    if answer.returncode:
        raise ClusterError(f"kubectl {' '.join(arguments)}: {answer.stderr.strip() or answer.stdout.strip()}")
    return answer.stdout
