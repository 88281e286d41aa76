"""Predictions against Nova's own ImageCacheManager, run on a real folder for weeks of its time.

Time is not faked: before each pass the files' times of modification are set so that they are as old
as they would be. What a pass touched or removed is then read from the folder. Of Nova only two
things are taken off: its database (no server here has block devices), and its daemon for privileged
calls, which run in this process, as in Nova's own tests.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import os
import random
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import msgpack
import nova.conf
import nova.privsep
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nova import context, objects
from nova.virt import imagecache as imagecache_base
from nova.virt.libvirt import imagecache

from bus_cache import names
from bus_cache.index.changes import Source
from bus_cache.index.writer import MOST_USES
from consumers import ageing
from consumers.ageing import Policy, Use

HOUR, DAY = 3600, 86_400
PARTS = {"image-3": ("kernel", "image-2")}
"""Image -> kernel and ramdisk of its servers; the latter is the image of other servers, too."""
BUILD = 30
"""Seconds that a boot takes: its end is told so much after its start."""


@pytest.fixture(scope="module", autouse=True)
def nova_parts() -> Iterator[None]:
    """Nova's objects, without its database and without its daemon for privileged calls."""
    objects.register_all()
    conf = nova.conf.CONF
    conf([], project="nova", default_config_files=[])
    patch = pytest.MonkeyPatch()
    patch.setattr(
        imagecache_base.objects.BlockDeviceMappingList,
        "bdms_by_instance_uuid",
        staticmethod(lambda _context, _uuids: {}),
    )
    nova.privsep.sys_admin_pctxt.set_client_mode(False)
    yield
    nova.privsep.sys_admin_pctxt.set_client_mode(True)
    patch.undo()
    for group, option in (
        (None, "instances_path"),
        ("image_cache", "manager_interval"),
        ("image_cache", "remove_unused_original_minimum_age_seconds"),
    ):
        conf.clear_override(option, group=group)


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty ``instances_path``."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


class Nova:
    """A compute host's cache, with a clock of its own in seconds."""

    def __init__(self, path: Path, interval: int, age: int) -> None:
        conf = nova.conf.CONF
        conf.set_override("instances_path", str(path))
        conf.set_override("manager_interval", interval, group="image_cache")
        conf.set_override("remove_unused_original_minimum_age_seconds", age, group="image_cache")
        self.manager = imagecache.ImageCacheManager()
        self.base = path / "_base"
        self.base.mkdir()
        self.now = 0.0
        self.servers: dict[str, str] = {}
        self.touched: dict[str, float] = {}
        self.removed: dict[str, float] = {}

    def fetch(self, image: str) -> None:
        """As ``create_image`` of nova/virt/libvirt/imagebackend.py and ``cache_image`` of
        nova/virt/libvirt/driver.py: fetch the image unless it is there, and touch it.
        """
        path = self.base / imagecache.get_cache_fname(image)
        path.touch()
        self.touched[path.name] = self.now

    def holds(self, image: str) -> bool:
        """Tell whether the file is there."""
        return os.path.exists(self.base / imagecache.get_cache_fname(image))

    def run_pass(self) -> None:
        """As ``_run_image_cache_manager_pass`` of nova/compute/manager.py."""
        instances = [
            objects.Instance(
                id=number,
                uuid=server,
                host="here",
                image_ref=image,
                **dict(zip(("kernel_id", "ramdisk_id"), PARTS.get(image, ("", "")), strict=True)),
                task_state=None,
                vm_state="active",
            )
            for number, (server, image) in enumerate(self.servers.items())
        ]
        real = time.time()
        before: dict[str, int] = {}
        for path in self.base.iterdir():
            moment = int((real - (self.now - self.touched[path.name])) * 1e9)
            os.utime(path, ns=(moment, moment))
            before[path.name] = path.stat().st_mtime_ns
        self.manager.update(context.get_admin_context(), instances)
        for name, moment in before.items():
            path = self.base / name
            if not path.exists():
                self.removed[name] = self.now
            elif path.stat().st_mtime_ns != moment:
                self.touched[name] = self.now


def images_of(image: str) -> tuple[str, ...]:
    """All that a server of an image uses."""
    return image, *PARTS.get(image, ())


