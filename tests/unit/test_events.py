"""From raw bodies to notifications: whatever is on the bus, only Malformed comes out of it."""

from __future__ import annotations

import datetime
import functools
import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from consumers import events
from consumers.events import Malformed, Notification
from consumers.evidence import RULES

RECORDED = Path(__file__).parents[1] / "data" / "nova-34-both.jsonl.gz"
NOW = 1_800_000_000_000
EPOCH = datetime.datetime(1970, 1, 1)
MILLISECOND = datetime.timedelta(milliseconds=1)
MOMENT, STAMP = "2026-11-22 06:29:00.121843", 1_795_328_940_121


@functools.cache
def bodies() -> list[bytes]:
    """The bodies of all recorded messages."""
    with gzip.open(RECORDED, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["body"].encode() for line in lines]


def message(event_type: object = "instance.create.end", **fields: Any) -> dict[str, Any]:
    """A notification in the order in which oslo.messaging's Notifier writes it."""
    return {
        "message_id": "3ebdf413-70bb-40a4-b4cc-aaca24eada19",
        "publisher_id": "nova-compute:compute-1",
        "event_type": event_type,
        "priority": "INFO",
        "payload": {"host": "compute-1"},
        "timestamp": MOMENT,
        "_unique_id": "dbe9bc1a3fff43498ec253e50f273f98",
        **fields,
    }


def plain(content: object, **options: Any) -> bytes:
    """A body as the driver "messaging" writes it."""
    return json.dumps(content, **options).encode()


def enveloped(content: object, version: object = "2.0", **options: Any) -> bytes:
    """A body as the driver "messagingv2" writes it."""
    envelope = {"oslo.version": version, "oslo.message": json.dumps(content, **options)}
    return json.dumps(envelope, **options).encode()


WRITERS = pytest.mark.parametrize("write", [plain, enveloped])
COMPACT = {"separators": (",", ":")}
SPACIOUS = {"separators": (" , ", ":  ")}


def decode(body: bytes) -> Notification:
    """Decode at the time of these tests."""
    return events.decode(body, NOW)


def refused(body: bytes) -> str:
    """Why a body is refused: one short line, without what is in the body."""
    with pytest.raises(Malformed) as error:
        decode(body)
    return assert_line(error.value)


def assert_line(error: Malformed) -> str:
    """What goes to the log can't break or flood it."""
    text = str(error)
    assert text
    assert text.isascii()
    assert text.isprintable()
    assert len(text) <= 200
    return text


# -- good messages -------------------------------------------------------------------------


@WRITERS
@pytest.mark.parametrize("options", [{}, COMPACT, SPACIOUS, {"ensure_ascii": False}])
def test_both_drivers_and_any_spaces(write: Any, options: dict[str, Any]) -> None:
    """The same notification comes out."""
    content = message(payload={"host": "compute-1", "display_name": 'sérver "x" \\ \n \U0001f600'})
    body = write(content, **options)
    expected = Notification(
        "instance.create.end", "nova-compute:compute-1", STAMP, content["payload"]
    )
    assert decode(body) == expected
    assert events.peek(body) == "instance.create.end"


@WRITERS
def test_a_versioned_payload_loses_its_envelope(write: Any) -> None:
    """Nested objects keep theirs."""
    inner = {"host": "h", "flavor": {"nova_object.data": {"name": "f"}}}
    payload = {
        "nova_object.name": "InstanceCreatePayload",
        "nova_object.namespace": "nova",
        "nova_object.version": "1.13",
        "nova_object.data": inner,
    }
    assert decode(write(message(payload=payload))).data == inner


NOT_RECORDED = {
    "service.create",
    "instance.rebuild.error",
    "instance.resize.error",
    "compute.instance.rebuild.error",
    "compute.instance.resize.error",
}
"""What the recordings' cloud never did; of the same make as what it did."""


def test_every_recorded_message_is_understood() -> None:
    """Its event type stands in its first bytes; what can teach something is decoded."""
    assert len(bodies()) > 400
    decoded = set()
    for body in bodies():
        content = json.loads(json.loads(body)["oslo.message"])
        assert events.peek(body) == content["event_type"]
        if content["event_type"] in RULES:
            said = decode(body)
            assert said.event_type == content["event_type"]
            assert said.publisher_id == content["publisher_id"]
            assert str(EPOCH + said.stamp * MILLISECOND)[:23] == content["timestamp"][:23]
            decoded.add(said.event_type)
    assert set(RULES) - decoded == NOT_RECORDED


