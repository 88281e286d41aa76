"""The libvirt driver on real folders, and which driver is chosen."""

from __future__ import annotations

import errno
import logging
import os
import queue
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import inotify_simple
import pytest
from oslo_config import cfg

from bus_cache import conf as configuration
from bus_cache.agent import inventory
from bus_cache.agent.inventory import Unreadable, watch
from bus_cache.agent.inventory.libvirt import Libvirt
from bus_cache.conf import ConfigurationError, agent, nova
from bus_cache.names import fingerprint
from bus_cache.protocol import CachedImage, Inventory

A, B, C = (fingerprint(name) for name in "abc")

Load = Callable[..., cfg.ConfigOpts]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads nova.conf and the agent's options."""

    def load(text: str = "", driver: str = "libvirt.LibvirtDriver") -> cfg.ConfigOpts:
        path = tmp_path / "nova.conf"
        path.write_text(
            f"[DEFAULT]\ncompute_driver={driver}\ninstances_path={tmp_path}/instances\n{text}"
        )
        return configuration.load(
            "tester", ["--config-file", str(path)], [(agent.GROUP, agent.OPTIONS)], nova.register
        )

    return load


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The folder, made."""
    path = tmp_path / "instances" / "_base"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def libvirt(load: Load) -> Iterator[Libvirt]:
    """The driver."""
    driver = Libvirt(load())
    yield driver
    driver.close()


# -- which driver --------------------------------------------------------------------------------


def test_the_driver_is_that_of_nova(load: Load) -> None:
    """By compute_driver, or as [agent] inventory says."""
    assert isinstance(inventory.choose(load()), Libvirt)
    assert isinstance(inventory.choose(load("[agent]\ninventory=libvirt\n", "own.Driver")), Libvirt)


@pytest.mark.parametrize("driver", ["fake.FakeDriver", "ironic.IronicDriver"])
def test_a_driver_without_a_cache(load: Load, driver: str) -> None:
    """Nothing is listed, and why is told."""
    chosen = inventory.choose(load(driver=driver))
    assert chosen.caches_nothing == f"compute_driver = {driver}"
    assert chosen.list() == Inventory(())


def test_images_cloned_within_ceph(load: Load) -> None:
    """Nothing is cached, unless an operator knows better."""
    rbd = "[libvirt]\nimages_type=rbd\n"
    assert inventory.choose(load(rbd)).caches_nothing == "[libvirt] images_type = rbd"
    assert not inventory.choose(load(rbd + "[agent]\ninventory=libvirt\n")).caches_nothing


def test_no_driver(load: Load) -> None:
    """Each sentence says what to write."""
    with pytest.raises(ConfigurationError, match="inventory = nonsense: no such driver"):
        inventory.choose(load("[agent]\ninventory=nonsense\n"))
    with pytest.raises(ConfigurationError, match="compute_driver is missing: give the host's"):
        inventory.choose(load(driver=""))


def test_the_folder_is_as_nova_says(load: Load, tmp_path: Path) -> None:
    """With its options, their references and its older names."""
    assert Libvirt(load()).place == f"{tmp_path}/instances/_base"
    conf = load(
        "state_path=/srv\ninstances_path=$state_path/i\nmy_ip=10.0.0.7\n"
        "image_cache_subdirectory_name=_base_$my_ip\n"
    )
    assert Libvirt(conf).place == "/srv/i/_base_10.0.0.7"


# -- listing -------------------------------------------------------------------------------------


def write(path: Path, size: int = 10) -> Path:
    """Make a file."""
    path.write_bytes(b"x" * size)
    return path


def test_what_is_an_image(libvirt: Libvirt, base: Path) -> None:
    """And what only lies beside."""
    write(base / A, 10_000)
    os.utime(base / A, (1, 1234))
    write(base / f"{B}.part")
    write(base / f"{C}.part")
    write(base / f"{C}.converted")
    write(base / f"{A}.part")  # fetched once more, by a second server: it is there already
    D = fingerprint("d")
    for name in (
        f"{D}_10737418240",
        f"{D}_sm",
        f"{D}.info",
        D.upper(),
        D[:-1],
        D + "0",
        f"{D}.part.x",
        "swap_1024",
        "ephemeral_1_40d1d2c",
        f"nova-{D}",
        "\udcff",
    ):
        write(base / name)
    (base / D).mkdir()
    (base / fingerprint("dangling")).symlink_to("nowhere")
    image = CachedImage(A, (base / A).stat().st_blocks * 512, 1234)
    assert libvirt.list() == Inventory([image], sorted([B, C]))
    assert image.size >= 10_000
    assert libvirt.look(A) == (image, False)
    assert libvirt.look(B) == libvirt.look(C) == (None, True)
    assert libvirt.look(D) == (None, False)


def test_bytes_are_those_on_disk(libvirt: Libvirt, base: Path) -> None:
    """A sparse file takes what it takes."""
    with open(base / A, "wb") as file:
        file.truncate(1 << 30)
    image, _ = libvirt.look(A)
    assert image
    assert image.size < 1 << 20


def test_a_part_that_nobody_writes_is_not_on_its_way(libvirt: Libvirt, base: Path) -> None:
    """nova-compute died over it, hours ago."""
    path = write(base / f"{A}.part")
    assert libvirt.list().fetching == [A]
    hours_ago = time.time() - 2 * 3600
    os.utime(path, (hours_ago, hours_ago))
    assert libvirt.list() == Inventory([], [])


def test_no_folder(libvirt: Libvirt, tmp_path: Path) -> None:
    """Nova makes it when it caches the first image; but where the one above is absent, nothing is
    known."""
    with pytest.raises(Unreadable, match="instances is no folder: is it mounted"):
        libvirt.list()
    (tmp_path / "instances").mkdir()
    assert libvirt.list() == Inventory([], [])
    assert libvirt.look(A) == (None, False)


def test_a_folder_that_cannot_be_listed(
    libvirt: Libvirt, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not taken for an empty one."""

    def refuse(path: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)  # root may list everything
    with pytest.raises(Unreadable, match=f"^{base} can't be listed: Permission denied$"):
        libvirt.list()


