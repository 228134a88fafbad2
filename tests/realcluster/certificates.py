"""A cluster's files: a CA, the servers' certificate, the key of ServiceAccount tokens, static users.

They are made at start and gone with the cluster's folder.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


def write_private(path: Path, data: bytes) -> Path:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
    return path


def token_file(users: Mapping[str, Sequence[str]], tokens: Mapping[str, str]) -> str:
    return "".join(f'{tokens[user]},{user},{user},"{",".join(groups)}"\n' for user, groups in users.items())


def write_keys(folder: Path) -> None:
    """A CA, one serving certificate for both servers, and the key that signs ServiceAccount tokens."""
    now = datetime.datetime.now(datetime.UTC)
    span = (now - datetime.timedelta(minutes=5), now + datetime.timedelta(days=2))
    ca_key, server_key, account_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "muster test cluster CA")])
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    ca = (
        x509.CertificateBuilder(ca_name, ca_name, ca_key.public_key(), x509.random_serial_number(), *span)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    service = ["kubernetes", "default", "svc", "cluster", "local"]
    hosts: list[x509.GeneralName] = [x509.DNSName(".".join(service[:count])) for count in (1, 2, 3, 5)]
    hosts.append(x509.DNSName("localhost"))
    hosts += [x509.IPAddress(ipaddress.ip_address(text)) for text in ("127.0.0.1", "10.0.0.1")]
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver")])
    server = (
        x509.CertificateBuilder(ca_name, name, server_key.public_key(), x509.random_serial_number(), *span)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = (pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_private(folder / "ca.crt", ca.public_bytes(pem))
    write_private(folder / "server.crt", server.public_bytes(pem))
    write_private(folder / "server.key", server_key.private_bytes(*secret))
    write_private(folder / "sa.key", account_key.private_bytes(*secret))
    public = account_key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    write_private(folder / "sa.pub", public)
