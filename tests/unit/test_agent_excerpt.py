"""The excerpt of nova.conf: what the agent needs and nothing else, readable by its group."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from bus_cache.agent import inventory, publisher, service

NOVA = """
[DEFAULT]
host = compute-7
my_ip = 10.0.0.7
state_path = /srv/nova
instances_path = $state_path/instances
compute_driver = libvirt.LibvirtDriver
transport_url = rabbit://nova:pa$$word@h1:5672,nova:pa$$word@h2:5672/
image_cache_subdirectory_name = _base_$my_ip
log_dir = /var/log/nova
[database]
connection = mysql://nova:secret@db/nova
[neutron]
password = secret
[oslo_messaging_notifications]
driver = messagingv2
transport_url = rabbit://n:p@h3/
[oslo_messaging_rabbit]
ssl = true
ssl_ca_file = /etc/ca.pem
rabbit_quorum_queue = true
[vmware]
host_password = needed
"""


def excerpt(folder: Path, text: str = NOVA) -> Path:
    """Have it written."""
    source, target = folder / "nova.conf", folder / "excerpt.conf"
    source.write_text(text)
    arguments = ["--config-file", str(source), "--write-excerpt", str(target)]
    assert service.main(arguments) == 0
    return target


def test_it_holds_what_the_agent_reads(tmp_path: Path) -> None:
    """With the same values when it is read in nova.conf's place."""
    target = excerpt(tmp_path)
    text = target.read_text()
    assert "secret" not in text
    assert "log_dir" not in text
    assert "driver = messagingv2" not in text
    a, b = (service.load(["--config-file", str(file)]) for file in (tmp_path / "nova.conf", target))
    for conf in (a, b):
        assert conf.transport_url == "rabbit://nova:pa$word@h1:5672,nova:pa$word@h2:5672/"
        assert publisher.bus_url(conf) == "rabbit://n:p@h3/"
        assert inventory.choose(conf).place == "/srv/nova/instances/_base_10.0.0.7"
        assert conf.oslo_messaging_rabbit.ssl_ca_file == "/etc/ca.pem"
        assert conf.oslo_messaging_rabbit.ssl
        assert conf.oslo_messaging_rabbit.rabbit_quorum_queue
        assert conf.vmware.host_password == "needed"
        assert conf.host == "compute-7"


def test_only_owner_and_group_may_read_it(tmp_path: Path) -> None:
    """The group of the folder; also where an older one was left open."""
    target = tmp_path / "excerpt.conf"
    target.write_text("old")
    target.chmod(0o666)
    if os.geteuid() == 0:
        os.chown(tmp_path, 0, 12345)
    excerpt(tmp_path)
    status = target.stat()
    assert stat.S_IMODE(status.st_mode) == 0o640
    assert status.st_gid == tmp_path.stat().st_gid
    assert sorted(path.name for path in tmp_path.iterdir()) == ["excerpt.conf", "nova.conf"]


def test_where_it_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence, and 1."""
    (tmp_path / "nova.conf").write_text(NOVA)
    target = tmp_path / "absent" / "excerpt.conf"
    arguments = ["--config-file", str(tmp_path / "nova.conf"), "--write-excerpt", str(target)]
    assert service.main(arguments) == 1
    said = capsys.readouterr().err
    assert said == f"bus-cache-agent: {target} can't be written: No such file or directory.\n"
