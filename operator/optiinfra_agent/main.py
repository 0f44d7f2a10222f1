"""The command `optiinfra-agent`: reads the settings, starts the parts, ends them in order.

Order of the start: settings (exit 2 when one is bad), socket (exit 1 when taken), collection, registration, pages.
Order of the end, on SIGTERM or SIGINT: no more requests, leave the orchestrator, stop the collection; within 5 s
whatever hangs, because every step has its own bound and every thread is a daemon. The driver library is not shut
down at the end: it may hang, and the kernel closes it with the process anyway.

What the first page does not need is loaded later or not at all: the parser of arguments where there are none, what
writes `/metrics` until the first collection is there.
"""

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from optiinfra_agent import __version__
from optiinfra_agent.collection import Collection
from optiinfra_agent.errors import AgentError, SettingsError
from optiinfra_agent.logs import set_up_logs
from optiinfra_agent.podresources import PodResources
from optiinfra_agent.settings import Settings, describe, read_settings, unknown_variables
from optiinfra_agent.sockets import open_socket
from optiinfra_agent.stop import Stop

if TYPE_CHECKING:
    from optiinfra_agent.tls import Tls

log = logging.getLogger("optiinfra_agent")

EXIT_FAILED = 1
EXIT_USAGE = 2
_SWITCH_S = 0.001
"""How long a thread may keep the interpreter while another waits for it. A collection computes for some 20 ms, and with
the usual 5 ms a scrape that comes meanwhile waits for that several times."""


@dataclass(frozen=True, slots=True)
class _Options:
    once: bool = False
    pod: str | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _parsed(given) if given else _Options()
    try:
        settings = read_settings(os.environ)
        set_up_logs(settings.log_level, agent_id=settings.identity)
        strange = unknown_variables(os.environ)
        if strange:
            log.warning("environment variables that mean nothing here", extra={"fields": {"variables": strange}})
        if options.pod is not None:
            return _pod(settings, options.pod)
        if options.once:
            return _once(settings)
        return _serve(settings)
    except AgentError as error:
        sys.stderr.write(f"optiinfra-agent: {error}\n")
        return EXIT_USAGE if isinstance(error, SettingsError) else EXIT_FAILED


def _parsed(given: Sequence[str]) -> _Options:
    import argparse  # noqa: PLC0415 - the agent of a node has no arguments

    parser = argparse.ArgumentParser(
        prog="optiinfra-agent",
        description="Measures GPU, CPU and memory of one Kubernetes node and serves it over HTTP.",
        epilog="Settings are environment variables:\n\n" + describe(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"optiinfra-agent {__version__}")
    parser.add_argument("--once", action="store_true", help="print one snapshot as JSON and exit")
    parser.add_argument(
        "--pod", metavar="NAMESPACE/NAME", help="print as JSON what the kubelet gave to one pod, and exit"
    )
    found = parser.parse_args(given)
    return _Options(once=found.once, pod=found.pod)


def _once(settings: Settings) -> int:
    published = Collection(settings).collect()
    sys.stdout.write(published.body.decode() + "\n")
    return 0


def _pod(settings: Settings, which: str) -> int:
    namespace, _, name = which.partition("/")
    if not namespace or not name:
        raise SettingsError(f"--pod {which[:80]!r} is not usable: give NAMESPACE/NAME")
    if settings.pod_resources is None:
        raise SettingsError("OPTIINFRA_AGENT_POD_RESOURCES='off' is not usable here: --pod asks the kubelet")
    kubelet = PodResources(settings.pod_resources, deadline_s=settings.pod_resources_deadline_s)
    sys.stdout.write(json.dumps(asdict(kubelet.get(namespace=namespace, name=name)), indent=1) + "\n")
    return 0


def _serve(settings: Settings) -> int:
    sys.setswitchinterval(_SWITCH_S)
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    tls = _tls(settings)
    with open_socket(settings) as listener:
        port = listener.getsockname()[1]
        collection = Collection(settings)
        collection.start()
        # From here on the driver and the kubelet are waited for; half of what the agent loads is loaded meanwhile.
        import asyncio  # noqa: PLC0415

        from optiinfra_agent import health  # noqa: PLC0415
        from optiinfra_agent.listener import serve  # noqa: PLC0415
        from optiinfra_agent.registration import Registration  # noqa: PLC0415
        from optiinfra_agent.server import Application, TokenFile  # noqa: PLC0415
        from optiinfra_agent.traffic import Traffic  # noqa: PLC0415

        traffic = Traffic()
        registration = Registration(
            settings,
            endpoint=settings.endpoint or f"{'http' if tls is None else 'https'}://{settings.node_name}:{port}",
            measured=collection.measured,
            report=lambda: health.report(collection, traffic.answered),
        )
        registration.start()
        token = TokenFile(settings.token_file) if settings.token_file else None
        application = Application(
            collection=collection, registration=registration, token=token, settings=settings, traffic=traffic
        )
        threading.Thread(target=application.warm_up, args=(collection.measured,), name="warm-up", daemon=True).start()
        fields = {"version": __version__, "node": settings.node_name, "port": port, "interval_s": settings.interval_s}
        log.info("the agent listens", extra={"fields": fields})
        asyncio.run(serve(application, listener=listener, connections=settings.connections, tls=tls, stop=stop))
    registration.stop()
    collection.stop()
    log.info("the agent has ended")
    return 0


def _tls(settings: Settings) -> "Tls | None":
    if settings.tls_certificate_file is None:
        return None
    from optiinfra_agent.tls import Tls  # noqa: PLC0415 - plain HTTP needs none of it

    return Tls.of(settings)
