"""``redis_url``: what it means, what is refused and how, and which client it makes."""

from __future__ import annotations

import contextlib
import socket
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
import redis
import redis.cluster
import redis.sentinel
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bus_cache import connect
from bus_cache.connect import Target

TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)

# -- parse ---------------------------------------------------------------------------------


def single(host: str = "h", port: int = 6379, **fields: Any) -> Target:
    """A single server."""
    return Target("single", ((host, port),), **fields)


@pytest.mark.parametrize(
    ("url", "expected", "shown"),
    [
        ("redis://h", single(), "redis://h:6379/0"),
        ("redis://h/", single(), "redis://h:6379/0"),
        ("redis://h:7000/3", single(port=7000, database=3), "redis://h:7000/3"),
        ("redis://127.0.0.1:6379/0", single("127.0.0.1"), "redis://127.0.0.1:6379/0"),
        ("redis://[::1]", single("::1"), "redis://[::1]:6379/0"),
        ("redis://[2001:db8::1]:7000/1", single("2001:db8::1", 7000, database=1), None),
        ("redis://u:p@h", single(username="u", password="p"), "redis://h:6379/0"),
        ("redis://:p@h", single(password="p"), "redis://h:6379/0"),
        ("redis://u@h", single(username="u"), "redis://h:6379/0"),
        ("redis://u:@h", single(username="u"), "redis://h:6379/0"),
        ("redis://u:p@[::1]:1/2", single("::1", 1, database=2, username="u", password="p"), None),
        ("redis://:a:b@h", single(password="a:b"), None),
        ("redis://:a@b@h", single(password="a@b"), None),
        ("redis://%3Au:%40%3A%2F%23%25@h", single(username=":u", password="@:/#%"), None),
        ("redis://:%C3%A4%20+@h", single(password="ä +"), None),
        ("rediss://h:6380/1", single(port=6380, database=1, tls=True), "rediss://h:6380/1"),
        ("rediss://u:p@h", single(username="u", password="p", tls=True), "rediss://h:6379/0"),
        ("unix:///run/redis.sock", Target("unix", path="/run/redis.sock"), None),
        (
            "unix:///run/redis.sock?db=2",
            Target("unix", path="/run/redis.sock", database=2),
            "unix:///run/redis.sock?db=2",
        ),
        (
            "unix://u:p@/run/a%20b.sock",
            Target("unix", path="/run/a b.sock", username="u", password="p"),
            "unix:///run/a b.sock?db=0",
        ),
        (
            "redis+sentinel://h1:26380,h2/mymaster/1",
            Target("sentinel", (("h1", 26380), ("h2", 26379)), service="mymaster", database=1),
            "redis+sentinel://h1:26380,h2:26379/mymaster/1",
        ),
        ("redis+sentinel://h/m", Target("sentinel", (("h", 26379),), service="m"), None),
        (
            "rediss+sentinel://u:p%2F@h1,[::1]:1/m/0",
            Target(
                "sentinel",
                (("h1", 26379), ("::1", 1)),
                service="m",
                username="u",
                password="p/",
                tls=True,
            ),
            "rediss+sentinel://h1:26379,[::1]:1/m/0",
        ),
        (
            "redis+cluster://h1:6379,h2:6380",
            Target("cluster", (("h1", 6379), ("h2", 6380))),
            "redis+cluster://h1:6379,h2:6380",
        ),
        ("redis+cluster://h1/0", Target("cluster", (("h1", 6379),)), None),
        (
            "redis+cluster://[::1]:1,[::2]:2,[::3]",
            Target("cluster", (("::1", 1), ("::2", 2), ("::3", 6379))),
            "redis+cluster://[::1]:1,[::2]:2,[::3]:6379",
        ),
        (
            "redis+cluster://h1,[::2]:2",
            Target("cluster", (("h1", 6379), ("::2", 2))),
            "redis+cluster://h1:6379,[::2]:2",
        ),
        (
            "rediss+cluster://:p@h1:1,h2:2",
            Target("cluster", (("h1", 1), ("h2", 2)), password="p", tls=True),
            "rediss+cluster://h1:1,h2:2",
        ),
    ],
)
def test_what_a_url_means(url: str, expected: Target, shown: str | None) -> None:
    """Every form that is documented, and how it is shown."""
    target = connect.parse(url)
    assert target == expected
    if shown is not None:
        assert str(target) == shown


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "forms"),
        ("redis", "forms"),
        ("redis:/h", "forms"),
        ("h:6379", "forms"),
        ("http://h", "forms"),
        ("redis+unix:///x", "forms"),
        (" redis://h", "forms"),
        ("redis://", "host"),
        ("redis:///0", "host"),
        ("redis://:6379", "host"),
        ("redis://h:port", "host"),
        ("redis://h:70000", "host"),
        ("redis://h:-1", "host"),
        ("redis://h h", "host"),
        ("redis://[::1", "host and port"),
        ("redis://h/one", "database"),
        ("redis://h/-1", "database"),
        ("redis://h/1.5", "database"),
        ("redis://h/0/1", "database"),
        ("redis://h/\u0663", "database"),
        ("redis://h/9999999999", "database"),
        ("redis://h?db=1", "parameters"),
        ("redis://h/0?timeout=3", "parameters"),
        ("redis://h/0#x", "%23"),
        ("redis://h1,h2/0", "sentinel"),
        ("unix://", "unix"),
        ("unix://host/path", "unix"),
        ("unix:///path?db=x", "database"),
        ("unix:///path?database=1", "parameters"),
        ("redis+sentinel://h", "mymaster"),
        ("redis+sentinel://h/", "mymaster"),
        ("redis+sentinel://h/m/x", "database"),
        ("redis+sentinel://h1,,h2/m", "host"),
        ("redis+cluster://h/1", "database 0"),
        ("redis+cluster://h1,h2:x", "host"),
        # every host with its credentials, as oslo.messaging's URLs have it: here they come once
        ("redis+cluster://u:p@h1:1,u:p@h2:2", "@"),
        ("redis+sentinel://u:p@h1,u:p@h2/m", "@"),
    ],
)
def test_what_is_refused(url: str, reason: str) -> None:
    """In one sentence that says what is wrong."""
    with pytest.raises(ValueError, match=reason) as error:
        connect.parse(url)
    assert_sentence(str(error.value))


