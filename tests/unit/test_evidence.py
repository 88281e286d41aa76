"""What each message says about hosts, images and servers, in both of Nova's formats.

Messages are recorded ones of a real Nova, or made here by Nova's own functions, called as the place
in Nova's source that a test names calls them.
"""

from __future__ import annotations

import datetime
import functools
import gzip
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nova.conf
import nova.rpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nova import context, objects
from nova.compute import utils as compute_utils
from nova.network import model as network_model
from nova.notifications.objects import base as notification_base
from nova.notifications.objects import service as service_notification
from nova.objects import fields
from oslo_serialization import jsonutils

from bus_cache import names
from bus_cache.index.changes import (
    Change,
    FetchFailed,
    Fetching,
    Held,
    HostDeleted,
    ImageDeleted,
    ImageSize,
    InUse,
    NotInUse,
    ServiceState,
    Source,
)
from consumers import events, evidence
from consumers.events import Malformed, Notification

DATA = Path(__file__).parents[1] / "data"
NOW = 1_800_000_000_000
STAMP = 1_795_328_940_121
MOMENT = "2026-11-22 06:29:00.121843"
IMAGE, OTHER = "3edc76bb-a136-4b55-8b24-9f13c25c2878", "2e8b010b-7896-4b7d-9197-bec86593ba6e"
RESCUE = "ff3d7c3d-9450-4c43-9544-40b87932b285"
DEST, SOURCE = "dest-host", "source-host"
SERVER = "2167c6db-5241-4765-ab53-db090a834c31"

# -- messages made by Nova -----------------------------------------------------------------


class Bus:
    """Stands where oslo.messaging's Notifiers do in Nova, and keeps the bodies sent."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.publisher_id = ""

    def prepare(self, publisher_id: str) -> Bus:
        """Return a notifier for another publisher."""
        other = Bus()
        other.bodies, other.publisher_id = self.bodies, publisher_id
        return other

    def is_enabled(self) -> bool:
        """As with a driver configured."""
        return True

    def info(
        self, _context: object, event_type: str, payload: object, priority: str = "INFO"
    ) -> None:
        """Send, as oslo_messaging/notify/notifier.py does."""
        content = {
            "message_id": "3ebdf413-70bb-40a4-b4cc-aaca24eada19",
            "publisher_id": self.publisher_id,
            "event_type": event_type,
            "priority": priority,
            "payload": payload,
            "timestamp": MOMENT,
        }
        envelope = {"oslo.version": "2.0", "oslo.message": jsonutils.dumps(content)}
        self.bodies.append(json.dumps(envelope).encode())

    def error(self, _context: object, event_type: str, payload: object) -> None:
        """Send to the queue of errors."""
        self.info(_context, event_type, payload, "ERROR")


class Nova:
    """Sends notifications as nova-compute and nova-conductor do."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.context = context.RequestContext("user", "project")

    def instance(self, host: str | None, image: str | None, **values: Any) -> objects.Instance:
        """A server; on libvirt its node is not its host."""
        texts = ("os_type", "architecture", "key_name", "cell_name", "access_ip_v4", "access_ip_v6")
        times = ("created_at", "launched_at", "terminated_at", "deleted_at", "updated_at")
        flavor = objects.Flavor(
            id=1,
            flavorid="f",
            name="f",
            memory_mb=1,
            vcpus=1,
            root_gb=1,
            ephemeral_gb=0,
            swap=0,
            rxtx_factor=1.0,
            vcpu_weight=0,
            disabled=False,
            is_public=True,
            extra_specs={},
            projects=[],
            description=None,
        )
        return objects.Instance(
            **{
                **dict.fromkeys(texts + times),
                "id": 1,
                "uuid": SERVER,
                "project_id": "project",
                "user_id": "user",
                "reservation_id": "r-1",
                "display_name": "server",
                "display_description": "",
                "hostname": "server",
                "host": host,
                "node": f"node-of-{host}",
                "availability_zone": "nova",
                "image_ref": image,
                "kernel_id": "",
                "ramdisk_id": "",
                "vm_state": "active",
                "task_state": None,
                "power_state": 1,
                "progress": 0,
                "metadata": {"host": "metadata-host", "image_uuid": "metadata-image"},
                "system_metadata": {"image_base_image_ref": image or ""},
                "locked": False,
                "auto_disk_config": False,
                "instance_type_id": 1,
                "flavor": flavor,
                "info_cache": objects.InstanceInfoCache(network_info=network_model.NetworkInfo([])),
                "keypairs": objects.KeyPairList(objects=[]),
                "tags": objects.TagList(objects=[]),
                "trusted_certs": None,
                **values,
            }
        )

    def usage(self, publisher: str, instance: objects.Instance, event: str, **extra: Any) -> None:
        """An unversioned notification of nova-compute (``_notify_about_instance_usage``)."""
        compute_utils.notify_about_instance_usage(
            nova.rpc.get_notifier("compute", publisher), self.context, instance, event, **extra
        )

    def action(self, publisher: str, instance: objects.Instance, action: str, phase: str) -> None:
        """A versioned notification of nova-compute."""
        compute_utils.notify_about_instance_action(
            self.context, instance, publisher, action=action, phase=phase, bdms=[]
        )

    def create(self, publisher: str, instance: objects.Instance, phase: str) -> None:
        """Both of ``_do_build_and_run_instance``."""
        fault = None
        if phase == "error":
            try:
                raise RuntimeError("the hypervisor said no")
            except RuntimeError as error:  # Nova tells where it was raised
                fault = error
        self.usage(publisher, instance, f"create.{phase}", fault=fault)
        compute_utils.notify_about_instance_create(
            self.context, instance, publisher, phase=phase, exception=fault, bdms=[]
        )

    def rebuild(self, publisher: str, instance: objects.Instance, phase: str) -> None:
        """Both of ``_do_rebuild_instance``."""
        self.usage(publisher, instance, f"rebuild.{phase}")
        compute_utils.notify_about_instance_rebuild(
            self.context, instance, publisher, phase=phase, bdms=[]
        )

    def rescue(self, publisher: str, instance: objects.Instance, image: str | None) -> None:
        """Both of ``rescue_instance``."""
        self.usage(publisher, instance, "rescue.end", extra_usage_info={"rescue_image_name": "r"})
        compute_utils.notify_about_instance_rescue_action(
            self.context, instance, publisher, image, phase="end"
        )

    def exists(self, publisher: str, instance: objects.Instance) -> None:
        """Both of an audit, which is also sent when something is done to a server."""
        notifier = nova.rpc.get_notifier("compute", publisher)
        compute_utils.notify_usage_exists(
            notifier, self.context, instance, publisher, system_metadata={}
        )

    def prep_resize(self, publisher: str, instance: objects.Instance, phase: str) -> None:
        """Both of ``_send_prep_resize_notifications``."""
        self.usage(publisher, instance, f"resize.prep.{phase}")
        compute_utils.notify_about_resize_prep_instance(
            self.context, instance, publisher, phase, instance.flavor
        )

    def cache_images(self, host: str, statuses: dict[str, str]) -> None:
        """That of ``ComputeTaskManager.cache_images``."""
        aggregate = objects.Aggregate(
            id=1, uuid="2167c6db-5241-4765-ab53-db090a834c31", name="a", hosts=[host], metadata={}
        )
        compute_utils.notify_about_aggregate_cache(self.context, aggregate, host, statuses, 1, 2)

    def service(self, host: str, binary: str, action: str, **values: Any) -> None:
        """That of ``objects.Service.create``, ``.save`` and ``.destroy``."""
        service = objects.Service(
            id=1,
            uuid="2167c6db-5241-4765-ab53-db090a834c31",
            host=host,
            binary=binary,
            topic="compute",
            report_count=1,
            disabled=False,
            disabled_reason=None,
            availability_zone="nova",
            **{"last_seen_up": None, "forced_down": False, **values},
        )
        service_notification.ServiceStatusNotification(
            publisher=notification_base.NotificationPublisher.from_service_obj(service),
            event_type=notification_base.EventType(object="service", action=action),
            priority=fields.NotificationPriority.INFO,
            payload=service_notification.ServiceStatusPayload(service),
        ).emit(self.context)