@WRITERS
def test_an_event_type_elsewhere_is_not_believed(write: Any) -> None:
    """Users choose metadata, names and descriptions."""
    claim = {"event_type": "image.delete"}
    for payload in (
        {"metadata": claim},
        {"display_name": json.dumps(claim)},
        {"display_name": '", "event_type": "image.delete", "x": "'},
        {"display_name": '\\", \\"event_type\\": \\"image.delete\\"'},
        {"event_type": "image.delete"},
    ):
        content = message("instance.update", payload=payload)
        for options in ({}, COMPACT, SPACIOUS):
            body = write(content, **options)
            assert events.peek(body) == "instance.update"
            assert decode(body).event_type == "instance.update"
            first = {"payload": content["payload"], **content}
            body = write(first, **options)
            assert events.peek(body) in (None, "instance.update")
            assert decode(body).event_type == "instance.update"


@WRITERS
def test_a_payload_that_comes_first_hides_nothing(write: Any) -> None:
    """Such a body is decoded, however short its payload is."""
    content = message()
    body = write({"payload": content.pop("payload"), **content})
    assert events.peek(body) is None
    assert decode(body).event_type == "instance.create.end"


@WRITERS
@pytest.mark.parametrize("length", [1, 500, 800, 900, 1000, 1100, 5000])
def test_what_is_longer_than_the_first_kilobyte(write: Any, length: int) -> None:
    """An event type that is cut is not taken for a shorter one."""
    for extra in range(64):
        content = message("instance.create.end", publisher_id="x" * (length + extra))
        assert events.peek(write(content)) in (None, "instance.create.end")


@WRITERS
@pytest.mark.parametrize(
    "publisher_id",
    [
        '"event_type": "image.delete"',
        'x", "event_type": "image.delete", "y": "',
        '\\"event_type\\": \\"image.delete\\"',
        '{"event_type": "image.delete"}',
    ],
)
def test_a_publisher_that_names_an_event_type(write: Any, publisher_id: str) -> None:
    """It stands before the event type and is a host's name, which an operator chose."""
    body = write(message("instance.create.end", publisher_id=publisher_id))
    assert events.peek(body) in (None, "instance.create.end")


EVENT_TYPES = st.one_of(
    st.from_regex(r"[a-z_]{1,20}(\.[a-z_]{1,20}){1,4}", fullmatch=True),
    st.text(max_size=40),
    st.text('ab"\\ \n\u00e9{}:,', max_size=20),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=12) | st.just("event_type"), inner, max_size=4)
    ),
    max_leaves=12,
)
OPTIONS = st.sampled_from([{}, COMPACT, SPACIOUS, {"ensure_ascii": False}, {"sort_keys": False}])


@settings(deadline=None)
@given(
    event_type=EVENT_TYPES,
    publisher_id=st.text(max_size=60),
    message_id=st.text(max_size=40),
    payload=st.dictionaries(st.text(max_size=12), JSON, max_size=4),
    write=st.sampled_from([plain, enveloped]),
    options=OPTIONS,
)
@example('instance.create.end"x', "p", "m", {}, plain, {})
@example('instance.create.end"x', "p", "m", {}, enveloped, {})
@example("instance.create.end\\", "p", "m", {}, enveloped, {})
def test_peek_says_what_decode_says(
    event_type: str,
    publisher_id: str,
    message_id: str,
    payload: dict[str, Any],
    write: Any,
    options: dict[str, Any],
) -> None:
    """Or nothing: for any message whose first parts are in oslo.messaging's order."""
    content = message(event_type, publisher_id=publisher_id, message_id=message_id, payload=payload)
    try:
        body = write(content, **options)
    except UnicodeEncodeError:  # a lone surrogate that is not escaped
        assume(False)
    peeked = events.peek(body)
    try:
        said = decode(body)
    except Malformed as error:
        assert_line(error)
    else:
        assert said.event_type == event_type
        assert peeked in (None, event_type)


