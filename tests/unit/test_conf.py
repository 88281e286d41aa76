"""Configuration: defaults, several files, and wrong values refused in one sentence."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from oslo_config import cfg

from bus_cache import conf as configuration
from bus_cache.conf import ConfigurationError, common, consumer, image_cache_weigher, opts

ALL_GROUPS = [
    *opts.CONSUMER_GROUPS,
    (image_cache_weigher.GROUP, image_cache_weigher.OPTIONS),
]

Load = Callable[..., cfg.ConfigOpts]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads a configuration from the text of one or more files."""

    def load(*texts: str, arguments: tuple[str, ...] = ()) -> cfg.ConfigOpts:
        command = list(arguments)
        for number, text in enumerate(texts or ("",)):
            path = tmp_path / f"{number}.conf"
            path.write_text(text, encoding="utf-8")
            command += ["--config-file", str(path)]
        return configuration.load("tester", command, ALL_GROUPS)

    return load


def values(conf: cfg.ConfigOpts) -> dict[str, dict[str, Any]]:
    """All options of our groups."""
    return {name: {o.dest: conf[name][o.dest] for o in options} for name, options in ALL_GROUPS}


DEFAULTS: dict[str, dict[str, Any]] = {
    "bus_cache": {
        "redis_url": "redis://127.0.0.1:6379/0",
        "keyspace": "bus_cache",
        "connect_timeout": 2.0,
        "read_timeout": 5.0,
        "tls_ca_file": "",
        "tls_cert_file": "",
        "tls_key_file": "",
        "sentinel_username": "",
        "sentinel_password": "",
    },
    "consumer": {
        "transport_url": [],
        "topics": ["notifications", "versioned_notifications"],
        "exchanges": ["nova", "glance"],
        "pool": "bus_cache",
        "prefetch": 500,
        "queue_max_bytes": 256 * 1024 * 1024,
        "queue_expires": 3 * 24 * 3600,
        "ignore_hosts": [],
        "live_migration_evidence": True,
        "gap_grace": 5.0,
        "agent_timeout": 900.0,
        "host_timeout": 86400.0,
        "cloud": "",
        "reconcile_interval": 3600,
        "http_listen": "127.0.0.1:9877",
    },
    "image_cache_weigher": {
        "multiplier": 5.0,
        "small_image_size": 100,
        "large_image_size": 2048,
        "most_builds": 4,
        "most_imbalance": 0.03,
        "time_budget": 0.05,
        "metrics_folder": "",
    },
}


def test_defaults(load: Load) -> None:
    """An empty file is a configuration; defaults are what operators rely on."""
    assert values(load()) == DEFAULTS


def test_values_of_a_file(load: Load) -> None:
    """As they are written."""
    conf = load(
        """
        [bus_cache]
        redis_url = rediss+sentinel://u:p%40@h1,h2:1/m/3
        keyspace = region-1.cell_2
        connect_timeout = 0.5
        [consumer]
        transport_url = rabbit://u:p@h1:5672,u:p@h2:5672/cell1
        transport_url = rabbit://u:p@h3/cell2
        topics = a , b.c
        exchanges = nova
        pool =
        queue_expires = 0
        ignore_hosts = ironic-*, ceph[0-9]?
        live_migration_evidence = no
        [image_cache_weigher]
        multiplier = 0
        """.replace("        ", "")
    )
    found = values(conf)
    assert found["bus_cache"]["redis_url"] == "rediss+sentinel://u:p%40@h1,h2:1/m/3"
    assert found["bus_cache"]["keyspace"] == "region-1.cell_2"
    assert found["bus_cache"]["connect_timeout"] == 0.5
    assert found["consumer"]["transport_url"] == [
        "rabbit://u:p@h1:5672,u:p@h2:5672/cell1",
        "rabbit://u:p@h3/cell2",
    ]
    assert found["consumer"]["topics"] == ["a", "b.c"]
    assert found["consumer"]["exchanges"] == ["nova"]
    assert found["consumer"]["pool"] == ""
    assert found["consumer"]["queue_expires"] == 0
    assert found["consumer"]["ignore_hosts"] == ["ironic-*", "ceph[0-9]?"]
    assert found["consumer"]["live_migration_evidence"] is False
    assert found["image_cache_weigher"]["multiplier"] == 0.0


