"""The TLS side of the identity: a key, requests, and when a certificate is due.

Owns every use of ``cryptography`` in the agent. The private key never leaves the state folder.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

# Around two thirds of a certificate's life, so that agents that joined together do not renew together.
RENEW_FROM, RENEW_TO = 2 / 3 - 0.05, 2 / 3 + 0.05


def new_key() -> str:
    """A P-256 key in PEM."""
    return (
        ec.generate_private_key(ec.SECP256R1())
        .private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        .decode()
    )


def request(key_pem: str, name: str) -> bytes:
    """A PKCS#10 request in DER that proves the key."""
    key = serialization.load_pem_private_key(key_pem.encode(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("an elliptic-curve key is expected")
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def validity(certificate_pem: str) -> tuple[float, float]:
    """(not before, not after) in unix seconds."""
    certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
    return certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()


def renewal_time(certificate_pem: str, share: float) -> float:
    """When ``share`` (0 to 1) of its life is over, in unix seconds."""
    start, end = validity(certificate_pem)
    return start + (end - start) * share


def is_authority(pem: bytes) -> bool:
    """Whether this is a bundle of one or more CA certificates and nothing else."""
    try:
        certificates = x509.load_pem_x509_certificates(pem)
        return all(
            certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
            for certificate in certificates
        )
    except (ValueError, x509.ExtensionNotFound):
        return False
