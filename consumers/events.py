"""From a message's raw body to a plain value, decoding no more than must be.

Most of what is on the bus says nothing about images. Its type stands in the first bytes of the
body, so most bodies are never decoded.
"""

from __future__ import annotations

import datetime
import json
import re
from typing import Any, NamedTuple

MOST_BYTES = 1024 * 1024
"""A larger body is not decoded. Nova's are at most some 10 kB; 1 MiB holds the ids of 20,000 cached
images."""

MOST_AHEAD = 10 * 60 * 1000
"""Milliseconds that a publisher's clock may be ahead of ours: a later stamp is cut to that, so that
a wrong clock can't make a host's evidence outlive the host."""

_HEAD = 1024
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
# A key's quote has no backslash before it, or, in the envelope's text, exactly one; a quote that
# stands in some value has more.
_PLAIN = re.compile(rb'(?<!\\)"event_type":\s*"([\x21\x23-\x5b\x5d-\x7e]{1,255})"')
_IN_ENVELOPE = re.compile(rb'(?<!\\)\\"event_type\\":\s*\\"([\x21\x23-\x5b\x5d-\x7e]{1,255})\\"')


class Malformed(Exception):
    """A message that can't be understood; the text says why, on one line, without the body."""


class Notification(NamedTuple):
    """A notification, decoded as far as its parts are of the right types.

    ``data`` is the payload; a versioned payload without its envelope. ``stamp`` is the publisher's
    clock in milliseconds since 1970.
    """

    event_type: str
    publisher_id: str
    stamp: int
    data: dict[str, Any]


def peek(body: bytes) -> str | None:
    """Return the event type that stands in the first kilobyte of a body, or None: decode it to
    know.

    oslo.messaging writes ``message_id``, ``publisher_id`` and ``event_type`` before the payload
    (oslo_messaging/notify/notifier.py). A body with the payload first is not trusted, since a
    payload can contain anything, such as a server's metadata that a user chose.
    """
    head = body[:_HEAD]
    found = (_IN_ENVELOPE if head.startswith(b'{"oslo.') else _PLAIN).search(head)
    if found is None or head.find(b"payload", 0, found.start()) >= 0:
        return None
    return found.group(1).decode("ascii")


def decode(body: bytes, now: int) -> Notification:
    """Decode a body, with oslo.messaging's envelope (driver ``messagingv2``) or without
    (``messaging``).

    :param now: our clock, milliseconds since 1970; stamps are cut to :data:`MOST_AHEAD` after it.
    :raises Malformed: it is no notification.
    """
    if len(body) > MOST_BYTES:
        raise Malformed(f"{len(body)} bytes, more than {MOST_BYTES}")
    message = _object(body, "body")
    if "oslo.message" in message:
        version = message.get("oslo.version")
        if not isinstance(version, str) or version.partition(".")[0] != "2":
            raise Malformed(f"unknown oslo.version {_short(version)}")
        inner = message["oslo.message"]
        if not isinstance(inner, str):
            raise Malformed("oslo.message is no text")
        message = _object(inner, "oslo.message")
    event_type = message.get("event_type")
    publisher_id = message.get("publisher_id")
    data = message.get("payload")
    if not isinstance(event_type, str):
        raise Malformed("no event_type")
    if not isinstance(publisher_id, str):
        raise Malformed("no publisher_id")
    if not isinstance(data, dict):
        raise Malformed("no payload")
    if "nova_object.data" in data:
        version = data.get("nova_object.version")
        if not isinstance(version, str) or version.partition(".")[0] != "1":
            raise Malformed(f"unknown payload version {_short(version)}")
        data = data["nova_object.data"]
        if not isinstance(data, dict):
            raise Malformed("nova_object.data is no object")
    stamp = _stamp(message.get("timestamp"))
    return Notification(event_type, publisher_id, min(stamp, now + MOST_AHEAD), data)


def _object(text: bytes | str, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except RecursionError:
        raise Malformed(f"{what} is nested too deeply") from None
    except UnicodeDecodeError:
        raise Malformed(f"{what} is no UTF-8") from None
    except ValueError as error:
        raise Malformed(f"{what} is no JSON: {str(error)[:100]}") from None
    if not isinstance(value, dict):
        raise Malformed(f"{what} is no JSON object")
    return value


def _stamp(timestamp: object) -> int:
    """Return milliseconds since 1970 of ``str(timeutils.utcnow())``, which has no zone and means
    UTC."""
    if not isinstance(timestamp, str):
        raise Malformed("no timestamp")
    try:
        moment = datetime.datetime.fromisoformat(timestamp.replace("Z", "+00:00"))
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.timezone.utc)
        stamp = (moment - _EPOCH) // datetime.timedelta(milliseconds=1)
    except (ValueError, OverflowError):
        raise Malformed(f"timestamp {_short(timestamp)} is none") from None
    if stamp < 0:
        raise Malformed(f"timestamp {_short(timestamp)} is before 1970")
    return stamp


def _short(value: object) -> str:
    return ascii(value)[:60]