@dataclasses.dataclass
class Index:
    """What the index knows of the host, as its scripts keep it; times in ms."""

    policy: Policy
    evidence: dict[bytes, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    uses: dict[bytes, Use] = dataclasses.field(default_factory=dict)
    service: tuple[int, bool] | None = None
    newest: int = 0

    def held(self, image: str, stamp: float, source: Source) -> None:
        """A host holds an image."""
        raw, at = bytes.fromhex(names.fingerprint(image)), int(stamp * 1000)
        stamp, by, *touched = self.evidence.get(raw, (0, Source.MIGRATION))
        touched += [stamp] if by != Source.MIGRATION else []
        touched += [at] if source != Source.MIGRATION else []
        newest = max((at, int(source)), (stamp, int(by)))
        self.evidence[raw] = (*newest, max(touched)) if touched else newest
        self.newest = max(self.newest, at)

    def use(self, server: str, image: str | None, stamp: float) -> None:
        """A server uses an image, or left."""
        key = uuid.UUID(server).bytes
        used = images_of(image) if image else ()
        raws = b"".join(bytes.fromhex(names.fingerprint(each)) for each in used)
        self.uses[key] = self.uses.get(key, Use(())).merged(raws, int(stamp * 1000), MOST_USES)

    def sweep(self, now: float) -> tuple[list[str], float | None]:
        """Take out what is due; return it in hex, and when to look again."""
        rows: dict[bytes, bytes] = {
            key: msgpack.packb([*itertools.chain(*use.said)], use_bin_type=False)
            for key, use in self.uses.items()
        }
        found = ageing.outlook(
            self.policy,
            self.evidence,
            rows,
            service=self.service,
            newest=self.newest,
            now=round(now * 1000),
        )
        for raw, stamp in found.due:
            assert self.evidence.pop(raw)[0] == stamp
        for key, row in found.forget:
            assert rows[key] == row
            del self.uses[key]
        again = None if found.next is None else (found.next + self.policy.wait) / 1000
        return [raw.hex() for raw, _ in found.due], again


class World:
    """Both of them, and what happens."""

    def __init__(self, nova_host: Nova, index: Index, interval: int, seed: random.Random) -> None:
        self.nova = nova_host
        self.index = index
        self.interval = interval
        self.random = seed
        self.down_until = 0.0
        self.downs: list[tuple[float, float]] = []
        self.last_pass = 0.0
        self.arrived: dict[str, float] = {}
        self.exempt: set[str] = set()
        """Files that Nova removes earlier than the index can tell."""
        self.seen: set[str] = set()
        """Files that Nova removes later than the index can tell."""
        self.late: list[float] = []
        self.steps: list[tuple[float, int, str, tuple[object, ...]]] = []
        self.number = itertools.count()

    def plan(self, at: float, what: str, *arguments: object) -> None:
        """Let something happen later."""
        heapq.heappush(self.steps, (at, next(self.number), what, arguments))

    def run(self, till: float) -> None:
        """Let all happen."""
        self.plan(self.random.uniform(0, self.interval), "cache_pass", 0.0)
        while self.steps and self.steps[0][0] <= till:
            self.nova.now, _, what, arguments = heapq.heappop(self.steps)
            getattr(self, what)(*arguments)
            self.sweep()

    def cache_pass(self, phase: float) -> None:
        """A pass, and the next one, by oslo.service's clock with its jitter."""
        if self.nova.now < self.down_until:
            return
        if phase == self.down_until:  # else nova-compute was restarted since, with another phase
            self.nova.run_pass()
            self.last_pass = self.nova.now
            jitter = int(self.interval * self.random.random() / 20)
            self.plan(self.nova.now + self.interval + jitter, "cache_pass", phase)

    def sweep(self) -> None:
        """What is due must be gone, and not long ago."""
        due, again = self.index.sweep(self.nova.now)
        for name in due:
            assert name not in self.used()
            if (self.nova.base / name).exists():
                assert name in self.seen
            elif name not in self.exempt | self.seen:
                since = self.nova.removed[name]
                late = self.while_up(since)
                self.late.append(late)
                intervals = 3 if late < self.nova.now - since else 2
                assert late * 1000 <= intervals * self.index.policy.interval + BUILD * 1000
        if again is not None and again > self.nova.now:
            self.plan(again, "look")

    def used(self) -> set[str]:
        """Return the names of all files that servers use."""
        servers = self.nova.servers.values()
        return {imagecache.get_cache_fname(each) for image in servers for each in images_of(image)}

    def while_up(self, since: float) -> float:
        """Return the seconds since a moment without those while nova-compute was down: nobody
        boots there then, and nothing is predicted."""
        down = sum(max(0, min(end, self.nova.now) - max(at, since)) for at, end in self.downs)
        return self.nova.now - since - down

    def look(self) -> None:
        """Nothing but the sweep after it."""

    def told(self, server: str, image: str, source: Source | None) -> None:
        """A notification of the end of what was done to a server."""
        if self.nova.servers.get(server) == image:
            self.index.use(server, image, self.nova.now)
        if source is not None:
            parts = PARTS.get(image, ()) if source is not Source.LIVE_MIGRATION else ()
            for each in (image, *parts):
                self.index.held(each, self.nova.now, source)

    # -- what can be done

    def boot(self, server: str, image: str) -> None:
        """A new server, or a rebuild of one that is there."""
        if self.nova.now < self.down_until:
            return
        if server in self.nova.servers:
            self.unused(server, self.nova.servers[server])
        for each in images_of(image):
            self.nova.fetch(each)
            self.touched(each)
        if server in self.nova.servers:  # the new image is in the database before it is fetched
            self.nova.servers[server] = image
            self.told(server, image, Source.REBUILD)
        else:
            self.nova.servers[server] = image
            self.plan(self.nova.now + BUILD, "told", server, image, Source.CREATE)

    def delete(self, server: str) -> None:
        """Or taken away: resized, migrated, shelved; also by nova-api, while the host is down."""
        if server not in self.nova.servers:
            return
        image = self.nova.servers.pop(server)
        self.index.use(server, None, self.nova.now)
        self.unused(server, image)

    def unused(self, server: str, image: str) -> None:
        """Note a file that Nova touched last longer ago than the index can tell: there was no pass
        for more than an interval. Or later: a pass saw its server, which came without touching it,
        and left before the index could be sure of that.
        """
        files = [imagecache.get_cache_fname(each) for each in images_of(image)]
        interval = self.index.policy.interval / 1000
        if self.nova.now - self.last_pass > interval:
            self.exempt.update(files)
        came = self.arrived.pop(server, None)
        if came is not None and came <= self.last_pass and self.nova.now - came < interval:
            self.seen.update(files)

    def touched(self, image: str) -> None:
        """Note that what the index knows of a file is right again."""
        self.exempt.discard(imagecache.get_cache_fname(image))
        self.seen.discard(imagecache.get_cache_fname(image))

    def arrive(self, server: str, image: str, source: Source | None) -> None:
        """A migration, whose image is fetched if it is not there, and touched if it is live; or,
        without a source, an unshelved or reverted server, whose image is not. Kernel and ramdisk
        are touched by a migration that is not live, which the index does not count.
        """
        if self.nova.now < self.down_until or server in self.nova.servers:
            return
        for each in images_of(image):
            name, held = imagecache.get_cache_fname(each), self.nova.holds(each)
            if each == image:
                fetched = source is Source.LIVE_MIGRATION or (source and not held)
            else:
                fetched = source is Source.MIGRATION
            if fetched:
                self.nova.fetch(each)
                self.touched(each)
                if each != image and held:
                    self.seen.add(name)
            else:
                self.arrived[server] = self.nova.now
                if source and held and self.may_be_gone(each):
                    self.exempt.add(name)
            if not self.nova.holds(each):
                self.exempt.add(name)
        self.nova.servers[server] = image
        self.told(server, image, source)

    def may_be_gone(self, image: str) -> bool:
        """Tell whether a file is so old that the index must think that it may be gone."""
        name, policy = imagecache.get_cache_fname(image), self.index.policy
        known = bytes.fromhex(name) in self.index.evidence
        age = (self.nova.now - self.nova.touched[name]) * 1000
        return not known or age >= policy.minimum_age - policy.interval

    def cache(self, image: str, source: Source) -> None:
        """For a rescue or in advance."""
        if self.nova.now >= self.down_until:
            self.nova.fetch(image)
            self.touched(image)
            self.index.held(image, self.nova.now, source)

    def stop(self, intervals: float) -> None:
        """nova-compute is down for a while."""
        if self.nova.now >= self.down_until:
            self.down_until = self.nova.now + intervals * self.interval
            self.index.service = (int(self.nova.now * 1000), False)
            self.downs.append((self.nova.now, self.down_until))
            self.plan(self.down_until, "start")

    def start(self) -> None:
        """And comes back, with another phase."""
        if self.nova.now < self.down_until:  # stopped again at the very moment
            return
        self.index.service = (int(self.nova.now * 1000), True)
        first = self.nova.now + self.random.uniform(0, self.interval)
        self.plan(first, "cache_pass", self.down_until)


SERVER = st.sampled_from([str(uuid.UUID(int=number)) for number in range(1, 5)])
IMAGE = st.sampled_from([f"image-{number}" for number in range(4)])
INTERVALS = st.floats(0.02, 1) | st.floats(0.02, 40)  # two things never happen at one time
OPERATIONS = st.one_of(
    st.tuples(st.just("boot"), SERVER, IMAGE),
    st.tuples(st.just("boot"), SERVER, IMAGE),
    st.tuples(st.just("delete"), SERVER),
    st.tuples(st.just("delete"), SERVER),
    st.tuples(
        st.just("arrive"),
        SERVER,
        IMAGE,
        st.sampled_from([None, Source.MIGRATION, Source.LIVE_MIGRATION]),
    ),
    st.tuples(st.just("cache"), IMAGE, st.sampled_from([Source.RESCUE, Source.PRECACHE])),
    st.tuples(st.just("stop"), INTERVALS),
    st.tuples(st.just("stop"), INTERVALS),
)


@settings(deadline=None, max_examples=60)
@given(
    options=st.sampled_from([(2400, DAY), (2400, 0), (2400, HOUR), (7200, HOUR), (600, 2 * HOUR)]),
    steps=st.lists(st.tuples(INTERVALS, OPERATIONS), min_size=5, max_size=25),
    seed=st.randoms(use_true_random=False),
)
def test_weeks_of_a_host(
    options: tuple[int, int],
    steps: list[tuple[float, tuple[Any, ...]]],
    seed: random.Random,
) -> None:
    """An image leaves the index after its file is gone, by two intervals at most; and never while a
    server uses it, since then its file is there."""
    interval, age = options
    with tempfile.TemporaryDirectory() as path:
        index = Index(Policy.of(interval, True, age))
        world = World(Nova(Path(path), interval, age), index, interval, seed)
        at = float(interval)
        for gap, operation in steps:
            at += gap * interval
            world.plan(at, *operation)
        world.run(at + 40 * interval + 2 * age + 3 * interval)
    for late in world.late:
        hypothesis.event(f"held too long, in tenths of an interval: {late * 10 // interval}")
    assert {raw.hex() for raw in index.evidence} <= world.used()  # the rest went in time


# -- what the rules of evidence take from Nova ---------------------------------------------


def test_what_protects_an_image(folder: Path) -> None:
    """The image, the kernel and the ramdisk in Nova's database do; a rescue's, and a disk that a
    resize left behind, do not."""
    host = Nova(folder, 2400, DAY)
    host.servers[str(uuid.uuid4())] = "used"
    host.servers[str(uuid.uuid4())] = "image-3"
    kept = ("used", "image-3", *PARTS["image-3"])
    for image in (*kept, "rescue", "resized"):
        host.fetch(image)
    left_behind = folder / f"{uuid.uuid4()}_resize"
    left_behind.mkdir()
    (left_behind / "disk").write_bytes(b"")
    host.now = DAY - 1
    host.run_pass()
    assert all(host.holds(image) for image in (*kept, "rescue", "resized"))
    host.now = DAY
    host.run_pass()
    assert not host.holds("rescue")
    assert not host.holds("resized")
    for image in kept:
        assert host.touched[imagecache.get_cache_fname(image)] == DAY


def test_an_age_that_is_reached(folder: Path) -> None:
    """A file goes at its age, not after it; one just touched goes with an age of 0."""
    host = Nova(folder, 2400, 0)
    host.fetch("image")
    host.run_pass()
    assert not host.holds("image")


def test_no_removal(folder: Path) -> None:
    """remove_unused_base_images = False."""
    nova.conf.CONF.set_override("remove_unused_base_images", False, group="image_cache")
    try:
        host = Nova(folder, 2400, DAY)
        host.fetch("image")
        host.now = 100 * DAY
        host.run_pass()
    finally:
        nova.conf.CONF.clear_override("remove_unused_base_images", group="image_cache")
    assert host.holds("image")
