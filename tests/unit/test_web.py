"""The HTTP server: what it answers, and what a client that means harm can do to it."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

import bus_cache.web
from bus_cache.conf.types import Address, ListenAddress
from bus_cache.web import server
from bus_cache.web.server import Answer, Server
from tests.program import wait_for
from tests.servers import free_port


def fails() -> Answer:
    raise ValueError("secret")


@pytest.fixture
def listening() -> Iterator[Address]:
    """A server with two routes."""
    address = Address("127.0.0.1", free_port())
    routes = {"/": lambda: Answer.text(200, "well"), "/fails": fails}
    web = Server(address, routes, "[x] y")
    web.start()
    wait_for(lambda: answers(address))
    yield address
    web.stop()


def answers(address: Address) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(address).close()
        return True
    return False


def get(address: Address, path: str = "/", method: str = "GET") -> tuple[int, bytes]:
    request = urllib.request.Request(f"http://{address}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_it_answers(listening: Address) -> None:
    assert get(listening) == (200, b"well\n")
    assert get(listening, "/?x=1") == (200, b"well\n")
    assert get(listening, "/", "HEAD") == (200, b"")
    assert get(listening, "/nothing")[0] == 404
    assert get(listening, "/", "POST")[0] == 501
    status, text = get(listening, "/fails")
    assert status == 500
    assert b"secret" not in text


def test_one_that_sends_much_is_cut_off(listening: Address) -> None:
    with socket.create_connection(listening) as client:
        client.settimeout(30)
        sent = 0
        with contextlib.suppress(OSError):  # it closes
            client.sendall(b"GET / HTTP/1.0\r\n")
            while sent < 100 * server.MOST_BYTES:
                sent += client.send(b"X: " + b"y" * 1000 + b"\r\n")
            while client.recv(65536):
                pass
    assert get(listening) == (200, b"well\n")


def test_slow_ones_hold_no_more_than_their_share_and_not_for_long(
    listening: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "SECONDS", 3.0)
    before = threading.active_count()
    clients = [socket.create_connection(listening) for _ in range(5 * server.MOST)]
    began = time.monotonic()
    ended = 0
    for client in clients:
        client.settimeout(1)
    while ended < len(clients):
        assert time.monotonic() < began + 30
        assert threading.active_count() <= before + server.MOST
        still = []
        for client in clients[ended:]:
            try:
                client.send(b"G")  # a byte now and then keeps no connection open
                client.setblocking(False)
                closed = client.recv(10) == b""
            except BlockingIOError:
                closed = False
            except OSError:
                closed = True
            ended += closed
            if not closed:
                still.append(client)
        clients = clients[: len(clients) - len(still)] + still
        time.sleep(0.2)
    for client in clients:
        client.close()
    assert get(listening) == (200, b"well\n")


def test_a_crowd_gets_no_more_answers_than_a_second_has(listening: Address) -> None:
    answered = 0

    def ask(until: float) -> None:
        nonlocal answered
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                get(listening)
                answered += 1

    began = time.monotonic()
    crowd = [threading.Thread(target=ask, args=(began + 2,)) for _ in range(10)]
    for each in crowd:
        each.start()
    for each in crowd:
        each.join()
    assert 0 < answered <= (time.monotonic() - began + 1) * server.A_SECOND
    assert get(listening) == (200, b"well\n")


def test_a_port_that_is_taken_is_tried_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "AGAIN", 0.1)
    address = Address("127.0.0.1", free_port())
    with socket.create_server(address):
        web = Server(address, {"/": lambda: Answer.text(200, "well")}, "[consumer] http_listen")
        web.start()
        wait_for(lambda: "[consumer] http_listen" in caplog.text)
        time.sleep(0.5)
    wait_for(lambda: answers(address))
    assert caplog.text.count("can't listen") == 1
    assert get(address)[0] == 200
    web.stop()
    wait_for(lambda: not answers(address))


@pytest.mark.parametrize("text", ["", "127.0.0.1:1", "[::1]:65535", " 0.0.0.0:9877 "])
def test_addresses(text: str) -> None:
    assert ListenAddress()(text) == text.strip()


@pytest.mark.parametrize(
    "text",
    ["127.0.0.1", "9877", ":9877", "localhost:9877", "127.0.0.1:0", "::1:9877", "[::1]", "a:b"],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        ListenAddress()(text)


def test_without_the_library_the_answer_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "bus_cache.web.exposition", raising=False)
    monkeypatch.delattr(bus_cache.web, "exposition", raising=False)  # where a test imported it
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    answer = server.scraped((), dict)()
    assert answer.status == 501
    assert b"prometheus_client is not installed: pip install 'bus-cache[metrics]'" in answer.body
