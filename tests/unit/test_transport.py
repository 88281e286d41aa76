"""What stands in files for oslo.messaging, and what kombu makes of it."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kombu.connection import Connection
from oslo_config import cfg
from oslo_messaging import TransportHost, TransportURL

from bus_cache import conf as configuration
from bus_cache.conf import ConfigurationError, messaging, opts
from consumers import transport
from consumers.transport import Transport

Load = Callable[[str], cfg.ConfigOpts]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads a configuration as the consumer does."""

    def load(text: str) -> cfg.ConfigOpts:
        path = tmp_path / "bus_cache.conf"
        path.write_text(text, encoding="utf-8")
        return configuration.load(
            "tester", ["--config-file", str(path)], opts.CONSUMER_GROUPS, messaging.register
        )

    return load


def one(load: Load, url: str, rabbit: str = "") -> Transport:
    """The one bus that a configuration names."""
    text = f"[consumer]\ntransport_url = {url}\n[oslo_messaging_rabbit]\n{rabbit}\n"
    (found,) = transport.transports(load(text))
    return found


def refused(load: Load, text: str) -> str:
    """The sentence with which buses are refused."""
    with pytest.raises(ConfigurationError) as error:
        transport.transports(load(text))
    said = str(error.value)
    assert said.isprintable()
    assert "LocationInfo" not in said
    return said


def brokers(found: Transport) -> list[tuple[str, int, str, str, str]]:
    """What kombu understands of the URLs: host, port, user, password, virtual host."""
    result = []
    for url in found.urls:
        made: Any = Connection(url)
        assert made.transport_cls == "amqp"
        result.append((made.hostname, made.port, made.userid, made.password, made.virtual_host))
    return result


# -- URLs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected", "shown"),
    [
        ("rabbit://u:p@h:1/v", [("h", 1, "u", "p", "v")], "rabbit://h:1/v"),
        ("rabbit://u:p@h/", [("h", 5672, "u", "p", "/")], "rabbit://h:5672/"),
        ("rabbit://u:p@h", [("h", 5672, "u", "p", "/")], "rabbit://h:5672/"),
        ("rabbit://", [("localhost", 5672, "guest", "guest", "/")], "rabbit://localhost:5672/"),
        ("rabbit://h", [("h", 5672, "guest", "guest", "/")], "rabbit://h:5672/"),
        ("rabbit://u:p@h//", [("h", 5672, "u", "p", "/")], "rabbit://h:5672/"),
        ("rabbit://u:p@h/%2F", [("h", 5672, "u", "p", "/")], "rabbit://h:5672/"),
        ("rabbit://u:p@h/a%2Fb%20c", [("h", 5672, "u", "p", "a/b c")], None),
        ("rabbit://u:p@h//nova", [("h", 5672, "u", "p", "/nova")], None),
        ("rabbit://u:p@[::1]:5/v", [("::1", 5, "u", "p", "v")], "rabbit://[::1]:5/v"),
        ("rabbit://u:p@[::1]/v", [("::1", 5672, "u", "p", "v")], "rabbit://[::1]:5672/v"),
        ("rabbit://u@d:p%40%2F%3A%25%23@h", [("h", 5672, "u@d", "p@/:%#", "/")], None),
        (
            "rabbit://u:p@h1:1,v:q@h2,w:r@[::1]:3/n",
            [("h1", 1, "u", "p", "n"), ("h2", 5672, "v", "q", "n"), ("::1", 3, "w", "r", "n")],
            "rabbit://h1:1,h2:5672,[::1]:3/n",
        ),
        ("kombu://u:p@h:1/v", [("h", 1, "u", "p", "v")], None),
    ],
)
def test_what_a_url_means(
    load: Load, url: str, expected: list[tuple[str, int, str, str, str]], shown: str | None
) -> None:
    """To kombu as to oslo.messaging, broker by broker."""
    found = one(load, url)
    assert brokers(found) == expected
    if shown is not None:
        assert found.shown == shown


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="$"), min_size=1, max_size=12)


@settings(deadline=None)
@given(username=NAMES, password=NAMES, virtual_host=NAMES)
def test_whatever_oslo_messaging_writes_arrives(
    username: str, password: str, virtual_host: str
) -> None:
    """Any user, password and virtual host."""
    conf = cfg.ConfigOpts()
    messaging.register(conf)
    configuration.register(conf, opts.CONSUMER_GROUPS)
    conf([], default_config_files=[])
    hosts = [TransportHost("h1", 1, username, password), TransportHost("h2", 2, "u", "p")]
    url = str(TransportURL(conf, "rabbit", virtual_host, hosts))
    conf.set_override("transport_url", [url], group="consumer")
    (found,) = transport.transports(conf)
    assert brokers(found) == [
        ("h1", 1, username, password, virtual_host),
        ("h2", 2, "u", "p", virtual_host),
    ]


