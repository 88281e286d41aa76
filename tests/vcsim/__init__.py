"""A private vCenter: govmomi's simulator, built once from Debian's packages (``main.go``)."""

from __future__ import annotations

import fcntl
import os
import socket
import ssl
import subprocess
from pathlib import Path

from tests.servers import LOOPBACK, Server, ServerError, program

_SOURCE = Path(__file__).with_name("main.go")
_BUILD = Path(__file__).parents[2] / "build" / "vcsim"
_GOPATH = Path("/usr/share/gocode")
"""The folder that Debian's packages of Go libraries fill."""


def build() -> Path:
    """Return the simulator's program; made once, in half a minute, and when its source changes."""
    compiler = program("go", "golang-go")
    if not (_GOPATH / "src/github.com/vmware/govmomi/simulator").exists():
        raise ServerError(
            "govmomi is not installed: apt-get install golang-github-vmware-govmomi-dev"
        )
    _BUILD.mkdir(parents=True, exist_ok=True)
    binary = _BUILD / "vcsim"
    with open(_BUILD / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not binary.exists() or binary.stat().st_mtime < _SOURCE.stat().st_mtime:
            environment = {
                "GO111MODULE": "off",
                "GOPATH": str(_GOPATH),
                "GOCACHE": str(_BUILD / "cache"),
                "GOFLAGS": "",
                "CGO_ENABLED": "0",  # no C compiler is needed
            }
            done = subprocess.run(
                [compiler, "build", "-o", str(binary), str(_SOURCE)],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise ServerError(f"The simulator was not built: {done.stderr or done.stdout}")
    return binary


class VCenter(Server):
    """A vCenter with one cluster and two datastores, empty after each start."""

    user = "nova"
    password = "s3cret pässword"
    cluster = "DC0_C0"
    datacenter = "DC0"
    datastores = ("LocalDS_0", "LocalDS_1")

    @property
    def url(self) -> str:
        """Its address for HTTP."""
        return f"https://{LOOPBACK}:{self.port}"

    @property
    def certificate(self) -> Path:
        """Its certificate, which is its own authority."""
        return self.directory / "cert.pem"

    def _command(self) -> tuple[list[str], dict[str, str]]:
        key = self.directory / "key.pem"
        if not key.exists():
            subprocess.run(
                [
                    *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
                    *("-subj", "/CN=bus-cache test", "-addext", f"subjectAltName=IP:{LOOPBACK}"),
                    *("-keyout", str(key), "-out", str(self.certificate)),
                ],
                check=True,
                capture_output=True,
            )
        temporary = self.directory / "datastores"
        temporary.mkdir(exist_ok=True)
        address = f"{LOOPBACK}:{self.port}"
        return [str(build()), address, str(self.certificate), str(key)], {"TMPDIR": str(temporary)}

    def _probe(self) -> None:
        context = ssl.create_default_context(cafile=str(self.certificate))
        with (
            socket.create_connection((LOOPBACK, self.port), 1.0) as connection,
            context.wrap_socket(connection, server_hostname=LOOPBACK),
        ):
            pass

    def folder(self, datastore: str) -> Path:
        """Where the simulator keeps a datastore's files since its last start."""
        found = (self.directory / "datastores").glob(f"govcsim-{self.datacenter}-{datastore}-*")
        return max(found, key=lambda path: path.stat().st_mtime_ns)
