"""``make lab-bytes``: what the weigher saves in a real cloud whose images are really downloaded.

Eight compute hosts fetch images by Nova's own code into caches of their own, from a real Glance
behind a link of a stated bandwidth. Agents tell what the caches hold. The same sequence of requests
is gone through with the weigher off and on, each time from empty caches. All is smaller than in
life by SCALE, the weigher's own sizes too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bus_cache.conf import image_cache_weigher
from simulator import trace
from tests import servers
from tests.lab import bytes_load, configuration
from tests.lab.bytes_run import FLAVOR, Figures, Run
from tests.lab.client import Cloud, CloudError, Refused, wait_until
from tests.lab.configuration import NovaOptions, Sections
from tests.lab.plane import PROJECT, ControlPlane, LabError
from tests.lab.product import AGENTS_QUEUE, QUEUE, Product

HOSTS = 8
SCALE = 20
"""An image stands for one that is so much larger, and Glance's link for one so much faster."""
BANDWIDTH = 50_000_000
"""Bytes a second that leave Glance, in all."""
RESULTS = PROJECT / "build" / "lab-bytes.json"

LATE = 5.0
"""Seconds that a request may go out late before the times are the machine's and not Nova's."""

OFF, ON = "off", "on"

#: Figure -> what it is called, and by what it is divided to be read.
ROWS: dict[str, tuple[str, float]] = {
    "bytes_from_glance": ("bytes that left Glance, GB", 1e9),
    "downloads": ("downloads", 1),
    "active_p50_s": ("time to ACTIVE, median, s", 1),
    "active_p95_s": ("time to ACTIVE, 95th percentile, s", 1),
    "active_max_s": ("time to ACTIVE, longest, s", 1),
    "build_p50_s": ("of it on the host, median, s", 1),
    "build_p95_s": ("of it on the host, 95th percentile, s", 1),
    "hosts_used": ("hosts used", 1),
    "most_servers_one_host": ("most servers on one host at once", 1),
    "most_builds_one_host": ("most builds on one host at once", 1),
    "failed": ("failed", 1),
}


def parser() -> argparse.ArgumentParser:
    own = argparse.ArgumentParser(prog="python -m tests.lab.bytes", description=__doc__)
    own.add_argument("--repeat", type=int, default=1, help="how often each is done; medians count")
    own.add_argument("--seed", type=int, default=1, help="of the sequence")
    own.add_argument("--bandwidth", type=float, default=BANDWIDTH, help="Glance's, in bytes/s")
    own.add_argument("--directory", type=Path, default=PROJECT / "build" / "lab-bytes")
    own.add_argument("--results", type=Path, default=RESULTS)
    return own


def nova_options(glance: str) -> Sections:
    """Over the lab's usual nova.conf."""
    defaults = {option.name: option.default for option in image_cache_weigher.OPTIONS}
    scaled: Sections = {
        image_cache_weigher.GROUP: {
            name: defaults[name] // SCALE for name in ("small_image_size", "large_image_size")
        }
    }
    return configuration.merge(configuration.downloading(glance), scaled)