@pytest.mark.parametrize(
    ("url", "nodes"),
    [
        ("redis+cluster://h1:1,[::1]:2", (("h1", 1), ("::1", 2))),
        ("redis+sentinel://:p@h1,[::1]:2,h3/m", (("h1", 26379), ("::1", 2), ("h3", 26379))),
    ],
)
def test_names_and_ipv6_addresses_in_one_url(
    monkeypatch: pytest.MonkeyPatch, url: str, nodes: tuple[tuple[str, int], ...]
) -> None:
    """Since 3.13.2, 3.12.9, 3.11.12 and 3.10.17, Python takes such a host part as a whole for a
    broken IPv6 address (CVE-2025-0938)."""
    split = urllib.parse.urlsplit

    def newer(text: str, *arguments: Any, **options: Any) -> Any:
        parts = split(text, *arguments, **options)
        before, bracket, behind = parts.netloc.rpartition("@")[2].partition("[")
        port = behind.partition("]")[2]
        if bracket and (before or port[:1] not in ("", ":")):
            raise ValueError("Invalid IPv6 URL")
        return parts

    monkeypatch.setattr(urllib.parse, "urlsplit", newer)
    assert connect.parse(url).nodes == nodes


def assert_sentence(text: str) -> None:
    """One line that people can read."""
    assert text.strip() == text
    assert text
    assert text.isprintable()


@settings(deadline=None)
@given(text=st.one_of(TEXT, st.from_regex(r"(redis|rediss|unix)(\+[a-z]+)?://[ -~]{0,40}")))
@example("redis://\ud800")
@example("redis://[\u2100]")
@example("redis://h\u2100")
@example("redis+sentinel://[]/m")
def test_whatever_is_written_is_understood_or_refused(text: str) -> None:
    """Only ValueError; and what is shown of it means the same."""
    try:
        target = connect.parse(text)
    except ValueError as error:
        assert_sentence(str(error))
        return
    assert target.kind in ("single", "unix", "sentinel", "cluster")
    assert all(host and 0 < port < 65536 for host, port in target.nodes)
    assert bool(target.nodes) is (target.kind != "unix")
    if target.username is None and target.password is None and "%" not in text:
        assert connect.parse(str(target)) == target


