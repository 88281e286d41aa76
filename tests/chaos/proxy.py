"""A TCP proxy that can delay, cut, and swallow what goes through it."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
import time

from tests.servers import LOOPBACK, free_port


class Proxy(threading.Thread):
    """Listens on a port of its own and forwards to another one.

    :ivar delay: seconds that what is sent waits, each way.
    :ivar hole: swallow whatever comes, and accept what comes anew.
    """

    def __init__(self, to: int) -> None:
        super().__init__(name="proxy", daemon=True)
        self.port = free_port()
        self.delay = 0.0
        self.hole = False
        self.passed = 0
        self._to = to
        self._ends = threading.Event()
        self._listener = socket.create_server((LOOPBACK, self.port))
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()

    def run(self) -> None:
        while not self._ends.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def cut(self) -> None:
        """Reset all connections that there are."""
        with self._lock:
            pairs, self._pairs = list(self._pairs), set()
        for pair in pairs:
            for each in pair:
                with contextlib.suppress(OSError):
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    each.shutdown(socket.SHUT_RD)
                with contextlib.suppress(OSError):
                    each.close()

    def close(self) -> None:
        self._ends.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self.join()

    def _serve(self, client: socket.socket) -> None:
        while self.hole and not self._ends.is_set():  # connected, and no answer
            time.sleep(0.05)
        try:
            server = socket.create_connection((LOOPBACK, self._to), 2)
        except OSError:
            client.close()
            return
        pair = (client, server)
        with self._lock:
            self._pairs.add(pair)
        waiting: list[tuple[float, socket.socket, bytes]] = []
        try:
            with selectors.DefaultSelector() as selector:
                for one, other in (pair, pair[::-1]):
                    one.settimeout(5)
                    selector.register(one, selectors.EVENT_READ, other)
                while not self._ends.is_set():
                    for key, _ in selector.select(0.005 if waiting else 0.1):
                        data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                        if not data:
                            return
                        if not self.hole:
                            waiting.append((time.monotonic() + self.delay, key.data, data))
                    while waiting and waiting[0][0] <= time.monotonic():
                        _, to, data = waiting.pop(0)
                        if not self.hole:
                            to.sendall(data)
                            self.passed += len(data)
        except (OSError, ValueError, KeyError):
            return
        finally:
            with self._lock:
                self._pairs.discard(pair)
            for each in pair:
                each.close()
