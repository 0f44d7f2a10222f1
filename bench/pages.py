"""A real engine's pages for many pod addresses, switched from idle to busy by a line on standard input.

`python -m bench.pages PORT ADDRESS...` serves /metrics on each address, in a process of its own so that its work is
not the operator's. Both pages are members of one recording of a real vLLM, served unmodified. A line `busy ADDRESS`
or `idle ADDRESS` switches one address and is answered by the same line with the time (Unix seconds) from which the
new page counts.
"""

import asyncio
import re
import sys
import tarfile
import time
from pathlib import Path

from aiohttp import web

import optiinfra_sim

RECORDING = Path(optiinfra_sim.__file__).parent / "recordings" / "vllm-0.32-cpu-batch-bound.tar.gz"
_GAUGE = r"^vllm:num_requests_%s\{[^}]*\} (\S+)$"


def gauge(page: bytes, name: str) -> float:
    """Return requests `running` or `waiting` as a page tells them."""
    found = re.search((_GAUGE % name).encode(), page, re.MULTILINE)
    if found is None:
        raise ValueError(f"{RECORDING.name}: a page without requests {name}")
    return float(found[1])


def chosen_pages() -> dict[str, bytes]:
    """Return the page with the longest queue, and the last one before it on which nothing runs or waits."""
    with tarfile.open(RECORDING) as archive:
        members = sorted((one for one in archive if one.isfile()), key=lambda one: one.name)
        pages = [content.read() for one in members if (content := archive.extractfile(one)) is not None]
    busiest = max(range(len(pages)), key=lambda place: gauge(pages[place], "waiting"))
    idle = [page for page in pages[:busiest] if not gauge(page, "running") and not gauge(page, "waiting")]
    return {"idle": idle[-1], "busy": pages[busiest]}


async def serve(port: int, addresses: list[str]) -> None:
    """Serve until standard input ends."""
    pages = chosen_pages()
    state = dict.fromkeys(addresses, "idle")

    async def page(request: web.Request) -> web.Response:
        assert request.transport is not None
        address = request.transport.get_extra_info("sockname")[0]
        return web.Response(body=pages[state[address]], headers={"Content-Type": "text/plain; version=0.0.4"})

    application = web.Application()
    application.router.add_get("/metrics", page)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    for address in addresses:
        await web.TCPSite(runner, address, port).start()
    print("ready", flush=True)
    while line := (await asyncio.to_thread(sys.stdin.readline)).split():
        word, address = line
        state[address] = word
        print(word, address, time.time(), flush=True)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2:]))