@pytest.fixture(scope="module")
def nova_parts() -> Iterator[None]:
    """Nova's objects and configuration, as far as notifications need them."""
    objects.register_all()
    conf = nova.conf.CONF
    conf([], project="nova", default_config_files=[])
    conf.set_override("notification_format", "both", group="notifications")
    conf.set_override("api_servers", ["http://glance:9292"], group="glance")
    conf.set_override("host", "control")
    yield
    conf.clear_override("notification_format", group="notifications")
    conf.clear_override("api_servers", group="glance")
    conf.clear_override("host")


@pytest.fixture
def compute(nova_parts: None, monkeypatch: pytest.MonkeyPatch) -> Nova:
    """A Nova whose notifications can be read back."""
    bus = Bus()
    monkeypatch.setattr(nova.rpc, "NOTIFIER", bus)
    monkeypatch.setattr(nova.rpc, "LEGACY_NOTIFIER", bus)
    return Nova(bus)


def learn(body: bytes) -> list[Change]:
    """What a body teaches, by the way that the consumer goes."""
    peeked = events.peek(body)
    if peeked is not None and peeked not in evidence.RULES:
        return []
    return evidence.read(events.decode(body, NOW))


def assert_line(text: str) -> None:
    """What goes to the log can't break or flood it."""
    assert text.isprintable()
    assert 0 < len(text) < 100


def learned(compute: Nova, formats: int = 2) -> list[list[Change]]:
    """What each message sent teaches; usually the unversioned one, then the versioned."""
    assert len(compute.bus.bodies) == formats
    return [learn(body) for body in compute.bus.bodies]


def held(source: Source, host: str = DEST, image: str = IMAGE) -> Held:
    """What tells that a host fetched an image."""
    return Held(host, image, STAMP, source)


def used(host: str = DEST, image: str = IMAGE) -> InUse:
    """What tells that the server is on a host."""
    return InUse(host, SERVER, image, STAMP)


def left(host: str) -> NotInUse:
    """What tells that the server is no longer on a host."""
    return NotInUse(host, SERVER, STAMP)


KERNEL, RAMDISK = "0b4f2f47-6a0c-4b0b-8a5e-5f0f5a1d2c11", "5a1d7e0e-62f8-4a53-9c7b-1b3e5d0c9a22"


def runs(source: Source, host: str = DEST, image: str = IMAGE) -> list[Change]:
    """What most messages say."""
    return [held(source, host, image), used(host, image)]


# -- the rows of the table -----------------------------------------------------------------


def test_create(compute: Nova) -> None:
    """_do_build_and_run_instance: the host fetches the image that the server uses, then has it."""
    compute.create(DEST, compute.instance(None, IMAGE), "start")
    compute.create(DEST, compute.instance(DEST, IMAGE), "end")
    expected = [[Fetching(DEST, IMAGE, STAMP), used()]] * 2 + [runs(Source.CREATE)] * 2
    assert learned(compute, 4) == expected


@pytest.mark.parametrize("host", [None, DEST])
def test_create_that_fails(compute: Nova, host: str | None) -> None:
    """The host may have the image by now, or not; H is null, as a rule."""
    compute.create(DEST, compute.instance(host, IMAGE), "error")
    assert learned(compute) == [[FetchFailed(DEST, IMAGE, STAMP), left(DEST)]] * 2


def test_rebuild(compute: Nova) -> None:
    """_do_rebuild_instance: the new image, which both name at the start, and Nova's database before
    and after a failure; the old one is still there."""
    instance = compute.instance(DEST, OTHER)
    for phase in ("start", "error", "end"):
        compute.rebuild(DEST, instance, phase)
    assert learned(compute, 6) == [
        *[[Fetching(DEST, OTHER, STAMP), used(image=OTHER)]] * 2,
        *[[FetchFailed(DEST, OTHER, STAMP)]] * 2,
        *[runs(Source.REBUILD, image=OTHER)] * 2,
    ]


def test_evacuation(compute: Nova) -> None:
    """rebuild_instance on the new host: the payload still names the dead one, which nova-api saw
    down before."""
    instance = compute.instance(SOURCE, IMAGE, task_state="rebuilding")
    compute.usage("control", instance, "evacuate")
    compute_utils.notify_about_instance_action(
        compute.context, instance, "control", action="evacuate", source="nova-api", bdms=[]
    )
    for phase in ("start", "error", "end"):
        compute.rebuild(DEST, instance, phase)
    assert learned(compute, 8) == [
        *[[ServiceState(SOURCE, STAMP, False)]] * 2,
        *[[Fetching(DEST, IMAGE, STAMP)]] * 2,
        *[[FetchFailed(DEST, IMAGE, STAMP)]] * 2,
        *[[*runs(Source.EVACUATION), left(SOURCE)]] * 2,
    ]