# -- broken messages -----------------------------------------------------------------------


@settings(deadline=None)
@given(body=st.binary(max_size=300))
@example(b"")
@example(b"\xef\xbb\xbf{}")
@example(b"\xff\xfe{\x00}\x00")
@example(b"\x00")
@example(b"\xed\xa0\x80")
def test_any_bytes(body: bytes) -> None:
    """They are no notification."""
    assert events.peek(body) is None
    refused(body)


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_mutated_real_bodies(data: st.DataObject) -> None:
    """A byte flipped, a part missing, doubled or from another message."""
    body = data.draw(st.sampled_from(bodies()))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(body)))
        end = data.draw(st.integers(start, min(len(body), start + 60)))
        kind = data.draw(st.sampled_from(["flip", "cut", "double", "foreign", "noise", "end"]))
        if kind == "flip" and start < len(body):
            flipped = body[start] ^ (1 << data.draw(st.integers(0, 7)))
            body = body[:start] + bytes([flipped]) + body[start + 1 :]
        elif kind == "cut":
            body = body[:start] + body[end:]
        elif kind == "double":
            body = body[:end] + body[start:]
        elif kind == "foreign":
            body = body[:start] + data.draw(st.sampled_from(bodies()))[start:end] + body[end:]
        elif kind == "noise":
            body = body[:start] + data.draw(st.binary(max_size=8)) + body[end:]
        else:
            body = body[:start]
    peeked = events.peek(body)
    assert peeked is None or (peeked.isascii() and peeked.isprintable())
    try:
        said = decode(body)
    except Malformed as error:
        assert_line(error)
    else:
        assert isinstance(said.event_type, str)
        assert isinstance(said.publisher_id, str)
        assert isinstance(said.data, dict)
        assert 0 <= said.stamp <= NOW + events.MOST_AHEAD


@settings(deadline=None)
@given(value=JSON)
@example({"oslo.version": "2.0", "oslo.message": "{}"})
@example({"oslo.version": "2.0", "oslo.message": "\ud800"})
@example({"oslo.version": "\ud800\n", "oslo.message": "{}"})
def test_any_json_is_no_notification(value: object) -> None:
    """With or without the envelope."""
    refused(plain(value))
    refused(enveloped(value))


@WRITERS
@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("event_type", "event_type"),
        ("publisher_id", "publisher_id"),
        ("payload", "payload"),
        ("timestamp", "timestamp"),
    ],
)
def test_a_field_that_is_missing_or_of_a_wrong_type(write: Any, field: str, reason: str) -> None:
    """The reason names it."""
    content = message()
    del content[field]
    assert reason in refused(write(content))
    wrong: list[object] = [None, 1, 1.5, True, [], ["x"], [{}]]
    for value in wrong:
        assert reason in refused(write(message(**{field: value})))
    if field != "payload":
        assert reason in refused(write(message(**{field: {}})))


@pytest.mark.parametrize("version", ["1.0", "3.0", "", "two", "20", None, 2, 2.0, ["2.0"], {}])
def test_an_unknown_envelope(version: object) -> None:
    """Of another major version."""
    assert "oslo.version" in refused(enveloped(message(), version))


@pytest.mark.parametrize("version", ["2.0", "2.1", "2"])
def test_a_known_envelope(version: str) -> None:
    """A minor version adds, and takes nothing away."""
    assert decode(enveloped(message(), version)).event_type == "instance.create.end"


@pytest.mark.parametrize("inner", [None, 1, {}, [], message()])
def test_an_envelope_that_holds_no_text(inner: object) -> None:
    """The inner message is JSON in a string."""
    assert "oslo.message" in refused(plain({"oslo.version": "2.0", "oslo.message": inner}))


@pytest.mark.parametrize("version", ["2.0", "0.9", "", "one", None, 1, 1.0, ["1.0"], "11.0"])
def test_an_unknown_payload_version(version: object) -> None:
    """Of what can teach something, only major version 1 is known."""
    payload = {"nova_object.version": version, "nova_object.data": {"host": "h"}}
    assert "version" in refused(enveloped(message(payload=payload)))