def test_the_last_of_several_files_counts(load: Load) -> None:
    """Option by option, such as nova.conf first and our own file after it."""
    conf = load("[bus_cache]\nkeyspace = one\nread_timeout = 1\n", "[bus_cache]\nkeyspace = two\n")
    assert conf.bus_cache.keyspace == "two"
    assert conf.bus_cache.read_timeout == 1.0


def test_a_directory_of_files(load: Load, tmp_path: Path) -> None:
    """Read in the order of their names."""
    directory = tmp_path / "conf.d"
    directory.mkdir()
    (directory / "20.conf").write_text("[bus_cache]\nkeyspace = twenty\n")
    (directory / "10.conf").write_text("[bus_cache]\nkeyspace = ten\nread_timeout = 1\n")
    conf = load(arguments=("--config-dir", str(directory)))
    assert conf.bus_cache.keyspace == "twenty"
    conf = configuration.load("tester", ["--config-dir", str(directory)], ALL_GROUPS)
    assert conf.bus_cache.keyspace == "twenty"
    assert conf.bus_cache.read_timeout == 1.0


def refused(load: Load, *texts: str, arguments: tuple[str, ...] = ()) -> str:
    """The sentence with which a configuration is refused."""
    with pytest.raises(ConfigurationError) as error:
        load(*texts, arguments=arguments)
    text = str(error.value)
    assert text.isprintable(), text
    assert "LocationInfo" not in text
    return text


WRONG = [
    ("bus_cache", "keyspace", "", "letters"),
    ("bus_cache", "keyspace", "a b", "letters"),
    ("bus_cache", "keyspace", "{a}", "letters"),
    ("bus_cache", "connect_timeout", "0", "0.001"),
    ("bus_cache", "connect_timeout", "-1", "0.001"),
    ("bus_cache", "connect_timeout", "61", "60"),
    ("bus_cache", "connect_timeout", "inf", "60"),
    ("bus_cache", "connect_timeout", "soon", "soon"),
    ("bus_cache", "read_timeout", "0", "0.001"),
    ("bus_cache", "read_timeout", "1 s", "1 s"),
    ("consumer", "topics", "a b", "'a b'"),
    ("consumer", "topics", "notifications,höhe", "no name"),
    ("consumer", "exchanges", "nova,amq.topic", "amq."),
    ("consumer", "pool", "amq.gen", "amq."),
    ("consumer", "pool", "a b", "'a b'"),
    ("consumer", "pool", "x" * 256, "no name"),
    ("consumer", "prefetch", "0", "1"),
    ("consumer", "prefetch", "65536", "65535"),
    ("consumer", "prefetch", "-1", "1"),
    ("consumer", "prefetch", "many", "many"),
    ("consumer", "prefetch", "1.5", "1.5"),
    ("consumer", "queue_max_bytes", "-1", "0"),
    ("consumer", "queue_max_bytes", "1G", "1G"),
    ("consumer", "queue_expires", "-1", "0"),
    ("consumer", "queue_expires", "604800", "518400"),
    ("consumer", "live_migration_evidence", "perhaps", "perhaps"),
    ("image_cache_weigher", "multiplier", "-1", "0"),
    ("image_cache_weigher", "multiplier", "high", "high"),
    ("image_cache_weigher", "small_image_size", "-1", "0"),
    ("image_cache_weigher", "small_image_size", "100 MiB", "100 MiB"),
    ("image_cache_weigher", "large_image_size", "0", "1"),
    ("image_cache_weigher", "time_budget", "0", "0.001"),
    ("image_cache_weigher", "time_budget", "11", "10"),
]


@pytest.mark.parametrize(("group", "option", "value", "reason"), WRONG)
def test_a_wrong_value_is_refused(
    load: Load, group: str, option: str, value: str, reason: str
) -> None:
    """The sentence names group, option, value and what is wrong."""
    text = refused(load, f"[{group}]\n{option} = {value}\n")
    assert text.startswith(f"[{group}] {option} = {value[:60]}")
    assert reason in text.partition("can't be used")[2]


@pytest.mark.parametrize(("group", "option"), sorted({(group, name) for group, name, *_ in WRONG}))
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_number_that_is_none_is_refused(load: Load, group: str, option: str, value: str) -> None:
    """Nothing can be computed with it: no timeout, no weight."""
    try:
        conf = load(f"[{group}]\n{option} = {value}\n")
    except ConfigurationError:
        return
    found = conf[group][option]
    assert not isinstance(found, float) or math.isfinite(found)


