"""A client from KEDA's published proto (grpcio-tools), certificates, and an external scaler over real TLS."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from optiinfra.web.followers import LeaderDecisions
from optiinfra.web.keda.connection import Limits
from optiinfra.web.keda.scaler import ExternalScaler
from optiinfra.web.keda.server import KedaServer, TlsFiles, serving
from optiinfra.web.ports import Decision
from tests.keda_client import generate
from tests.unit.web.certificates import Authority, Pair
from tests.unit.web.outside import Leader, View, document

KIND = "ResourceOptimization"


@pytest.fixture(scope="session")
def keda(tmp_path_factory):
    """Messages and client as protobuf's own compiler makes them of KEDA's file."""
    return generate(tmp_path_factory.mktemp("keda-client"))


@dataclass(frozen=True)
class World:
    """Certificates: the scaler's, KEDA's, and some that must not work."""

    serving_authority: Authority
    client_authority: Authority
    serving: Pair
    keda: Pair
    stranger: Pair


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    def authority(name):
        return Authority(name, tmp_path_factory.mktemp(name))

    serving_authority, clients, other = authority("keda-serving"), authority("keda-clients"), authority("keda-others")
    (clients.folder / "ca.crt").write_text(clients.pem)
    return World(
        serving_authority,
        clients,
        serving_authority.sign("optiinfra-keda.optiinfra.svc", server=True),
        clients.sign("keda"),
        other.sign("keda"),
    )


@dataclass
class Scene:
    """What stands behind the port, as told by the test."""

    world: World
    view: View = field(
        default_factory=lambda: View(
            published=[Decision("inference", "chat", 7, 1_800_000_000.0), Decision("inference", "idle", 0, 1.0)],
            documents=[
                document(KIND, "inference", "chat"),
                document(
                    KIND,
                    "inference",
                    "unsure",
                    conditions=[
                        {"type": "Ready", "status": "True", "reason": "Ready", "message": ""},
                        {
                            "type": "MetricsAvailable",
                            "status": "False",
                            "reason": "Stale",
                            "message": "silent for 60 s",
                        },
                    ],
                ),
            ],
        )
    )
    leader: Leader = field(default_factory=Leader)
    token_file: Path | None = None
    mutual: bool = False
    limits: Limits = field(default_factory=Limits)
    serving: Pair | None = None
    server: KedaServer | None = None
    port: int = 0

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator["Scene"]:
        pair = self.serving or self.world.serving
        scaler = ExternalScaler(
            LeaderDecisions(self.view, self.leader, self.token_file),
            lambda namespace, name: self.view.find(KIND, namespace, name),
            look_seconds=0.02,
        )
        authority = self.world.client_authority.folder / "ca.crt" if self.mutual else None
        tls = TlsFiles(pair.certificate, pair.key, authority)
        async with serving(scaler, host="127.0.0.1", port=0, tls=tls, limits=self.limits, look_seconds=0.05) as (
            self.server,
            self.port,
        ):
            yield self

    def channel(self, *, authority: Authority | None = None, pair: Pair | None = None, name: str = ""):
        """A channel as KEDA opens it: `caCert`, `tlsClientCert`, `tlsClientKey`."""
        trusted = (authority or self.world.serving_authority).pem.encode()
        key, chain = (pair.key.read_bytes(), pair.certificate.read_bytes()) if pair else (None, None)
        options = [("grpc.ssl_target_name_override", name)] if name else []
        credentials = grpc.ssl_channel_credentials(trusted, key, chain)
        return grpc.aio.secure_channel(f"127.0.0.1:{self.port}", credentials, options)


@pytest.fixture
def scene(world):
    return Scene(world)