def test_kernel_and_ramdisk(compute: Nova) -> None:
    """_create_image fetches them with the image, pre_live_migration past the cache; Nova's cache
    manager counts them as used."""
    instance = compute.instance(DEST, IMAGE, kernel_id=KERNEL, ramdisk_id=RAMDISK)
    coming = compute.instance(None, IMAGE, kernel_id=KERNEL, ramdisk_id=RAMDISK)
    for phase in ("start", "error"):
        compute.create(DEST, coming, phase)
    compute.create(DEST, instance, "end")
    compute.rebuild(DEST, instance, "end")
    compute.usage(DEST, instance, "finish_resize.end")
    compute.action(DEST, instance, "resize_finish", "end")
    compute.usage(DEST, instance, "live_migration.post.dest.end")
    compute.action(DEST, instance, "live_migration_post_dest", "end")
    compute.usage(DEST, instance, "unshelve.end")
    compute.action(DEST, instance, "unshelve", "end")
    compute.usage(DEST, instance, "delete.end")
    compute.action(DEST, instance, "delete", "end")
    images = (IMAGE, KERNEL, RAMDISK)
    uses = InUse(DEST, SERVER, IMAGE, STAMP, (KERNEL, RAMDISK))
    expected: list[list[Change]] = [
        [*(Fetching(DEST, each, STAMP) for each in images), uses],
        [*(FetchFailed(DEST, each, STAMP) for each in images), left(DEST)],
        *[
            [*(held(source, image=each) for each in images), uses]
            for source in (Source.CREATE, Source.REBUILD, Source.MIGRATION)
        ],
        [held(Source.LIVE_MIGRATION), uses],
        [uses],
        [left(DEST)],
    ]
    assert learned(compute, 16) == [each for each in expected for _ in range(2)]


@pytest.mark.parametrize(
    ("kernel", "ramdisk", "parts"),
    [
        *((KERNEL, "", (KERNEL,)), (KERNEL, None, (KERNEL,)), ("", RAMDISK, ())),
        *((None, None, ()), (7, RAMDISK, ()), ("a b", RAMDISK, ()), (KERNEL, [], (KERNEL,))),
    ],
)
def test_kernels_that_are_none(kernel: object, ramdisk: object, parts: tuple[str, ...]) -> None:
    """What can't be one is left out; the server's image stands."""
    for event_type in ("instance.create.end", "compute.instance.create.end"):
        data = {"host": DEST, "image_uuid": IMAGE, "uuid": SERVER}
        data |= {"kernel_id": kernel, "ramdisk_id": ramdisk}
        changes = evidence.read(Notification(event_type, f"compute.{DEST}", STAMP, data))
        expected = [held(Source.CREATE, image=each) for each in (IMAGE, *parts)]
        assert changes == [*expected, InUse(DEST, SERVER, IMAGE, STAMP, parts)]


def test_evacuation_to_hosts_whose_names_look_like_prefixes(compute: Nova) -> None:
    """Only the prefix itself is taken off the publisher."""
    for host in ("compute.1", "nova-compute:1", "compute.compute.x", "h:1", "fd00::1", "a.b.c"):
        compute.bus.bodies.clear()
        compute.rebuild(host, compute.instance(SOURCE, IMAGE), "end")
        assert learned(compute) == [[*runs(Source.EVACUATION, host), left(SOURCE)]] * 2


@pytest.mark.parametrize("publisher", ["", "compute", "compute.", "nova-compute:", "api.control"])
def test_evacuation_by_who_knows_whom(publisher: str) -> None:
    """Without a host there is no evidence: the one in the payload may be dead."""
    for event_type in ("instance.rebuild.end", "compute.instance.rebuild.end"):
        data = {"host": SOURCE, "image_uuid": IMAGE}
        with pytest.raises(Malformed, match="publisher_id"):
            evidence.read(Notification(event_type, publisher, STAMP, data))


def test_resize_and_cold_migration(compute: Nova) -> None:
    """_finish_resize_helper on the destination; resize_instance on the source gave the server
    away."""
    instance = compute.instance(SOURCE, IMAGE)
    for phase in ("start", "end"):  # P = dest, H = source
        compute.prep_resize(DEST, instance, phase)
    compute.usage(SOURCE, instance, "resize.start")
    compute.action(SOURCE, instance, "resize", "start")
    instance = compute.instance(DEST, IMAGE)
    compute.usage(SOURCE, instance, "resize.end")  # P = source, H = dest
    compute.action(SOURCE, instance, "resize", "end")
    compute.usage(DEST, instance, "finish_resize.start")
    compute.action(DEST, instance, "resize_finish", "start")
    compute.usage(DEST, instance, "finish_resize.end")
    compute.action(DEST, instance, "resize_finish", "end")
    assert learned(compute, 12) == [
        *[[Fetching(DEST, IMAGE, STAMP)]] * 2,
        *[[]] * 4,
        *[[left(SOURCE), used()]] * 2,
        *[[]] * 2,
        *[runs(Source.MIGRATION)] * 2,
    ]


def test_resize_on_one_host_and_across_cells(compute: Nova) -> None:
    """P = H: the server is still there (prep_snapshot_based_resize_at_source for cells)."""
    compute.usage(DEST, compute.instance(DEST, IMAGE), "resize.end")
    compute.action(DEST, compute.instance(DEST, IMAGE), "resize", "end")
    compute.usage(DEST, compute.instance(DEST, IMAGE), "resize.revert.start")
    compute.action(DEST, compute.instance(DEST, IMAGE), "resize_revert", "start")
    assert learned(compute, 4) == [[]] * 4


def test_resize_that_fails_on_its_destination(compute: Nova) -> None:
    """_reschedule_resize_or_reraise: H is still the source."""
    compute.usage(DEST, compute.instance(SOURCE, IMAGE), "resize.error")
    compute.action(DEST, compute.instance(SOURCE, IMAGE), "resize", "error")
    assert learned(compute) == [[FetchFailed(DEST, IMAGE, STAMP)]] * 2


def test_confirm_and_revert(compute: Nova) -> None:
    """_finish_revert_resize, on the source: H is the destination before, itself after."""
    for phase in ("start", "end"):
        compute.usage(SOURCE, compute.instance(DEST, IMAGE), f"resize.confirm.{phase}")
        compute.action(SOURCE, compute.instance(DEST, IMAGE), "resize_confirm", phase)
    compute.usage(SOURCE, compute.instance(DEST, IMAGE), "resize.revert.start")
    compute.action(SOURCE, compute.instance(DEST, IMAGE), "resize_revert", "start")
    compute.usage(SOURCE, compute.instance(SOURCE, IMAGE), "resize.revert.end")
    compute.action(SOURCE, compute.instance(SOURCE, IMAGE), "resize_revert", "end")
    assert learned(compute, 8) == [[]] * 4 + [[left(DEST)]] * 2 + [[used(SOURCE)]] * 2