@pytest.mark.parametrize("data", [None, 1, "x", [], [{}]])
def test_a_payload_without_its_data(data: object) -> None:
    """A versioned payload is an object in an object."""
    payload = {"nova_object.version": "1.0", "nova_object.data": data}
    assert "nova_object.data" in refused(enveloped(message(payload=payload)))


DEEP = 100_000


@pytest.mark.parametrize(
    "body",
    [
        b"[" * DEEP,
        b"[" * DEEP + b"]" * DEEP,
        b'{"a":' * DEEP,
        b'{"a":' * DEEP + b"1" + b"}" * DEEP,
        b'{"payload":' + b"[" * DEEP + b"]" * DEEP + b"}",
        json.dumps({"oslo.version": "2.0", "oslo.message": "[" * DEEP}).encode(),
    ],
)
def test_deep_nesting(body: bytes) -> None:
    """Neither a crash nor a RecursionError."""
    assert "deep" in refused(body)


@WRITERS
@pytest.mark.parametrize(
    "number", ["9" * 4000, "9" * 100_000, "-" + "9" * 5000, "1e400", "-1e400", "NaN", "Infinity"]
)
def test_numbers_that_are_none(write: Any, number: str) -> None:
    """They are refused, or stay in a field that nobody reads."""
    body = write(message(payload={"size": "@"})).replace(b'"@"', number.encode())
    body = body.replace(b'\\"@\\"', number.encode())
    assert number.encode() in body
    try:
        assert decode(body).event_type == "instance.create.end"
    except Malformed as error:
        assert_line(error)


@WRITERS
@pytest.mark.parametrize("text", ["\ud800", "\udfff\ud800", "\0", "\x7f\x1b[2J", "\u2028\r\n"])
def test_strange_texts(write: Any, text: str) -> None:
    """Lone surrogates, NUL and control characters: wherever they are, none gets into a log."""
    assert decode(write(message(text))).event_type == text
    assert decode(write(message(publisher_id=text))).publisher_id == text
    assert decode(write(message(payload={text: text}))).data == {text: text}
    assert "timestamp" in refused(write(message(timestamp=text)))
    assert "version" in refused(
        write(message(payload={"nova_object.version": text, "nova_object.data": {}}))
    )
    assert "version" in refused(enveloped(message(), text))


@pytest.mark.parametrize(
    "body",
    [
        plain(message()).replace(b"compute-1", b"compute-\xff"),
        plain(message(), ensure_ascii=False).replace(b"compute-1", "hôte".encode("latin-1")),
        plain(message())[:-1],
        plain(message()) + b"x",
        plain(message()).replace(b"INFO", b"IN\0FO"),
        plain(message()).replace(b"INFO", b"IN\nFO"),
        plain(message()) * 2,
        b"\x80\x04\x95" + plain(message()),
        gzip.compress(plain(message())),
    ],
)
def test_bytes_that_are_no_utf8_or_no_json(body: bytes) -> None:
    """The rest of the body does not matter then."""
    refused(body)


def test_ten_megabytes() -> None:
    """Refused by their length alone."""
    body = plain(message(payload={"x": "y" * (10 * 2**20)}))
    started = time.process_time()
    assert str(len(body)) in refused(body)
    assert events.peek(body) == "instance.create.end"
    assert time.process_time() - started < 0.5


def test_the_largest_body() -> None:
    """Exactly as large as allowed, and one byte more."""
    body = plain(message(payload={"x": "@"}))
    body = body.replace(b"@", b"y" * (events.MOST_BYTES - len(body) + 1))
    assert len(body) == events.MOST_BYTES
    assert decode(body).event_type == "instance.create.end"
    refused(body + b" ")


@pytest.mark.parametrize("head", [b'"event_type":', b'\\"event_type\\":', b'"event_type": \\"'])
def test_a_body_of_many_event_types_takes_no_time(head: bytes) -> None:
    """The search is linear."""
    started = time.process_time()
    for filler in (head * 100, head + b" " * 2000, head + b"a" * 2000, head + b"\\" * 2000):
        for _ in range(100):
            events.peek(filler)
    assert time.process_time() - started < 1.0


