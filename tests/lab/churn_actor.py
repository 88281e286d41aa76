"""What happens to the hosts while they are watched: servers come, change and go, and so do images.

Images are taken from a few of the pool at a time, and which few those are moves on: so every image
falls out of use for long enough to age out, and comes back later.
"""

from __future__ import annotations

import os
import random
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.lab.client import Cloud, CloudError, Server
from tests.lab.plane import ControlPlane, in_parallel
from tests.lab.scenario import image_id

FLAVORS = {"tiny": 32, "small": 48}  # MiB of memory; 1 GiB of disk
DISK = 1

POOL = tuple(f"pool-{number}" for number in range(9))
#: So many of the pool are taken at a time, for so many seconds.
AT_A_TIME, TURN = 3, 60.0
RESCUE = ("rescue-1", "rescue-2")
CACHED = ("cached-1", "cached-2", "cached-3")
#: Boots with a kernel and a ramdisk, which are images of their own.
KERNEL_BOOTS, KERNEL, RAMDISK = "kernel-boots", "kernel-1", "ramdisk-1"
#: Fetched whole before Nova finds that it does not fit on any server's disk.
TOO_LARGE = "large-1"
#: Refused by Nova after the download: it is not of the format that Glance was told.
UNACCEPTABLE = "unacceptable-1"
#: How images are called that are deleted in Glance while they are used.
DOOMED = "doomed-"

MOST_SERVERS = 4

RESCUED, SHELVED, RESIZED, ACTIVE = "RESCUE", "SHELVED_OFFLOADED", "VERIFY_RESIZE", "ACTIVE"
STOPPED = "SHUTOFF"

#: Seconds for which a host is down: more than two passes of its cache manager would have taken.
DOWN = 50.0


def kind(name: str) -> str:
    """What an image is, in a table of images that nobody could know of."""
    if name.endswith("-shelved"):
        return "snapshot of a shelved server"
    if name.startswith(DOOMED):
        return "deleted in Glance before it came"
    return {
        KERNEL: "kernel",
        RAMDISK: "ramdisk",
        TOO_LARGE: "fetched for a server that could not be built",
    }.get(name, f"image {name}")


# -- images


def random_disk(directory: Path, size: str = "1M") -> bytes:
    """A small qcow2 image like no other; with a larger size it is still a small file."""
    raw, qcow2 = directory / "image.raw", directory / "image.qcow2"
    raw.write_bytes(os.urandom(1 << 20))
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, qcow2], check=True)
    subprocess.run(["qemu-img", "resize", "-q", qcow2, size], check=True)
    return qcow2.read_bytes()


def kernel() -> bytes:
    """What qemu takes for a Linux kernel; it halts at once."""
    image = bytearray(b"\xfa\xf4\xeb\xfd" * 4096)  # cli, hlt, and again
    image[0x1F1] = 1  # sectors of the setup code
    image[0x202:0x208] = b"HdrS" + struct.pack("<H", 0x200)  # the oldest that takes a ramdisk
    return bytes(image)


def create_images(cloud: Cloud, directory: Path) -> None:
    """Half of the pool in each format, and one of every other kind."""
    for number, name in enumerate((*POOL, *RESCUE, *CACHED)):
        if number % 2:
            cloud.create_image(image_id(name), name, os.urandom(1 << 20))
        else:
            cloud.create_image(image_id(name), name, random_disk(directory), "qcow2")
    cloud.create_image(image_id(KERNEL), KERNEL, kernel(), "aki")
    cloud.create_image(image_id(RAMDISK), RAMDISK, os.urandom(4096), "ari")
    parts = {"kernel_id": image_id(KERNEL), "ramdisk_id": image_id(RAMDISK)}
    content = random_disk(directory)
    cloud.create_image(image_id(KERNEL_BOOTS), KERNEL_BOOTS, content, "qcow2", **parts)
    content = random_disk(directory, f"{DISK + 1}G")
    cloud.create_image(image_id(TOO_LARGE), TOO_LARGE, content, "qcow2")
    cloud.create_image(image_id(UNACCEPTABLE), UNACCEPTABLE, random_disk(directory), "raw")


# -- actors


@dataclass
class Guest:
    """A server of an actor's, and how it is."""

    server: Server
    status: str = ACTIVE


