"""The metric page of a simulated engine, as the engine that it plays would write it."""

from optiinfra_sim import sglang_page, tgi_page, vllm_page
from optiinfra_sim.engine import Engine
from optiinfra_sim.exposition import CONTENT_TYPE, PageTimes, number
from optiinfra_sim.settings import EngineKind

__all__ = ["CONTENT_TYPE", "PageTimes", "number", "render"]

_RENDERERS = {
    EngineKind.VLLM: vllm_page.render,
    EngineKind.SGLANG: sglang_page.render,
    EngineKind.TGI: tgi_page.render,
}


def render(engine: Engine, *, times: PageTimes) -> bytes:
    """The whole page of ``engine`` as it stands."""
    return _RENDERERS[engine.settings.kind](engine, times=times)