@pytest.mark.parametrize("url", ["memory://", "memory:///", "kombu+memory://"])
def test_the_bus_in_memory(load: Load, url: str) -> None:
    """For tests and the demonstration: no broker, and nothing of the options."""
    found = one(load, url, "ssl = true\nrabbit_quorum_queue = true")
    assert found == Transport(("memory://",), "memory://", {})


@pytest.mark.parametrize("scheme", ["kafka", "fake", "http", "redis", "zmq", "amqps", "sqs"])
def test_other_buses_are_refused(load: Load, scheme: str) -> None:
    """With the option and the scheme."""
    said = refused(load, f"[consumer]\ntransport_url = {scheme}://u:SeKrEt@h\n")
    assert said.startswith("[consumer] transport_url can't be used: ")
    assert f"{scheme}://" in said
    assert "SeKrEt" not in said


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("localhost", "scheme"),
        ("//u:SeKrEt@h", "scheme"),
        ("rabbit://u:SeKrEt@h:port/v", "port"),
        ("rabbit://u:SeKrEt@h:99999/v", "port"),
        ("rabbit://u:SeKrEt@[::1/v", ""),
        # what should have been percent-encoded cuts the password in two
        ("rabbit://u:SeKrEt/HuSh@h/v", ""),
        ("rabbit://u:SeKrEt#HuSh@h/v", ""),
        ("rabbit://u:SeKrEt?HuSh@h/v", ""),
        ("rabbit://u:SeKrEt,HuSh@h/v", ""),
        ("rabbit://u:9182/HuSh@h/v", ""),
        ("rabbit://u:9182#HuSh@h/v", ""),
        ("rabbit://u:9182?HuSh@h/v", ""),
        ("rabbit://u:9182,HuSh@h/v", ""),
    ],
)
def test_a_wrong_url_is_refused_but_not_shown(load: Load, url: str, reason: str) -> None:
    """The sentence says more than that something was wrong."""
    said = refused(load, f"[consumer]\ntransport_url = {url}\n")
    assert said.startswith("[consumer] transport_url can't be used: ")
    for secret in ("SeKrEt", "HuSh", "9182"):
        assert secret not in said
    assert reason in said.lower()
    assert len(said.partition(": ")[2].split()) > 1


@pytest.mark.parametrize(
    "password", ["p", "a%40b", "a%2Fb%3Fc%23d%2Ce", "a:b", "a@b", "&=$$-_.+!*()"]
)
def test_what_is_shown_has_no_password(load: Load, password: str) -> None:
    """Neither its text nor what it stands for."""
    found = one(load, f"rabbit://u:SeKrEt{password}@h1,u:SeKrEt{password}@h2/v")
    assert found.shown == "rabbit://h1:5672,h2:5672/v"
    assert len(found.urls) == 2


# -- which bus -----------------------------------------------------------------------------

DEFAULT = "[DEFAULT]\ntransport_url = rabbit://default\n"
NOTIFICATIONS = "[oslo_messaging_notifications]\ntransport_url = rabbit://notifications\n"
OWN = "[consumer]\ntransport_url = rabbit://one\ntransport_url = rabbit://two/v\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (DEFAULT, ["rabbit://default:5672/"]),
        (NOTIFICATIONS, ["rabbit://notifications:5672/"]),
        (DEFAULT + NOTIFICATIONS, ["rabbit://notifications:5672/"]),
        (DEFAULT + NOTIFICATIONS + OWN, ["rabbit://one:5672/", "rabbit://two:5672/v"]),
        (DEFAULT + OWN, ["rabbit://one:5672/", "rabbit://two:5672/v"]),
        (DEFAULT + "[consumer]\ntransport_url =\n", ["rabbit://default:5672/"]),
        (
            DEFAULT + NOTIFICATIONS + "[consumer]\ntransport_url =\n",
            ["rabbit://notifications:5672/"],
        ),
    ],
)
def test_which_bus_is_read(load: Load, text: str, expected: list[str]) -> None:
    """Our own option, then that of notifications, then that of RPC; an emptied one is none."""
    assert [each.shown for each in transport.transports(load(text))] == expected