@settings(deadline=None)
@given(username=TEXT, password=TEXT)
def test_any_password_can_be_written(username: str, password: str) -> None:
    """With what is special in a URL percent-encoded."""
    userinfo = f"{quote(username, safe='')}:{quote(password, safe='')}"
    for url in (
        f"redis://{userinfo}@h:1/2",
        f"unix://{userinfo}@/path",
        f"redis+sentinel://{userinfo}@h1,h2:2/m",
        f"rediss+cluster://{userinfo}@h1,[::1]:2",
    ):
        target = connect.parse(url)
        assert (target.username, target.password) == (username, password)


URLS_WITH_PASSWORD = [
    "redis://:{}@h:6379/0",
    "redis://user:{}@h:6379/0",
    "rediss://user:{}@h",
    "unix://user:{}@/run/redis.sock?db=0",
    "unix:///run/redis.sock?db=0&password={}",
    "redis+sentinel://user:{}@h1:26379,h2:26379/mymaster/0",
    "redis+sentinel://:{}@h1",
    "redis+cluster://user:{}@h1:6379,h2:6379",
    "redis+cluster://user:{0}@h1:6379,user:{0}@h2:6379",
    "redis://user:{}@h:6379/0?db=1",
    "redis://user:{}@h:port/0",
    "redis://user:{}@h:6379/zero",
    "redis://user:{}@",
    "redis//user:{}@h",
    "http://user:{}@h",
    "redis:{}@h",
    "{}",
]


@pytest.mark.parametrize("url", URLS_WITH_PASSWORD)
def test_a_password_is_never_shown(url: str) -> None:
    """Neither of its halves: also where it holds what should have been percent-encoded."""
    shown: dict[str, str] = {}
    for special in ["", *"/?#@:[]%,;=&+ \\\"'\n\t$|"]:
        for halves in (("SeKrEt", "HuShHuSh"), ("9182", "HuShHuSh"), ("9182", "405")):
            text = url.format(special.join(halves))
            try:
                target = connect.parse(text)
            except ValueError as error:
                said = str(error)
            else:
                said = f"{target} {target!r}"
            if any(half in said for half in halves):
                shown[text] = said
    assert not shown


def test_a_forgotten_host_does_not_show_the_password() -> None:
    """What was meant as a password stands where a port does."""
    with pytest.raises(ValueError, match="host") as error:
        connect.parse("redis://user:SeKrEt")
    assert "SeKrEt" not in str(error.value)


def test_an_error_has_no_cause_that_shows_the_password() -> None:
    """A traceback prints an exception's causes too."""
    with pytest.raises(ValueError, match="host") as error:
        connect.parse("redis://user:SeKrEt/HuSh@h")
    chain: BaseException | None = error.value
    while chain is not None and not chain.__suppress_context__:
        assert "SeKrEt" not in str(chain)
        chain = chain.__cause__ or chain.__context__


# -- connect -------------------------------------------------------------------------------


def make(url: str, **options: Any) -> Any:
    """A client with the timeouts of these tests."""
    return connect.connect(connect.parse(url), connect_timeout=0.25, read_timeout=0.125, **options)


def options_of(client: Any) -> dict[str, Any]:
    """What a client's connections are made of."""
    found: dict[str, Any] = client.connection_pool.connection_kwargs
    return found


def test_a_single_server() -> None:
    """Its parts arrive where redis-py wants them."""
    client = make("redis://u:p@[::1]:7000/3", client_name="tester")
    assert type(client) is redis.Redis
    assert client.connection_pool.connection_class is redis.Connection
    found = options_of(client)
    assert (found["host"], found["port"], found["db"]) == ("::1", 7000, 3)
    assert (found["username"], found["password"]) == ("u", "p")
    assert (found["socket_connect_timeout"], found["socket_timeout"]) == (0.25, 0.125)
    assert found["client_name"] == "tester"
    assert client.connection_pool.get_encoder().decode_responses is False


def test_a_unix_socket() -> None:
    """It has a path and no host."""
    client = make("unix://u:p@/run/redis.sock?db=2")
    assert type(client) is redis.Redis
    assert client.connection_pool.connection_class is redis.UnixDomainSocketConnection
    found = options_of(client)
    assert (found["path"], found["db"]) == ("/run/redis.sock", 2)
    assert (found["username"], found["password"]) == ("u", "p")
    assert found["socket_timeout"] == 0.125
    client.connection_pool.make_connection()  # takes all its arguments