@pytest.mark.parametrize(
    ("group", "option"),
    [
        (name, option.dest)
        for name, options in ALL_GROUPS
        for option in options
        if isinstance(option.default, (int, float)) and not isinstance(option.default, bool)
    ],
)
def test_a_number_without_a_value_is_refused_or_has_its_default(
    load: Load, group: str, option: str
) -> None:
    """An option that was emptied must not become None somewhere inside."""
    try:
        conf = load(f"[{group}]\n{option} =\n")
    except ConfigurationError:
        assert f"[{group}] {option} =" in refused(load, f"[{group}]\n{option} =\n")
    else:
        assert conf[group][option] == DEFAULTS[group][option]


@pytest.mark.parametrize("option", ["topics", "exchanges"])
@pytest.mark.parametrize("value", ["", ",", "a,,b"])
def test_a_list_with_nothing_in_it_is_refused(load: Load, option: str, value: str) -> None:
    """Who reads no topic or a topic without a name learns nothing, for ever, without a word."""
    assert f"[consumer] {option} = {value}" in refused(load, f"[consumer]\n{option} = {value}\n")


def test_a_bound_that_amqp_has_no_number_for_is_refused(load: Load) -> None:
    """A queue's argument is a signed 64-bit number."""
    assert "queue_max_bytes" in refused(load, f"[consumer]\nqueue_max_bytes = {2**63}\n")


def test_a_wrong_value_in_the_first_of_two_files(load: Load, tmp_path: Path) -> None:
    """What the second file corrects is no error; what it does not is shown as it stands."""
    assert load("[bus_cache]\nkeyspace = a b\n", "[bus_cache]\nkeyspace = ok\n")
    text = refused(load, "[consumer]\nprefetch = 0\n", "[bus_cache]\nkeyspace = ok\n")
    assert text.startswith("[consumer] prefetch = 0 can't be used")
    directory = tmp_path / "conf.d"
    directory.mkdir()
    (directory / "1.conf").write_text("[consumer]\nprefetch = 70000\n")
    text = refused(load, "", arguments=("--config-dir", str(directory)))
    assert text.startswith("[consumer] prefetch = 70000 can't be used")


SECRETS = [
    ("bus_cache", "redis_url", "http://u:SeKrEt@h"),
    ("bus_cache", "redis_url", "redis://u:SeKrEt@h/x"),
    ("bus_cache", "redis_url", "redis://u:SeKrEt@h:port"),
    ("bus_cache", "redis_url", "redis://u:SeKrEt/HuSh@h"),
    ("bus_cache", "redis_url", "redis://u:9182/SeKrEt@h"),
    ("bus_cache", "redis_url", "redis://u:x?SeKrEt=@h"),
    ("bus_cache", "redis_url", "redis://u:SeKrEt#x@h"),
    ("bus_cache", "redis_url", ""),
    # in oslo.config's files $ starts the name of another option
    ("bus_cache", "redis_url", "redis://u:x$SeKrEt@h"),
    ("bus_cache", "sentinel_password", "x$SeKrEt"),
    ("consumer", "transport_url", "rabbit://u:x$SeKrEt@h"),
]


@pytest.mark.parametrize(("group", "option", "value"), SECRETS)
def test_a_wrong_secret_is_refused_but_not_shown(
    load: Load, group: str, option: str, value: str
) -> None:
    """Its option is named, and what is wrong."""
    text = refused(load, f"[{group}]\n{option} = {value}\n")
    assert text.startswith(f"[{group}] {option} can't be used: ")
    assert "SeKrEt" not in text


def test_an_unknown_reference_is_refused(load: Load) -> None:
    """$ starts the name of another option, also where nobody meant that."""
    text = refused(load, "[bus_cache]\nkeyspace = $region\n")
    assert text.startswith("[bus_cache] keyspace = $region can't be used: ")


def test_a_dollar_can_be_written(load: Load) -> None:
    """As in all of OpenStack's files."""
    conf = load("[bus_cache]\nredis_url = redis://:a$$b@h\n")
    assert conf.bus_cache.redis_url == "redis://:a$b@h"


def test_secrets_are_not_logged(load: Load) -> None:
    """oslo.config can log all values: it knows which ones not."""
    conf = load(
        "[bus_cache]\nredis_url = redis://:SeKrEt@h\nsentinel_password = SeKrEt\n"
        "[consumer]\ntransport_url = rabbit://u:SeKrEt@h\n"
    )
    lines: list[str] = []

    class Log:
        def log(self, level: int, msg: object, *args: object) -> None:
            lines.append(str(msg) % args)

    conf.log_opt_values(Log(), 10)
    assert any("redis_url" in line for line in lines)
    assert not any("SeKrEt" in line for line in lines)


