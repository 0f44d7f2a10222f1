"""Start a metrics server that has a fleet's past in it, and wait for Ctrl-C.

    python -m hack.prometheus --fleet small                       # Debian's Prometheus, 6 models, 48 GPUs, 2 days
    python -m hack.prometheus --fleet full --server prometheus    # Prometheus 3, 40 models, 200 GPUs, 14 days

Then, elsewhere: `optiinfra report --prometheus http://127.0.0.1:PORT --since 2d`. What is true of the fleet stands in
truth.json, whose path is printed. The past is simulated and says so (`optiinfra_simulated`).
"""

import argparse
import signal
import sys
from pathlib import Path

from hack.binaries.catalogue import BinaryError
from hack.prometheus.loaded import SERVERS, Loaded
from hack.prometheus.server import ServerError
from optiinfra_sim.history_models import FLEETS


def main() -> int:
    """Load, start, tell, wait, end."""
    parser = argparse.ArgumentParser(
        prog="python -m hack.prometheus", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--server", choices=SERVERS, default="debian", help="which server (default: debian)")
    parser.add_argument("--fleet", choices=FLEETS, default="small", help="which past (default: small)")
    parser.add_argument("--seed", type=int, default=1, help="another past of the same fleet")
    parser.add_argument("--columns", action="store_true", help="load by prometheus-backfill instead of promtool")
    parser.add_argument("--live", action="store_true", help="add what exporters show besides, and scrape it")
    parser.add_argument(
        "--folder",
        type=Path,
        help="keep everything there, and start what lies there (default: a folder that goes at the end)",
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    chosen = True if options.columns else None
    loaded = Loaded(
        options.server,
        fleet=options.fleet,
        seed=options.seed,
        columns=chosen,
        live=options.live,
        folder=options.folder,
    )
    try:
        with loaded:
            print(f"loaded {loaded.written.samples:,} samples of {loaded.written.series:,} series", end=" ")
            print(f"in {loaded.load_seconds:.0f} s; {loaded.server.name} answers at", flush=True)
            print(f"  {loaded.server.address}\n  truth: {loaded.folder / 'truth.json'}\nCtrl-C ends it.", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        return 0
    except (ServerError, BinaryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