@pytest.mark.parametrize("text", ["", "[consumer]\ntransport_url =\n", "[DEFAULT]\ndebug = true\n"])
def test_no_bus_at_all_is_refused(load: Load, text: str) -> None:
    """oslo.messaging's default would be a broker on this machine, which nobody meant."""
    assert "[consumer] transport_url" in refused(load, text)


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("[DEFAULT]\ntransport_url = kafka://h\n", "[DEFAULT] transport_url"),
        (
            "[oslo_messaging_notifications]\ntransport_url = kafka://h\n",
            "[oslo_messaging_notifications] transport_url",
        ),
        ("[DEFAULT]\ntransport_url = rabbit://u:x$SeKrEt@h\n", "[DEFAULT] transport_url"),
    ],
)
def test_the_option_that_is_wrong_is_named(load: Load, text: str, option: str) -> None:
    """Also where it is not ours."""
    said = refused(load, text)
    assert said.startswith(f"{option} can't be used: ")
    assert "SeKrEt" not in said


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("rabbit://u:p@h/v", "rabbit://u:p@h/v"),
        ("rabbit://u:p@h/v", "rabbit://w:q@h:5672/v"),
        ("rabbit://h", "rabbit://h/%2F"),
        ("rabbit://h1,h2/v", "rabbit://h2,h1/v"),
        ("memory://", "memory://"),
    ],
)
def test_a_bus_that_is_named_twice_is_refused(load: Load, first: str, second: str) -> None:
    """Each message would be read by whoever comes first, at twice the price."""
    said = refused(load, f"[consumer]\ntransport_url = {first}\ntransport_url = {second}\n")
    assert said.startswith("[consumer] transport_url names ")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("rabbit://h/nova", "rabbit://h//nova"),
        ("rabbit://h/a", "rabbit://h/b"),
        ("rabbit://h:1/v", "rabbit://h:2/v"),
        ("rabbit://h/v", "rabbit://h/V"),
    ],
)
def test_buses_that_look_alike_are_several(load: Load, first: str, second: str) -> None:
    """As virtual hosts of one broker are; and people can tell them apart."""
    found = transport.transports(
        load(f"[consumer]\ntransport_url = {first}\ntransport_url = {second}\n")
    )
    assert len({each.shown for each in found}) == 2


# -- [oslo_messaging_rabbit] ---------------------------------------------------------------


def test_the_defaults_of_oslo_messaging(load: Load) -> None:
    """What every OpenStack service does where nothing is configured."""
    found = one(load, "rabbit://h")
    assert found.options == {"ssl": False, "heartbeat": 60, "login_method": "AMQPLAIN"}
    assert (found.durable, found.auto_delete, found.quorum) == (False, False, False)
    assert found.queue_arguments == {}


@pytest.mark.parametrize(
    ("rabbit", "durable", "auto_delete", "quorum", "arguments"),
    [
        ("amqp_durable_queues = true", True, False, False, {}),
        ("amqp_auto_delete = true", False, True, False, {}),
        ("rabbit_ha_queues = true", False, False, False, {"x-ha-policy": "all"}),
        ("rabbit_quorum_queue = true", True, False, True, {"x-queue-type": "quorum"}),
        (
            (
                "rabbit_quorum_queue = true\nrabbit_quorum_delivery_limit = 3\n"
                "rabbit_quorum_max_memory_length = 4\nrabbit_quorum_max_memory_bytes = 5"
            ),
            True,
            False,
            True,
            {
                "x-queue-type": "quorum",
                "x-delivery-limit": 3,
                "x-max-in-memory-length": 4,
                "x-max-in-memory-bytes": 5,
            },
        ),
        ("rabbit_quorum_delivery_limit = 3", False, False, False, {}),
        ("rabbit_transient_quorum_queue = true", False, False, False, {}),
    ],
)
def test_how_things_are_declared(
    load: Load,
    rabbit: str,
    durable: bool,
    auto_delete: bool,
    quorum: bool,
    arguments: dict[str, Any],
) -> None:
    """As oslo.messaging's driver declares exchanges and topics' queues."""
    found = one(load, "rabbit://h", rabbit)
    assert (found.durable, found.auto_delete, found.quorum) == (durable, auto_delete, quorum)
    assert found.queue_arguments == arguments


