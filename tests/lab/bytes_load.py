"""What lab-bytes asks of the cloud: images of random bytes and requests for servers, by a seed."""

from __future__ import annotations

import bisect
import itertools
import random
import uuid

from simulator.trace import Request

IMAGES = 12
SMALLEST, LARGEST = 20_000_000, 400_000_000  # bytes, spread evenly by their logarithms
ZIPF = 1.0
SERVERS = 80
BURSTS, BURST = 2, 12  # so many requests for so many servers each, among these
SECONDS = 180.0
STAYS = 1 / 3
LIFETIME = 40.0  # mean seconds of those that do not stay
VCPUS, RAM_MB, DISK_GB = 1, 4096, 1  # of each server

Sizes = dict[str, int]
"""An image's name -> its bytes."""


def sizes(rng: random.Random) -> Sizes:
    """Sizes of all images; the most popular one comes first."""
    ratio = LARGEST / SMALLEST
    spread = [round(SMALLEST * ratio ** (each / (IMAGES - 1))) for each in range(IMAGES)]
    rng.shuffle(spread)
    return {f"image-{number:02}": size for number, size in enumerate(spread)}


def sequence(seed: int) -> list[Request]:
    """Requests: popular and rare images, single servers and bursts, some that are deleted soon.

    Popularity is by Zipf's law. Every other burst is of any image, mostly a rare one. Arrivals are
    Poisson, given their number.
    """
    rng = random.Random(f"lab-bytes {seed}")
    images = sizes(rng)
    names = list(images)
    popularity = list(itertools.accumulate(1 / rank**ZIPF for rank in range(1, IMAGES + 1)))

    def popular() -> str:
        return names[bisect.bisect(popularity, rng.random() * popularity[-1])]

    def request(image: str, count: int) -> Request:
        life = None if rng.random() < STAYS else round(rng.expovariate(1 / LIFETIME), 1)
        when = round(rng.random() * SECONDS, 1)
        return Request(when, life, image, images[image], VCPUS, RAM_MB, DISK_GB, count)

    bursts = [rng.choice(names) if each % 2 == 0 else popular() for each in range(BURSTS)]
    requests = [request(image, BURST) for image in bursts]
    requests += [request(popular(), 1) for _ in range(SERVERS - BURSTS * BURST)]
    return sorted(requests, key=lambda request: request.time_s)


def image_id(name: str) -> str:
    """The id of an image in Glance; always the same one."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


def content(name: str, size: int) -> bytes:
    """What nothing can compress, and nothing takes for another format than raw."""
    rng = random.Random(name)
    return b"".join(rng.randbytes(min(2**20, size - done)) for done in range(0, size, 2**20))