def test_an_entry_that_cannot_be_read(
    libvirt: Libvirt, base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is left out and logged once."""
    write(base / A)
    write(base / B)
    stat = os.stat

    def refuse(path: Any, **options: Any) -> os.stat_result:
        if Path(path).name == A:
            raise PermissionError(errno.EACCES, "Permission denied")
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", refuse)
    for _ in range(3):
        assert [image.fingerprint for image in libvirt.list().images] == [B]
        assert libvirt.look(A) == (None, False)
    assert [each.getMessage() for each in caplog.records] == [
        f"{base}/{A} is left out: Permission denied"
    ]
    monkeypatch.undo()
    assert len(libvirt.list().images) == 2


def test_none_of_the_entries_may_be_read(libvirt: Libvirt, base: Path) -> None:
    """A folder that may be listed but not searched is not taken for an empty one."""
    os.chmod(base, 0o744)
    write(base / "swap_1")
    write(base / A)
    write(base / f"{B}.part")
    reason = f"nothing in {base} can be read: Permission denied"
    assert as_nobody(libvirt, base) == [reason, reason]
    (base / A).unlink()
    assert as_nobody(libvirt, base) == [reason, reason]
    os.chmod(base, 0o755)
    assert as_nobody(libvirt, base) == [f"Inventory(images=[], fetching=['{B}'])", "(None, False)"]


def as_nobody(libvirt: Libvirt, base: Path) -> list[str]:
    """Return what a user who owns nothing lists, and sees of A, or why it can't."""
    for folder in base.parents:
        if folder.stat().st_uid == os.geteuid() and len(folder.parts) > 2:
            folder.chmod(folder.stat().st_mode | 0o011)
    ours, others = os.pipe()
    child = os.fork()  # as root may search everything
    if not child:
        try:
            if os.geteuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            else:  # this user's own folder
                mode = base.stat().st_mode
                base.chmod(mode & 0o077 | (mode & 0o007) << 6)
            said = []
            for work in (libvirt.list, lambda: libvirt.look(A)):
                try:
                    said.append(str(work()))
                except Unreadable as error:
                    said.append(str(error))
            os.write(others, "\n".join(said).encode())
        finally:
            os._exit(0)
    os.close(others)
    with open(ours) as file:
        lines = file.read().split("\n")
    os.waitpid(child, 0)
    return lines


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ETIMEDOUT])
@pytest.mark.parametrize("failing", [A, f"{B}.part"])
def test_a_storage_that_fails(
    libvirt: Libvirt, base: Path, monkeypatch: pytest.MonkeyPatch, number: int, failing: str
) -> None:
    """Whether an image is there is not known: it is not said to be gone."""
    write(base / A)
    write(base / f"{B}.part")
    write(base / C)
    stat = os.stat

    def fail(path: Any, **options: Any) -> os.stat_result:
        if Path(path).name == failing:
            raise OSError(number, os.strerror(number))
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", fail)  # no such storage at hand
    reason = f"^{base}/{failing} can't be read: {os.strerror(number)}$"
    with pytest.raises(Unreadable, match=reason):
        libvirt.list()
    with pytest.raises(Unreadable, match=reason):
        libvirt.look(failing[:40])
    assert libvirt.look(C)[0]


def test_ten_thousand_entries(libvirt: Libvirt, base: Path) -> None:
    """All are found."""
    for number in range(10_000):
        (base / fingerprint(str(number))).touch()
    assert len(libvirt.list().images) == 10_000


# -- watching ------------------------------------------------------------------------------------


