"""Small clusters and requests for the tests of placement, drawn or made by hand."""

from hypothesis import strategies as st

from optiinfra.domain.placement.cluster import Node
from optiinfra.domain.placement.request import WHOLE_GPU, Request

GIB = 1 << 30
MODELS = ("A100", "T4", "")


def node(
    name: str, *, gpus: int = 0, cpu: int = 32_000, memory: int = 64 * GIB, model: str = "A100", pods: int = 64
) -> Node:
    return Node(name, cpu, memory, gpus, model if gpus else "", pods)


def whole(gpus: int, *, cpu: int = 1_000, memory: int = GIB, models: tuple[str, ...] = ()) -> Request:
    return Request(cpu, memory, gpus, WHOLE_GPU if gpus else 0, models)


def share(milli: int, *, cpu: int = 1_000, memory: int = GIB, models: tuple[str, ...] = ()) -> Request:
    return Request(cpu, memory, 1, milli, models)


@st.composite
def nodes(draw: st.DrawFn) -> list[Node]:
    count = draw(st.integers(1, 6))
    return [
        node(
            f"node-{index}",
            gpus=draw(st.integers(0, 4)),
            cpu=draw(st.integers(1, 40)) * 1_000,
            memory=draw(st.integers(1, 64)) * GIB,
            model=draw(st.sampled_from(MODELS[:2])),
            pods=draw(st.integers(1, 8)),
        )
        for index in range(count)
    ]


@st.composite
def requests(draw: st.DrawFn) -> Request:
    cpu, memory = draw(st.integers(0, 20)) * 500, draw(st.integers(0, 16)) * GIB
    models = draw(st.sampled_from(((), (), (), ("A100",), ("A100", "T4"))))
    kind = draw(st.integers(0, 2))
    if kind == 0:
        return Request(cpu, memory)
    if kind == 1:
        return share(draw(st.sampled_from((110, 190, 320, 470, 500, 530, 810))), cpu=cpu, memory=memory, models=models)
    return whole(draw(st.integers(1, 4)), cpu=cpu, memory=memory, models=models)
