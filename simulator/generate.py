"""Synthetic traces: popular and rare images, bursts, heavy tails. The same for a seed, always.

What is drawn, and from what:

- images: popularity by Zipf's law; size log-normal (median 2 GB, sigma 1), cut to 0.3-20 GB;
- arrivals: Poisson, at a rate that follows the day (a sine of 60 %);
- bursts of 20-100 servers of one image: half of them one request, half 20-100 requests within some
  seconds; half of them of an image by its popularity, half of any image, most of them rare;
- lifetimes: log-normal with sigma 2 (heavy: a few live for as long as all others together); one in
  ten stays. Their scale is chosen such that servers fill, at the fullest moment, the wanted part of
  the hosts' RAM.
"""

from __future__ import annotations

import argparse
import bisect
import dataclasses
import itertools
import math
import pathlib
import random
from collections.abc import Sequence

from simulator.parameters import load
from simulator.trace import Request, write

_FLAVORS = [  # vcpus, MiB, GiB, weight
    (1, 2048, 20, 30),
    (2, 4096, 40, 30),
    (4, 8192, 40, 20),
    (8, 16384, 80, 15),
    (16, 32768, 80, 5),
]
_SMALLEST, _LARGEST, _MEDIAN, _SIGMA = 300_000_000, 20_000_000_000, 2e9, 1.0
_STAYS = 0.1
_LIFE_SIGMA = 2.0
_LONGEST_MEDIAN = 30 * 86400.0
_STEEPEST = 10.0


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a synthetic trace is like; :data:`_MEANS` has each in words."""

    boots: int = 20_000
    days: float = 7.0
    images: int = 300
    zipf: float = 0.9
    burst_share: float = 0.4
    load: float = 0.6


_MEANS = {
    "boots": "servers in all",
    "days": "from the first request to the last, about",
    "images": "how many there are",
    "zipf": "exponent of their popularity; 0: all alike, and the higher the fewer are popular",
    "burst_share": "of all servers, those that come in bursts, from 0 to 1",
    "load": "of the hosts' RAM, what servers fill at the fullest moment, from 0 to 1",
}


def generate(shape: Shape, hosts: int, host_ram_mb: int, seed: int) -> list[Request]:
    """Return a trace for so many hosts of so much RAM."""
    rng = random.Random(f"trace {seed}")
    sizes = [_size(rng) for _ in range(shape.images)]
    weights = [1.0 / rank**shape.zipf for rank in range(1, shape.images + 1)]
    popularity = list(itertools.accumulate(weights))

    def popular() -> int:
        return bisect.bisect(popularity, rng.random() * popularity[-1])

    def request(when: float, image: int, count: int, like: Request | None = None) -> Request:
        flavor = rng.choices(_FLAVORS, [flavor[3] for flavor in _FLAVORS])[0]
        life = rng.lognormvariate(0.0, _LIFE_SIGMA) if rng.random() >= _STAYS else None
        drawn = Request(when, life, f"image-{image:04}", sizes[image], *flavor[:3], count)
        # the servers of a burst are alike
        return drawn if like is None else dataclasses.replace(like, time_s=when, count=count)

    end = shape.days * 86400
    requests: list[Request] = []
    in_bursts = 0
    while in_bursts < shape.boots * shape.burst_share:
        size = min(rng.randint(20, 100), max(1, shape.boots - in_bursts))
        image = popular() if rng.random() < 0.5 else rng.randrange(shape.images)
        when = _moment(rng, end)
        first = request(when, image, size)
        if rng.random() < 0.5:
            requests.append(first)
        else:
            spread = rng.uniform(1.0, 20.0)
            requests += (
                request(when + rng.random() * spread, image, 1, like=first) for _ in range(size)
            )
        in_bursts += size
    requests += (request(_moment(rng, end), popular(), 1) for _ in range(shape.boots - in_bursts))
    requests.sort(key=lambda request: request.time_s)
    return _scaled(requests, shape.load * hosts * host_ram_mb)


def _size(rng: random.Random) -> int:
    while True:
        size = rng.lognormvariate(math.log(_MEDIAN), _SIGMA)
        if _SMALLEST <= size <= _LARGEST:
            return round(size)


def _moment(rng: random.Random, end: float) -> float:
    """Draw a moment: Poisson arrivals, given their number, are spread evenly; here by the day."""
    while True:
        when = rng.random() * end
        if rng.random() * 1.6 < 1.0 - 0.6 * math.cos(2 * math.pi * when / 86400):
            return when


def _scaled(requests: list[Request], most_ram: float) -> list[Request]:
    """Scale lifetimes, by bisection, until the fullest moment takes ``most_ram`` MiB.

    Where there are too few servers for it, half of them live for a month or longer.
    """
    low, high = 1.0, _LONGEST_MEDIAN
    for _ in range(40):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if _fullest(requests, middle) < most_ram else (low, middle)
    return [
        dataclasses.replace(
            request,
            time_s=round(request.time_s, 3),
            lifetime_s=request.lifetime_s and round(request.lifetime_s * low, 3),
        )
        for request in requests
    ]


def _fullest(requests: list[Request], scale: float) -> float:
    changes = []
    for request in requests:
        ram = request.ram_mb * request.count
        changes.append((request.time_s, ram))
        if request.lifetime_s is not None:
            changes.append((request.time_s + request.lifetime_s * scale, -ram))
    used = most = 0
    for _, change in sorted(changes):
        used += change
        most = max(most, used)
    return most


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a trace: ``python -m simulator.generate --hosts 100 --seed 1 trace.csv.gz``."""
    parser = argparse.ArgumentParser(
        prog="python -m simulator.generate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=pathlib.Path, help="to write; with .gz gzipped")
    parser.add_argument(
        "--hosts", type=int, required=True, metavar="N", help="that the load is measured by"
    )
    ram = load().host_ram
    parser.add_argument(
        "--ram-mb", type=int, default=ram, metavar="N", help=f"of a host, in MiB (default {ram})"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="another one, another trace (default 0)"
    )
    for field in dataclasses.fields(Shape):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=type(field.default),
            default=field.default,
            metavar="N" if isinstance(field.default, int) else "X",
            help=f"{_MEANS[field.name]} (default {field.default})",
        )
    options = parser.parse_args(arguments)
    chosen = {field.name: getattr(options, field.name) for field in dataclasses.fields(Shape)}
    for name in ("hosts", "ram_mb", "boots", "days", "images", "load"):
        if not 0 < getattr(options, name) < math.inf:
            parser.error(f"--{name.replace('_', '-')} must be above 0")
    if not (0 <= options.burst_share <= 1 and options.load <= 1):
        parser.error("--burst-share and --load are parts, 1 at the most")
    if not abs(options.zipf) <= _STEEPEST:
        parser.error(f"--zipf is {_STEEPEST:g} at the most")
    try:
        write(options.file, generate(Shape(**chosen), options.hosts, options.ram_mb, options.seed))
    except OSError as error:
        parser.error(f"{options.file}: {error.strerror}")


if __name__ == "__main__":
    main()
