"""How to reach Redis: one ``redis_url`` for a single server, Sentinel or Cluster, TLS or not."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets  # noqa: F401 - redis-py imports it with its first connection: a boot would wait
import socket
import ssl
import urllib.parse
from collections.abc import Callable
from typing import Any, Union

import redis
import redis.cluster
import redis.connection
import redis.exceptions
import redis.sentinel
from redis.backoff import NoBackoff
from redis.retry import Retry

Client = Union[redis.Redis, redis.cluster.RedisCluster]

Connection = redis.connection.AbstractConnection

AWAY = (redis.RedisError, redis.exceptions.RedisClusterException, OSError)
"""What a client raises where Redis can't be used. A Cluster's errors are a family of their own."""

GARBLED = (ValueError, TypeError, AttributeError, LookupError)
"""What a client, or who reads its answers, raises where what answers is no Redis."""

CLOSED = redis.ConnectionError
"""What a client raises where the server hung up, as after a restart or a failover."""

_SCHEMES = (
    "redis://[user:password@]host:6379/0",
    "rediss://... (TLS)",
    "unix:///path/to/socket?db=0",
    "redis+sentinel://host1:26379,host2:26379/mymaster/0",
    "redis+cluster://host1:6379,host2:6379",
)
_ESCAPE = "; in a password, write '/' as %2F, ':' as %3A, '@' as %40, '#' as %23, '?' as %3F"


@dataclasses.dataclass(frozen=True)
class Target:
    """A Redis to connect to: what a ``redis_url`` says, in parts.

    ``kind`` is ``single``, ``unix``, ``sentinel`` or ``cluster``; ``nodes`` are (host, port);
    ``path`` is a unix socket's; ``service`` is the name that the Sentinels watch.
    """

    kind: str
    nodes: tuple[tuple[str, int], ...] = ()
    path: str = ""
    service: str = ""
    database: int = 0
    username: str | None = None
    password: str | None = dataclasses.field(default=None, repr=False)
    tls: bool = False

    def __str__(self) -> str:
        """Return the target for people: never with a password in it."""
        if self.kind == "unix":
            return f"unix://{self.path}?db={self.database}"
        scheme = "rediss" if self.tls else "redis"
        if self.kind != "single":
            scheme += f"+{self.kind}"
        where = ",".join(f"[{h}]:{p}" if ":" in h else f"{h}:{p}" for h, p in self.nodes)
        tail = {"single": f"/{self.database}", "sentinel": f"/{self.service}/{self.database}"}
        return f"{scheme}://{where}{tail.get(self.kind, '')}"


@dataclasses.dataclass(frozen=True)
class Tls:
    """Files for TLS to Redis; empty: the system's certificate authorities, no client
    certificate.
    """

    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""


def parse(url: str) -> Target:
    """Take a ``redis_url`` apart.

    :raises ValueError: with one sentence for the operator. It never repeats the URL, which
        may hold a password.
    """
    scheme, separator, rest = url.partition("://")
    tls = scheme.startswith("rediss")
    kind = {
        "redis": "single",
        "rediss": "single",
        "unix": "unix",
        "redis+sentinel": "sentinel",
        "rediss+sentinel": "sentinel",
        "redis+cluster": "cluster",
        "rediss+cluster": "cluster",
    }.get(scheme)
    if not separator or kind is None:
        raise ValueError("it must have one of the forms " + ", ".join(_SCHEMES))
    # by hand: urllib.parse refuses several hosts of which one is an IPv6 address
    if "#" in rest:
        raise ValueError("it has a '#'" + _ESCAPE)
    rest, _, parameters = rest.partition("?")
    netloc, slash, path = rest.partition("/")
    try:
        query = urllib.parse.parse_qs(parameters, strict_parsing=True) if parameters else {}
    except ValueError:
        query = {"": []}
    if set(query) - ({"db"} if kind == "unix" else set()):
        raise ValueError("it has parameters behind a '?' that are unknown" + _ESCAPE)
    userinfo, _, hosts = netloc.rpartition("@")
    if "@" in userinfo and "," in userinfo:
        raise ValueError("user and password stand once, in front of all hosts" + _ESCAPE)
    username, _, password = userinfo.partition(":")
    credentials: dict[str, Any] = {
        "username": urllib.parse.unquote(username) or None,
        "password": urllib.parse.unquote(password) or None,
        "tls": tls,
    }
    if kind == "unix":
        if hosts or not path:
            raise ValueError("a unix socket is written unix:///path/to/socket?db=0")
        database = query.get("db", ["0"])[-1]
        return Target(
            kind,
            path=urllib.parse.unquote(slash + path),
            database=_database(database),
            **{**credentials, "tls": False},
        )
    default_port = 26379 if kind == "sentinel" else 6379
    nodes = tuple(_node(text, default_port) for text in hosts.split(","))
    path = path.strip("/")
    if kind == "single":
        if len(nodes) != 1:
            raise ValueError(
                "several hosts need redis+sentinel:// or redis+cluster:// to say what they are"
            )
        return Target(kind, nodes, database=_database(path or "0"), **credentials)
    if kind == "cluster":
        if path not in ("", "0"):
            raise ValueError("a Redis Cluster has database 0 only")
        return Target(kind, nodes, **credentials)
    service, _, database = path.partition("/")
    if not service:
        raise ValueError("a Sentinel URL names its service: redis+sentinel://host:26379/mymaster/0")
    return Target(
        kind,
        nodes,
        service=urllib.parse.unquote(service),
        database=_database(database or "0"),
        **credentials,
    )


def _database(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise ValueError("what stands for the database is no number" + _ESCAPE)
    return int(text)


def _node(text: str, default_port: int) -> tuple[str, int]:
    try:
        parts = urllib.parse.urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.path or any(c.isspace() for c in host):
        raise ValueError("one of its parts is no host and port" + _ESCAPE)
    return host, port or default_port


def connect(
    target: Target,
    *,
    connect_timeout: float,
    read_timeout: float,
    tls: Tls | None = None,
    sentinel_username: str | None = None,
    sentinel_password: str | None = None,
    client_name: str = "bus-cache",
    on_connection: Callable[[Connection], None] | None = None,
) -> Client:
    """Return a client for a target. Nothing is sent before its first command, except to a Cluster.

    :param connect_timeout: seconds for the TCP connection.
    :param read_timeout: seconds for each read of an answer. redis-py's timeouts are for one read,
        not for a whole call.
    :param on_connection: told of each connection that is made, before it is used.
    :param tls: files for TLS; used where the target says TLS, for Sentinels too.
    :returns: a client that answers bytes and tries each command once: who calls decides
        whether a second try is worth its time. (redis-py's own default is ten tries.)
    """
    tls = tls or Tls()
    retry: Retry = Retry(NoBackoff(), 0)
    secure: dict[str, Any] = {}
    if target.tls:
        secure = {
            "ssl": True,
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": True,
            "ssl_ca_certs": tls.ca_file or None,
            "ssl_certfile": tls.cert_file or None,
            "ssl_keyfile": tls.key_file or None,
        }
    common: dict[str, Any] = {
        "username": target.username,
        "password": target.password,
        "socket_connect_timeout": connect_timeout,
        "socket_timeout": read_timeout,
        "socket_keepalive": True,
        "client_name": client_name,
        "retry": retry,
        "health_check_interval": 0,
        # RESP3 would bring what we do not use: push messages by which a server may raise our
        # timeouts (redis-py 8), and one more round trip for each new connection
        "protocol": 2,
    }
    if on_connection is not None:
        common["redis_connect_func"] = _introduction(on_connection, target)
    if target.kind == "cluster":
        nodes = [redis.cluster.ClusterNode(host, port) for host, port in target.nodes]
        return redis.cluster.RedisCluster(startup_nodes=nodes, **{**common, **secure})
    if target.kind == "unix":
        unix = {k: v for k, v in common.items() if k != "socket_keepalive"}
        return redis.Redis(unix_socket_path=target.path, db=target.database, **unix)
    if target.kind == "sentinel":
        sentinels = redis.sentinel.Sentinel(
            target.nodes,
            sentinel_kwargs={
                "username": sentinel_username or None,
                "password": sentinel_password or None,
                "socket_connect_timeout": connect_timeout,
                "socket_timeout": read_timeout,
                "retry": retry,
                "protocol": 2,
                "redis_connect_func": common.get("redis_connect_func"),
                **secure,
            },
        )
        master: redis.Redis = sentinels.master_for(
            target.service, db=target.database, **{**common, **secure}
        )
        return master
    host, port = target.nodes[0]
    return redis.Redis(host=host, port=port, db=target.database, **{**common, **secure})


def _introduction(
    tell: Callable[[Connection], None], target: Target
) -> Callable[[Connection], None]:
    """Return what redis-py calls with a new connection in place of its own greeting.

    A Cluster's client greets by itself, and calls this one after it.
    """

    def introduce(connection: Connection) -> None:
        tell(connection)
        if target.kind != "cluster":
            connection.on_connect()

    return introduce


def shut_down(connection: Connection) -> None:
    """End a connection that another thread reads from: its read returns, and it closes the socket.

    redis-py's own ``disconnect`` would take the parser from under the reader.
    """
    sock = getattr(connection, "_sock", None)
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def check_files(tls: Tls) -> None:
    """Load the files as a connection will do.

    :raises ValueError: with one sentence for the operator that names the file.
    """
    for path in filter(None, (tls.ca_file, tls.cert_file, tls.key_file)):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise ValueError(f"{path} can't be read: {error.strerror}") from None
    context = ssl.create_default_context()
    try:
        if tls.ca_file:
            context.load_verify_locations(tls.ca_file)
        if tls.cert_file:
            # a key with a pass phrase would have it asked for at the terminal
            context.load_cert_chain(tls.cert_file, tls.key_file or None, password="")
    except ssl.SSLError as error:
        files = " or ".join(filter(None, (tls.ca_file, tls.cert_file, tls.key_file)))
        raise ValueError(f"{files} is no PEM file of that kind: {explain(error)}") from None


def garbled(error: BaseException) -> str:
    """Return what there is to say of one of :data:`GARBLED`."""
    return f"an answer can't be understood ({type(error).__name__}): is this a Redis?"


def explain(error: BaseException) -> str:
    """Return why Redis can't be used: on one line, never empty, never with a password.

    That no Sentinel answers is told by redis-py with the settings of its connections behind
    " : ", before 8.0 passwords too.
    """
    text = " ".join(str(error).split())
    if isinstance(error, redis.sentinel.MasterNotFoundError):
        text = text.partition(" : ")[0]
    if "EOF occurred in violation of protocol" in text:
        text += " Does it ask for a client certificate?"
    return text[:300] or type(error).__name__
