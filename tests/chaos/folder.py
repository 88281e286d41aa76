"""The folder of a real agent goes away and comes back: a file system that is unmounted."""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from typing import TYPE_CHECKING

from tests import servers
from tests.chaos import stores
from tests.chaos.truth import fingerprint
from tests.compute_host import Host

if TYPE_CHECKING:
    from tests.chaos.scene import Scene

HOST = "real-0"


def folder(scene: Scene) -> None:
    """Mount, fill, unmount, and mount again with other images: the truth is what can be read.

    While nothing is mounted the folder of the cache is not there: the host holds nothing. As root.
    """
    where = scene.folder / "agent"
    (where / "instances").mkdir(parents=True)
    host = Host(scene.rabbit, where, HOST)
    host.configure(own="scan_interval = 5\nsnapshot_interval = 10\n")
    version = 0

    def tell(image: str, holds: bool) -> None:
        nonlocal version
        version += 1
        scene.truth.cached(HOST, image, holds, (1, version))

    def put() -> str:
        image = fingerprint(str(uuid.UUID(int=scene.random.getrandbits(128))))
        host.put(image)
        tell(image, True)
        return image

    scene.at_end(lambda: _unmount(host))
    _mount(host)
    held = [put() for _ in range(10)]
    agent = host.start()
    scene.at_end(agent.kill)
    stores.wait_until(lambda: not _wrong(scene), 30)
    scene.watch.begin()  # the agent was late, not wrong
    for _ in range(2):
        held += [put() for _ in range(3)]
        gone = held.pop(0)
        host.remove(gone)
        tell(gone, False)
        time.sleep(1)
        _unmount(host)
        for image in held:
            tell(image, False)
        time.sleep(2)
        _mount(host)
        held = [put() for _ in range(5)]
        time.sleep(1)
    scene.require(agent.running, "the agent ended")


def _wrong(scene: Scene) -> bool:
    """Whether something is wrong about the agent's host, or can't be told."""
    found = scene.watch.now_wrong
    return found is None or any(pair.host == HOST for pair in found)


def _mount(host: Host) -> None:
    folder = host.base.parent
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "bus-cache-chaos", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise servers.ServerError(f"mount {folder}: {done.stderr} (root only)")


def _unmount(host: Host) -> None:
    where = str(host.base.parent)
    if os.path.ismount(where):
        subprocess.run(["umount", "--lazy", where], check=True)
