"""The TLS authority of the link: it says which connection is which cluster, and nothing about content.

Owns every use of ``cryptography`` in the coordinator: the CA of an embedded start, the server's certificate, and client
certificates for approved clusters. It never sees a private key of a cluster.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
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
SKEW = dt.timedelta(minutes=10)
MAX_CSR_BYTES = 8192


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """A CA with its key."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate, self._key = certificate, key

    @property
    def pem(self) -> bytes:
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @classmethod
    def load_or_make(cls, folder: Path, now: dt.datetime) -> Authority:
        """From ``ca.crt`` and ``ca.key``; makes both in an empty folder, the key readable only by its owner."""
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
        return cls(x509.load_pem_x509_certificate(certificate_file.read_bytes()), key_loaded)

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
            self._leaf(cluster, csr.public_key(), now, CLIENT_LIFE)
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
        .not_valid_before(now - SKEW)
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
