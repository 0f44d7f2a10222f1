"""One control plane from start to end: the object that tests, the demo and the command line hold.

Order matters twice. Each process is recorded before the next one starts, so that an interrupted `up` can
still be taken down; and the lock on the addresses is held until etcd runs, which marks them as taken.
"""

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hack.binaries import bin_folder, ensure
from hack.cluster import addresses, certificates, components, nodes, processes
from hack.cluster import owned as signs
from hack.cluster.client import Client
from hack.cluster.credentials import Credentials
from hack.cluster.errors import ApiError, ClusterError
from hack.cluster.kubectl import run_kubectl
from hack.cluster.nodes import DEFAULT_NODES, Node
from hack.cluster.record import Record

READY_SECONDS = 90.0
POLL_SECONDS = 0.1
API_GRACE_SECONDS = 2.0
"""It would wait for open watches, which never end by themselves; writes are done in milliseconds."""
API_SERVER = "kube-apiserver"

Say = Callable[[str], None]


def default_folder() -> Path:
    """Return the state directory of the command line when none is named."""
    return bin_folder().parent / "cluster"


def _silent(_: str) -> None:
    return


class Cluster:
    """A control plane on loopback; use it as a context manager, or call `up` and `down`.

    Without `controllers` it is etcd and kube-apiserver only; without `kwok` there are no nodes. `controller_flags` are
    added to those of the controller-manager.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        controllers: bool = True,
        kwok: bool = True,
        nodes: Sequence[Node] = DEFAULT_NODES,
        audit: bool = False,
        controller_flags: Sequence[str] = (),
        say: Say = _silent,
    ) -> None:
        self._files = components.Files(folder=(folder or default_folder()).absolute())
        self._controllers = controllers
        self._nodes = tuple(nodes) if kwok and controllers else ()
        self._kwok = kwok and controllers
        self._audit = audit
        self._controller_flags = tuple(controller_flags)
        self._say = say
        self._binaries: dict[str, Path] = {}
        self._record: Record | None = None
        self._client: Client | None = None

    def __enter__(self) -> Self:
        return self.up(owned=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    # ---- what it offers while it runs

    @property
    def folder(self) -> Path:
        """The state directory."""
        return self._files.folder

    @property
    def kubeconfig(self) -> Path:
        """The kubeconfig of the administrator (group system:masters)."""
        return self._files.kubeconfig("admin")

    @property
    def url(self) -> str:
        """The address of the API server."""
        return f"https://127.0.0.1:{self._running().addresses.api}"

    @property
    def pod_cidr(self) -> str:
        """The loopback addresses of the pods of this cluster."""
        return self._running().addresses.pod_cidr

    @property
    def ca(self) -> Path:
        """The certificate authority of the API server and its users."""
        return self._files.keys / "ca.crt"

    @property
    def front_proxy_ca(self) -> Path:
        """The certificate authority of the front proxy, with which aggregated API servers check their caller."""
        return self._files.keys / "front-proxy-ca.crt"

    @property
    def audit_log(self) -> Path:
        """The audit log; it is there only with `audit`."""
        return self._files.audit_log

    @property
    def binaries(self) -> dict[str, Path]:
        """The programs in use, by name."""
        return dict(self._binaries)

    def binary(self, name: str) -> Path:
        """Return the path of a program, in the version that belongs to this cluster; get it when needed."""
        if name not in self._binaries:
            self._binaries |= ensure([name], say=self._say)
        return self._binaries[name]

    def log(self, name: str) -> Path:
        """Return the log of one process."""
        return self._files.logs / f"{name}.log"

    def request(
        self, method: str, path: str, body: object = None, *, content_type: str = "application/json"
    ) -> dict[str, Any]:
        """Send one JSON request as administrator; raise ApiError when it is refused."""
        return self._api().request(method, path, body, content_type=content_type)

    def kubectl(self, *arguments: str, input: str | None = None) -> str:  # noqa: A002 - named as in subprocess
        """Run kubectl as administrator and return what it prints; raise ClusterError when it fails."""
        return run_kubectl(self.binary("kubectl"), self.kubeconfig, arguments, input)

    def kubeconfig_for(self, user: str, groups: Sequence[str] = ()) -> Path:
        """Make a kubeconfig for a user with a client certificate; RBAC decides what it may do."""
        return self._credentials().kubeconfig_for(user, tuple(groups))

    def serving_certificate(self, *names: str) -> certificates.Pair:
        """Make a certificate, signed by `ca`, for a server of these names.

        The API server asks an aggregated one for `<service>.<namespace>.svc`, whatever address it dials.
        """
        return self._credentials().serving(names)

    def service_account_kubeconfig(
        self, namespace: str, name: str, audience: str | None = None, *, seconds: int = 36000
    ) -> Path:
        """Make a kubeconfig with a token of an existing ServiceAccount, from the TokenRequest API."""
        token = self.service_account_token(namespace, name, audience, seconds=seconds)
        return self._credentials().kubeconfig_of(f"account-{namespace}-{name}", token)

    def service_account_token(
        self, namespace: str, name: str, audience: str | None = None, *, seconds: int = 36000
    ) -> str:
        """Ask for a token of an existing ServiceAccount; without an audience it is good for the API server."""
        spec: dict[str, object] = {"expirationSeconds": seconds}
        if audience is not None:
            spec["audiences"] = [audience]
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        token = self.request("POST", path, body)["status"]["token"]
        assert isinstance(token, str)
        return token

    def stop_apiserver(self) -> None:
        """End the API server alone; its data stays in etcd."""
        self._running().process(API_SERVER).stop(grace=API_GRACE_SECONDS)

    def start_apiserver(self) -> None:
        """Start the API server again on its old address and wait until it is ready."""
        record = self._running()
        if record.process(API_SERVER).alive:
            return
        self._start(API_SERVER, self._commands()[API_SERVER])
        self._wait("the API server", lambda: self._api().text("GET", "/readyz") == "ok")

    def restart_apiserver(self) -> None:
        """End the API server and start it again."""
        self.stop_apiserver()
        self.start_apiserver()

    def pause(self, name: str, *, seconds: float) -> None:
        """Let one process stand still for so long, "etcd" or "kube-apiserver"."""
        self._running().process(name).pause(seconds=seconds)

    # ---- up and down

    def up(self, *, owned: bool = False) -> Self:
        """Start what does not run yet and wait until it is ready. An owned cluster ends with its owner."""
        names = ["etcd", API_SERVER, "kubectl"]
        names += ["kube-controller-manager", "kube-scheduler"] if self._controllers else []
        names += ["kwok"] if self._kwok else []
        self._binaries = ensure(names, say=self._say)
        settings: dict[str, Any] = {"controllers": self._controllers, "kwok": self._kwok, "audit": self._audit}
        if self._controller_flags:
            settings["controller_flags"] = list(self._controller_flags)
        with self._locked():
            self._up(settings, owned=owned)
        return self

    def _up(self, settings: dict[str, Any], *, owned: bool) -> None:
        earlier = Record.read(self.folder)
        if earlier is not None and earlier.processes and all(each.alive for each in earlier.processes):
            if earlier.settings != settings:
                raise ClusterError(f"{self.folder} runs with other settings, {earlier.settings}: `down` it first")
            self._record = earlier
            self._say(f"already up at {self.url}")
            self._add_nodes()
            return
        if earlier is not None:
            _stop(earlier)
        elif any(self.folder.iterdir()):
            raise ClusterError(f"{self.folder} is not empty and not a cluster: choose another --dir")
        self._launch(earlier, settings, owned=owned)

    def down(self, *, keep: bool = False) -> bool:
        """End what `up` started and remove its directory, unless told to keep it. False: nothing was there."""
        record = Record.read(self.folder)
        self._record = None
        self._client = None
        if record is None:
            return False
        _stop(record)
        if not keep:
            # Several processes may clear away the same dead cluster at once: what is gone is gone.
            shutil.rmtree(self.folder, ignore_errors=True)
        if record.owner is not None:
            signs.unsign(self.folder)
        return True

    def status(self) -> dict[str, bool]:
        """Say for each process whether it runs; empty when there is no cluster."""
        record = Record.read(self.folder)
        return {each.name: each.alive for each in record.processes} if record else {}

    @classmethod
    def attach(cls, folder: Path | None = None) -> Self:
        """Use a cluster that runs already, from its state directory."""
        cluster = cls(folder)
        record = Record.read(cluster.folder)
        if record is None:
            raise ClusterError(f"no cluster in {cluster.folder}: run `python -m hack.cluster up`")
        cluster._record = record
        cluster._controllers = bool(record.settings["controllers"])
        cluster._kwok = bool(record.settings["kwok"])
        cluster._audit = bool(record.settings["audit"])
        cluster._controller_flags = tuple(record.settings.get("controller_flags", ()))
        return cluster

    # ---- inside

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one `up` at a time work on this state directory; the others find it done."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            deadline = time.monotonic() + READY_SECONDS
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise ClusterError(f"{self.folder}: another `up` is still at work") from None
                    time.sleep(POLL_SECONDS)
            yield
        finally:
            os.close(descriptor)

    def _launch(self, earlier: Record | None, settings: dict[str, Any], *, owned: bool) -> None:
        started = time.monotonic()
        self._client = None
        for folder in (self._files.keys, self._files.logs, self._files.etcd):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = _this_process() if owned else None
        if owned:
            signs.sign(self.folder)
        try:
            with addresses.choose(earlier.addresses.slot if earlier else None) as chosen:
                self._record = Record(addresses=chosen, settings=settings, owner=owner)
                self._record.write(self.folder)
                self._prepare()
                self._credentials().make_control_plane()
                if self._audit:
                    self._files.audit_policy.write_text(json.dumps(components.audit_policy()))
                commands = self._commands()
                self._start("etcd", commands.pop("etcd"))
                self._start(API_SERVER, commands.pop(API_SERVER))
            self._wait("the API server", lambda: self._api().text("GET", "/readyz") == "ok")
            self._say(f"API server ready after {time.monotonic() - started:.1f} s at {self.url}")
            for name, command in commands.items():
                self._start(name, command)
            if self._controllers:
                account = "/api/v1/namespaces/default/serviceaccounts/default"
                self._wait("the controller-manager", lambda: bool(self.request("GET", account)))
            self._say(f"control plane ready after {time.monotonic() - started:.1f} s")
            self._add_nodes()
        except BaseException:
            # Nothing half started stays behind; the logs and the directory do, for whoever looks for the cause.
            self.down(keep=True)
            raise

    def _prepare(self) -> None:
        """Do what has to be there before the first process starts; nothing, unless a subclass needs something."""

    def _commands(self) -> dict[str, list[str]]:
        return components.commands(
            self.binary,
            addresses=self._running().addresses,
            files=self._files,
            controllers=self._controllers,
            kwok=self._kwok,
            audit=self._audit,
            controller_flags=self._controller_flags,
        )

    def _start(self, name: str, command: list[str]) -> None:
        process = processes.start(name, command, log=self.log(name))
        self._record = self._running().replacing(process)
        self._record.write(self.folder)

    def _add_nodes(self) -> None:
        if not self._nodes:
            return
        started = time.monotonic()
        for node in self._nodes:
            try:
                self.request("POST", "/api/v1/nodes", nodes.manifest(node))
            except ApiError as error:
                if error.reason != "AlreadyExists":
                    raise
        names = {node.name for node in self._nodes}

        def usable() -> bool:
            items = self.request("GET", "/api/v1/nodes")["items"]
            return names <= {item["metadata"]["name"] for item in items if nodes.is_usable(item)}

        self._wait(f"{len(names)} nodes", usable)
        self._say(f"{len(names)} nodes ready after another {time.monotonic() - started:.1f} s")

    def _wait(self, what: str, is_ready: Callable[[], bool]) -> None:
        """Wait until `is_ready`; a dead process ends the wait at once, with its last log lines."""
        deadline = time.monotonic() + READY_SECONDS
        reason = "no answer"
        while time.monotonic() < deadline:
            for process in self._running().processes:
                if not process.alive:
                    raise ClusterError(f"{process.name} ended; {processes.last_words(self.log(process.name))}")
            try:
                if is_ready():
                    return
                reason = "not ready yet"
            except ClusterError as error:
                reason = str(error)
            time.sleep(POLL_SECONDS)
        raise ClusterError(f"{what}: not ready after {READY_SECONDS:.0f} s ({reason}); logs: {self._files.logs}")

    def _credentials(self) -> Credentials:
        return Credentials(self._files, url=self.url)

    def _running(self) -> Record:
        if self._record is None:
            raise ClusterError("the cluster is not up")
        return self._record

    def _api(self) -> Client:
        if self._client is None:
            user = certificates.pair_in(self._files.keys, "admin")
            self._client = Client(port=self._running().addresses.api, authority=self.ca, user=user)
        return self._client


def _stop(record: Record) -> None:
    # Last started, first ended, and at once: the data is thrown away, so there is nothing to finish.
    for process in reversed(record.processes):
        process.stop(grace=0)


def _this_process() -> processes.Process:
    identity = processes.identity_of(os.getpid())
    assert identity is not None
    return processes.Process(name="owner", pid=os.getpid(), identity=identity)