@dataclass(frozen=True)
class Done:
    """Something that an actor did."""

    operation: str
    started: float
    seconds: float
    failure: str = ""


@dataclass
class Stage:
    """What the actors share."""

    plane: ControlPlane
    done: list[Done] = field(default_factory=list)
    #: Hosts whose nova-compute was killed, when, and when it was back; seconds since 1970.
    down: list[tuple[str, float, float]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def images(self) -> tuple[str, ...]:
        """Those of the pool that are taken now."""
        turn = int((time.monotonic() - self.started) / TURN)
        return tuple(POOL[(turn + each) % len(POOL)] for each in range(AT_A_TIME))


class Actor:
    """Does one thing after another, with servers of its own."""

    def __init__(self, stage: Stage, name: str, seed: int) -> None:
        self.stage = stage
        self.name = name
        self.guests: list[Guest] = []
        self._random = random.Random(seed)
        self._cloud = Cloud(stage.plane.addresses.urls["keystone"], interval=0.4)
        self._aggregate = self._cloud.create_aggregate(stage.plane.hosts)
        self._number = 0
        #: Operation -> how likely it is among those that are possible.
        self._likely: dict[Callable[[], bool], int] = {
            self.boot: 10,
            self.boot_with_kernel: 1,
            self.boot_in_vain: 1,
            self.boot_and_delete_at_once: 1,
            self.boot_of_deleted_image: 1,
            self.delete: 5,
            self.rebuild: 5,
            self.rescue: 3,
            self.unrescue: 2,
            self.shelve: 4,
            self.unshelve: 4,
            self.resize: 2,
            self.migrate: 2,
            self.end_resize: 6,
            self.live_migrate: 2,
            self.stop_and_start: 1,
            self.pre_cache: 3,
        }

    def act(self, until: float) -> None:
        """One thing after another until then, by the monotonic clock."""
        while time.monotonic() < until:
            operations = list(self._likely)
            if self._do(self._random.choices(operations, list(self._likely.values()))[0]):
                time.sleep(self._random.uniform(0.0, 1.0))

    def _do(self, operation: Callable[[], bool]) -> bool:
        """Whether it was possible; what came of it is noted."""
        started, failure = time.time(), ""
        try:
            if not operation():
                return False
        except CloudError as error:
            failure = str(error)[:300]
            self._look_again()
        seconds = time.time() - started
        self.stage.done.append(Done(operation.__name__, started, seconds, failure))
        return True

    def _look_again(self) -> None:
        """Go on with the servers as they are; delete those that are in error."""
        for guest in list(self.guests):
            guest.status = guest.server.show()["status"]
            if guest.status == "ERROR":
                self.guests.remove(guest)
                guest.server.delete()

    def _some(self, status: str) -> Iterator[Guest]:
        """One of the servers of this status, if there is any."""
        guests = [guest for guest in self.guests if guest.status == status]
        if guests:
            yield self._random.choice(guests)

    def _boot(self, image: str) -> Server:
        self._number += 1
        flavor = self._random.choice(list(FLAVORS))
        return self._cloud.boot(f"{self.name}-{self._number}", image_id(image), flavor)

    def _full(self) -> bool:
        return len(self.guests) >= MOST_SERVERS

    # -- operations: each says whether it was possible

    def boot(self) -> bool:
        if self._full():
            return False
        guest = Guest(self._boot(self._random.choice(self.stage.images())))
        self.guests.append(guest)
        guest.server.wait()
        return True

    def boot_with_kernel(self) -> bool:
        if self._full():
            return False
        guest = Guest(self._boot(KERNEL_BOOTS))
        self.guests.append(guest)
        guest.server.wait()
        return True

    def boot_in_vain(self) -> bool:
        self._boot(self._random.choice((TOO_LARGE, UNACCEPTABLE))).wait("ERROR").delete()
        return True

    def boot_and_delete_at_once(self) -> bool:
        server = self._boot(self._random.choice(self.stage.images()))
        time.sleep(self._random.uniform(0.0, 3.0))
        server.delete()
        return True

    def boot_of_deleted_image(self) -> bool:
        """Nova keeps the file of an image that Glance has no more, for as long as it is used."""
        if self._full():
            return False
        self._number += 1
        name = f"{DOOMED}{self.name}-{self._number}"
        self._cloud.create_image(image_id(name), name, os.urandom(1 << 20))
        guest = Guest(self._boot(name))
        self.guests.append(guest)
        guest.server.wait()
        self._cloud.delete_image(image_id(name))
        return True

    def delete(self) -> bool:
        if not self.guests:
            return False
        guest = self._random.choice(self.guests)
        self.guests.remove(guest)
        guest.server.delete()
        return True

    def rebuild(self) -> bool:
        image = image_id(self._random.choice(self.stage.images()))
        return self._change(ACTIVE, {"rebuild": {"imageRef": image}}, ACTIVE)

    def rescue(self) -> bool:
        image = image_id(self._random.choice(RESCUE))
        return self._change(ACTIVE, {"rescue": {"rescue_image_ref": image}}, RESCUED)

    def unrescue(self) -> bool:
        return self._change(RESCUED, "unrescue", ACTIVE)

    def shelve(self) -> bool:
        return self._change(ACTIVE, "shelve", SHELVED)

    def unshelve(self) -> bool:
        return self._change(SHELVED, "unshelve", ACTIVE)

    def resize(self) -> bool:
        for guest in self._some(ACTIVE):
            flavor = guest.server.show()["flavor"]["original_name"]
            other = next(name for name in FLAVORS if name != flavor)
            return self._change_one(guest, {"resize": {"flavorRef": other}}, RESIZED)
        return False

    def end_resize(self) -> bool:
        action = self._random.choice(("confirmResize", "revertResize"))
        return self._change(RESIZED, action, ACTIVE)

    def stop_and_start(self) -> bool:
        return self._change(ACTIVE, "os-stop", STOPPED) and self.start()

    def start(self) -> bool:
        return self._change(STOPPED, "os-start", ACTIVE)

    def migrate(self) -> bool:
        return self._change(ACTIVE, "migrate", RESIZED)

    def live_migrate(self) -> bool:
        where = {"host": None, "block_migration": "auto"}
        return self._change(ACTIVE, {"os-migrateLive": where}, ACTIVE)

    def pre_cache(self) -> bool:
        """Nova goes on with it in the background."""
        images = self._random.sample((*CACHED, *POOL), 2)
        self._cloud.cache_images(self._aggregate, [image_id(name) for name in images])
        return True

    def evacuate(self) -> bool:
        """One server that was on a host that is down; Nova leaves it stopped on another one."""
        down = [each for each in self.guests if each.status == ACTIVE and self._is_down(each)]
        return bool(down) and self._change_one(down[0], {"evacuate": {}}, STOPPED)

    def _is_down(self, guest: Guest) -> bool:
        return guest.server.host not in self._cloud.hosts()

    def leave(self) -> None:
        """Evacuate what can be evacuated from hosts that are down, and go on with that."""
        for operation in (self.evacuate, self.start):
            for _ in range(MOST_SERVERS):
                self._do(operation)

    def delete_all(self) -> None:
        while self.guests:
            self._do(self.delete)

    def _change(self, status: str, action: str | dict[str, object], then: str) -> bool:
        return any(self._change_one(guest, action, then) for guest in self._some(status))

    def _change_one(self, guest: Guest, action: str | dict[str, object], then: str) -> bool:
        guest.server.act(action, then)
        guest.status = then
        return True


def together(actors: Sequence[Actor], work: Callable[[Actor], None]) -> None:
    """Have all actors do something, side by side."""
    in_parallel(*(partial(work, actor) for actor in actors))


def act(stage: Stage, actors: Sequence[Actor], until: float) -> None:
    """Fill the time until then, by the monotonic clock; half-way a host dies, and comes back."""
    plane = stage.plane
    half = (time.monotonic() + until) / 2
    together(actors, lambda actor: actor.act(half))
    host = plane.hosts[-1]
    killed = time.time()
    plane.kill_compute(host)
    plane.cloud.update_service(host, forced_down=True)
    back = time.monotonic() + DOWN
    together(actors, Actor.leave)
    time.sleep(max(0.0, back - time.monotonic()))
    plane.start_compute(host)
    plane.cloud.accept_again(host)
    plane.await_hosts([host])
    stage.down.append((host, killed, time.time()))
    together(actors, lambda actor: actor.act(until))
    together(actors, Actor.delete_all)
