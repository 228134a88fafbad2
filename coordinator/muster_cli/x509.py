"""An operator's TLS key and the request for its certificate.

Owns every use of ``cryptography`` in the CLI. The key is made here and goes nowhere but into the operator's own file.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

MAX_COMMON_NAME = 64


def new_request(name: str) -> tuple[bytes, bytes]:
    """A new P-256 key in PEM, and a PKCS#10 request in DER that proves it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:MAX_COMMON_NAME])])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem, request.public_bytes(serialization.Encoding.DER)