def test_live_migration(compute: Nova) -> None:
    """post_live_migration_at_destination; _post_live_migration on the source, whose instance is an
    old copy."""
    source, dest = compute.instance(SOURCE, IMAGE), compute.instance(DEST, IMAGE)
    for phase in ("start", "end"):
        compute.usage(DEST, source, f"live_migration.pre.{phase}")
        compute.action(DEST, source, "live_migration_pre", phase)
        compute.usage(SOURCE, source, f"live_migration._post.{phase}")
        compute.action(SOURCE, source, "live_migration_post", phase)
    compute.usage(DEST, dest, "live_migration.post.dest.start")
    compute.action(DEST, dest, "live_migration_post_dest", "start")
    compute.usage(DEST, dest, "live_migration.post.dest.end")
    compute.action(DEST, dest, "live_migration_post_dest", "end")
    assert learned(compute, 12) == [
        *[[]] * 6,
        *[[left(SOURCE)]] * 2,
        *[[]] * 2,
        *[runs(Source.LIVE_MIGRATION)] * 2,
    ]


def test_shelve_and_unshelve(compute: Nova) -> None:
    """unshelve_instance names the first image, but what was fetched is a snapshot: so that one is
    used, as Nova's cache manager sees it, and not held."""
    for phase in ("start", "end"):
        compute.usage(SOURCE, compute.instance(SOURCE, IMAGE), f"shelve.{phase}")
        compute.action(SOURCE, compute.instance(SOURCE, IMAGE), "shelve", phase)
        shelved = compute.instance(SOURCE if phase == "start" else None, IMAGE)
        compute.usage(SOURCE, shelved, f"shelve_offload.{phase}")
        compute.action(SOURCE, shelved, "shelve_offload", phase)
        unshelved = compute.instance(None if phase == "start" else DEST, IMAGE)
        compute.usage(DEST, unshelved, f"unshelve.{phase}")
        compute.action(DEST, unshelved, "unshelve", phase)
    assert learned(compute, 12) == [[]] * 8 + [[left(SOURCE)]] * 2 + [[used()]] * 2


def test_what_exists(compute: Nova) -> None:
    """In a rebuild one format names the old image, one the new."""
    compute.exists(DEST, compute.instance(DEST, IMAGE))
    compute.exists(DEST, compute.instance(DEST, IMAGE, vm_state="deleted"))
    compute.exists(DEST, compute.instance(SOURCE, IMAGE, task_state="resize_prep"))
    assert learned(compute, 6) == [[]] * 6


def test_rescue(compute: Nova) -> None:
    """rescue_instance: the rescue image, which only the versioned one names."""
    compute.rescue(DEST, compute.instance(DEST, IMAGE), RESCUE)
    assert learned(compute) == [[], [held(Source.RESCUE, image=RESCUE)]]


def test_rescue_without_an_image_of_its_own(compute: Nova) -> None:
    """rescue_image_ref may be null."""
    compute.rescue(DEST, compute.instance(DEST, IMAGE), None)
    assert learned(compute) == [[], []]


def test_precaching(compute: Nova) -> None:
    """ComputeTaskManager.cache_images, told by the conductor: what is there, not what failed."""
    statuses = {IMAGE: "cached", OTHER: "existing", RESCUE: "error", "x": "unsupported"}
    compute.cache_images(DEST, statuses)
    expected = [held(Source.PRECACHE), held(Source.PRECACHE, image=OTHER)]
    assert learned(compute, 1) == [expected]


def test_precaching_that_failed_altogether(compute: Nova) -> None:
    """Nothing was cached."""
    compute.cache_images(DEST, {IMAGE: "error"})
    assert learned(compute, 1) == [[]]


def test_delete(compute: Nova) -> None:
    """The file stays, unused; a server that was never placed has no host. One that can still be
    restored protects its image."""
    for host, publisher in ((SOURCE, SOURCE), (None, "control"), (SOURCE, "control")):
        for event in ("soft_delete", "shutdown", "delete"):
            for phase in ("start", "end"):
                compute.usage(publisher, compute.instance(host, IMAGE), f"{event}.{phase}")
                compute.action(publisher, compute.instance(host, IMAGE), event, phase)
    nothing: list[list[Change]] = [[]] * 10
    gone: list[list[Change]] = [[left(SOURCE)]] * 2
    assert learned(compute, 36) == nothing + gone + nothing + [[]] * 2 + nothing + gone


def test_a_compute_service_is_deleted(compute: Nova) -> None:
    """objects.Service.destroy: the host is gone."""
    compute.service(DEST, "nova-compute", "delete")
    assert learned(compute, 1) == [[HostDeleted(DEST, STAMP)]]


@pytest.mark.parametrize("action", ["create", "update", "delete"])
@pytest.mark.parametrize("binary", ["nova-scheduler", "nova-conductor", "nova-osapi_compute"])
def test_another_service(compute: Nova, binary: str, action: str) -> None:
    """Its host may well run a nova-compute too."""
    compute.service(DEST, binary, action)
    assert learned(compute, 1) == [[]]


def test_a_compute_service_comes(compute: Nova) -> None:
    """objects.Service.create: by itself, when it starts for the first time."""
    compute.service(DEST, "nova-compute", "create")
    assert learned(compute, 1) == [[ServiceState(DEST, STAMP, True)]]


@pytest.mark.parametrize(
    ("forced_down", "seen", "expected"),
    [
        (True, 0, False),
        (True, 3600, False),
        (True, None, False),
        (False, 0, True),
        (False, 59, True),
        (False, None, None),  # it reports to memcached: it may be dead, too
        (False, 61, None),  # disabled while it was dead
        (False, -30, True),
    ],
)
def test_a_compute_service_changes(
    compute: Nova, forced_down: bool, seen: int | None, expected: bool | None
) -> None:
    """objects.Service.save: when it is disabled, enabled, or forced down and released."""
    moment = datetime.datetime.fromisoformat(MOMENT + "+00:00")
    last = None if seen is None else moment - datetime.timedelta(seconds=seen)
    compute.service(DEST, "nova-compute", "update", forced_down=forced_down, last_seen_up=last)
    wanted: list[Change] = [] if expected is None else [ServiceState(DEST, STAMP, expected)]
    assert learned(compute, 1) == [wanted]


# -- images of a server --------------------------------------------------------------------


@pytest.mark.parametrize("image", ["", None])
def test_boot_from_volume(compute: Nova, image: str | None) -> None:
    """No image: nothing, and no complaint. generate_image_url makes a URL of it all the same."""
    there, away = compute.instance(DEST, image), compute.instance(SOURCE, image)
    for phase in ("start", "error", "end"):
        compute.create(DEST, there, phase)
        compute.rebuild(DEST, there, phase)
    compute.rebuild(DEST, away, "end")
    compute.prep_resize(DEST, away, "start")
    for event, action, phase in (
        ("resize", "resize", "error"),
        ("resize", "resize", "end"),
        ("finish_resize", "resize_finish", "end"),
        ("resize.revert", "resize_revert", "start"),
        ("resize.revert", "resize_revert", "end"),
        ("live_migration.post.dest", "live_migration_post_dest", "end"),
        ("live_migration._post", "live_migration_post", "end"),
        ("shelve_offload", "shelve_offload", "end"),
        ("unshelve", "unshelve", "end"),
        ("delete", "delete", "end"),
    ):
        for instance in (there, away):
            compute.usage(DEST, instance, f"{event}.{phase}")
            compute.action(DEST, instance, action, phase)
    compute.rescue(DEST, there, RESCUE)
    count = len(compute.bus.bodies)
    assert learned(compute, count) == [[]] * (count - 1) + [[held(Source.RESCUE, image=RESCUE)]]


