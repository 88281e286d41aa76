"""Looks at the hosts' disks, at Nova's database and at the public sets, several times a second."""

from __future__ import annotations

import gzip
import json
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bus_cache import names
from tests import keyspace
from tests.lab.churn_tables import Image, Images, Sample
from tests.lab.plane import ControlPlane
from tests.lab.scenario import fingerprint

#: Seconds between samples: well below what a difference may last.
INTERVAL = 0.2

# Servers that are what they are to be. One that is being built or rebuilt has its image's name
# already, but perhaps not the image; the disk that it had until then tells what it used.
SETTLED = """
    SELECT host, uuid, image_ref, kernel_id, ramdisk_id FROM instances
    WHERE host IS NOT NULL AND deleted = 0
      AND vm_state IN ('active', 'stopped', 'paused', 'suspended', 'rescued', 'resized')
      AND (task_state IS NULL OR task_state NOT LIKE 'rebuild%')
"""

QCOW2 = b"QFI\xfb"


def backing_file(disk: Path) -> str:
    """The name of the file that a guest's disk lies over; empty: none, or no such disk."""
    try:
        with open(disk, "rb") as file:
            head = file.read(4096)
    except OSError:
        return ""
    if head[:4] != QCOW2:
        return ""
    offset, size = struct.unpack(">QI", head[8:20])
    return Path(head[offset : offset + size].decode()).name


class Sampler(threading.Thread):
    """Takes samples of all hosts and of some keyspaces until it is stopped."""

    def __init__(self, plane: ControlPlane, keyspaces: Iterable[str]) -> None:
        super().__init__(name="sampler", daemon=True)
        self.samples: list[Sample] = []
        self.failure: BaseException | None = None
        self._plane = plane
        self._hosts = tuple(plane.hosts)
        self._keyspaces = tuple(keyspaces)
        self._stopping = threading.Event()

    def run(self) -> None:
        try:
            with (
                self._plane.database.connection("nova") as database,
                self._plane.redis.client() as redis,
            ):
                while not self._stopping.wait(INTERVAL):
                    self.samples.append(self._take(database, redis))
        except BaseException as error:
            self.failure = error

    def stop(self) -> list[Sample]:
        """All samples; the error where taking them failed."""
        self._stopping.set()
        self.join()
        if self.failure is not None:
            raise self.failure
        return self.samples

    def _take(self, database: Any, redis: Any) -> Sample:
        used = Images(self._used(database))  # first, as it takes longest
        at = time.time()
        disk = Images(self._disk())
        sets = {
            name: Images(
                Image(host, image)
                for image, hosts in keyspace.sets(redis, name).items()
                for host in hosts
            )
            for name in self._keyspaces
        }
        return Sample(at, disk, used, sets)

    def _disk(self) -> Iterator[Image]:
        """The images that are wholly there: others have more to their names."""
        for host in self._hosts:
            for name in filter(names.is_fingerprint, self._plane.cached(host)):
                yield Image(host, name)

    def _used(self, database: Any) -> Iterator[Image]:
        with database.cursor() as cursor:
            cursor.execute(SETTLED)
            rows = cursor.fetchall()
        for host, server, *images in rows:
            yield from (Image(host, fingerprint(image)) for image in images if image)
            backing = backing_file(self._plane.base(host).parent / server / "disk")
            if backing:
                yield Image(host, backing)


def write(path: Path, samples: Iterable[Sample]) -> None:
    """Keep samples, to look into what went wrong: one JSON object a line, gzipped."""
    with gzip.open(path, "wt") as file:
        for sample in samples:
            row = {
                "at": sample.at,
                "disk": sorted(sample.disk),
                "used": sorted(sample.used),
                "sets": {name: sorted(images) for name, images in sample.sets.items()},
            }
            file.write(json.dumps(row) + "\n")


def read(path: Path) -> Iterator[Sample]:
    """The samples of an earlier run."""
    with gzip.open(path, "rt") as file:
        for line in file:
            row = json.loads(line)
            sets = {name: _images(images) for name, images in row["sets"].items()}
            yield Sample(row["at"], _images(row["disk"]), _images(row["used"]), sets)


def _images(rows: Iterable[tuple[str, str]]) -> Images:
    return Images(Image(*row) for row in rows)