TLS = connect.Tls("/ca.pem", "/cert.pem", "/key.pem")


@pytest.mark.parametrize(
    ("tls", "files"),
    [(None, (None, None, None)), (TLS, ("/ca.pem", "/cert.pem", "/key.pem"))],
)
def test_tls_checks_the_servers_certificate(tls: connect.Tls | None, files: Any) -> None:
    """Against the given authorities, or else the system's; and its name."""
    client = make("rediss://h:6380", tls=tls)
    assert client.connection_pool.connection_class is redis.SSLConnection
    found = options_of(client)
    assert (found["ssl_ca_certs"], found["ssl_certfile"], found["ssl_keyfile"]) == files
    assert found["ssl_cert_reqs"] in ("required", 2)
    assert found["ssl_check_hostname"] is True


@pytest.mark.parametrize("url", ["redis://h", "unix:///s", "redis+sentinel://h/m"])
def test_tls_files_alone_make_no_tls(url: str) -> None:
    """The URL says whether."""
    client = make(url, tls=TLS)
    assert not issubclass(client.connection_pool.connection_class, redis.SSLConnection)


def test_sentinel() -> None:
    """The credentials of the URL are Redis', those of the options the Sentinels'."""
    client = make(
        "redis+sentinel://u:p@h1:1,h2/mymaster/4", sentinel_username="su", sentinel_password="sp"
    )
    pool = client.connection_pool
    assert isinstance(client, redis.Redis)
    assert isinstance(pool, redis.sentinel.SentinelConnectionPool)
    assert pool.service_name == "mymaster"
    assert pool.is_master
    found = options_of(client)
    assert (found["db"], found["username"], found["password"]) == (4, "u", "p")
    assert (found["socket_connect_timeout"], found["socket_timeout"]) == (0.25, 0.125)
    sentinels = [options_of(each) for each in pool.sentinel_manager.sentinels]
    assert [(each["host"], each["port"]) for each in sentinels] == [("h1", 1), ("h2", 26379)]
    for each in sentinels:
        assert (each["username"], each["password"]) == ("su", "sp")
        assert (each["socket_connect_timeout"], each["socket_timeout"]) == (0.25, 0.125)


def test_sentinel_with_tls_uses_it_on_both_ways() -> None:
    """To the Sentinels and to Redis."""
    client = make("rediss+sentinel://h1,h2/m", tls=TLS)
    pool = client.connection_pool
    assert issubclass(pool.connection_class, redis.SSLConnection)
    assert options_of(client)["ssl_ca_certs"] == "/ca.pem"
    for each in pool.sentinel_manager.sentinels:
        assert each.connection_pool.connection_class is redis.SSLConnection
        assert options_of(each)["ssl_ca_certs"] == "/ca.pem"


class Listener:
    """Counts connections; closes each at once, or keeps it and never answers."""

    def __init__(self, *, silent: bool) -> None:
        self.count = 0
        self._silent = silent
        self._kept: list[socket.socket] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.count += 1
            if self._silent:
                self._kept.append(connection)
            else:
                connection.close()

    def close(self) -> None:
        """Stop listening, let go of what was kept."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in self._kept:
            connection.close()


@pytest.fixture(params=[False, True], ids=["closes", "silent"])
def listener(request: pytest.FixtureRequest) -> Iterator[Listener]:
    """Something that is no Redis."""
    server = Listener(silent=request.param)
    yield server
    server.close()


@pytest.mark.parametrize("url", ["redis://127.0.0.1:{}", "redis+sentinel://127.0.0.1:{}/m"])
def test_a_command_is_tried_once(url: str, listener: Listener) -> None:
    """redis-py by itself tries again and again, for up to a minute."""
    client = make(url.format(listener.port))
    with pytest.raises((redis.ConnectionError, redis.TimeoutError)):
        client.ping()
    assert listener.count == 1


def test_a_cluster_that_does_not_answer_is_tried_once(listener: Listener) -> None:
    """A Cluster's client asks for its nodes at once."""
    with pytest.raises((redis.RedisError, redis.exceptions.RedisClusterException)):
        make(f"redis+cluster://127.0.0.1:{listener.port}")
    assert listener.count == 1