def test_a_server_made_from_a_snapshot(compute: Nova) -> None:
    """It has the snapshot's image; image_meta names the one that the snapshot was made from."""
    instance = compute.instance(DEST, IMAGE, system_metadata={"image_base_image_ref": OTHER})
    compute.create(DEST, instance, "end")
    assert OTHER.encode() in compute.bus.bodies[0]
    assert learned(compute) == [runs(Source.CREATE)] * 2


@pytest.mark.parametrize(
    "url",
    [
        f"http://glance:9292/images/{IMAGE}",
        f"https://[fd00::1]:9292/v2/images/{IMAGE}",
        f"/images/{IMAGE}",
        IMAGE,  # info_from_instance without an endpoint in the catalogue
    ],
)
def test_the_forms_of_an_images_url(url: str) -> None:
    """The id is its last part."""
    said = Notification(
        "compute.instance.create.end",
        f"compute.{DEST}",
        STAMP,
        {"host": DEST, "image_ref_url": url},
    )
    assert evidence.read(said) == [held(Source.CREATE)]


def test_both_formats_of_a_fact_differ_only_in_their_stamps(compute: Nova) -> None:
    """So that one of them changes nothing after the other."""
    compute.create(DEST, compute.instance(DEST, IMAGE), "end")
    unversioned, versioned = (events.decode(body, NOW) for body in compute.bus.bodies)
    later = versioned._replace(stamp=STAMP + 7)
    assert evidence.read(later) == [
        each._replace(stamp=STAMP + 7)
        for each in evidence.read(unversioned)
        if isinstance(each, (Held, InUse))
    ]


# -- Glance --------------------------------------------------------------------------------


def glance(event_type: str, **data: Any) -> list[Change]:
    """What a notification of Glance teaches."""
    return evidence.read(Notification(event_type, "image.localhost", STAMP, data))


def test_an_image_is_deleted() -> None:
    """Whatever its size and state."""
    for data in ({"size": 1000, "status": "deleted"}, {"size": None}, {}):
        assert glance("image.delete", id=IMAGE, **data) == [ImageDeleted(IMAGE, STAMP)]


@pytest.mark.parametrize("event_type", ["image.activate", "image.update"])
@pytest.mark.parametrize("size", [0, 1, 2**31, 2**53])
def test_an_image_has_a_size(event_type: str, size: int) -> None:
    """In bytes."""
    data = {"id": IMAGE, "size": size, "status": "active"}
    assert glance(event_type, **data) == [ImageSize(IMAGE, size, STAMP)]


@pytest.mark.parametrize("data", [{"size": None}, {}])
def test_an_image_has_no_size_yet(data: dict[str, Any]) -> None:
    """While it is queued or uploaded: no complaint."""
    assert glance("image.update", id=IMAGE, status="queued", **data) == []


@pytest.mark.parametrize("size", [-1, 2**53 + 1, 10**400, 1.0, True, "1000", [], {}, float("nan")])
def test_a_size_that_is_none(size: object) -> None:
    """Redis' Lua must be able to keep it."""
    with pytest.raises(Malformed, match="size"):
        glance("image.update", id=IMAGE, size=size)


# -- wrong fields --------------------------------------------------------------------------

OF_PUBLISHER = (
    *(evidence.begun, evidence.given_up, evidence.rebuilding, evidence.rebuilt),
    *(evidence.fetching, evidence.fetch_failed, evidence.left_publisher),
)
BY_PUBLISHER = [event_type for event_type, rule in evidence.RULES.items() if rule in OF_PUBLISHER]
FIELD_OF_HOST = [
    event_type
    for event_type in evidence.RULES
    if not event_type.startswith("image.") and event_type not in BY_PUBLISHER
]
FIELD_OF_IMAGE = {
    event_type: "image_ref_url" if event_type.startswith("compute.") else "image_uuid"
    for event_type in evidence.RULES
    if "instance." in event_type and "evacuate" not in event_type
} | {
    "instance.rescue.end": "rescue_image_ref",
    "image.delete": "id",
    "image.activate": "id",
    "image.update": "id",
}
"""Where something that is no image's id is noticed; what says only that a server left need not
know more than whether there was one."""


def good(event_type: str) -> Notification:
    """A notification that teaches something."""
    data: dict[str, Any] = {"host": DEST, "binary": "nova-compute", "images_cached": [IMAGE]}
    if event_type.startswith("image."):
        data = {"id": IMAGE, "size": 1000}
    elif event_type.startswith("compute."):
        data |= {"image_ref_url": f"http://glance/images/{IMAGE}", "instance_id": SERVER}
    else:
        data |= {"image_uuid": IMAGE, "rescue_image_ref": RESCUE, "uuid": SERVER}
        data["forced_down"] = True
    publisher = "compute." if event_type.startswith("compute.") else "nova-compute:"
    leaves = evidence.RULES.get(event_type) in (evidence.sent_away, evidence.sent_back)
    return Notification(event_type, publisher + (SOURCE if leaves else DEST), STAMP, data)


NO_NAMES: list[object] = [
    *(" ", "a b", "a\n", "a\0b", "\x1b[2J", "h\u00f6st", "\ud800", "x" * 256, "x" * 10_240),
    *(1, 1.5, True, False, 0, [], ["host"], {}, {"host": "host"}),
]


@pytest.mark.parametrize("event_type", evidence.RULES)
def test_good_messages_teach(event_type: str) -> None:
    """Else the tests below could not fail."""
    assert evidence.read(good(event_type))


@pytest.mark.parametrize("event_type", FIELD_OF_HOST)
def test_a_host_that_is_none(event_type: str) -> None:
    """Missing, null, empty, of a wrong type or with what no host's name has."""
    said = good(event_type)
    never_placed = evidence.RULES[event_type] is evidence.deleted
    for value in [*([] if never_placed else [None]), "", *NO_NAMES]:
        with pytest.raises(Malformed, match="host"):
            evidence.read(said._replace(data={**said.data, "host": value}))
    with pytest.raises(Malformed, match="host"):
        evidence.read(said._replace(data={k: v for k, v in said.data.items() if k != "host"}))


