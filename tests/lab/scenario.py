"""What is done with the lab's cloud: every operation that moves an image to a host, or seems to.

Each step is a function of :data:`STEPS`, in the order in which they run; it does one thing through
Nova's API, waits for its end, and notes in the :class:`~tests.lab.truth.Truth` what that meant.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable

from tests.lab.client import Server, wait_until
from tests.lab.plane import ControlPlane
from tests.lab.truth import VERSIONED_ONLY, Table, Truth

IMAGES = ("first", "second", "third", "shelved", "rescue", "cached-1", "cached-2", "doomed", "last")
#: An image that no host ever gets.
NEVER = "never"

STEPS: dict[str, Callable[[Scenario], None]] = {}


def step(function: Callable[[Scenario], None]) -> Callable[[Scenario], None]:
    """Add a function to the scenario's steps."""
    STEPS[function.__name__] = function
    return function


def image_id(name: str) -> str:
    """The id of one of the lab's images: the same in every run."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"tests.lab/images/{name}"))


def fingerprint(image: str) -> str:
    """What Nova calls an image's file in a host's cache."""
    return hashlib.sha1(image.encode()).hexdigest()


class Scenario:
    """A cloud, the truth about it, and the servers by the names that the steps gave them."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.cloud = plane.cloud
        self.truth = Truth()
        self.servers: dict[str, Server] = {}

    def prepare(self) -> None:
        """Flavors and small images."""
        self.cloud.create_flavor("small", ram=128, disk=1)
        self.cloud.create_flavor("medium", ram=256, disk=1)
        self.cloud.create_flavor("huge", ram=1 << 24, disk=1)
        for name in (*IMAGES, NEVER):
            self.cloud.create_image(image_id(name), name, name.encode() * 1000)

    def boot(self, name: str, image: str, host: str | None = None) -> Server:
        """Boot a server, whose host then holds the image; ``image`` is one of the lab's names."""
        server = self.cloud.boot(name, image_id(image), host=host).wait()
        self.servers[name] = server
        self.learn(server)
        return server

    def learn(self, server: Server) -> None:
        """Note that the host on which Nova has a server fetched the server's image for it."""
        self.truth.holds(server.image, server.host)

    def on_disk(self) -> Table:
        """What the hosts' disks hold of the images that exist: what any truth must come to."""
        table: Table = {}
        for image in sorted(self.cloud.images()):
            hosts = [h for h in self.plane.hosts if fingerprint(image) in self.plane.cached(h)]
            if hosts:
                table[image] = hosts
        return table

    def await_cached(self, image: str, host: str) -> None:
        """Until a host has fetched an image that it was asked to cache."""
        wait_until(
            lambda: fingerprint(image) in self.plane.cached(host), f"image {image} on {host}"
        )


# -- creating


@step
def boot(lab: Scenario) -> None:
    lab.boot("one", "first")


@step
def boot_another_image(lab: Scenario) -> None:
    lab.boot("two", "second")


@step
def multi_create(lab: Scenario) -> None:
    for server in lab.cloud.boot_many("several", image_id("first"), 3):
        lab.learn(server.wait())


@step
def reschedule(lab: Scenario) -> None:
    """The first host fails before it fetches anything, and Nova tries another."""
    lab.boot("failonce", "third")


@step
def fail_on_every_host(lab: Scenario) -> None:
    lab.cloud.boot("failalways", image_id(NEVER)).wait("ERROR").delete()


@step
def no_valid_host(lab: Scenario) -> None:
    lab.cloud.boot("too-large", image_id(NEVER), flavor="huge").wait("ERROR").delete()


# -- changing a server


@step
def rebuild_same_image(lab: Scenario) -> None:
    server = lab.servers["one"]
    lab.learn(server.act({"rebuild": {"imageRef": image_id("first")}}))


@step
def rebuild_other_image(lab: Scenario) -> None:
    """The host has the new image, and still the old one."""
    server = lab.servers["one"]
    lab.learn(server.act({"rebuild": {"imageRef": image_id("second")}}))


@step
def resize(lab: Scenario) -> None:
    server = lab.servers["one"]
    lab.learn(server.act({"resize": {"flavorRef": "medium"}}, then="VERIFY_RESIZE"))


@step
def confirm_resize(lab: Scenario) -> None:
    lab.servers["one"].act("confirmResize")


@step
def resize_and_revert(lab: Scenario) -> None:
    """The destination keeps the image that it fetched for a server that went back."""
    server = lab.servers["one"]
    lab.learn(server.act({"resize": {"flavorRef": "small"}}, then="VERIFY_RESIZE"))
    lab.learn(server.act("revertResize"))


