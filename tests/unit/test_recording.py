"""The file of a recording, and what is left of names in it: on what a real Nova said."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus_cache import names, protocol
from bus_cache.index.changes import Change
from consumers import events, evidence
from consumers.recording import Anonymiser, Recorded, Recorder, Unreadable, read
from tests import publisher

MESSAGES = publisher.recorded()
NOW = 2**52


def written(messages: Iterable[Recorded], anonymiser: Anonymiser | None = None) -> bytes:
    """Return the file."""
    file = io.BytesIO()
    recorder = Recorder(file, anonymiser)
    for each in messages:
        recorder.write(each)
    return file.getvalue()


def cloud() -> list[Recorded]:
    """Return what a real Nova said, and an agent."""
    found = [
        Recorded(n, each["exchange"], each["routing_key"], each["body"].encode())
        for n, each in enumerate(MESSAGES)
    ]
    image = names.fingerprint("7d4e1f0a-3b52-4c8e-9a61-0f2c5b8d7e93")
    payload = protocol.snapshot("compute-1", (5, 0), [protocol.CachedImage(image, 7, 8)], [image])
    inner = {
        "publisher_id": protocol.publisher("compute-1"),
        "event_type": protocol.SNAPSHOT,
        "priority": "INFO",
        "payload": payload,
        "timestamp": "2026-11-22 06:29:00.121843",
    }
    body = json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(inner)}).encode()
    return [*found, Recorded(0, protocol.EXCHANGE, protocol.QUEUE, body)]


def evidence_of(messages: Iterable[Recorded]) -> list[list[Change]]:
    """Return what the consumer makes of each."""
    found: list[list[Change]] = []
    for each in messages:
        event_type = events.peek(each.body)
        if event_type not in evidence.RULES and each.exchange != protocol.EXCHANGE:
            found.append([])
            continue
        said = events.decode(each.body, NOW)
        if each.exchange == protocol.EXCHANGE:
            found.append([protocol.read(*said[:3], said.data)])
        else:
            found.append(evidence.read(said))
    return found


def test_what_was_written_is_read() -> None:
    """Whatever is in a body."""
    messages = [*cloud(), Recorded(1, "", "", b"\xff\x00")]
    assert list(read(io.BytesIO(written(messages)))) == messages


def test_names_are_gone_and_what_is_said_stays() -> None:
    """The same evidence, of made-up hosts, images and servers; none of the real ones is left."""
    anonymiser = Anonymiser(b"secret")
    file = written(cloud(), anonymiser)
    before, after = evidence_of(cloud()), evidence_of(read(io.BytesIO(file)))
    real = set()
    for old, new in zip(before, after, strict=True):
        assert len(old) == len(new)
        for one, other in zip(old, new, strict=True):
            real |= {getattr(one, each, "") for each in ("host", "image_id", "instance")}
            assert renamed(one, anonymiser) == other
    real -= {""}
    assert len(real) > 10
    for name in real:
        assert name.encode() not in file
    for secret in (b"project", b"user", b"fixed_ips", b"metadata", b"192.168", b"req-"):
        assert secret not in file


def renamed(change: Change, by: Anonymiser) -> Change:
    """Return a change with made-up names."""
    new = {
        "host": by.host,
        "image_id": by.image,
        "instance": by.server,
        "parts": lambda each: tuple(map(by.image, each)),
        "fingerprint": by.fingerprint,
        "fingerprints": lambda each: tuple(map(by.fingerprint, each)),
        "fetching": lambda each: tuple(map(by.fingerprint, each)),
    }
    values = change._asdict() if hasattr(change, "_asdict") else vars(change)
    return type(change)(**{k: new[k](v) if k in new else v for k, v in values.items()})


def test_an_image_has_one_name_by_id_and_by_fingerprint() -> None:
    """Nova names ids, agents fingerprints."""
    by = Anonymiser(b"k")
    assert names.fingerprint(by.image("i")) == by.fingerprint(names.fingerprint("i"))
    assert by.image("i") != Anonymiser(b"l").image("i")
    assert (by.image(""), by.image(None), by.image(3)) == ("", None, None)


def test_kernel_and_ramdisk_are_images_too() -> None:
    """What is said of a server that has both."""
    said = next(each for each in MESSAGES if "compute.instance.create.end" in each["body"])
    inner = publisher.content(said)
    inner["payload"] |= {"kernel_id": "k-1", "ramdisk_id": "r-1"}
    body = json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(inner)}).encode()
    before = [Recorded(0, "nova", "x", body)]
    after = list(read(io.BytesIO(written(before, by := Anonymiser(b"k")))))
    [old], [new] = evidence_of(before), evidence_of(after)
    assert [renamed(each, by) for each in old] == new
    assert len(old) == 4


def test_what_cannot_be_understood_is_left_out_of_an_anonymous_recording() -> None:
    """Nobody knows which names are in it."""
    file = io.BytesIO()
    recorder = Recorder(file, Anonymiser(b"k"))
    recorder.write(Recorded(0, "nova", "x", b"secret host"))
    assert recorder.left_out == 1
    assert list(read(io.BytesIO(file.getvalue()))) == []


@given(cut=st.integers(0, 3000))
def test_a_file_that_was_cut_off_is_read_as_far_as_it_goes(cut: int) -> None:
    """As when the disk was full."""
    messages = cloud()[:2]
    file = written(messages)[:cut]
    try:
        found = list(read(io.BytesIO(file)))
    except Unreadable:
        assert cut < 60  # not even the header
    else:
        assert found == messages[: len(found)]


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (b"", "no recording"),
        (b"\xc1", "broken"),
        (msgpack.packb([1]), "no recording"),
        (msgpack.packb({"format": "bus-cache recording", "version": 9}), "version 9 is unknown"),
        (written([]) + msgpack.packb(3), "message 1 is none"),
        (written([]) + msgpack.packb([0, "e", "k", "text"]), "message 1 is none"),
        (written([]) + msgpack.packb([True, "e", "k", b""]), "message 1 is none"),
        (written([]) + b"\xdd\xff\xff\xff\xff", "broken"),
    ],
)
def test_what_is_no_recording_is_refused_in_a_sentence(file: bytes, said: str) -> None:
    """Hostile lengths, too."""
    with pytest.raises(Unreadable, match=said):
        list(read(io.BytesIO(file)))


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(junk: bytes) -> None:
    """No other exception leaves it."""
    for file in (junk, written([]) + junk):
        try:
            list(read(io.BytesIO(file)))
        except Unreadable as error:
            assert "\n" not in str(error)  # noqa: PT017


@given(st.binary(max_size=400) | st.sampled_from(MESSAGES).map(lambda each: each["body"].encode()))
def test_any_body_is_made_anonymous_or_left_out(body: bytes) -> None:
    """No exception leaves it."""
    found = Anonymiser(b"k").body(body)
    assert found is None or json.loads(found)
