"""The vmware driver against a vCenter: govmomi's simulator."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import ssl
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from oslo_config import cfg

from bus_cache import names
from bus_cache.agent.inventory import Unreadable, vcenter
from bus_cache.agent.inventory.vmware import VMware
from bus_cache.protocol import CachedImage
from tests.vcsim import VCenter

IMAGE = "067688a2-c6c8-54e6-ae9a-ba2fd3746c26"
OTHER = "8d0ff5d6-3e4f-4c70-9c5d-6d7b0f6f9a11"
FOLDER = "10.0.0.5_base"


@pytest.fixture(scope="module")
def server() -> Iterator[VCenter]:
    """A vCenter for all tests of this file."""
    with VCenter() as server:
        yield server


@pytest.fixture(autouse=True)
def empty(server: VCenter) -> None:
    """It runs, and holds nothing."""
    server.start()
    for datastore in server.datastores:
        for path in server.folder(datastore).iterdir():
            shutil.rmtree(path)


Make = Callable[..., VMware]


@pytest.fixture
def make(server: VCenter, tmp_path: Path) -> Iterator[Make]:
    """Make a driver of a nova.conf; more lines, and other values, as arguments."""
    made = []

    def with_options(*lines: str, **options: object) -> VMware:
        values = {
            "host_ip": "127.0.0.1",
            "host_port": server.port,
            "host_username": server.user,
            "host_password": server.password,
            "cluster_name": server.cluster,
            "ca_file": server.certificate,
            "task_poll_interval": 0.02,
            **options,
        }
        path = tmp_path / "nova.conf"
        text = [f"{name} = {value}" for name, value in values.items() if value is not None]
        path.write_text("\n".join(["[DEFAULT]", "my_ip = 10.0.0.5", *lines, "[vmware]", *text]))
        conf = cfg.ConfigOpts()
        conf([], default_config_files=[str(path)])
        made.append(VMware(conf))
        return made[-1]

    yield with_options
    for driver in made:
        driver.close()


def put(server: VCenter, path: str, content: bytes = b"x", datastore: str = "LocalDS_0") -> Path:
    """Upload a file as Nova does (oslo_vmware.rw_handles); where the simulator keeps it."""
    query = urllib.parse.urlencode({"dcPath": server.datacenter, "dsName": datastore})
    request = urllib.request.Request(
        f"{server.url}/folder/{path}?{query}", data=content, method="PUT"
    )
    context = ssl.create_default_context(cafile=str(server.certificate))
    with urllib.request.urlopen(request, context=context, timeout=30):
        pass
    return server.folder(datastore) / path


def put_image(
    server: VCenter, image: str, folder: str = FOLDER, datastore: str = "LocalDS_0"
) -> Path:
    """Put an image of 1,100 bytes, last changed in 2001; its folder."""
    where = f"{folder}/{image}"
    for name, size in ((f"{image}.vmdk", 100), (f"{image}-flat.vmdk", 1000)):
        path = put(server, f"{where}/{name}", b"x" * size, datastore)
        os.utime(path, (1_000_000_000, 1_000_000_000))
    return path.parent


def held(driver: VMware) -> set[str]:
    return {image.fingerprint for image in driver.list().images}


def prints(*images: str) -> set[str]:
    return {names.fingerprint(image) for image in images}


def test_lists_what_is_there_and_sees_it_go(server: VCenter, make: Make) -> None:
    driver = make()
    assert driver.list() == ((), ())  # the cache folder does not exist yet
    folder = put_image(server, IMAGE)
    assert driver.list() == ((CachedImage(names.fingerprint(IMAGE), 1100, 1_000_000_000),), ())
    put(server, f"{FOLDER}/{OTHER}/{OTHER}.iso")
    assert held(driver) == prints(IMAGE, OTHER)
    shutil.rmtree(folder)
    assert held(driver) == prints(OTHER)
    shutil.rmtree(folder.parent)
    assert held(driver) == set()


def test_tells_since_when_an_image_is_unused(server: VCenter, make: Make) -> None:
    driver = make()
    folder = put_image(server, IMAGE)
    (folder / "ts-2026-11-22-14-00-00").mkdir()
    assert driver.list().images == (CachedImage(names.fingerprint(IMAGE), 1100, 1795356000),)
    (folder / "ts-2026-11-22-14-00-00").rename(folder / "ts-strange")
    assert driver.list().images == (CachedImage(names.fingerprint(IMAGE), 1100, 1_000_000_000),)


def test_counts_copies_of_other_sizes_as_the_image(server: VCenter, make: Make) -> None:
    put_image(server, IMAGE)
    put(server, f"{FOLDER}/{IMAGE}/{IMAGE}.20.vmdk", b"x" * 5000)
    (image,) = make().list().images
    assert image.size == 6100


def test_ignores_what_is_no_whole_image(server: VCenter, make: Make) -> None:
    driver = make()
    put(server, f"vmware_temp/0f/{IMAGE}/{IMAGE}.vmdk")  # being fetched
    put(server, f"{FOLDER}/{IMAGE}/{IMAGE}.20.vmdk")  # the image itself is missing
    put(server, f"{FOLDER}/{OTHER}/tmp-sparse.vmdk")
    put(server, f"{FOLDER}/stray.vmdk")
    put(server, f"10.0.0.6_base/{OTHER}/{OTHER}.vmdk")  # another nova-compute's
    (server.folder("LocalDS_0") / FOLDER / "empty").mkdir()
    assert driver.list() == ((), ())


def test_an_image_on_two_datastores_is_one(server: VCenter, make: Make) -> None:
    driver = make()
    folder = put_image(server, IMAGE)
    put_image(server, IMAGE, datastore="LocalDS_1")
    (image,) = driver.list().images
    assert image == CachedImage(names.fingerprint(IMAGE), 2200, 1_000_000_000)
    shutil.rmtree(folder)
    assert held(driver) == prints(IMAGE)


def test_reads_only_the_datastores_that_nova_uses(server: VCenter, make: Make) -> None:
    put_image(server, IMAGE)
    put_image(server, OTHER, datastore="LocalDS_1")
    assert held(make(datastore_regex=".*_1")) == prints(OTHER)
    # with storage policies Nova ignores the pattern
    assert held(make(datastore_regex=".*_1", pbm_enabled=True)) == prints(IMAGE, OTHER)
    with pytest.raises(Unreadable, match=r"DC0_C0 has no datastore that Nova can use$"):
        make(datastore_regex="nas").list()


@pytest.mark.parametrize(
    ("lines", "options", "folder"),
    [
        ((), {}, "10.0.0.5_base"),
        ((), {"cache_prefix": "shared"}, "shared_base"),
        (("[image_cache]", "subdirectory_name = images"), {}, "10.0.0.5images"),
        (("[image_cache]", "remove_unused_base_images = False"), {}, "_base"),
    ],
)
def test_reads_the_folder_that_nova_makes(
    server: VCenter, make: Make, lines: tuple[str, ...], options: dict[str, str], folder: str
) -> None:
    driver = make(*lines, **options)
    assert driver.place == f"vCenter 127.0.0.1:{server.port}, cluster DC0_C0, [*] {folder}"
    put_image(server, IMAGE, folder)
    assert held(driver) == prints(IMAGE)


def test_goes_on_after_vcenter_was_restarted(server: VCenter, make: Make) -> None:
    driver = make()
    put_image(server, IMAGE)
    assert held(driver) == prints(IMAGE)
    server.kill()
    with pytest.raises(Unreadable, match=r"^vCenter 127.0.0.1:\d+ can't be reached: .*refused"):
        driver.list()
    server.start()
    put_image(server, OTHER)
    assert held(driver) == prints(OTHER)
    server.restart()  # unnoticed: the session is not known there any more
    put_image(server, IMAGE)
    assert held(driver) == prints(IMAGE)


def test_waits_for_no_vcenter_that_hangs(
    server: VCenter, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vcenter, "CALL_SECONDS", 0.5)
    driver = make()
    driver.list()
    assert server.process is not None
    server.process.signal(signal.SIGSTOP)
    try:
        with pytest.raises(Unreadable, match="timed out"):
            driver.list()
    finally:
        server.process.signal(signal.SIGCONT)
    put_image(server, IMAGE)
    assert held(driver) == prints(IMAGE)


def test_a_search_has_an_end(server: VCenter, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = make()
    monkeypatch.setattr(vcenter.vim_util, "get_object_property", lambda *_, **__: "running")
    monkeypatch.setattr(vcenter, "SEARCH_SECONDS", 0.0)
    with pytest.raises(Unreadable, match=r"\[LocalDS_\d\] 10.0.0.5_base was not listed in 0 s"):
        driver.list()


def test_a_wrong_password_is_told_once_in_a_while_and_not_shown(
    make: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    driver = make(host_password="not+this+one")
    refusal = r"^vCenter 127.0.0.1:\d+ refuses the user nova or the password"
    with pytest.raises(Unreadable, match=refusal + "$") as raised:
        driver.list()
    assert raised.value.__cause__ is None
    caplog.clear()
    with pytest.raises(Unreadable, match=refusal + "; tried again in 300 s$"):
        driver.list()
    assert not caplog.records  # vCenter was not asked: it would lock Nova's account
    monkeypatch.setattr(vcenter, "REFUSED_SECONDS", 0.0)
    with pytest.raises(Unreadable, match=refusal + "$"):
        driver.list()
    assert "not+this+one" not in caplog.text


def test_secrets_stay_out_of_the_log(
    server: VCenter, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    make().list()
    assert server.password not in caplog.text


def test_checks_the_certificate(make: Make) -> None:
    assert make(ca_file=None, insecure=True).list() == ((), ())
    with pytest.raises(
        Unreadable, match=r"can't be reached: .*CERTIFICATE_VERIFY_FAILED"
    ) as raised:
        make(ca_file=None).list()
    assert "\n" not in str(raised.value)
    with pytest.raises(Unreadable, match=r"nowhere\.pem"):
        make(ca_file="/nowhere.pem").list()


def test_a_cluster_that_is_not_there(make: Make) -> None:
    with pytest.raises(Unreadable, match=r"^vCenter 127.0.0.1:\d+ shows us no cluster DC0_C7$"):
        make(cluster_name="DC0_C7").list()


def test_several_drivers_and_a_closed_one(server: VCenter, make: Make) -> None:
    put_image(server, IMAGE)
    one, two = make(), make()
    assert held(one) == held(two) == prints(IMAGE)
    one.close()
    one.close()
    assert held(two) == prints(IMAGE)
    assert held(one) == prints(IMAGE)