# -- timestamps ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timestamp", "stamp"),
    [
        ("2026-11-22 06:29:00.121843", STAMP),
        ("2026-11-22T06:29:00.121843", STAMP),
        ("2026-11-22 06:29:00", 1_795_328_940_000),
        ("2026-11-22T06:29:00Z", 1_795_328_940_000),
        ("2026-11-22T06:29:00.121843Z", STAMP),
        ("2026-11-22T08:29:00.121843+02:00", STAMP),
        ("2026-11-22T00:59:00.121843-05:30", STAMP),
        ("2026-11-22 06:29:00.121843+00:00", STAMP),
        ("1970-01-01 00:00:00", 0),
        ("1970-01-01 00:00:00.000999", 0),
        ("1970-01-01 00:00:00.001000", 1),
        ("2000-02-29 23:59:59.999999", 951_868_799_999),
    ],
)
def test_timestamps(timestamp: str, stamp: int) -> None:
    """As oslo.messaging writes them (str of a naive UTC time), and as others may."""
    assert decode(enveloped(message(timestamp=timestamp))).stamp == stamp


def test_our_own_time_zone_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """oslo.messaging's timestamps name none and mean UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        stamp = decode(enveloped(message(timestamp=MOMENT))).stamp
    time.tzset()
    assert stamp == STAMP


@settings(deadline=None, max_examples=200)
@given(moment=st.datetimes(EPOCH, datetime.datetime(2026, 12, 31)))
@example(datetime.datetime(2026, 11, 22, 6, 29, 0, 1000))
@example(datetime.datetime(2004, 6, 9, 4, 29, 39, 962000))
def test_a_stamp_is_exact(moment: datetime.datetime) -> None:
    """To the millisecond, rounded down."""
    assert decode(plain(message(timestamp=str(moment)))).stamp == (moment - EPOCH) // MILLISECOND


@settings(deadline=None)
@given(moments=st.lists(st.datetimes(EPOCH), min_size=2, max_size=2))
def test_a_later_moment_never_has_an_earlier_stamp(moments: list[datetime.datetime]) -> None:
    """Whatever is newer stays newer, up to our own clock's bound."""
    earlier, later = (decode(plain(message(timestamp=str(each)))).stamp for each in sorted(moments))
    assert earlier <= later


@pytest.mark.parametrize(
    "timestamp",
    ["9999-12-31 23:59:59.999999", "9999-12-31T23:59:59-14:00", "2500-01-01 00:00:00"],
)
def test_the_far_future_is_cut(timestamp: str) -> None:
    """To a little after our own clock."""
    assert decode(plain(message(timestamp=timestamp))).stamp == NOW + events.MOST_AHEAD


def test_a_clock_that_is_a_little_ahead_is_believed() -> None:
    """Up to ten minutes, exactly."""
    bound = EPOCH + (NOW + events.MOST_AHEAD) * MILLISECOND
    for ahead, expected in ((-1, -1), (0, 0), (1, 0)):
        said = decode(plain(message(timestamp=str(bound + ahead * MILLISECOND))))
        assert said.stamp == NOW + events.MOST_AHEAD + expected


@pytest.mark.parametrize(
    "timestamp",
    [
        *("0001-01-01 00:00:00", "0001-01-01T00:00:00+14:00", "1969-12-31 23:59:59.9"),
        *("1970-01-01T00:00:00+00:01", "1900-01-01T00:00:00Z"),
        *("", " ", "now", "yesterday", "1795328940", "1795328940.12", "2026-13-01 00:00:00"),
        *("2026-02-30 00:00:00", "2026-11-22 24:00:00", "2026-11-22 06:29:60", "06:29:00"),
        *("10000-01-01 00:00:00", "-0001-01-01 00:00:00", "2026-11-22 06:29:00 UTC"),
        *("2026-11-22T06:29:00+99:00", "2026-11-22T06:29:00ZZ", "x" * 100_000),
    ],
)
def test_timestamps_that_are_none(timestamp: str) -> None:
    """Or that no message can have."""
    assert "timestamp" in refused(plain(message(timestamp=timestamp)))


@settings(deadline=None)
@given(timestamp=st.text(max_size=40))
def test_any_text_as_a_timestamp(timestamp: str) -> None:
    """Only Malformed."""
    try:
        assert 0 <= decode(plain(message(timestamp=timestamp))).stamp <= NOW + events.MOST_AHEAD
    except Malformed as error:
        assert_line(error)
