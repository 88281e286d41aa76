"""One run of lab-bytes: asks for servers as a sequence says, follows what becomes of them."""

from __future__ import annotations

import datetime
import json
import math
import os
import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from simulator.trace import Request
from tests.lab import bytes_load, throttle
from tests.lab.client import CloudError, wait_until
from tests.lab.plane import ControlPlane, LabError
from tests.lab.product import PATIENCE, Product
from tests.lab.record import Recorder

#: Seconds after the last request in which all servers must be ACTIVE, or have failed.
LAST_WAIT = 600.0
#: Seconds between looks at which servers have failed.
LOOK = 5.0

FLAVOR = "of-the-sequence"

Figures = dict[str, Any]


@dataclass
class Boot:
    """What became of one server. Times are seconds since the epoch; NaN: has not come to that."""

    asked: float = math.nan
    lifetime: float | None = None
    host: str = ""
    started: float = math.nan
    active: float = math.nan
    deleted: float = math.nan
    failed: bool = False

    @property
    def over(self) -> bool:
        return self.failed or not math.isnan(self.active)

    @property
    def due(self) -> float:
        """When it is to be deleted."""
        return self.active + (math.inf if self.lifetime is None else self.lifetime)


class Run:
    """One pass through a sequence, on a cloud whose caches are empty."""

    def __init__(self, plane: ControlPlane, product: Product, requests: Sequence[Request]) -> None:
        self._plane = plane
        self._cloud = plane.cloud
        self._product = product
        self._requests = requests
        self._boots: dict[str, Boot] = {}
        self._late = 0.0
        self._looked = -math.inf
        self._read = 0

    def go(self) -> Figures:
        """Ask for all, wait for all; what came of it.

        :raises LabError: servers got stuck, or disk, index and the counts of bytes differ.
        """
        before = len(throttle.downloads(self._plane.downloads))
        served_before = len(self._plane.served())
        self._recorder = Recorder(self._plane)
        self._recorder.start()
        begin = time.time()
        try:
            self._drive(begin)
        finally:
            self._recorder.stop()
        seconds = time.time() - begin
        downloads = self._check(before)
        served = self._plane.served()[served_before:]
        self._compare(served, downloads)
        return self._figures(sum(size for _, size in served), downloads, seconds)

    def _drive(self, begin: float) -> None:
        waiting = deque(self._requests)
        last = begin + self._requests[-1].time_s + LAST_WAIT
        while waiting or not all(boot.over for boot in self._boots.values()):
            self._follow()
            now = time.time()
            if waiting and begin + waiting[0].time_s <= now:
                self._late = max(self._late, now - begin - waiting[0].time_s)
                self._ask(waiting.popleft())
            elif not self._delete_one(now):
                time.sleep(0.05)
            if now > self._looked + LOOK:
                self._looked = now
                self._note_failures()
            if now > last:
                stuck = [server for server, boot in self._boots.items() if not boot.over]
                shown = self._cloud.nova.get(f"/servers/{stuck[0]}").json()["server"]
                raise LabError(
                    f"{len(stuck)} servers are not ACTIVE {LAST_WAIT:.0f} s after the last request;"
                    f" the first one, {stuck[0]}, is {shown['status']}"
                    f" ({shown['OS-EXT-STS:task_state']}) on {shown['OS-EXT-SRV-ATTR:host']}"
                )

    def _ask(self, request: Request) -> None:
        asked = time.time()
        image = bytes_load.image_id(request.image)
        servers = self._cloud.boot_many(request.image, image, request.count, FLAVOR)
        for server in servers:
            boot = self._boots.setdefault(server.id, Boot())
            boot.asked, boot.lifetime = asked, request.lifetime_s

    def _delete_one(self, now: float) -> bool:
        for server, boot in self._boots.items():
            if boot.due <= now and math.isnan(boot.deleted):
                boot.deleted = now
                self._cloud.nova.delete(f"/servers/{server}")
                return True
        return False

    def _follow(self) -> None:
        """Take what Nova has notified of: where builds began, and when servers were ACTIVE."""
        messages = self._recorder.messages
        count = len(messages)
        for message in messages[self._read : count]:
            if "instance.create." not in message["body"]:
                continue
            said = json.loads(json.loads(message["body"])["oslo.message"])
            uuid = said["payload"]["nova_object.data"]["uuid"]
            boot = self._boots.setdefault(uuid, Boot())  # Nova may be faster than its answer to us
            when = datetime.datetime.fromisoformat(said["timestamp"] + "+00:00").timestamp()
            if said["event_type"] == "instance.create.start":
                boot.host, boot.started = said["publisher_id"].partition(":")[2], when
            elif said["event_type"] == "instance.create.end":
                boot.active = when
        self._read = count

    def _note_failures(self) -> None:
        for server in self._cloud.nova.get("/servers?status=ERROR").json()["servers"]:
            self._boots[server["id"]].failed = True

    def _check(self, before: int) -> list[throttle.Download]:
        """What was downloaded lies on the disks, once, and the index says so; the downloads."""

        def served() -> list[throttle.Download]:
            return throttle.downloads(self._plane.downloads)[before:]

        held = {host: self._plane.cached(host) for host in self._plane.hosts}
        on_disk = sum((self._plane.base(h) / i).stat().st_size for h in held for i in held[h])
        expected: dict[str, set[str]] = {}
        for host, images in held.items():
            for image in images:
                expected.setdefault(image, set()).add(host)
        try:
            wait_until(
                lambda: sum(each.bytes for each in served() if each.whole) == on_disk,
                f"the count of downloads to be the {on_disk} bytes that are in the caches",
                PATIENCE,
            )
            wait_until(lambda: self._product.index() == expected, "the index", PATIENCE)
        except CloudError as error:
            raise LabError(
                f"{error}; downloads: {served()}; disks: {expected}; "
                f"the index: {self._product.index()}"
            ) from None
        self._product.check()
        return served()

    def _compare(
        self, served: Sequence[tuple[str, int]], downloads: Sequence[throttle.Download]
    ) -> None:
        """See that Glance's log and the proxy before it say the same; of what broke off, the log
        has the whole size."""
        counted = sorted((each.image, each.bytes) for each in downloads)
        all_whole = all(each.whole for each in downloads)
        if len(served) != len(counted) or (all_whole and sorted(served) != counted):
            raise LabError(f"Glance's log and the proxy differ: {sorted(served)} and {counted}")

    def _figures(
        self, from_glance: int, downloads: Sequence[throttle.Download], seconds: float
    ) -> Figures:
        boots = list(self._boots.values())
        good = [boot for boot in boots if not boot.failed]
        times = [boot.active - boot.asked for boot in good]
        builds = [boot.active - boot.started for boot in good]
        on_host = Counter(boot.host for boot in good)
        return {
            "servers": len(boots),
            "failed": len(boots) - len(good),
            "bytes_from_glance": from_glance,
            "downloads": len(downloads),
            "rate_while_downloading": round(throttle.rate(downloads)),
            "active_p50_s": round(statistics.median(times), 2),
            "active_p95_s": _percentile_95(times),
            "active_max_s": round(max(times), 2),
            "build_p50_s": round(statistics.median(builds), 2),
            "build_p95_s": _percentile_95(builds),
            "hosts_used": len(on_host),
            "most_servers_one_host": most_at_once(good, lambda boot: (boot.started, boot.deleted)),
            "most_builds_one_host": most_at_once(good, lambda boot: (boot.started, boot.active)),
            "servers_by_host": dict(sorted(on_host.items())),
            "seconds": round(seconds, 1),
            "latest_request_s": round(self._late, 2),
            "load_average": round(os.getloadavg()[1], 1),
        }


def _percentile_95(times: Sequence[float]) -> float:
    return round(statistics.quantiles(times, n=20, method="inclusive")[-1], 2)


def most_at_once(boots: Sequence[Boot], span: Callable[[Boot], tuple[float, float]]) -> int:
    """The most boots that one host had at the same time; ``span``: from when to when it has one."""
    changes: dict[str, list[tuple[float, int]]] = {}
    for boot in boots:
        begin, end = span(boot)
        changes.setdefault(boot.host, []).append((begin, 1))
        if not math.isnan(end):
            changes[boot.host].append((end, -1))
    most = 0
    for each in changes.values():
        now = 0
        for _, change in sorted(each):
            now += change
            most = max(most, now)
    return most
