"""What is wrong, judged by plain values: what a test can't do to real servers."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from bus_cache import protocol
from consumers import diagnosis, symptoms
from consumers.diagnosis import diagnose, is_wrong
from consumers.symptoms import Bus, Facts, Nova, Queue, Rabbit

DECLARES = {"durable": False, "amqp_auto_delete": False, "rabbit_quorum_queue": False}
RABBIT = Rabbit("rabbit://h/", ("h:5672//",), DECLARES)


def well() -> Facts:
    """Facts of a set-up in which nothing is wrong."""
    options = symptoms.Options(
        topics=["notifications"], exchanges=["nova", "glance"], pool="bus_cache"
    )
    redis = symptoms.Redis("redis://h/0", refuses="", journal=True, ahead=0.1, hosts={"h1", "h2"})
    redis.readers = {"one": ("id", "bus_cache"), "elsewhere": ("other", "bus_cache")}
    look = {"bus_cache": Queue(5, 1), protocol.QUEUE: Queue(0, 1)}
    sound = symptoms.Sound()
    sound.kinds["nova", "notifications", True, "nova-compute"] = 3
    sound.ahead["nova-compute:h1"] = -0.3
    bus = Bus(
        "rabbit://h/",
        "id",
        brokers={"h": ""},
        looks=[look, dict(look)],
        unread=[{}, {}],
        sound=sound,
        seconds=10,
    )
    nova = Nova(
        "nova.conf",
        drivers=["messagingv2"],
        retry=3,
        topics=["notifications"],
        versioned_topics=["versioned_notifications"],
        format="both",
        rabbit=RABBIT,
        weight_classes=["nova.scheduler.weights.all_weighers", "weigher.ImageCacheWeigher"],
        redis="redis://h/0",
        keyspace="bus_cache",
        time_budget=0.05,
        multiplier=7.0,
    )
    api = symptoms.Api(asked=True, sampled=2)
    return Facts(options, redis, [bus], [RABBIT], "redis://h/0", "bus_cache", nova, api)


def wrong(facts: Facts) -> dict[str, str]:
    """Return the findings that say that something is wrong: check -> what was found."""
    found = diagnose(facts)
    assert all(each.advice for each in found if each.verdict != diagnosis.OK)
    rows = [each for each in found if each.verdict in (diagnosis.WARNING, diagnosis.PROBLEM)]
    assert is_wrong(found) == bool(rows)
    return {each.check: each.found for each in rows}


def test_nothing_is_wrong() -> None:
    assert wrong(well()) == {}


def test_one_that_knows_nothing_claims_nothing() -> None:
    """Whatever could not be seen is not judged, and no judge fails on it."""
    facts = Facts(symptoms.Options(), symptoms.Redis(), [Bus("rabbit://h/", brokers={"h": ""})])
    facts.nova = None
    assert wrong(facts) == {}
    assert wrong(Facts(symptoms.Options(trouble="x = y can't be used"), symptoms.Redis(), [])) == {
        "options": "x = y can't be used"
    }


Spoil = Callable[[Facts], object]


@pytest.mark.parametrize(
    ("spoil", "check", "expected"),
    [
        (lambda f: setattr(f.redis, "ahead", -61.0), "redis clock", "61 s behind ours"),
        (lambda f: setattr(f.redis, "unsaved", True), "redis persistence", "failed"),
        (lambda f: setattr(f.redis, "full", [("hosts", 7)]), "limits", "hosts (7 left out)"),
        (lambda f: setattr(f.redis, "silent", 2), "agents", "2 are silent"),
        (lambda f: setattr(f.redis, "gaps", 1), "agents", "1 were heard in part"),
        (lambda f: setattr(f.redis, "hosts", set()), "index against nova", "no host"),
        (lambda f: f.redis.readers.pop("one"), "readers", "but 0 bus-cache-consumers do"),
        (
            lambda f: f.redis.readers.update(one=("id", "another")),
            "readers",
            "1 read bus_cache, but 0",
        ),
        (
            lambda f: f.buses[0].looks[1].update({"bus_cache": Queue(5000, 1)}),
            "queue",
            "5000 messages, and 1 consumer reads it; 5 a while ago",
        ),
        (
            lambda f: f.buses[0].looks[1].update({protocol.QUEUE: Queue(3, 0)}),
            "queue",
            f"{protocol.QUEUE} has 3 messages, and nobody reads it",
        ),
        (lambda f: f.buses[0].brokers.update(h2="refused"), "bus", "h2: refused"),
        (lambda f: setattr(f.buses[0], "trouble", "Odd: x"), "bus", "Odd: x"),
        (lambda f: f.buses[0].absent.append("glance"), "exchanges", "no exchange glance"),
        (
            lambda f: f.buses[0].sound.ahead.update({"compute.h9": 700.0}),
            "clocks",
            "compute.h9 is 700 s ahead of ours",
        ),
        (
            lambda f: setattr(f.nova, "rabbit_trouble", "transport_url is missing"),
            "notifications in nova.conf",
            "transport_url is missing",
        ),
        (lambda f: setattr(f.nova, "multiplier", 0), "weigher options", "multiplier is 0"),
    ],
)
def test_what_is_wrong(spoil: Spoil, check: str, expected: str) -> None:
    """One thing at a time, and nothing else is found for it."""
    facts = well()
    spoil(facts)
    found = wrong(facts)
    assert list(found) == [check]
    assert expected in found[check]


def test_a_consumer_that_ended_meanwhile_makes_no_stranger() -> None:
    facts = well()
    facts.buses[0].looks = [{"bus_cache": Queue(0, 2)}, {"bus_cache": Queue(0, 1)}]
    assert wrong(facts) == {}


def test_a_queue_that_is_bounded_is_fine() -> None:
    facts = well()
    facts.buses[0].unread = [{"notifications.info": 9}, {"notifications.info": 9}]
    assert wrong(facts) == {}


def test_a_check_that_fails_is_a_row() -> None:
    facts = well()
    facts.redis.hosts = 5  # type: ignore[assignment]
    found = wrong(facts)
    assert "TypeError" in found["hosts without cache"]
    assert "index against nova" not in found


def test_what_is_heard() -> None:
    """Kinds are told apart; of a publisher's clocks the one counts that tells the least."""
    sound = symptoms.Sound()

    def say(second: int, payload: object, who: str = "nova-compute:h1") -> bytes:
        said = {
            "event_type": "x",
            "publisher_id": who,
            "payload": payload,
            "timestamp": f"2026-01-01 00:00:{second:02d}",
        }
        return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(said)}).encode()

    new_year = 1_767_225_600_000
    payload = {"nova_object.version": "1.0", "nova_object.data": {}}
    sound.hear(new_year, "nova", "versioned_notifications.info", say(10, payload))
    sound.hear(new_year, "nova", "versioned_notifications.error", say(5, payload))
    sound.hear(new_year + 20_000, "nova", "notifications.info", say(5, {}, "compute.h1"))
    sound.hear(new_year, "nova", "notifications.info", b"no notification")
    sound.hear(new_year, "nova", "a\x1b[2J.info", say(0, {}, "\x1b[31mred." + 999 * "x"))
    sound.hear(new_year, protocol.EXCHANGE, protocol.QUEUE, say(1, {}, "bus-cache-agent:h1"))
    assert sound.kinds == {
        ("nova", "versioned_notifications", True, "nova-compute"): 2,
        ("nova", "notifications", False, "compute"): 1,
        ("nova", "a?[2J", False, "?[31mred"): 1,
    }
    assert sound.ahead.pop("?[31mred." + 91 * "x") == 0
    assert sound.ahead == {"nova-compute:h1": 5.0, "compute.h1": -15.0, "bus-cache-agent:h1": 1.0}
