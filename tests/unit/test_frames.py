"""Frames from a buffer are those that py-amqp reads, however they arrive."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator
from typing import Any

import amqp
import pytest
from amqp.exceptions import UnexpectedFrame
from amqp.transport import TCPTransport, _AbstractTransport

from consumers import frames


def wire(frame: frames.Frame, end: int = 0xCE) -> bytes:
    kind, channel, payload = frame
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + bytes([end])


class Line:
    """A transport of py-amqp's or ours on one end of a socket; the test writes into the other."""

    def __init__(self, kind: type[Any]) -> None:
        self.there, here = socket.socketpair()
        here.settimeout(0.001)
        self.transport = kind("nowhere")
        self.transport.sock = here
        self.transport._quick_recv = here.recv  # what py-amqp's own reads with
        self.transport.connected = True

    def read(self) -> list[frames.Frame]:
        """Read until nothing comes."""
        found = []
        while True:
            try:
                found.append(self.transport.read_frame())
            except TimeoutError:
                return found

    def close(self) -> None:
        self.there.close()
        self.transport.sock.close()


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line(frames._TCPTransport)
    yield made
    made.close()


@pytest.mark.parametrize("seed", range(5))
def test_frames_are_those_of_py_amqp_in_whatever_pieces_they_come(seed: int) -> None:
    dice = random.Random(seed)
    sizes = [0, 0, 1, 7, 8, 4200, 131_064, *(dice.randrange(2000) for _ in range(50))]
    dice.shuffle(sizes)
    sent = [(dice.randrange(1, 9), dice.randrange(2**16), dice.randbytes(n)) for n in sizes]
    stream = b"".join(map(wire, sent))
    lines = [Line(TCPTransport), Line(frames._TCPTransport)]
    found: list[list[frames.Frame]] = [[], []]
    at = 0
    while at < len(stream):
        size = dice.choice([1, 3, 8, 500, 50_000])
        for each, frames_read in zip(lines, found, strict=True):
            each.there.sendall(stream[at : at + size])
            if dice.random() < 0.5 or size > 1000:
                frames_read.extend(each.read())
        at += size
    for each, frames_read in zip(lines, found, strict=True):
        frames_read.extend(each.read())
        assert each.transport.connected
        each.close()
    assert found == [sent, sent]


def test_a_frame_is_whole_only_with_its_end(line: Line) -> None:
    data = wire((3, 1, b"body"))
    line.there.sendall(data[:-1])
    assert line.read() == []
    assert line.transport.whole_frame() is None
    line.there.sendall(data[-1:] + data)
    assert line.transport.read_frame() == (3, 1, b"body")
    assert line.transport.whole_frame() == (3, 1, b"body")
    assert line.transport.whole_frame() is None


def test_a_wrong_end_is_an_error(line: Line) -> None:
    line.there.sendall(wire((1, 0, b"x"), end=0))
    with pytest.raises(UnexpectedFrame):
        line.transport.read_frame()


def test_an_end_in_the_middle_of_a_frame_is_a_loss(line: Line) -> None:
    line.there.sendall(wire((1, 0, b"xyz"))[:-2])
    line.there.close()
    with pytest.raises(ConnectionResetError):
        line.transport.read_frame()
    assert not line.transport.connected


def test_the_py_amqp_that_is_installed_is_known() -> None:
    assert frames.reads_as_known(amqp.Connection, _AbstractTransport)
    assert frames.transport() is frames.Transport


def test_a_py_amqp_that_reads_otherwise_is_not() -> None:
    class Other:
        def drain_events(self, timeout: float | None = None) -> None:
            self.reader.read_all(timeout)  # type: ignore[attr-defined]

        blocking_read = amqp.Connection.blocking_read

    class Compiled:
        drain_events = len

    assert not frames.reads_as_known(Other, _AbstractTransport)
    assert not frames.reads_as_known(Compiled, _AbstractTransport)
    assert not frames.reads_as_known(amqp.Connection, Other)
