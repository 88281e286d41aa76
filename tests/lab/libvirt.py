"""A libvirtd of the lab's own: real guests of qemu, emulated without KVM, in a small container.

It runs in namespaces of its own (processes, mounts, host name), with an ``/etc``, ``/var`` and
``/run`` that nobody else has. So it has its own ``qemu.conf``, nothing on the machine is changed,
several may run side by side, and when its first process ends, however that happens, the kernel
ends every guest with it.
Debian's package ``libvirt-daemon`` is enough; its configuration and services are not needed.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path

from tests import servers

#: Runs a command in the container: $1 is its host name, $2 its own files, $3 is shared with us, $4
#: its instances, to be found at $5.
BOX = r"""
set -eu
hostname "$1"
files=$2 shared=$3 instances=$4 common=$5
shift 5
root=$files/root
mkdir -p "$root"
mount -t tmpfs -o mode=755 tmpfs "$root"
for path in /bin /sbin /lib* /usr /dev /sys; do
    if [ -L "$path" ]; then
        cp -P "$path" "$root$path"
    else
        mkdir "$root$path"
        mount --rbind "$path" "$root$path"
    fi
done
mkdir -p "$root/etc" "$root/proc" "$root/run" "$root/tmp" "$root/var/lib" "$root$shared"
mount -t proc proc "$root/proc"
mount --bind "$shared" "$root$shared"
mount --bind "$instances" "$root$common"
cp -L /etc/ld.so.cache "$root/etc"
# libvirt wants to know the user that guests would have had.
echo "root:x:0:0:root:/:/bin/sh
libvirt-qemu:x:64055:64055::/:/bin/false" >"$root/etc/passwd"
echo "root:x:0:
libvirt-qemu:x:64055:" >"$root/etc/group"
cp -R "$files/etc" "$root/etc/libvirt"
chroot "$root" "$@" &
# Not exec: the first process of a container inherits the guests, and must collect those that end.
while kill -0 $! 2>/dev/null; do wait $! || true; done
"""

#: Runs a command that finds the instances $1 at $2.
ON_HOST = 'mount --bind "$1" "$2"; shift 2; exec "$@"'

# All hosts are on this machine: whoever logs in to one of them enters its mounts.
SSH = """\
#!/bin/sh
while [ "$1" = -o ]; do shift 2; done
address=$1
shift
exec nsenter --mount --target "$(cat {processes}/"$address")" -- "$@"
"""

# scp [-C] [-r] FROM TO, of one file, with an address or a name before one of them.
SCP = """\
#!/bin/sh
while case $1 in -*) ;; *) false ;; esac; do shift; done
case $1 in
    *:/*) exec ssh "${{1%%:*}}" cat "${{1#*:}}" >"$2" ;;
    *) exec ssh "${{2%%:*}}" dd status=none of="${{2#*:}}" <"$1" ;;
esac
"""

LIBVIRTD = """\
listen_tls = 0
unix_sock_dir = "{sockets}"
unix_sock_rw_perms = "0700"
auth_unix_ro = "none"
auth_unix_rw = "none"
host_uuid = "{uuid}"
log_outputs = "3:stderr"
"""

QEMU = """\
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
remember_owner = 0
stdio_handler = "file"
"""

#: The longest path of a Unix socket that Linux takes.
LONGEST_SOCKET = 107


class Libvirt(servers.Server):
    """One host's libvirtd, which sees of this machine's files only programs and ``shared``.

    Hosts copy files to each other under the same path, as is usual. So each has its ``instances``
    at the path ``common``, in whatever runs there.
    """

    def __init__(
        self, hosts: Path, address: str, hostname: str, shared: Path, instances: Path, common: Path
    ) -> None:
        """``hosts``: the directory of all hosts' files, in ``shared``. ``address``: of loopback."""
        super().__init__(hosts / address)
        self.address = address
        self.hostname = hostname
        self.instances = instances
        self.common = common
        self._hosts = hosts
        self._shared = shared
        self._sockets = self.directory / "run"

    @property
    def url(self) -> str:
        """As libvirt's clients take it."""
        return f"qemu+unix:///system?socket={self._socket}"

    @property
    def url_of_others(self) -> str:
        """The same for any host, with ``%s`` for its address."""
        return f"qemu+unix:///system?socket={self._hosts}/%s/run/libvirt-sock"

    def on_host(self, command: Sequence[str]) -> list[str]:
        """A command that has this host's instances before it."""
        alone = ("unshare", "--mount", "--propagation", "private")
        mounts = (str(self.instances), str(self.common))
        return [*alone, "sh", "-e", "-c", ON_HOST, "on_host", *mounts, *command]

    def environment(self) -> dict[str, str]:
        """What a command on this host needs to log in to others as if they were far away."""
        return {"PATH": f"{self._programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}

    def let_in(self, pid: int) -> None:
        """Those who log in to this host see what that process sees."""
        self._processes.mkdir(exist_ok=True)
        for name in (self.address, self.hostname.partition(".")[0]):
            (self._processes / name).write_text(str(pid))

    @property
    def _programs(self) -> Path:
        return self._hosts / "bin"

    @property
    def _processes(self) -> Path:
        return self._hosts / "processes"

    @property
    def _socket(self) -> Path:
        return self._sockets / "libvirt-sock"

    def _command(self) -> tuple[list[str], dict[str, str]]:
        if os.geteuid() != 0:
            raise servers.ServerError("a libvirtd of our own needs root: it makes a container")
        if len(str(self._socket)) > LONGEST_SOCKET:
            raise servers.ServerError(f"{self._socket}: too long a path for a socket")
        etc = self.directory / "etc"
        for directory in (etc, self._sockets, self._programs, self.instances, self.common):
            directory.mkdir(parents=True, exist_ok=True)
        for name, text in (("ssh", SSH), ("scp", SCP)):
            (self._programs / name).write_text(text.format(processes=self._processes))
            (self._programs / name).chmod(0o755)
        identity = uuid.uuid5(uuid.NAMESPACE_DNS, self.hostname)
        (etc / "libvirtd.conf").write_text(LIBVIRTD.format(sockets=self._sockets, uuid=identity))
        (etc / "qemu.conf").write_text(QEMU)
        servers.program("qemu-system-x86_64", "qemu-system-x86")
        return [
            servers.program("unshare", "util-linux"),
            *("--mount", "--uts", "--pid", "--fork", "--kill-child", "--propagation", "private"),
            *("sh", "-c", BOX, "box", self.hostname, str(self.directory), str(self._shared)),
            *(str(self.instances), str(self.common)),
            servers.program("libvirtd", "libvirt-daemon"),
        ], {}

    def stop(self) -> None:
        """At once: a container takes no request to end, and there is nothing to be kept."""
        self.kill()

    def _probe(self) -> None:
        import libvirt  # of the requirements of real hosts: the rest of the lab does without

        self._socket.stat()  # else libvirt prints that it is not there
        libvirt.open(self.url).close()
