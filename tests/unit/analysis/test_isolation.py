"""What importing and running does to a process: checked in processes of their own."""

import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import ClassVar

ROOT = Path(__file__).parents[3]

BUILD_AND_RUN = """
import asyncio, sys
from optiinfra.analysis.factory import AdviserSettings, build_adviser
from optiinfra.analysis.insights import InsightsWorkflow
from optiinfra.analysis.round import RoundWorkflow
from tests.unit.analysis.examples import request
from tests.unit.analysis.test_round import Batch, Steps

async def main():
    observe, clock = (lambda step, seconds: None), (lambda: 0.0)
    assert len((await RoundWorkflow(Steps(), observe=observe, clock=clock).run(Batch())).seen) == 6
    report = await InsightsWorkflow(build_adviser(None), observe=observe, clock=clock).run(request())
    assert report.reason == "NotConfigured"

asyncio.run(main())
"""


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # This process put its own switches down when it imported the package; the other one starts without them.
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LANGSMITH", "LANGCHAIN"))}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_without_a_model_no_model_library_is_imported():
    done = run_python(BUILD_AND_RUN + "print(sorted({'groq', 'langchain_groq'} & set(sys.modules)))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_command_line_of_an_http_client_is_not_imported():
    done = run_python(BUILD_AND_RUN + "import httpx\nprint('rich' in sys.modules, httpx.main)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("False <function main")


def test_building_the_groq_adviser_imports_nothing_of_it_yet():
    done = run_python(
        "import sys, pathlib\n"
        "from optiinfra.analysis.factory import AdviserSettings, build_adviser\n"
        "build_adviser(AdviserSettings(key_file=pathlib.Path('absent')))\n"
        "print(sorted({'groq', 'langchain_groq'} & set(sys.modules)))"
    )
    assert done.stdout.strip() == "[]", done.stderr


ASK_LANGSMITH = """
import langsmith.utils
print(langsmith.utils.tracing_is_enabled())
"""

ASK_LANGSMITH_IN_A_STEP = """
import asyncio
from optiinfra.analysis.round import RoundWorkflow
from tests.unit.analysis.test_round import Batch, Steps
import langsmith.utils

class Asking(Steps):
    async def plan(self, work):
        print(langsmith.utils.tracing_is_enabled())
        return await super().plan(work)

workflow = RoundWorkflow(Asking(), observe=lambda step, seconds: None, clock=lambda: 0.0)
with langsmith.run_helpers.tracing_context(enabled=True):  # the strongest switch that there is
    asyncio.run(workflow.run(Batch()))
"""

FLUSH = """
import langsmith.run_trees
langsmith.run_trees.get_cached_client().flush()
"""


class Collector(http.server.BaseHTTPRequestHandler):
    called: ClassVar[list[str]] = []

    def do_POST(self):
        if self.path != "/info":  # asked by the flush below, which makes a client where there was none
            self.called.append(self.path)
        self.send_response(202)
        self.end_headers()

    do_GET = do_POST  # noqa: N815  the name that http.server calls

    def log_message(self, *_arguments):
        pass


def test_nothing_is_exported_whatever_the_environment_says():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    tracing = {
        "LANGSMITH_TRACING": "true",
        "LANGSMITH_TRACING_V2": "true",
        "LANGCHAIN_TRACING_V2": "true",
        "LANGCHAIN_TRACING": "true",
        "LANGSMITH_API_KEY": "key",
        "LANGSMITH_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
    }
    try:
        done = run_python(BUILD_AND_RUN + ASK_LANGSMITH + ASK_LANGSMITH_IN_A_STEP + FLUSH, **tracing)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False", "False"]
    assert Collector.called == []


def test_without_us_the_same_environment_does_trace():
    assert run_python(ASK_LANGSMITH, LANGSMITH_TRACING="true").stdout.strip() == "True"