@step
def cold_migrate(lab: Scenario) -> None:
    server = lab.servers["two"]
    lab.learn(server.act("migrate", then="VERIFY_RESIZE"))
    server.act("confirmResize")


@step
def live_migrate(lab: Scenario) -> None:
    server = lab.servers["two"]
    lab.learn(server.act({"os-migrateLive": {"host": None, "block_migration": "auto"}}))


@step
def shelve(lab: Scenario) -> None:
    lab.boot("three", "shelved").act("shelve", then="SHELVED_OFFLOADED")


@step
def unshelve(lab: Scenario) -> None:
    """The new host fetches a snapshot that is deleted at once; the original image it never has."""
    held = lab.truth.table("both")[image_id("shelved")]
    other = next(host for host in lab.plane.hosts if host not in held)
    lab.servers["three"].act({"unshelve": {"host": other}})


@step
def delete_shelved_server(lab: Scenario) -> None:
    lab.servers["three"].act("shelve", then="SHELVED_OFFLOADED").delete()


@step
def snapshot(lab: Scenario) -> None:
    lab.servers["one"].act({"createImage": {"name": "snapshot-of-one"}})


@step
def rescue(lab: Scenario) -> None:
    server = lab.servers["one"]
    server.act({"rescue": {"rescue_image_ref": image_id("rescue")}}, then="RESCUE")
    lab.truth.holds(image_id("rescue"), server.host, told_by=VERSIONED_ONLY)
    server.act("unrescue")


@step
def change_power_and_lock(lab: Scenario) -> None:
    """Much ado that has nothing to do with images."""
    server = lab.servers["two"]
    server.act("os-stop", then="SHUTOFF").act("os-start").act({"reboot": {"type": "SOFT"}})
    server.act("pause", then="PAUSED").act("unpause")
    server.act("suspend", then="SUSPENDED").act("resume")
    server.act({"lock": {}}).act("unlock")


# -- hosts


@step
def pre_cache(lab: Scenario) -> None:
    """An aggregate's hosts fetch two images, but for one host that is down."""
    *up, down = lab.plane.hosts[:3]
    aggregate = lab.cloud.create_aggregate([*up, down])
    lab.cloud.update_service(down, forced_down=True)
    images = [image_id("cached-1"), image_id("cached-2")]
    lab.cloud.cache_images(aggregate, images)
    for host in up:
        for image in images:
            lab.await_cached(image, host)
            lab.truth.holds(image, host, told_by=VERSIONED_ONLY)
    lab.cloud.update_service(down, forced_down=False)


@step
def pre_cache_again(lab: Scenario) -> None:
    """What is there already counts as cached; the host that was down gets the image now."""
    aggregate = lab.cloud.create_aggregate(lab.plane.hosts[1:3])
    lab.cloud.cache_images(aggregate, [image_id("cached-1")])
    for host in lab.plane.hosts[1:3]:
        lab.await_cached(image_id("cached-1"), host)
        lab.truth.holds(image_id("cached-1"), host, told_by=VERSIONED_ONLY)


@step
def disable_and_enable_host(lab: Scenario) -> None:
    host = lab.plane.hosts[0]
    lab.cloud.update_service(host, status="disabled", disabled_reason="the lab's")
    lab.cloud.update_service(host, status="enabled")


@step
def evacuate(lab: Scenario) -> None:
    """A host dies; Nova builds its server anew on another one, and later the host comes back.

    Without its guests, as fake ones end with their host's process: from here on there is nothing
    to be done with them but to delete them.
    """
    server = lab.servers["one"]
    source = server.host
    lab.plane.kill_compute(source)
    lab.cloud.update_service(source, forced_down=True)
    server.act({"evacuate": {}}, then="SHUTOFF")
    lab.learn(server)
    lab.plane.start_compute(source)
    lab.cloud.accept_again(source)
    lab.plane.await_hosts([source])


# -- deleting


@step
def delete_server(lab: Scenario) -> None:
    """The host keeps the image."""
    lab.servers["one"].delete()


@step
def delete_image(lab: Scenario) -> None:
    lab.boot("of-doomed-image", "doomed").delete()
    lab.cloud.delete_image(image_id("doomed"))
    lab.truth.image_gone(image_id("doomed"))


@step
def delete_all_servers(lab: Scenario) -> None:
    lab.boot("last-of-its-host", "last", host=lab.plane.hosts[-1])
    lab.cloud.delete_servers(lab.cloud.servers())


@step
def delete_service(lab: Scenario) -> None:
    """A host is taken out of the cloud for good."""
    host = lab.plane.hosts[-1]
    lab.plane.remove_compute(host)
    lab.truth.host_gone(host)
