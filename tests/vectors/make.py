"""Makes the test vectors of the secret format, from the text of the format and PyNaCl primitives alone.

It shares no line with the product: if the two disagree, one of them misreads the text. Randomness is
replaced by numbered bytes, so the file is the same each time; only the sealed boxes are not (their
ephemeral keys are random), so `make.py` keeps those of the file that is there as long as they still open.
Run it to write fleet-secret.json anew.

The text, in short. PAE(parts) is the number of parts as u64-LE, then for each part its length as u64-LE and
its bytes.

* DEK: 32 random bytes per key generation. Subkeys `enc`, `mac`, `commit`: BLAKE2b-256, key = DEK, empty
  input, personalisation = the subkey's name (zero-padded to 16 bytes), no salt.
* Entry: XChaCha20-Poly1305-IETF under `enc`, 24-byte nonce, associated data = PAE("muster.fs.entry.v1",
  fleet id, file id, namespace, name, type, entry name, entry revision, key generation).
* Commitment: BLAKE2b-256, key = `commit`, over PAE(file id, key generation).
* Recipient: SealedBox to the cluster's X25519 key over PAE("muster.fs.wrap.v1", fleet id, file id, cluster
  UID, recipient public key, key generation, commitment, DEK); the line is `cluster NAME UID GENERATION
  sealedbox BASE64`.
* MAC: BLAKE2b-256, key = `mac`, over PAE("muster.fs.file.v1", "muster.fs.1", fleet id, file id, namespace,
  name, type, key generation, revision, immutable as u64 0 or 1, T, E), where T = PAE of PAE(kind, key,
  text) sorted by these ("annotation" before "label") and E = PAE of PAE(entry name, entry revision, nonce,
  SHA-256 of ciphertext) sorted by entry name.
* Sealing key statement: Ed25519 over PAE("muster.sealing-key.v1", fleet id, cluster UID, X25519 key,
  generation).

Binary values in the file are base64, keys are hex.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from pathlib import Path

import nacl.bindings
import nacl.encoding
import nacl.exceptions
import nacl.hash
import nacl.public
import nacl.signing

TARGET = Path(__file__).with_name("fleet-secret.json")
FLEET = "0123456789abcdef0123456789abcdef"
RAW = nacl.encoding.RawEncoder


def number(value: int) -> bytes:
    return struct.pack("<Q", value)


def encode(*parts: bytes) -> bytes:
    out = number(len(parts))
    for part in parts:
        out += number(len(part)) + part
    return out


def blake(message: bytes, key: bytes, person: bytes = b"") -> bytes:
    return bytes(nacl.hash.blake2b(message, digest_size=32, key=key, person=person, encoder=RAW))


def text64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def counted(label: str, size: int) -> bytes:
    """Bytes that anybody can make again: SHA-256 of a label, stretched."""
    out = b""
    while len(out) < size:
        out += hashlib.sha256(f"{label} {len(out)}".encode()).digest()
    return out[:size]


CLUSTERS = {
    name: {
        "uid": uid,
        "identity": nacl.signing.SigningKey(counted(f"identity {name}", 32)),
        "sealing": nacl.public.PrivateKey(counted(f"sealing {name}", 32)),
    }
    for name, uid in (
        ("berlin-04", "5f0c0000-0000-4000-8000-000000000004"),
        ("munich-01", "5f0c0000-0000-4000-8000-000000000001"),
    )
}

CASES = [
    {
        "title": "one entry, one cluster",
        "metadata": {"name": "shop-db", "namespace": "shop"},
        "type": "Opaque",
        "immutable": False,
        "template": {},
        "key_generation": 1,
        "revision": 1,
        "clusters": ["berlin-04"],
        "entries": {"password": (1, b"correct horse")},
    },
    {
        "title": "many entries of several revisions, two clusters, a second key generation",
        "metadata": {"name": "tls.example.com", "namespace": "edge"},
        "type": "kubernetes.io/tls",
        "immutable": True,
        "template": {
            "labels": {"team": "web", "app": "shop"},
            "annotations": {"note": "ünïcode", "a": ""},
        },
        "key_generation": 2,
        "revision": 7,
        "clusters": ["berlin-04", "munich-01"],
        "entries": {
            "tls.key": (7, b"-----BEGIN"),
            "tls.crt": (3, bytes(range(256))),
            "ca-b_undle": (1, b"x"),
        },
    },
    {
        "title": "an empty value",
        "metadata": {"name": "empty", "namespace": "default"},
        "type": "Opaque",
        "immutable": False,
        "template": {"labels": {"only": "label"}},
        "key_generation": 1,
        "revision": 2,
        "clusters": ["munich-01"],
        "entries": {"nothing": (2, b"")},
    },
]


def kept_box(old: dict | None, cluster: str, message: bytes) -> bytes:
    """The box of the present file if it still says the same, else a new one."""
    key = CLUSTERS[cluster]["sealing"]
    for line in (old or {}).get("spec", {}).get("recipients", []):
        kind_name, box = line.split(" ")[:2], base64.b64decode(line.split(" ")[5])
        try:
            if kind_name[1] == cluster and nacl.public.SealedBox(key).decrypt(box) == message:
                return box
        except nacl.exceptions.CryptoError:
            continue
    return bytes(nacl.public.SealedBox(key.public_key).encrypt(message))


def make(case: dict, old: dict | None) -> dict:
    title, name, namespace = case["title"], case["metadata"]["name"], case["metadata"]["namespace"]
    generation, revision, kind = case["key_generation"], case["revision"], case["type"]
    file_id, dek = counted(f"file {title}", 16).hex(), counted(f"dek {title}", 32)
    enc, mac, commit = (blake(b"", dek, person) for person in (b"enc", b"mac", b"commit"))
    commitment = blake(encode(file_id.encode(), number(generation)), commit)

    entries, for_mac = {}, []
    for entry in sorted(case["entries"]):
        entry_revision, plain = case["entries"][entry]
        nonce = counted(f"nonce {title} {entry}", 24)
        bound = encode(
            b"muster.fs.entry.v1",
            FLEET.encode(),
            file_id.encode(),
            namespace.encode(),
            name.encode(),
            kind.encode(),
            entry.encode(),
            number(entry_revision),
            number(generation),
        )
        sealed = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(plain, bound, nonce, enc)
        entries[entry] = {"revision": entry_revision, "nonce": text64(nonce), "data": text64(sealed)}
        for_mac.append(encode(entry.encode(), number(entry_revision), nonce, hashlib.sha256(sealed).digest()))

    triples = [("annotation", key, text) for key, text in case["template"].get("annotations", {}).items()]
    triples += [("label", key, text) for key, text in case["template"].get("labels", {}).items()]
    template = [encode(*(part.encode() for part in triple)) for triple in sorted(triples)]
    message = encode(
        b"muster.fs.file.v1",
        b"muster.fs.1",
        FLEET.encode(),
        file_id.encode(),
        namespace.encode(),
        name.encode(),
        kind.encode(),
        number(generation),
        number(revision),
        number(1 if case["immutable"] else 0),
        encode(*template),
        encode(*for_mac),
    )

    recipients = []
    for cluster in sorted(case["clusters"]):
        uid, key = CLUSTERS[cluster]["uid"], CLUSTERS[cluster]["sealing"]
        wrapped = encode(
            b"muster.fs.wrap.v1",
            FLEET.encode(),
            file_id.encode(),
            uid.encode(),
            bytes(key.public_key),
            number(generation),
            commitment,
            dek,
        )
        box = kept_box(old, cluster, wrapped)
        recipients.append(f"cluster {cluster} {uid} {generation} sealedbox {text64(box)}")

    spec = {
        "format": 1,
        "fileId": file_id,
        "type": kind,
        "keyGeneration": generation,
        "revision": revision,
        "selector": {"matchLabels": {"tier": "store"}},
        "commitment": text64(commitment),
        "entries": entries,
        "recipients": sorted(recipients),
        "mac": text64(blake(message, mac)),
    }
    if case["immutable"]:
        spec["immutable"] = True
    if case["template"]:
        spec["template"] = case["template"]
    return {
        "title": title,
        "secret": {
            "apiVersion": "muster.dev/v1alpha1",
            "kind": "FleetSecret",
            "metadata": case["metadata"],
            "spec": spec,
        },
        "opened_by": sorted(case["clusters"]),
        "plain": {entry: text64(plain) for entry, (_, plain) in case["entries"].items()},
        "dek": dek.hex(),
        "subkeys": {"enc": enc.hex(), "mac": mac.hex(), "commit": commit.hex()},
        "mac_message": message.hex(),
    }


def main() -> None:
    old = json.loads(TARGET.read_text()) if TARGET.exists() else {"secrets": []}
    known = {vector["title"]: vector["secret"] for vector in old["secrets"]}
    clusters = {}
    for name, cluster in CLUSTERS.items():
        statement = encode(
            b"muster.sealing-key.v1",
            FLEET.encode(),
            cluster["uid"].encode(),
            bytes(cluster["sealing"].public_key),
            number(1),
        )
        clusters[name] = {
            "uid": cluster["uid"],
            "identity_seed": bytes(cluster["identity"]).hex(),
            "identity_public": bytes(cluster["identity"].verify_key).hex(),
            "sealing_private": bytes(cluster["sealing"]).hex(),
            "sealing_public": bytes(cluster["sealing"].public_key).hex(),
            "statement": statement.hex(),
            "signature": cluster["identity"].sign(statement).signature.hex(),
        }
    pae = [[], [""], ["a", "bc"], ["", ""], ["00" * 8]]
    value = {
        "about": "Made by make.py. Every key here is public and worth nothing.",
        "fleet_id": FLEET,
        "pae": [{"parts": parts, "encoded": encode(*(p.encode() for p in parts)).hex()} for parts in pae],
        "clusters": clusters,
        "secrets": [make(case, known.get(case["title"])) for case in CASES],
    }
    TARGET.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