@pytest.mark.parametrize("event_type", BY_PUBLISHER)
@pytest.mark.parametrize("value", ["", *(each for each in NO_NAMES if isinstance(each, str))])
def test_a_publisher_that_is_none(event_type: str, value: str) -> None:
    """Where it is the host, whatever the payload says."""
    said = good(event_type)
    prefix = said.publisher_id[: -len(DEST)]
    with pytest.raises(Malformed, match="host"):
        evidence.read(said._replace(publisher_id=prefix + value))


@pytest.mark.parametrize("value", [None, "", *NO_NAMES])
def test_an_evacuation_from_nobody(value: object) -> None:
    """The new host holds the image all the same."""
    said = good("instance.rebuild.end")
    changes = evidence.read(said._replace(data={**said.data, "host": value}))
    assert changes == runs(Source.EVACUATION)


@pytest.mark.parametrize(("event_type", "field"), FIELD_OF_IMAGE.items())
def test_an_image_that_is_none(event_type: str, field: str) -> None:
    """Missing, of a wrong type or with what no image's id has."""
    said = good(event_type)
    for value in NO_NAMES:
        wrong = said._replace(data={**said.data, field: value})
        if isinstance(evidence.read(said)[0], NotInUse):
            assert evidence.read(wrong) == evidence.read(said)[:1]
            continue
        with pytest.raises(Malformed, match="image"):
            evidence.read(wrong)
    with pytest.raises(Malformed, match="image"):
        evidence.read(said._replace(data={k: v for k, v in said.data.items() if k != field}))
    for value in (None, ""):
        changed = said._replace(data={**said.data, field: value})
        if field == "id":
            with pytest.raises(Malformed, match="image"):
                evidence.read(changed)
        else:
            assert evidence.read(changed) == []


@pytest.mark.parametrize("event_type", [each for each in FIELD_OF_IMAGE if "instance." in each])
@pytest.mark.parametrize(
    "value",
    [*NO_NAMES, None, "", SERVER.upper(), SERVER.replace("-", ""), f"{{{SERVER}}}", SERVER + "\n"],
)
def test_a_server_that_is_none(event_type: str, value: object) -> None:
    """That an image is held stands without it; what says nothing else is wrong."""
    said = good(event_type)
    field = "instance_id" if event_type.startswith("compute.") else "uuid"
    wrong = said._replace(data={**said.data, field: value})
    rest = [each for each in evidence.read(said) if isinstance(each, (Held, Fetching, FetchFailed))]
    if rest:
        assert evidence.read(wrong) == rest
    else:
        with pytest.raises(Malformed, match="uuid"):
            evidence.read(wrong)


@pytest.mark.parametrize("value", [None, "", "true", 1, 0, [], {}])
def test_a_service_of_which_it_is_not_told_whether_it_is_down(value: object) -> None:
    """Nothing is known of it then."""
    said = good("service.update")
    assert evidence.read(said._replace(data={**said.data, "forced_down": value})) == []


@pytest.mark.parametrize("value", ["", "now", "9999-99-99", 1, [], {}, "0001-01-01T00:00:00+23:59"])
def test_a_service_that_was_seen_at_a_time_that_is_none(value: object) -> None:
    """As if it reported elsewhere; a time before 1970 is long ago."""
    said = good("service.update")
    data = {**said.data, "forced_down": False, "last_seen_up": value}
    assert len(evidence.read(said._replace(data=data))) <= 1


@pytest.mark.parametrize("value", [None, "", IMAGE, {}, {"a": 1}, 1, True])
def test_cached_images_that_are_no_list(value: object) -> None:
    """Above all no text, which is a list of letters."""
    said = good("aggregate.cache_images.progress")
    with pytest.raises(Malformed, match="images_cached"):
        evidence.read(said._replace(data={"host": DEST, "images_cached": value}))


@pytest.mark.parametrize("value", NO_NAMES)
def test_a_cached_image_that_is_none(value: object) -> None:
    """One of them is enough: who wrote it is not Nova."""
    said = good("aggregate.cache_images.progress")
    with pytest.raises(Malformed, match="image"):
        evidence.read(said._replace(data={"host": DEST, "images_cached": [IMAGE, value]}))


@pytest.mark.parametrize("binary", [None, "", 1, True, ["nova-compute"], {}, "nova-compute "])
def test_a_binary_that_is_none(binary: object) -> None:
    """It is not nova-compute: no host is gone."""
    said = good("service.delete")
    assert evidence.read(said._replace(data={"host": DEST, "binary": binary})) == []
    assert evidence.read(said._replace(data={"host": DEST})) == []


def test_twenty_thousand_cached_images(compute: Nova) -> None:
    """A body of that size is read as a whole, and every id counts."""
    images = [f"{number:08x}-a136-4b55-8b24-9f13c25c2878" for number in range(20_000)]
    compute.cache_images(DEST, dict.fromkeys(images, "cached"))
    (changes,) = learned(compute, 1)
    assert changes == [held(Source.PRECACHE, image=image) for image in images]


# -- what teaches nothing ------------------------------------------------------------------

TEACH_NOTHING = [
    *("rebuild.scheduled", "resize.prep.end", "resize.prep.error", "resize.start"),
    *("finish_resize.start", "finish_resize.error", "resize.confirm.start", "resize.confirm.end"),
    *("live_migration.pre.start", "live_migration.pre.end", "live_migration._post.start"),
    *("live_migration.post.dest.start", "live_migration._rollback.end", "soft_delete.end"),
    *("delete.start", "shelve.end", "shelve_offload.start", "unshelve.start", "restore.end"),
    *("rescue.end", "exists", "shutdown.end", "reboot.end", "unrescue.end", "snapshot.end"),
    *("update", "volume.attach"),
]
TEACH_NOTHING_VERSIONED = [
    *("instance.rebuild_scheduled", "instance.resize_prep.end", "instance.resize.start"),
    *("instance.resize_finish.start", "instance.resize_finish.error"),
    *("instance.resize_confirm.end", "instance.live_migration_pre.start"),
    *("instance.live_migration_pre.end", "instance.live_migration_post.start"),
    *("instance.live_migration_post_dest.start", "instance.live_migration_rollback.end"),
    *("instance.soft_delete.end", "instance.delete.start", "instance.shelve.end"),
    *("instance.shelve_offload.start", "instance.unshelve.start", "instance.restore.end"),
    *("instance.rescue.start", "instance.rescue.error", "instance.unrescue.end"),
    *("instance.exists", "instance.update"),
    *("aggregate.cache_images.start", "aggregate.cache_images.end"),
    *("compute_task.build_instances.error", "libvirt.connect.error"),
    *("scheduler.select_destinations.end", "image.create", "image.prepare", "image.upload"),
    *("image.send", "image.member.create", "metadef_namespace.delete", "", "instance.create.end "),
]


