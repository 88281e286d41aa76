"""Certificates for tests of TLS: an authority, and what it signs."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOUR = datetime.timedelta(hours=1)


class Authority:
    """Signs certificates of servers and clients; its own is in ``file``."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        ca = x509.BasicConstraints(ca=True, path_length=None)
        found = self._begin(self._name, self._key).add_extension(ca, critical=True)
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(
            found.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        )

    def _begin(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, left: datetime.timedelta = HOUR
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.timezone.utc)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 2 * HOUR)
            .not_valid_after(now + left)
        )

    def sign(
        self, name: str, address: str = "127.0.0.1", left: datetime.timedelta = HOUR
    ) -> tuple[Path, Path]:
        """Return the files of a certificate for an address, and of its key.

        :param left: how long it is still valid; negative: it was.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        where = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        found = self._begin(subject, key, left).add_extension(where, critical=False)
        paths = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        pem = serialization.Encoding.PEM
        paths[0].write_bytes(found.sign(self._key, hashes.SHA256()).public_bytes(pem))
        paths[1].write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return paths