class Changes:
    """What a driver's watch calls."""

    def __init__(self) -> None:
        self.queue: queue.Queue[str | None] = queue.Queue()

    def __call__(self, changed: str | None) -> None:
        self.queue.put(changed)

    def until(self, wanted: str | None) -> None:
        """Wait until this one is told."""
        while self.queue.get(timeout=20) != wanted:
            pass

    def settle(self) -> None:
        """Wait until something was told, and then nothing more for a while."""
        self.queue.get(timeout=20)
        while not self.none():
            pass

    def none(self) -> bool:
        """Whether nothing was told for a while."""
        try:
            self.queue.get(timeout=0.3)
        except queue.Empty:
            return True
        return False


def test_each_change_is_seen(libvirt: Libvirt, base: Path) -> None:
    """As it happens, by the image's name; nothing of what is no image."""
    changes = Changes()
    libvirt.watch(changes)
    write(base / f"{A}.part")
    changes.until(A)
    (base / f"{A}.part").rename(base / A)
    changes.until(A)
    changes.until(A)
    (base / A).unlink()
    changes.until(A)
    write(base / "swap_1")
    write(base / f"{B}_sm")
    (base.parent / "some-server").mkdir()
    assert changes.none()


def test_a_folder_that_comes_goes_and_comes_again(libvirt: Libvirt, tmp_path: Path) -> None:
    """With folders above it, and moved away, too."""
    changes = Changes()
    libvirt.watch(changes)
    instances = tmp_path / "instances"
    base = instances / "_base"

    def sees(name: str) -> None:
        write(base / name)
        changes.until(name)

    instances.mkdir()
    changes.until(None)
    base.mkdir()
    changes.settle()
    sees(A)
    shutil.rmtree(base)
    changes.settle()  # there may be more than one word of it
    base.mkdir()
    changes.settle()
    sees(B)
    shutil.rmtree(instances)
    changes.settle()
    base.mkdir(parents=True)
    changes.settle()
    sees(C)
    instances.rename(tmp_path / "away")
    changes.settle()
    write(tmp_path / "away" / "_base" / A)
    base.mkdir(parents=True)
    changes.settle()
    sees(B)
    shutil.rmtree(instances)
    changes.settle()
    (tmp_path / "away").rename(instances)
    changes.settle()
    sees(fingerprint("d"))


def test_a_folder_made_in_one_go(libvirt: Libvirt, base: Path, tmp_path: Path) -> None:
    """Whatever is in it when the watch is set is found by the listing that follows."""
    changes = Changes()
    shutil.rmtree(tmp_path / "instances")
    libvirt.watch(changes)
    for _ in range(50):
        base.mkdir(parents=True)
        write(base / A)
        found = False
        while not found:
            changes.queue.get(timeout=20)
            found = libvirt.look(A)[0] is not None
        shutil.rmtree(tmp_path / "instances")
        while found:
            changes.queue.get(timeout=20)
            found = libvirt.look(A)[0] is not None


def test_more_changes_than_can_be_queued(
    libvirt: Libvirt, base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Then all is to be listed; afterwards each change is seen again."""
    changes = Changes()
    read = inotify_simple.INotify.read
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    flooded = False

    def slow(self: Any, **options: Any) -> Any:
        nonlocal flooded
        if not flooded:
            flooded = True
            one, other = base / f"{B}.part", base / f"{B}.converted"
            for _ in range(limit // 2):
                one.rename(other)
                other.rename(one)
        return read(self, **options)

    libvirt.watch(changes)
    write(base / f"{B}.part")
    changes.until(B)
    monkeypatch.setattr(inotify_simple.INotify, "read", slow)
    write(base / A)
    changes.until(None)
    assert "more changes than inotify can queue" in caplog.text
    while not changes.none():
        pass
    write(base / C)
    changes.until(C)


def test_a_folder_mounted_over_another_is_found_at_the_interval(
    libvirt: Libvirt, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """inotify says nothing of it; a link far above that now leads elsewhere is the same."""
    monkeypatch.setattr(watch, "AGAIN", 0.2)
    real = tmp_path / "instances"
    real.rename(tmp_path / "one")
    (tmp_path / "two" / "_base").mkdir(parents=True)
    (tmp_path / "inner").symlink_to("one")
    real.symlink_to("inner")
    changes = Changes()
    libvirt.watch(changes)
    (tmp_path / "inner").unlink()
    (tmp_path / "inner").symlink_to("two")  # not a name on the path: no event tells
    changes.until(None)
    write(tmp_path / "two" / "_base" / A)
    changes.until(A)


def test_inotify_used_up(
    libvirt: Libvirt, base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, and scanning remains."""

    def refuse(self: Any, *arguments: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(watch.INotify, "__init__", refuse)
    caplog.set_level(logging.WARNING)
    libvirt.watch(Changes())
    (said,) = caplog.messages
    assert said.startswith(f"{base} can't be watched: Too many open files (sysctl fs.inotify.max_u")