@pytest.mark.parametrize(
    "event_type", ["compute.instance." + each for each in TEACH_NOTHING] + TEACH_NOTHING_VERSIONED
)
def test_what_teaches_nothing(event_type: str) -> None:
    """Whatever is in it."""
    said = good("instance.create.end")
    data = {**said.data, "image_ref_url": f"http://glance/images/{IMAGE}", "id": IMAGE, "size": 1}
    assert evidence.read(said._replace(event_type=event_type, data=data)) == []
    assert evidence.read(said._replace(event_type=event_type, data={})) == []


def test_no_error_teaches_that_an_image_is_held() -> None:
    """What failed may have been fetched before, or not."""
    errors = [event_type for event_type in evidence.RULES if event_type.endswith(".error")]
    assert {evidence.RULES[each] for each in errors} == {evidence.fetch_failed, evidence.given_up}


# -- recorded messages ---------------------------------------------------------------------


class Recorded:
    """A message of a real Nova."""

    def __init__(self, line: str) -> None:
        record = json.loads(line)
        self.op: str = record["op"]
        self.body: bytes = record["body"].encode()
        content = json.loads(json.loads(record["body"])["oslo.message"])
        self.event_type: str = content["event_type"]
        self.publisher_id: str = content["publisher_id"]
        self.data: dict[str, Any] = content["payload"]
        self.format = (
            "" if record["exchange"] == "glance" else record["routing_key"].partition("_")[0]
        )
        if "nova_object.data" in self.data:
            self.data = self.data["nova_object.data"]


@functools.cache
def recorded() -> list[Recorded]:
    """All of them, in the order in which they came."""
    with gzip.open(DATA / "nova-34-both.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [Recorded(line) for line in lines]


OPERATIONS: list[tuple[str, str, Callable[[Recorded], tuple[str, str, Source]]]] = [
    ("boot", "create.end", lambda m: (m.data["host"], image_of(m), Source.CREATE)),
    ("multi_create", "create.end", lambda m: (m.data["host"], image_of(m), Source.CREATE)),
    ("reschedule", "create.end", lambda m: (m.data["host"], image_of(m), Source.CREATE)),
    ("rebuild_same_image", "rebuild.end", lambda m: (m.data["host"], image_of(m), Source.REBUILD)),
    ("rebuild_other_image", "rebuild.end", lambda m: (m.data["host"], image_of(m), Source.REBUILD)),
    (
        "evacuate",
        "rebuild.end",
        lambda m: ("compute-6", image_of(m), Source.EVACUATION),  # the payload says compute-2
    ),
    ("resize", "resize", lambda m: (m.data["host"], image_of(m), Source.MIGRATION)),
    ("cold_migrate", "resize", lambda m: (m.data["host"], image_of(m), Source.MIGRATION)),
    ("live_migrate", "dest.end", lambda m: (m.data["host"], image_of(m), Source.LIVE_MIGRATION)),
    ("rescue", "rescue", lambda m: (m.data["host"], m.data["rescue_image_ref"], Source.RESCUE)),
]


def image_of(message: Recorded) -> str:
    """The server's image, in either format."""
    found: str = message.data.get("image_uuid") or message.data["image_ref_url"].split("/")[-1]
    return found


@pytest.mark.parametrize(("op", "part", "expected"), OPERATIONS, ids=[op for op, *_ in OPERATIONS])
def test_what_a_recorded_operation_teaches(
    op: str, part: str, expected: Callable[[Recorded], tuple[str, str, Source]]
) -> None:
    """One kind of message says that an image is held, in both formats where both tell it."""
    taught = 0
    for message in recorded():
        if message.op != op:
            continue
        for change in learn(message.body):
            if not isinstance(change, Held):
                continue
            assert part in message.event_type
            assert change[:2] + change[3:] == expected(message)
            taught += 1
    formats = 1 if op == "rescue" else 2
    servers = 3 if op == "multi_create" else 1
    assert taught == formats * servers


@pytest.mark.parametrize(
    "op",
    [
        *("shelve", "unshelve", "delete_server", "delete_all_servers", "confirm_resize"),
        *("fail_on_every_host", "no_valid_host", "snapshot", "change_power_and_lock"),
        *("disable_and_enable_host", "delete_shelved_server"),
    ],
)
def test_recorded_operations_that_teach_no_holding(op: str) -> None:
    """Images come and go in some of them, servers are made for some: besides that, nothing."""
    messages = [each for each in recorded() if each.op == op]
    assert messages
    for message in messages:
        if not message.event_type.endswith("instance.create.end"):
            assert not [each for each in learn(message.body) if isinstance(each, Held)]


OF_SERVERS = (InUse, NotInUse, Fetching, FetchFailed)
USES = {
    "boot": ["Fetching compute-6", *["InUse compute-6"] * 2],
    "reschedule": [
        *("Fetching compute-4", "InUse compute-4", "FetchFailed compute-4", "NotInUse compute-4"),
        *("Fetching compute-6", *["InUse compute-6"] * 2),
    ],
    "fail_on_every_host": [
        *("Fetching compute-4", "InUse compute-4", "FetchFailed compute-4", "NotInUse compute-4"),
        *("Fetching compute-2", "InUse compute-2", "FetchFailed compute-2", "NotInUse compute-2"),
        *("Fetching compute-1", "InUse compute-1", "FetchFailed compute-1", "NotInUse compute-1"),
    ],
    "no_valid_host": [],
    "rebuild_other_image": ["Fetching compute-6", *["InUse compute-6"] * 2],
    "resize": ["Fetching compute-2", "NotInUse compute-6", *["InUse compute-2"] * 2],
    "confirm_resize": [],
    "resize_and_revert": [
        *("Fetching compute-1", "NotInUse compute-2", *["InUse compute-1"] * 2),
        *("NotInUse compute-1", "InUse compute-2"),
    ],
    "cold_migrate": ["Fetching compute-1", "NotInUse compute-2", *["InUse compute-1"] * 2],
    "live_migrate": ["InUse compute-5", "NotInUse compute-1"],
    "shelve": ["Fetching compute-6", *["InUse compute-6"] * 2, "NotInUse compute-6"],
    "unshelve": ["InUse compute-1"],
    "snapshot": [],
    "rescue": [],
    "evacuate": ["Fetching compute-6", "InUse compute-6", "NotInUse compute-2"],
    "delete_server": ["NotInUse compute-6"],
    "delete_shelved_server": ["NotInUse compute-1"],
}
"""What each recorded operation says of its server, in the order in which Nova says it."""


@pytest.mark.parametrize("op", USES)
@pytest.mark.parametrize("format_", ["versioned", "notifications.info"])
def test_what_a_recorded_operation_says_of_its_server(op: str, format_: str) -> None:
    """The same in each format."""
    found = [
        f"{type(change).__name__} {change.host}"
        for message in recorded()
        if message.op == op and message.format.startswith("versioned") is (format_ == "versioned")
        for change in learn(message.body)
        if isinstance(change, OF_SERVERS)
    ]
    assert found == USES[op]


def test_recorded_servers_at_the_end() -> None:
    """After all were deleted none is anywhere, in whatever order that was told."""
    uses: dict[tuple[str, str], int] = {}
    left: dict[tuple[str, str], int] = {}
    for message in recorded():
        for change in learn(message.body):
            if isinstance(change, (InUse, NotInUse)):
                known = uses if isinstance(change, InUse) else left
                key = (change.host, change.instance)
                known[key] = max(change.stamp, known.get(key, 0))
    assert len(uses) >= 14
    assert not [key for key, stamp in uses.items() if stamp > left.get(key, 0)]


def test_recorded_services() -> None:
    """Forced down for an evacuation, and released while Nova still thought that it was up."""
    found = [
        (message.op, change.host, change.up)
        for message in recorded()
        for change in learn(message.body)
        if isinstance(change, ServiceState)
    ]
    assert found == [
        ("pre_cache", "compute-3", False),
        ("pre_cache", "compute-3", True),
        ("disable_and_enable_host", "compute-1", True),
        ("disable_and_enable_host", "compute-1", True),
        ("evacuate", "compute-2", False),
        ("evacuate", "compute-2", False),
        ("evacuate", "compute-2", False),
        ("evacuate", "compute-2", True),
    ]


def test_how_many_recorded_messages_of_a_boot_are_decoded() -> None:
    """Two of four in each format: its start and its end."""
    boot = [message for message in recorded() if message.op == "boot"]
    assert len(boot) == 8
    assert len([each for each in boot if events.peek(each.body) in evidence.RULES]) == 4


def test_recorded_precaching() -> None:
    """One message a host; only versioned."""
    expected = [
        (message.data["host"], image)
        for message in recorded()
        if message.event_type == "aggregate.cache_images.progress"
        for image in message.data["images_cached"]
    ]
    changes = [each for message in recorded() for each in learn(message.body)]
    found = [each for each in changes if isinstance(each, Held) and each.source is Source.PRECACHE]
    assert [each[:2] for each in found] == expected
    assert len(expected) >= 6


def test_recorded_deletions() -> None:
    """Of a compute service and of images."""
    taught = {message.op: learn(message.body) for message in recorded() if "delete" in message.op}
    (host_deleted,) = taught["delete_service"]
    assert isinstance(host_deleted, HostDeleted)
    assert host_deleted.host == "compute-6"
    deleted = [
        each.image_id
        for message in recorded()
        for each in learn(message.body)
        if isinstance(each, ImageDeleted)
    ]
    assert deleted == [m.data["id"] for m in recorded() if m.event_type == "image.delete"]


def test_recorded_sizes() -> None:
    """Of every image that became active."""
    sizes = {
        each.image_id: each.size
        for message in recorded()
        for each in learn(message.body)
        if isinstance(each, ImageSize)
    }
    assert sizes == {m.data["id"]: m.data["size"] for m in recorded() if "activate" in m.event_type}


@pytest.mark.parametrize("formats", ["both", "versioned", "unversioned"])
def test_what_all_recorded_messages_add_up_to(formats: str) -> None:
    """The hosts of each image as Nova's API and drivers told them at the end."""
    truth = json.loads((DATA / "nova-34-truth.json").read_text())["nova-34-both"][formats]
    words = {"both": ("versioned", "notifications.info", "notifications.error", "")}
    wanted = words.get(formats, ("",))
    found: dict[str, dict[str, int]] = {}
    gone: set[str] = set()
    for message in recorded():
        is_versioned = message.format == "versioned"
        if formats != "both" and message.format and is_versioned is not (formats == "versioned"):
            continue
        assert message.format in wanted or formats != "both"
        for change in learn(message.body):
            if isinstance(change, Held):
                hosts = found.setdefault(change.image_id, {})
                hosts[change.host] = max(change.stamp, hosts.get(change.host, 0))
            elif isinstance(change, ImageDeleted):
                gone.add(change.image_id)
            elif isinstance(change, HostDeleted):
                for hosts in found.values():
                    if hosts.get(change.host, change.stamp) < change.stamp:
                        del hosts[change.host]
    result = {i: sorted(hosts) for i, hosts in found.items() if hosts and i not in gone}
    assert result == {image: sorted(hosts) for image, hosts in truth.items()}


# -- anything ------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=300),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4)
    ),
    max_leaves=10,
)
VALUES = JSON | st.sampled_from(
    [DEST, IMAGE, "nova-compute", [IMAGE, OTHER], f"http://g/{IMAGE}", True, MOMENT]
)
FIELDS = ["host", "image_uuid", "image_ref_url", "rescue_image_ref", "images_cached", "binary"]
FIELDS += ["uuid", "instance_id", "forced_down", "last_seen_up"]
PAYLOADS = st.dictionaries(
    st.sampled_from([*FIELDS, "id", "size"]) | st.text(max_size=12), VALUES, max_size=8
)
PUBLISHERS = st.text(max_size=20) | st.builds(
    "{}{}".format, st.sampled_from(["compute.", "nova-compute:"]), st.text(max_size=260)
)


