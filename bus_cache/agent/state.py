"""What an agent has said of its cache, and so what is left to say: pure, no clock, no bus.

A number of the sequence belongs to one message for ever. Whether a message whose sending failed
has arrived is unknown: its number is not used again, and the next message is a snapshot,
which tells all, so that consumers miss nothing that came before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from bus_cache import protocol
from bus_cache.protocol import CachedImage, Inventory


class Message(NamedTuple):
    """One notification: its event type and payload."""

    event: str
    payload: dict[str, Any]


class Difference(NamedTuple):
    """What was not yet said of an image: an event, and the image where it is there."""

    event: str
    fingerprint: str
    image: CachedImage | None = None


Seen = Mapping[str, CachedImage | None]
"""Fingerprint -> the image, or None for one that is on its way."""


def seen(found: Inventory) -> dict[str, CachedImage | None]:
    """Return an inventory by fingerprint. What is there whole is not on its way."""
    return {
        **dict.fromkeys(found.fetching),
        **{image.fingerprint: image for image in found.images},
    }


class State:
    """What was said last, and under which number the next message goes."""

    def __init__(self, host: str, epoch: int) -> None:
        """Begin an epoch; the first message is to be a snapshot."""
        self.host = host
        self.epoch = epoch
        self._sequence = 0
        self._said: dict[str, bool] | None = None  # fingerprint -> held, or only on its way

    @property
    def snapshot_due(self) -> bool:
        """Whether nothing but a snapshot may be said next."""
        return self._said is None

    def begin(self, epoch: int) -> None:
        """Begin another epoch."""
        self.epoch, self._sequence, self._said = epoch, 0, None

    def forget(self) -> None:
        """Take it that nothing of what was said is known."""
        self._said = None

    def snapshot(self, now: Seen, leaving: bool = False) -> Message:
        """Return the message that tells all.

        :raises ValueError: there is more than one message may tell.
        """
        payload = protocol.snapshot(
            self.host,
            (self.epoch, self._sequence),
            [image for image in now.values() if image],
            [fingerprint for fingerprint, image in now.items() if not image],
            leaving,
        )
        self._sequence += 1
        self._said = {fingerprint: image is not None for fingerprint, image in now.items()}
        return Message(protocol.SNAPSHOT, payload)

    def differences(self, now: Seen, among: Iterable[str] | None = None) -> list[Difference]:
        """Return what is to be said, in order.

        :param among: the fingerprints that were looked at; None: all.
        """
        assert self._said is not None, "a snapshot comes first"
        said = self._said
        found: list[Difference] = []
        for each in [*said, *(new for new in now if new not in said)] if among is None else among:
            was = said.get(each)
            if each not in now:
                if was is not None:
                    found.append(Difference(protocol.CLEANUP, each))
            elif image := now[each]:
                if not was:
                    found.append(Difference(protocol.STORED, each, image))
            elif was is not False:
                if was:  # it went and is fetched again
                    found.append(Difference(protocol.CLEANUP, each))
                found.append(Difference(protocol.FETCHING, each))
        return found

    def statement(self, difference: Difference) -> Message:
        """Return the message that tells one difference.

        :raises ValueError: with it there would be more than a snapshot may tell.
        """
        assert self._said is not None, "a snapshot comes first"
        event, fingerprint, image = difference
        if event == protocol.CLEANUP:
            self._said.pop(fingerprint, None)
        elif fingerprint not in self._said and len(self._said) >= protocol.MOST_IMAGES:
            raise ValueError(
                f"more than {protocol.MOST_IMAGES} images in the cache of {self.host} "
                "can't be reported"
            )
        else:
            self._said[fingerprint] = image is not None
        size, last_used = (image.size, image.last_used) if image else (0, 0)
        version = (self.epoch, self._sequence)
        self._sequence += 1
        return Message(event, protocol.statement(self.host, version, fingerprint, size, last_used))
