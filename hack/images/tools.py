"""docker, podman and buildah behind one small interface: load a base, build a target, save the result.

docker and podman are asked whether they work, because a client without a server is often there. buildah has neither
server nor service; its storage lies in the project's cache. The RUN steps that fetch get the certificates of this
machine, which a proxy that looks into TLS needs, and its index of Python's packages as secrets: nothing of them is left
in an image or its history. docker knows secrets with BuildKit alone, which is asked for; its old builder is not used.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.binaries.find import cache_folder
from hack.cluster.errors import ClusterError
from hack.images import archive as archives
from hack.images import indexes
from hack.node import overlaid, requirements

NAMES = ("docker", "podman", "buildah")
BUILD_SECONDS = 1800.0
ASK_SECONDS = 20.0
EPOCH = "315532800"
"""1980-01-01, the earliest time of a zip archive, which a wheel is."""
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Tool:
    """One of them, ready for use."""

    name: str
    say: Say

    def prepare(self) -> None:
        """Fetch what it needs, and see that it starts."""
        self._run("--version", seconds=ASK_SECONDS)

    def load(self, archive: Path, name: str) -> None:
        """Make an image of an archive known."""
        if self.name == "docker":
            self._run("load", "--quiet", "--input", str(archive))
        else:
            self._run("pull", "--quiet", *self._policy(), f"docker-archive:{archive}")
        self.say(f"  {name} loaded")

    def build(
        self, target: str, *, tag: str, context: Path, arguments: Mapping[str, str], local_base: bool, fresh: bool
    ) -> None:
        """Build a target of the Dockerfile in `context`; `fresh`: with nothing of an earlier build."""
        options = ["--target", target, "--tag", tag, *(["--no-cache"] if fresh else [])]
        for key, value in {"SOURCE_DATE_EPOCH": EPOCH, **arguments}.items():
            options += ["--build-arg", f"{key}={value}"]
        options += ["--network=host", *self._secrets()]
        if self.name != "docker":
            options += [f"--timestamp={EPOCH}", "--layers", *self._policy()]
            options += ["--pull-never"] if local_base and self.name == "buildah" else []
            options += ["--isolation=chroot"] if self.name == "buildah" else []
        self._run("build", *options, str(context), seconds=BUILD_SECONDS)

    def save(self, tag: str, archive: Path) -> None:
        """Write an image to an archive, under its name."""
        archive.unlink(missing_ok=True)
        if self.name == "docker":
            self._run("save", "--output", str(archive), tag)
            archives.settle(archive)
        else:
            self._run("push", "--quiet", *self._policy(), tag, f"docker-archive:{archive}:{tag}")
            archives.normalize(archive)

    def _secrets(self) -> list[str]:
        lines, secrets = ["[global]", f"index-url = {indexes.url()}"], []
        if _CERTIFICATES.exists():
            lines.append("cert = /run/secrets/certificates")
            secrets += ["--secret", f"id=certificates,src={_CERTIFICATES}"]
        settings = _scratch() / "pip.conf"
        settings.touch(mode=0o600)
        settings.write_text("\n".join([*lines, ""]), encoding="utf-8")
        return [*secrets, "--secret", f"id=pip,src={settings}"]

    def _policy(self) -> list[str]:
        """Name a policy for buildah that was unpacked and has none; podman has its own."""
        if self.name != "buildah":
            return []
        path = _scratch() / "policy.json"
        path.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}), encoding="utf-8")
        return [f"--signature-policy={path}"]

    def _run(self, *words: str, seconds: float = BUILD_SECONDS) -> None:
        command = [self.name, *words]
        environment = {**os.environ, "DOCKER_BUILDKIT": "1", "SOURCE_DATE_EPOCH": EPOCH, "LC_ALL": "C.UTF-8"}
        if self.name == "buildah":
            storage = _scratch() / "storage"
            places = [f"--root={storage / 'root'}", f"--runroot={storage / 'run'}", "--storage-driver=overlay"]
            command = overlaid.command([self.name, *places, *words], needs=self.name, say=self.say)
            registries = _scratch() / "registries.conf"
            registries.write_text('unqualified-search-registries = ["docker.io"]\n', encoding="utf-8")
            environment |= {"CONTAINERS_REGISTRIES_CONF": str(registries), "TMPDIR": str(_scratch())}
        done = _done(command, environment=environment, seconds=seconds)
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-12:]
            raise ClusterError(f"{self.name} {words[0]} failed:\n    " + "\n    ".join(last))


def find(wanted: str | None, *, say: Say) -> Tool:
    """Return the wanted tool, or the first that works; raise ClusterError when none does."""
    for name in (wanted,) if wanted else NAMES:
        if name == "buildah":
            if shutil.which(name) or not requirements.unmet():
                return Tool(name, say)
        elif (
            shutil.which(name)
            and _done([name, "info"], environment=dict(os.environ), seconds=ASK_SECONDS).returncode == 0
        ):
            return Tool(name, say)
    raise ClusterError(
        f"no {wanted or 'docker, podman or buildah'} works here (a client without a server does not): "
        "install one, or be root on Debian or Ubuntu, where buildah is fetched by apt"
    )


def _done(command: Sequence[str], *, environment: dict[str, str], seconds: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, cwd=overlaid.ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{' '.join(command[:3])}: not finished after {seconds:.0f} s") from error


def _scratch() -> Path:
    folder = cache_folder(os.environ).parent / "buildah"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