@pytest.mark.parametrize("event_type", evidence.RULES)
@settings(deadline=None, max_examples=60)
@given(data=PAYLOADS, publisher_id=PUBLISHERS, stamp=st.integers(0, 2**50))
def test_any_payload(event_type: str, data: dict[str, Any], publisher_id: str, stamp: int) -> None:
    """It is Malformed, or what comes out can go into the index as it is."""
    try:
        changes = evidence.read(Notification(event_type, publisher_id, stamp, data))
    except Malformed as error:
        assert_line(str(error))
        return
    for change in changes:
        assert change.stamp == stamp
        if not isinstance(change, (ImageSize, ImageDeleted)):
            assert names.is_valid_name(change.host)
        if isinstance(change, (Held, ImageSize, ImageDeleted, InUse, Fetching, FetchFailed)):
            assert names.is_valid_name(change.image_id)
        if isinstance(change, (InUse, NotInUse)):
            assert str(uuid.UUID(change.instance)) == change.instance
        if isinstance(change, ServiceState):
            assert type(change.up) is bool
        if isinstance(change, ImageSize):
            assert type(change.size) is int
            assert 0 <= change.size <= 2**53
        if isinstance(change, Held):
            assert isinstance(change.source, Source)


@settings(deadline=None)
@given(event_type=st.text(max_size=40), data=PAYLOADS, publisher_id=PUBLISHERS)
def test_any_other_event_type(event_type: str, data: dict[str, Any], publisher_id: str) -> None:
    """Teaches nothing, and raises nothing."""
    if event_type not in evidence.RULES:
        assert evidence.read(Notification(event_type, publisher_id, STAMP, data)) == []
