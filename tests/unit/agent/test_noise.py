"""Noise for every parser of what others wrote: cut, turned, put together from real input, and drawn at random."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hack.fuzz.targets import SEEDS, TARGETS

PIECES = st.sampled_from([b"\n", b" ", b"=", b":", b"/", b"-1", b"nan", b"inf", b"9" * 25, b"\x00", b"\xff" * 9, b"}"])


@st.composite
def noise(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """Draw bytes that look like the real thing up to a point."""
    body = bytearray(draw(st.sampled_from(seeds)) * draw(st.integers(1, 3)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(body)))
        match draw(st.integers(0, 3)):
            case 0:
                del body[at : at + draw(st.integers(1, 20))]
            case 1:
                body[at:at] = draw(PIECES)
            case 2:
                body[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case _:
                body[at:at] = draw(st.binary(max_size=12))
    return bytes(body)


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_takes_its_seeds_and_nothing_at_all(name: str) -> None:
    for seed in (*SEEDS[name], b"", b"\n" * 1000, b"\x00" * 1000):
        TARGETS[name](seed)


@pytest.mark.parametrize("name", TARGETS)
def test_noise_is_understood_or_refused(name: str) -> None:
    @settings(max_examples=150)
    @given(data=noise(SEEDS[name]) | st.binary(max_size=300))
    def feed(data: bytes) -> None:
        TARGETS[name](data)

    feed()


def test_the_command_names_its_targets_or_what_it_lacks() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hack.fuzz", "nothing"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "usage: python -m hack.fuzz {wire," in done.stderr or "atheris is not installed" in done.stderr
