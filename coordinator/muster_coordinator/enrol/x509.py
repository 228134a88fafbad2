"""The TLS authority of the link: it says which connection is which cluster, and nothing about content.

Owns every use of ``cryptography`` in the coordinator: the CA of an embedded start, the server's certificate, and client
certificates for approved clusters. It never sees a private key of a cluster.

Changing the CA, with agents that go on: put the new pair into the data folder as ``ca-next.crt`` and ``ca-next.key`` and
restart: agents learn it with their next renewal. When all have renewed, move ``ca.crt`` to ``ca-previous.crt``, the next
pair to ``ca.crt`` and ``ca.key``, and restart: the new CA signs, certificates of both are taken. When the longest
certificate's life is over, remove ``ca-previous.crt`` and restart.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from muster_core.errors import JoinError

CA_LIFE = dt.timedelta(days=3650)
SERVER_LIFE = dt.timedelta(days=365)
CLIENT_LIFE = dt.timedelta(hours=24)
SHORTEST_LIFE, LONGEST_LIFE = dt.timedelta(seconds=10), dt.timedelta(days=7)
SHORTEST_OPERATOR, LONGEST_OPERATOR = dt.timedelta(days=1), dt.timedelta(days=398)
OVERLAP = ("ca-next.crt", "ca-previous.crt")
SKEW = dt.timedelta(minutes=10)
MAX_CSR_BYTES = 8192


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Issued:
    """PEM, serial number in hex, end of life."""

    certificate: bytes
    serial: str
    expires: dt.datetime


@dataclass(frozen=True, slots=True)
class Presented:
    """What a verified client certificate says: the URIs among its alternative names, and its serial number in hex."""

    uris: tuple[str, ...]
    serial: str


class Authority:
    """A CA with its key, the CAs beside it that are believed too, and how long client certificates live."""

    def __init__(
        self,
        certificate: x509.Certificate,
        key: ec.EllipticCurvePrivateKey,
        beside: Sequence[x509.Certificate] = (),
        life: dt.timedelta = CLIENT_LIFE,
    ) -> None:
        if not SHORTEST_LIFE <= life <= LONGEST_LIFE:
            raise JoinError("J022", "a certificate lives between 10 seconds and 7 days", object=str(life))
        self._certificate, self._key, self._beside, self._life = certificate, key, beside, life

    @property
    def pem(self) -> bytes:
        """Every CA that is believed, the signing one first."""
        return b"".join(
            certificate.public_bytes(serialization.Encoding.PEM)
            for certificate in (self._certificate, *self._beside)
        )

    @classmethod
    def load_or_make(cls, folder: Path, now: dt.datetime, life: dt.timedelta = CLIENT_LIFE) -> Authority:
        """From ``ca.crt`` and ``ca.key``; makes both in an empty folder, the key readable only by its owner.

        ``ca-next.crt`` and ``ca-previous.crt`` are believed as well, while they are there. ``MUSTER-J020`` for files that
        are no CA, ``J022`` for a life outside 10 s to 7 d.
        """
        certificate_file, key_file = folder / "ca.crt", folder / "ca.key"
        if not certificate_file.exists() and not key_file.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            certificate = (
                _builder("Muster CA", _name("Muster CA"), key.public_key(), now, CA_LIFE)
                .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
                .add_extension(_usage(signs=True), critical=True)
                .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
                .sign(key, hashes.SHA256())
            )
            write_private(key_file, _pem(key))
            certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_loaded = serialization.load_pem_private_key(key_file.read_bytes(), None)
        if not isinstance(key_loaded, ec.EllipticCurvePrivateKey):
            raise JoinError("J020", "the CA's key must be an elliptic-curve key", object=str(key_file))
        certificate = _ca(certificate_file)
        if certificate.public_key() != key_loaded.public_key():
            raise JoinError("J020", "the CA's key is not that of its certificate", object=str(key_file))
        beside = [_ca(folder / name) for name in OVERLAP if (folder / name).exists()]
        return cls(certificate, key_loaded, beside, life)

    def server(self, hosts: list[str], now: dt.datetime) -> ServerCertificate:
        """A fresh key and certificate for these names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [
            _general(host) for host in dict.fromkeys([*hosts, "localhost", "127.0.0.1", "::1"])
        ]
        certificate = (
            self._leaf("muster-coordinator", key.public_key(), now, SERVER_LIFE)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return ServerCertificate(certificate.public_bytes(serialization.Encoding.PEM), _pem(key))

    def client(self, csr_der: bytes, cluster: str, uid: str, identity: bytes, now: dt.datetime) -> bytes:
        """A client certificate in PEM for the key of a CSR; name, uid and identity are ours, never the CSR's.

        ``MUSTER-J021`` for a CSR that is none or does not prove its key.
        """
        csr = read_csr(csr_der)
        certificate = (
            self._leaf(cluster, csr.public_key(), now, self._life)
            .add_extension(
                x509.SubjectAlternativeName(
                    [x509.UniformResourceIdentifier(f"muster://cluster/{uid}/{identity.hex()}")]
                ),
                critical=False,
            )
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)

    def operator(self, csr_der: bytes, name: str, role: str, life: dt.timedelta, now: dt.datetime) -> Issued:
        """A client certificate that says who an operator is and what they may; the CSR proves only the key.

        ``MUSTER-J021`` for a CSR that is none, ``J022`` for a life outside a day to 398 days.
        """
        if not SHORTEST_OPERATOR <= life <= LONGEST_OPERATOR:
            raise JoinError("J022", "an operator's certificate lives between a day and 398 days", object=name)
        uri = x509.UniformResourceIdentifier(f"muster://operator/{name}/{role}")
        certificate = (
            self._leaf(name[:64], read_csr(csr_der).public_key(), now, life)
            .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return Issued(
            certificate.public_bytes(serialization.Encoding.PEM),
            f"{certificate.serial_number:x}",
            certificate.not_valid_after_utc,
        )

    def _leaf(
        self, name: str, public: object, now: dt.datetime, life: dt.timedelta
    ) -> x509.CertificateBuilder:
        return (
            _builder(name, self._certificate.subject, public, now, life)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )


def read_csr(csr_der: bytes) -> x509.CertificateSigningRequest:
    """``MUSTER-J021`` for anything but a valid request with an elliptic-curve key."""
    if len(csr_der) > MAX_CSR_BYTES:
        raise JoinError("J021", "the certificate request is too large")
    try:
        csr = x509.load_der_x509_csr(csr_der)
        valid = csr.is_signature_valid and isinstance(csr.public_key(), ec.EllipticCurvePublicKey)
    except Exception as error:  # the parser has no common base for what it raises
        raise JoinError("J021", "this is no certificate request") from error
    if not valid:
        raise JoinError("J021", "the certificate request does not prove its key")
    return csr


def presented(pem: bytes) -> Presented:
    """Of a certificate that TLS has verified. A DNS name that looks like a URI is none."""
    certificate = x509.load_pem_x509_certificate(pem)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return Presented((), f"{certificate.serial_number:x}")
    uris = tuple(names.get_values_for_type(x509.UniformResourceIdentifier))
    return Presented(uris, f"{certificate.serial_number:x}")


def _ca(path: Path) -> x509.Certificate:
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        is_ca = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (OSError, ValueError, x509.ExtensionNotFound) as error:
        raise JoinError("J020", "this is no CA certificate", object=str(path)) from error
    if not is_ca:
        raise JoinError("J020", "this is no CA certificate", object=str(path))
    return certificate


def write_private(path: Path, data: bytes) -> None:
    """A file that only its owner can read, from its first moment."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(
    name: str, issuer: x509.Name, public: object, now: dt.datetime, life: dt.timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(issuer)
        .public_key(public)  # type: ignore[arg-type]
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - min(SKEW, life / 10))
        .not_valid_after(now + life)
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
