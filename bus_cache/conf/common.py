"""``[bus_cache]``: where the index is. Means the same in bus_cache.conf and in nova.conf."""

from __future__ import annotations

from oslo_config import cfg, types

from bus_cache import connect, names
from bus_cache.conf.text import paragraphs
from bus_cache.conf.types import FiniteFloat

GROUP = "bus_cache"


class RedisUrl(types.String):
    """An oslo.config type: a URL that :func:`bus_cache.connect.parse` understands."""

    def __call__(self, value: str) -> str:
        """Return the value; ValueError, without the value, where it is no such URL."""
        text: str = super().__call__(value)
        connect.parse(text)
        return text


class Keyspace(types.String):
    """An oslo.config type: a keyspace's name."""

    def __call__(self, value: str) -> str:
        """Return the value; ValueError where it is no keyspace."""
        text: str = super().__call__(value)
        names.Keys(text)
        return text


OPTIONS = [
    cfg.Opt(
        "redis_url",
        type=RedisUrl(),
        default="redis://127.0.0.1:6379/0",
        secret=True,
        help=paragraphs(
            """
            The Redis (or Valkey) that holds the index, one of

            * redis://[user:password@]host:6379/0
            * rediss://[user:password@]host:6379/0 (TLS)
            * unix:///path/to/socket?db=0
            * redis+sentinel://host1:26379,host2:26379/mymaster/0
            * redis+cluster://host1:6379,host2:6379

            and rediss+sentinel://, rediss+cluster:// for these with TLS. Characters such as @ : / #
            in a password are written as %40 %3A %2F %23.
            """
        ),
    ),
    cfg.Opt(
        "keyspace",
        type=Keyspace(),
        default="bus_cache",
        help=paragraphs(
            """
            First part of every key, in braces: letters, digits, '_', '.' and '-'. Clouds or regions
            that share one Redis take one each. The consumer and the schedulers must agree on it.
            """
        ),
    ),
    cfg.Opt(
        "connect_timeout",
        type=FiniteFloat(min=0.001, max=60),
        default=2.0,
        help=paragraphs(
            """
            Seconds to wait for a connection to Redis. The weigher never waits longer than its own
            [image_cache_weigher] time_budget, whatever stands here.
            """
        ),
    ),
    cfg.Opt(
        "read_timeout",
        type=FiniteFloat(min=0.001, max=60),
        default=5.0,
        help=paragraphs(
            """
            Seconds to wait for each answer of Redis; long enough for a fork or a failover of a busy
            server. The weigher never waits longer than its own [image_cache_weigher] time_budget,
            whatever stands here.
            """
        ),
    ),
    cfg.StrOpt(
        "tls_ca_file",
        default="",
        help="File of the certificate authorities that sign Redis' certificate (PEM), for rediss "
        "URLs. Empty: the system's.",
    ),
    cfg.StrOpt(
        "tls_cert_file",
        default="",
        help="File of a client certificate (PEM), where Redis asks for one. Empty: none.",
    ),
    cfg.StrOpt(
        "tls_key_file",
        default="",
        help="File of the client certificate's key (PEM). Empty: none.",
    ),
    cfg.StrOpt(
        "sentinel_username",
        default="",
        help="User name at the Sentinels, which is not the one at Redis. Empty: none.",
    ),
    cfg.StrOpt(
        "sentinel_password",
        default="",
        secret=True,
        help="Password at the Sentinels, which is not the one at Redis. Empty: none.",
    ),
]
