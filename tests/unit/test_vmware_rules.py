"""The vmware driver does as Nova: its rules are compared with Nova's own functions."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from oslo_config import cfg

os.environ.setdefault("OS_NOVA_DISABLE_EVENTLET_PATCHING", "1")
import nova.conf
from nova.virt.vmwareapi import ds_util, imagecache, vmops

from bus_cache.agent.inventory import vmware
from bus_cache.conf import ConfigurationError

GIVEN = {
    "host_ip": "192.0.2.1",
    "host_username": "nova",
    "host_password": "secret",
    "cluster_name": "c",
}


def make(tmp_path: Path, *lines: str, **options: str) -> vmware.VMware:
    text = [f"{name} = {value}" for name, value in {**GIVEN, **options}.items()]
    path = tmp_path / "nova.conf"
    path.write_text("\n".join([*lines, "[vmware]", *text]))
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[str(path)])
    return vmware.VMware(conf)


@pytest.mark.parametrize("prefix", [None, "", "pool"])
@pytest.mark.parametrize("ageing", [True, False])
@pytest.mark.parametrize("subdirectory", ["_base", "images"])
def test_the_folder_is_novas(
    tmp_path: Path, prefix: str | None, ageing: bool, subdirectory: str
) -> None:
    conf = nova.conf.CONF
    conf.set_override("my_ip", "192.0.2.7")
    conf.set_override("cache_prefix", prefix, "vmware")
    conf.set_override("remove_unused_base_images", ageing, "image_cache")
    conf.set_override("subdirectory_name", subdirectory, "image_cache")
    try:
        folder = vmops.VMwareVMOps._get_base_folder(None)
    finally:
        conf.clear_override("my_ip")
        conf.clear_override("cache_prefix", "vmware")
        conf.clear_override("remove_unused_base_images", "image_cache")
        conf.clear_override("subdirectory_name", "image_cache")
    driver = make(
        tmp_path,
        "[DEFAULT]",
        "my_ip = 192.0.2.7",
        "[image_cache]",
        f"remove_unused_base_images = {ageing}",
        f"subdirectory_name = {subdirectory}",
        **({} if prefix is None else {"cache_prefix": prefix}),
    )
    assert driver.place.rpartition(" ")[2] == folder


def test_the_datastores_are_novas() -> None:
    kinds = ["VMFS", "NFS", "NFS41", "vsan", "CIFS", "vfat", "OTHER"]
    modes = [None, "normal", "enteringMaintenance", "inMaintenance"]
    patterns = [None, "nas", ".*-1"]
    for kind, mode, accessible, pattern, name in itertools.product(
        kinds, modes, [True, False], patterns, ["nas-1", "my-nas"]
    ):
        found = {
            "summary.name": name,
            "summary.type": kind,
            "summary.accessible": accessible,
            **({} if mode is None else {"summary.maintenanceMode": mode}),
        }
        compiled = None if pattern is None else re.compile(pattern)
        novas = ds_util._is_datastore_valid(found, compiled, ds_util.ALL_SUPPORTED_DS_TYPES)
        assert vmware._is_usable(found, compiled or re.compile("")) == bool(novas), found


def test_the_mark_of_an_unused_image_is_novas() -> None:
    manager = imagecache.ImageCacheManager(None, "_base")
    mark = manager._get_timestamp_filename()
    since = manager._get_datetime_from_filename(mark)

    class File:
        path = mark

    class Disk:
        path = "i.vmdk"

    class Folder:
        folderPath = "[ds] _base/i/"
        file = (File(), Disk())

    (image,) = vmware._images([Folder()])
    assert image.last_used == int((since - type(since)(1970, 1, 1)).total_seconds())


@pytest.mark.parametrize("missing", GIVEN)
def test_says_what_is_not_set(tmp_path: Path, missing: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^\[vmware\] {missing} is not set: "):
        make(tmp_path, **{missing: ""})


def test_a_pattern_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"datastore_regex = \( can't be used: "):
        make(tmp_path, datastore_regex="(")


def test_without_oslo_vmware() -> None:
    """It can be imported, as stevedore may do, and says what to install when it is used."""
    program = """
import sys
sys.modules["oslo_vmware"] = None
from bus_cache.agent.inventory import vcenter, vmware
from bus_cache.conf import ConfigurationError
try:
    vcenter.VCenter(None)
except ConfigurationError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout.endswith("pip install 'bus-cache[vmware]'\n"), done.stderr
