"""The wire's fuzz targets, on saved seeds and on what hypothesis makes of them."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from milterd.wire import messages as m
from milterd.wire.errors import PeerError
from milterd.wire.milter import MilterConnection
from tests.fuzz.driver import seeds
from tests.fuzz.targets import TARGETS
from tests.wire.helpers import EXAMPLES, REPLIES
from tests.wire.strategies import commands, replies

_lengths = st.one_of(st.integers(0, 64), st.sampled_from([4096, 4097, 65536, 2**31, 2**32 - 1]))
_codes = st.sampled_from(list(b"OCDHMRLNBETUAQK+-24abcdefhilmpqrsty\0?"))


@st.composite
def _odd_frames(draw: st.DrawFn) -> bytes:
    """A frame with a true or a false length and any payload."""
    payload = draw(st.binary(max_size=30))
    length = draw(st.one_of(st.just(len(payload) + 1), _lengths))
    return length.to_bytes(4, "big") + bytes((draw(_codes),)) + payload


_said = st.lists(
    st.one_of(
        commands.map(lambda each: each.encode()),
        replies.map(lambda each: each.encode()),
        st.sampled_from([*EXAMPLES.values(), *REPLIES.values()]).map(lambda each: each.encode()),
        _odd_frames(),
        st.binary(max_size=10),
    ),
    max_size=12,
).map(b"".join)
_inputs = st.one_of(
    st.binary(max_size=200), st.builds(bytes.__add__, st.binary(min_size=2, max_size=2), _said)
)


@pytest.mark.parametrize("name", TARGETS)
def test_saved_seeds(name: str) -> None:
    found = seeds(name)
    assert found
    for each in found:
        TARGETS[name](each)


@pytest.mark.parametrize("name", TARGETS)
@given(data=_inputs)
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_input(name: str, data: bytes) -> None:
    TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_every_change_of_a_seed(name: str) -> None:
    """Each octet of each seed lost, doubled, or at its extremes."""
    for seed in seeds(name):
        for at in range(len(seed)):
            before, octet, after = seed[:at], seed[at : at + 1], seed[at + 1 :]
            for changed in (b"", octet * 2, b"\0", b"\xff", b"\r"):
                TARGETS[name](before + changed + after)


def _flood(milter: MilterConnection) -> None:
    for _ in range(1000):
        milter.receive(b"\0\x0f\xff\xffC" + bytes(65536))


def test_memory_stays_bounded() -> None:
    """A peer that announces much and sends it slowly gets no more than one frame."""
    milter = MilterConnection()
    milter.receive(EXAMPLES[m.Negotiate].encode())
    milter.negotiate()
    tracemalloc.start()
    try:
        with pytest.raises(PeerError):
            _flood(milter)
        assert tracemalloc.get_traced_memory()[1] < 4 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_a_target_runs_as_a_program() -> None:
    program = Path(__file__).with_name("targets.py")
    done = subprocess.run(
        [sys.executable, str(program), "nonsense"], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert b"frames|mta|milter|edits" in done.stderr