def check_room(directory: Path, images: bytes_load.Sizes) -> None:
    """Every host may come to hold every image, and Glance holds them too."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    needed = (HOSTS + 2) * sum(images.values())
    free = shutil.disk_usage(directory.parent).free
    if free < needed:
        raise LabError(f"{directory} needs {needed / 1e9:.0f} GB, {free / 1e9:.0f} GB are free")


def fill_glance(plane: ControlPlane, images: bytes_load.Sizes) -> None:
    for name, size in images.items():
        content = bytes_load.content(name, size)
        plane.cloud.create_image(bytes_load.image_id(name), name, content)


def delete_all(cloud: Cloud) -> None:
    for server in cloud.servers():
        with contextlib.suppress(Refused):  # one that was being deleted already
            cloud.nova.delete(f"/servers/{server.id}")
    wait_until(lambda: not cloud.servers(), "the deletion of all servers", 300.0, interval=1.0)


def begin_anew(plane: ControlPlane, product: Product, weigher: bool) -> None:
    """Nothing is left of the run before: no server, no cached image, nothing known of any."""
    delete_all(plane.cloud)
    for host in plane.hosts:
        product.stop_agent(host)
    product.stop_consumer()
    plane.restart_nova(plane.hosts, weigher=weigher)
    for host in plane.hosts:
        shutil.rmtree(plane.base(host), ignore_errors=True)
    for queue in (QUEUE, AGENTS_QUEUE):
        plane.rabbit.ctl("purge_queue", queue)
    with plane.redis.client() as redis:
        redis.flushall()


def run(arguments: argparse.Namespace) -> dict[str, list[Figures]]:
    """Go through the sequence so often; the order changes, so that neither is always the first."""
    requests = bytes_load.sequence(arguments.seed)
    images = {request.image: request.image_bytes for request in requests}
    check_room(arguments.directory, images)
    order = [(OFF, ON)[(each + each // 2) % 2] for each in range(2 * arguments.repeat)]
    port = servers.free_port()
    extra = nova_options(f"http://127.0.0.1:{port}")
    options = NovaOptions(notification_format="versioned", weigher=order[0] == ON, extra=extra)
    found: dict[str, list[Figures]] = {OFF: [], ON: []}
    with ControlPlane(arguments.directory, HOSTS, options) as plane:
        trace.write(plane.directory / "log" / "trace.csv", requests)
        plane.slow_glance(port, arguments.bandwidth)
        fill_glance(plane, images)
        plane.cloud.create_flavor(
            FLAVOR, bytes_load.RAM_MB, bytes_load.DISK_GB, vcpus=bytes_load.VCPUS
        )
        product = Product(plane)
        for number, weigher in enumerate(order):
            if number:
                begin_anew(plane, product, weigher == ON)
            product.start_consumer()
            for host in plane.hosts:
                product.start_agent(host)
            product.await_agents(*plane.hosts)
            print(f"weigher {weigher}: {len(requests)} requests ...", flush=True)
            figures = Run(plane, product, requests).go()
            print(json.dumps(figures), flush=True)
            found[weigher].append(figures)
    return found


def table(found: Mapping[str, Sequence[Figures]]) -> str:
    """Markdown: medians of the runs, and how far these lie apart where there are several."""

    def cell(weigher: str, name: str, unit: float) -> str:
        values = sorted(each[name] / unit for each in found[weigher])
        middle = f"{statistics.median(values):.3g}"
        return middle if len(values) == 1 else f"{middle} ({values[0]:.3g} to {values[-1]:.3g})"

    def ratio(name: str) -> str:
        off, on = (statistics.median(each[name] for each in found[key]) for key in (OFF, ON))
        return f"{on / off:.2f}" if off else ""

    lines = ["| | weigher off | weigher on | on / off |", "| --- | --- | --- | --- |"]
    for name, (title, unit) in ROWS.items():
        cells = (title, cell(OFF, name, unit), cell(ON, name, unit), ratio(name))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def caveat(found: Mapping[str, Sequence[Figures]]) -> str:
    """What to say of the machine under the table."""
    rates = [each["rate_while_downloading"] / 1e6 for runs in found.values() for each in runs]
    late = max(each["latest_request_s"] for runs in found.values() for each in runs)
    load = max(each["load_average"] for runs in found.values() for each in runs)
    said = (
        f"{os.cpu_count()} cores, load average up to {load}, requests up to {late} s late, "
        f"{min(rates):.0f} to {max(rates):.0f} MB/s while anything was downloaded."
    )
    too_late = " The machine was too busy for it: bytes and hosts count, times do not."
    return said + too_late * (late > LATE)


def main() -> None:
    arguments = parser().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # to end what was started, in order
    try:
        found = run(arguments)
    except (LabError, CloudError, servers.ServerError) as error:
        sys.exit(f"lab-bytes: {error}")
    except KeyboardInterrupt:
        sys.exit("lab-bytes: interrupted")
    finally:
        shutil.rmtree(arguments.directory / "state", ignore_errors=True)  # gigabytes; logs stay
    said = {
        "seed": arguments.seed,
        "hosts": HOSTS,
        "scale": SCALE,
        "glance_bandwidth": arguments.bandwidth,
        "cores": os.cpu_count(),
        "runs": found,
    }
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    arguments.results.write_text(json.dumps(said, indent=1) + "\n")
    print(f"\n{table(found)}\n\n{caveat(found)}\n{arguments.results}")


if __name__ == "__main__":
    main()
