"""py-amqp's connection, which takes frames from a large buffer: half of what kombu's reading costs.

py-amqp asks the system for each part of a frame (header, payload, end) by itself, and sets the
socket's timeout before and after. Here one call takes whatever is there, and the timeout is
touched only where the next frame is not. All else stays py-amqp's and kombu's: how to connect, TLS,
heartbeats, what a frame means, how a loss is told.

Two methods of py-amqp's are replaced. Where a version of it reads in another way than those that
this was written for (5.1.1 to 5.4.2), nothing is.
"""

from __future__ import annotations

import functools
import ssl
import struct
from typing import Any

import amqp
import amqp.transport
from amqp.exceptions import UnexpectedFrame
from kombu.transport import pyamqp
from oslo_log import log as logging

LOG = logging.getLogger(__name__)

RECEIVE = 64 * 1024
"""Bytes that are asked for at once: some 15 notifications. More gains nothing that was seen."""

_HEADER = struct.Struct(">BHI")
_END = 0xCE

Frame = tuple[int, int, bytes]
"""Type, channel, payload."""


class _Buffered:
    """Mixed into py-amqp's transports. What was received stays until it is a whole frame, whatever
    happens in between, a timeout above all."""

    sock: Any
    connected: bool
    _received = b""
    _start = 0

    def whole_frame(self) -> Frame | None:
        """Return the next frame where all of it is in the buffer, else None; nothing is waited
        for."""
        received, start = self._received, self._start
        if len(received) - start < _HEADER.size:
            return None
        kind, channel, size = _HEADER.unpack_from(received, start)
        start += _HEADER.size
        end = start + size
        if end >= len(received):
            return None
        if received[end] != _END:
            raise UnexpectedFrame(f"a frame ends with {received[end]:#04x} and not with {_END:#x}")
        self._start = end + 1
        return kind, channel, received[start:end]

    def read_frame(self, *_: object) -> Frame:
        """Return the next frame, as py-amqp's method of this name does; TimeoutError where the
        socket's timeout passes."""
        while (frame := self.whole_frame()) is None:
            self._receive()
        return frame

    def _receive(self) -> None:
        try:
            received = self.sock.recv(RECEIVE)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise TimeoutError("nothing came") from None
        except TimeoutError:
            raise
        except OSError:
            self.connected = False
            raise
        if not received:
            self.connected = False
            raise ConnectionResetError("the broker closed the connection")
        self._received = self._received[self._start :] + received
        self._start = 0


class _TCPTransport(_Buffered, amqp.transport.TCPTransport):  # type: ignore[misc] # no types
    pass


class _SSLTransport(_Buffered, amqp.transport.SSLTransport):  # type: ignore[misc] # no types
    pass


class Connection(pyamqp.Connection):
    """kombu's connection to RabbitMQ, with transports of ours."""

    def Transport(  # py-amqp's name
        self, host: str, connect_timeout: float | None, ssl: Any = False, *args: Any, **more: Any
    ) -> Any:
        """Return what carries the connection, as py-amqp's method of this name does."""
        for name, value in zip(("read_timeout", "write_timeout"), args, strict=False):
            more[name] = value
        kind = _SSLTransport if ssl else _TCPTransport
        return kind(host, connect_timeout=connect_timeout, ssl=ssl, **more)

    def blocking_read(self, timeout: float | None = None) -> Any:
        """Handle the next frame; TimeoutError where none is whole within ``timeout`` seconds."""
        frame = self.transport.whole_frame()
        if frame is None:
            with self.transport.having_timeout(timeout):
                frame = self.transport.read_frame()
        return self.on_inbound_frame(frame)


class Transport(pyamqp.Transport):
    """kombu's transport for RabbitMQ, with connections of ours."""

    Connection = Connection


@functools.cache
def transport() -> type | None:
    """Return what kombu is to speak to RabbitMQ with; None: its own, since this py-amqp reads in a
    way that we do not know."""
    if reads_as_known(amqp.Connection, amqp.transport._AbstractTransport):
        return Transport
    LOG.warning(
        "py-amqp %s reads frames in a way that this version of bus-cache does not know: they are "
        "read by py-amqp itself, which takes twice the processor time",
        amqp.__version__,
    )
    return None


def reads_as_known(connection: Any, carrier: Any) -> bool:
    """Tell whether py-amqp's classes read frames as we replace it: by these calls, and no others.

    Where a library's own calls change, what they mean may have changed as well.
    """
    try:
        return (
            set(connection.drain_events.__code__.co_names) == {"blocking_read"}
            and set(connection.blocking_read.__code__.co_names)
            == {"transport", "having_timeout", "read_frame", "on_inbound_frame"}
            and {"frame_type", "channel", "payload"} <= set(carrier.read_frame.__code__.co_varnames)
        )
    except AttributeError:  # not there, or not Python's
        return False
