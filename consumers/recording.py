"""A recording of what was on the bus: its file format, and how names are taken out of it.

A file is a stream of msgpack values: a header, then for each message [received, in ms since 1970;
exchange; routing key; body]. It can be cut off anywhere: what is whole before that is read.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import msgpack

from bus_cache import names, protocol
from consumers import events, evidence

_MAGIC = "bus-cache recording"
_VERSION = 1
_MOST = events.MOST_BYTES + 4096
"""Bytes of one value in a file: a larger body would not be decoded either."""


class Unreadable(Exception):
    """It is no recording; the text says why, on one line."""


class Recorded(NamedTuple):
    """One message: when it was received (ms since 1970), where it was published, and its body."""

    received: int
    exchange: str
    routing_key: str
    body: bytes


class Recorder:
    """Writes a recording."""

    def __init__(self, file: BinaryIO, anonymiser: Anonymiser | None = None) -> None:
        """Write the header.

        :param anonymiser: changes each message; those that it can't understand are left out.
        :ivar left_out: how many these are.
        """
        self.left_out = 0
        self._file = file
        self._anonymiser = anonymiser
        header = {"format": _MAGIC, "version": _VERSION, "anonymised": anonymiser is not None}
        file.write(msgpack.packb(header))

    def write(self, message: Recorded) -> None:
        """Write one message."""
        body: bytes | None = message.body
        if self._anonymiser is not None:
            body = self._anonymiser.body(message.body)
        if body is None or len(body) > events.MOST_BYTES:
            self.left_out += 1
            return
        self._file.write(msgpack.packb([*message[:3], body]))


def read(file: BinaryIO) -> Iterator[Recorded]:
    """Yield the messages of a recording.

    :raises Unreadable: it is none, or it is broken; what was yielded before that is sound.
    """
    unpacker = msgpack.Unpacker(file, max_buffer_size=4 * _MOST, max_bin_len=_MOST)
    values = _values(unpacker)
    header = next(values, None)
    if not isinstance(header, dict) or header.get("format") != _MAGIC:
        raise Unreadable("it is no recording of bus-cache's")
    if header.get("version") != _VERSION:
        raise Unreadable(f"version {str(header.get('version'))[:20]} is unknown; {_VERSION} is not")
    for number, value in enumerate(values, 1):
        if (
            not isinstance(value, list)
            or [type(each) for each in value] != [int, str, str, bytes]
            or len(value[3]) > events.MOST_BYTES
        ):
            raise Unreadable(f"message {number} is none")
        yield Recorded(*value)


def _values(unpacker: msgpack.Unpacker) -> Iterator[Any]:
    while True:
        try:
            value = unpacker.unpack()
        except msgpack.OutOfData:
            return
        except Exception as error:  # msgpack's and Python's own, whatever bytes there are
            raise Unreadable(f"it is broken ({type(error).__name__})") from None
        yield value


Change = Callable[[Any], Any]


class Anonymiser:
    """Replaces hosts, images and servers by made-up ones, each by the same one each time, and
    leaves all out that the consumer does not read.

    With the same key the same names become the same ones; without it nobody can tell which they
    were, as long as they can't be guessed and tried, which the key prevents.
    """

    def __init__(self, key: bytes) -> None:
        """:param key: a secret; new for each recording, unless they belong together."""
        self._key = key
        self._kept: Mapping[str, Change] = {
            **dict.fromkeys(_NUMBERS, _number),
            **dict.fromkeys(("binary", "version", "last_seen_up"), _word),
            "host": self.host,
            **dict.fromkeys(_IMAGES, self.image),
            "image_ref_url": self._url,
            **dict.fromkeys(("uuid", "instance_id"), self.server),
            "images_cached": self._each(self.image),
            "image": self.fingerprint,
            "images": self._each(self._row),
            "fetching": self._each(self.fingerprint),
        }

    def body(self, body: bytes) -> bytes | None:
        """Return a message's body without names; None where it can't be understood."""
        try:
            outer = json.loads(body)
            inner = json.loads(outer["oslo.message"]) if "oslo.message" in outer else outer
            data = self._data(inner["event_type"], body)
            changed = {
                "message_id": "",
                "publisher_id": self._publisher(inner["publisher_id"]),
                "event_type": inner["event_type"],
                "priority": _word(inner.get("priority")),
                "payload": data,
                "timestamp": inner["timestamp"],
            }
            if "oslo.message" in outer:
                text = json.dumps(changed)
                changed = {"oslo.version": outer["oslo.version"], "oslo.message": text}
            return json.dumps(changed).encode()
        except (events.Malformed, *_BROKEN):
            return None

    def _data(self, event_type: str, body: bytes) -> dict[str, Any]:
        """Return of a payload what the consumer reads; of a type that it does not read, nothing."""
        if event_type not in evidence.RULES and not event_type.startswith("image_cache."):
            return {}
        said = events.decode(body, 2**62)
        data = {
            name: change(said.data[name])
            for name, change in self._kept.items()
            if name in said.data
        }
        if event_type in _GLANCE and "id" in said.data:
            data["id"] = self.image(said.data["id"])
        return data

    def host(self, name: Any) -> Any:
        """Return a host's made-up name."""
        return f"host-{self._digest('host', name)[:10]}" if isinstance(name, str) else None

    def server(self, name: Any) -> Any:
        """Return a server's made-up UUID."""
        return self._uuid("server", name) if isinstance(name, str) else None

    def image(self, name: Any) -> Any:
        """Return an image's made-up id: the one of its fingerprint, which is what agents say."""
        if not isinstance(name, str) or not name:
            return name if name is None or name == "" else None
        return self._image(names.fingerprint(name))

    def fingerprint(self, fingerprint: Any) -> Any:
        """Return the fingerprint of the made-up id."""
        if not isinstance(fingerprint, str):
            return None
        return names.fingerprint(self._image(fingerprint))

    def _image(self, fingerprint: str) -> str:
        return self._uuid("image", fingerprint)

    def _url(self, url: Any) -> Any:
        """Return the end of a URL, which is the image's id."""
        if not isinstance(url, str):
            return None
        image = url.rpartition("/")[2]
        return "/" + (image if image in ("", "None") else self.image(image))

    def _row(self, row: Any) -> Any:
        if not isinstance(row, list) or not row:
            return None
        return [self.fingerprint(row[0]), *(_number(each) for each in row[1:3])]

    def _each(self, change: Change) -> Change:
        return lambda values: (
            [change(each) for each in values] if isinstance(values, list) else None
        )

    def _publisher(self, publisher_id: str) -> str:
        for prefix in ("nova-compute:", "compute.", protocol.publisher("")):
            if publisher_id.startswith(prefix):
                return f"{prefix}{self.host(publisher_id[len(prefix) :])}"
        return "another"

    def _uuid(self, kind: str, name: str) -> str:
        return str(uuid.UUID(self._digest(kind, name)[:32]))

    def _digest(self, kind: str, name: str) -> str:
        text = f"{kind} {name}".encode("utf-8", "surrogateescape")
        return hmac.new(self._key, text, hashlib.sha256).hexdigest()


_IMAGES = ("image_uuid", "rescue_image_ref", "kernel_id", "ramdisk_id")
_BROKEN = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
_GLANCE = ("image.activate", "image.delete", "image.update")
_NUMBERS = ("epoch", "sequence", "leaving", "bytes", "last_used", "size", "forced_down")


def _number(value: Any) -> Any:
    return value if isinstance(value, (int, float)) else None


def _word(value: Any) -> Any:
    """Return a short word; whatever else it is, it is none of what the consumer reads."""
    return value if isinstance(value, str) and len(value) <= 40 else None