def test_an_unknown_file_is_refused(load: Load) -> None:
    """The sentence names it."""
    assert "/no/such/file" in refused(load, arguments=("--config-file", "/no/such/file"))
    assert "/no/such/dir" in refused(load, arguments=("--config-dir", "/no/such/dir"))


@pytest.mark.parametrize("text", ["just text\n", "[bus_cache\n", "= 1\n"])
def test_a_file_of_another_form_is_refused(load: Load, text: str) -> None:
    """The sentence names it."""
    assert "0.conf" in refused(load, text)


def test_a_file_that_is_no_text_is_refused(load: Load, tmp_path: Path) -> None:
    """The sentence names it."""
    path = tmp_path / "binary.conf"
    path.write_bytes(b"[bus_cache]\nkeyspace = \xff\xfe\n")
    assert "binary.conf" in refused(load, arguments=("--config-file", str(path)))


def test_mutable_options_change_while_running(load: Load, tmp_path: Path) -> None:
    """SIGHUP reads them again; a queue's or Redis' options stay."""
    conf = load("[consumer]\nignore_hosts = a\npool = one\n[bus_cache]\nkeyspace = one\n")
    (tmp_path / "0.conf").write_text(
        "[consumer]\nignore_hosts = a,b*\nlive_migration_evidence = false\npool = two\n"
        "[bus_cache]\nkeyspace = two\n"
    )
    conf.mutate_config_files()
    assert conf.consumer.ignore_hosts == ["a", "b*"]
    assert conf.consumer.live_migration_evidence is False
    assert conf.consumer.pool == "one"
    assert conf.bus_cache.keyspace == "one"


def test_groups_may_be_registered_twice() -> None:
    """nova-scheduler may make more than one weigher."""
    conf = cfg.ConfigOpts()
    configuration.register(conf, ALL_GROUPS)
    configuration.register(conf, ALL_GROUPS)
    conf([], default_config_files=[])
    assert values(conf) == DEFAULTS


def test_the_client_is_as_configured(load: Load) -> None:
    """Every option of [bus_cache] arrives."""
    conf = load(
        "[bus_cache]\nredis_url = rediss+sentinel://u:p@h1,h2/m/3\nconnect_timeout = 0.5\n"
        "read_timeout = 0.25\ntls_ca_file = /ca\ntls_cert_file = /cert\ntls_key_file = /key\n"
        "sentinel_username = su\nsentinel_password = sp\n"
    )
    client: Any = configuration.redis_client(conf, client_name="tester")
    pool = client.connection_pool
    found = pool.connection_kwargs
    assert issubclass(pool.connection_class, redis.SSLConnection)
    assert (found["username"], found["password"], found["db"]) == ("u", "p", 3)
    assert (found["socket_connect_timeout"], found["socket_timeout"]) == (0.5, 0.25)
    assert (found["ssl_ca_certs"], found["ssl_certfile"]) == ("/ca", "/cert")
    assert found["ssl_keyfile"] == "/key"
    assert found["client_name"] == "tester"
    at_sentinel = pool.sentinel_manager.sentinels[0].connection_pool.connection_kwargs
    assert (at_sentinel["username"], at_sentinel["password"]) == ("su", "sp")
    assert at_sentinel["ssl_ca_certs"] == "/ca"


@pytest.mark.parametrize(
    ("host", "patterns", "expected"),
    [
        ("ironic-1", [], False),
        ("ironic-1", ["ironic-*"], True),
        ("ironic-1", ["ceph", "ironic-?"], True),
        ("ironic-1", ["ironic"], False),
        ("ironic-1", ["*-1"], True),
        ("Ironic-1", ["ironic-*"], False),
        ("host[1]", ["host[1]"], False),
        ("host1", ["host[1-3]"], True),
        ("host", [""], False),
    ],
)
def test_patterns_of_hosts(host: str, patterns: list[str], expected: bool) -> None:
    """As in a shell; case matters, as it does to Nova."""
    assert consumer.matches(host, patterns) is expected


@pytest.mark.parametrize("groups", [opts.list_opts(), opts.list_weigher_opts()])
def test_what_the_generator_of_samples_sees(groups: list[tuple[str, list[cfg.Opt]]]) -> None:
    """Every group once, and [bus_cache] alike in both."""
    assert len({name for name, _ in groups}) == len(groups)
    assert dict(groups)[common.GROUP] is common.OPTIONS
