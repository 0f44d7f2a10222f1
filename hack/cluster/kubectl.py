"""Runs kubectl, bounded in time, with its complaint as the error message.

No output is parsed here: whoever needs fields asks for JSON.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from hack.cluster.errors import ClusterError

KUBECTL_SECONDS = 60.0


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