@pytest.mark.parametrize(
    ("rabbit", "expected"),
    [
        ("ssl = true", {}),
        ("ssl = false\nssl_ca_file = /ca", False),
        ("ssl = true\nssl_cert_file = /c\nssl_key_file = /k", {"certfile": "/c", "keyfile": "/k"}),
        (
            "ssl = true\nssl_ca_file = /ca",
            {"ca_certs": "/ca"},
        ),
        ("ssl = true\nssl_version = TLSv1_2", {"ssl_version": ssl.PROTOCOL_TLSv1_2}),
        # names are known in any case, and mean the same in each
        ("ssl = true\nssl_version = tlsv1_2", {"ssl_version": ssl.PROTOCOL_TLSv1_2}),
        ("ssl = true\nssl_version = TLSv1", {"ssl_version": ssl.PROTOCOL_TLSv1}),
        ("ssl = true\nssl_version = SSLv23", {"ssl_version": ssl.PROTOCOL_TLS}),
        ("ssl = true\nssl_version = sslv23", {"ssl_version": ssl.PROTOCOL_TLS}),
    ],
)
def test_tls(load: Load, rabbit: str, expected: Any) -> None:
    """As oslo.messaging hands it to kombu, which fills in the broker's name."""
    found = one(load, "rabbit://h", rabbit)
    if expected is not False:
        expected = {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": None, **expected}
    assert found.options["ssl"] == expected


def test_the_port_with_tls_is_the_one_that_nova_uses(load: Load) -> None:
    """oslo.messaging's default port does not depend on TLS (``_transform_transport_url``)."""
    assert brokers(one(load, "rabbit://u:p@h", "ssl = true"))[0][:2] == ("h", 5672)


@pytest.mark.parametrize("version", ["SSLv9", "TLS_SERVER", "PROTOCOL_TLS"])
def test_an_unknown_tls_version_is_refused(load: Load, version: str) -> None:
    """With option and value, as oslo.messaging would refuse it."""
    said = refused(
        load, DEFAULT + f"[oslo_messaging_rabbit]\nssl = true\nssl_version = {version}\n"
    )
    assert said.startswith(f"[oslo_messaging_rabbit] ssl_version = {version} can't be used")


@pytest.mark.parametrize(
    ("rabbit", "option", "expected"),
    [
        ("heartbeat_timeout_threshold = 0", "heartbeat", 0),
        ("heartbeat_timeout_threshold = 7", "heartbeat", 7),
        ("rabbit_login_method = PLAIN", "login_method", "PLAIN"),
        ("rabbit_login_method = EXTERNAL", "login_method", "EXTERNAL"),
    ],
)
def test_other_options(load: Load, rabbit: str, option: str, expected: object) -> None:
    """Those of a connection."""
    assert one(load, "rabbit://h", rabbit).options[option] == expected


@pytest.mark.parametrize(
    ("query", "option", "expected"),
    [
        ("ssl=1", "ssl", {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": None}),
        ("heartbeat_timeout_threshold=7", "heartbeat", 7),
        ("rabbit_login_method=PLAIN", "login_method", "PLAIN"),
    ],
)
def test_a_url_may_carry_options_of_its_own(
    load: Load, query: str, option: str, expected: object
) -> None:
    """oslo.messaging lets them win over the group's (``ConfigOptsProxy``): some deployment tools
    write all of them so."""
    assert one(load, f"rabbit://u:p@h/v?{query}").options[option] == expected


def test_a_url_may_say_how_things_are_declared(load: Load) -> None:
    """The same for declarations."""
    found = one(load, "rabbit://u:p@h/v?rabbit_quorum_queue=true&amqp_auto_delete=true")
    assert (found.durable, found.quorum, found.auto_delete) == (True, True, True)


@pytest.mark.parametrize(
    ("rabbit", "option"),
    [
        ("ssl = maybe", "ssl = maybe"),
        ("heartbeat_timeout_threshold = soon", "heartbeat_timeout_threshold = soon"),
        ("rabbit_login_method = GUESS", "rabbit_login_method = GUESS"),
        ("rabbit_quorum_queue = perhaps", "rabbit_quorum_queue = perhaps"),
    ],
)
def test_a_wrong_option_of_oslo_messaging_is_refused(load: Load, rabbit: str, option: str) -> None:
    """In a sentence, as one of ours."""
    said = refused(load, DEFAULT + f"[oslo_messaging_rabbit]\n{rabbit}\n")
    assert f"[oslo_messaging_rabbit] {option} can't be used" in said


def test_a_quorum_queue_is_not_mirrored(load: Load) -> None:
    """oslo.messaging refuses both at once; so no exchange or queue can be like that."""
    said = refused(
        load,
        DEFAULT + "[oslo_messaging_rabbit]\nrabbit_quorum_queue = true\nrabbit_ha_queues = true\n",
    )
    assert "rabbit_ha_queues" in said
