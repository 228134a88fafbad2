"""Secrets: our own vectors, and what every change to a sealed file leads to."""

from __future__ import annotations

import base64
import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from muster_core.errors import SecretError
from muster_core.kinds.base import Selector
from muster_core.kinds.model import FleetSecret, SecretTemplate
from muster_core.manifest.objects import canonical_json
from muster_core.pae import pae
from muster_core.sealing import envelope
from muster_core.sealing.envelope import Recipient, open_secret, parse_line, seal
from muster_core.sealing.keys import (
    IdentityKey,
    SealingKey,
    decode_public,
    encode_identity,
    encode_sealing,
    fingerprint,
    join_statement,
    sealing_key_statement,
    verify,
    wrap,
)
from muster_core.sealing.masked import Masked

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "fleet-secret.json").read_text())
FLEET = VECTORS["fleet_id"]
CASES = VECTORS["secrets"]
TITLES = [case["title"] for case in CASES]


def key_of(cluster: str) -> SealingKey:
    return SealingKey.from_bytes(bytes.fromhex(VECTORS["clusters"][cluster]["sealing_private"]))


def uid_of(cluster: str) -> str:
    return str(VECTORS["clusters"][cluster]["uid"])


def opened(value: dict[str, Any], cluster: str, fleet: str = FLEET) -> envelope.OpenedSecret:
    return open_secret(
        msgspec.convert(value, FleetSecret), fleet_id=fleet, uid=uid_of(cluster), keys=[key_of(cluster)]
    )


@pytest.mark.parametrize("case", VECTORS["pae"], ids=str)
def test_pae_vectors(case: dict[str, Any]) -> None:
    assert pae(*(part.encode() for part in case["parts"])).hex() == case["encoded"]


@pytest.mark.parametrize("name", list(VECTORS["clusters"]))
def test_key_vectors(name: str) -> None:
    vector = VECTORS["clusters"][name]
    identity, sealing = IdentityKey.from_seed(bytes.fromhex(vector["identity_seed"])), key_of(name)
    statement = sealing_key_statement(FLEET, vector["uid"], sealing.public, 1)
    assert (identity.public.hex(), sealing.public.hex()) == (
        vector["identity_public"],
        vector["sealing_public"],
    )
    assert statement.hex() == vector["statement"]
    assert identity.sign(statement).hex() == vector["signature"]
    assert verify(identity.public, statement, bytes.fromhex(vector["signature"]))
    assert not verify(identity.public, statement + b"x", bytes.fromhex(vector["signature"]))


@pytest.mark.parametrize("case", CASES, ids=TITLES)
def test_secret_vectors_open_for_their_clusters_and_for_no_other(case: dict[str, Any]) -> None:
    dek = bytes.fromhex(case["dek"])
    for person, key in case["subkeys"].items():
        assert envelope.subkey(dek, person.encode()).hex() == key
    for cluster in VECTORS["clusters"]:
        if cluster not in case["opened_by"]:
            with pytest.raises(SecretError, match="not sealed to this cluster") as caught:
                opened(case["secret"], cluster)
            assert caught.value.code == "S001"
            continue
        secret = opened(case["secret"], cluster)
        assert {
            name: base64.b64encode(value.reveal()).decode() for name, value in secret.data.items()
        } == case["plain"]
        spec = case["secret"]["spec"]
        assert (secret.type, secret.immutable) == (spec["type"], spec.get("immutable", False))
        assert dict(secret.labels) == spec.get("template", {}).get("labels", {})


def flip(text: str) -> str:
    data = bytearray(base64.b64decode(text))
    data[0] ^= 1
    return base64.b64encode(bytes(data)).decode()


def first_entry(value: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = value["spec"]["entries"]["tls.crt"]
    return entry


def swap_entries(value: dict[str, Any]) -> None:
    entries = value["spec"]["entries"]
    entries["tls.crt"], entries["tls.key"] = entries["tls.key"], entries["tls.crt"]


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "name": lambda v: v["metadata"].update(name="other"),
    "namespace": lambda v: v["metadata"].update(namespace="kube-system"),
    "type": lambda v: v["spec"].update(type="Opaque"),
    "file id": lambda v: v["spec"].update(fileId="00"),
    "revision": lambda v: v["spec"].update(revision=8),
    "immutable": lambda v: v["spec"].pop("immutable"),
    "label": lambda v: v["spec"]["template"]["labels"].update(team="evil"),
    "label as annotation": lambda v: v["spec"]["template"]["annotations"].update(
        v["spec"]["template"].pop("labels")
    ),
    "commitment": lambda v: v["spec"].update(commitment=flip(v["spec"]["commitment"])),
    "mac": lambda v: v["spec"].update(mac=flip(v["spec"]["mac"])),
    "ciphertext": lambda v: first_entry(v).update(data=flip(first_entry(v)["data"])),
    "nonce": lambda v: first_entry(v).update(nonce=flip(first_entry(v)["nonce"])),
    "entry revision": lambda v: first_entry(v).update(revision=4),
    "entry removed": lambda v: v["spec"]["entries"].pop("tls.crt"),
    "entry renamed": lambda v: v["spec"]["entries"].update({"x": v["spec"]["entries"].pop("tls.crt")}),
    "entries swapped": swap_entries,
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_no_part_of_a_sealed_file_can_be_changed(change: str) -> None:
    value = copy.deepcopy(CASES[1]["secret"])
    CHANGES[change](value)
    with pytest.raises(SecretError) as caught:
        opened(value, "berlin-04")
    assert caught.value.code == "S002"
    assert "BEGIN" not in str(caught.value)


def test_a_file_of_another_fleet_or_generation_does_not_open() -> None:
    with pytest.raises(SecretError, match="another file, fleet or generation"):
        opened(CASES[0]["secret"], "berlin-04", fleet="f" * 32)
    value = copy.deepcopy(CASES[1]["secret"])
    value["spec"]["keyGeneration"] = 3
    with pytest.raises(SecretError, match="no recipient line opens"):
        opened(value, "berlin-04")


def test_another_clusters_line_does_not_help() -> None:
    value = copy.deepcopy(CASES[1]["secret"])
    munich = next(line for line in value["spec"]["recipients"] if "munich" in line)
    value["spec"]["recipients"] = [munich.replace(uid_of("munich-01"), uid_of("berlin-04"))]
    with pytest.raises(SecretError, match="no recipient line opens") as caught:
        opened(value, "berlin-04")
    assert fingerprint(key_of("berlin-04").public) in str(caught.value)


def test_recipients_stand_outside_the_mac() -> None:
    value = copy.deepcopy(CASES[1]["secret"])
    value["spec"]["recipients"] = [line for line in value["spec"]["recipients"] if "munich" in line]
    assert opened(value, "munich-01").name == "tls.example.com"


@pytest.mark.parametrize(
    "line", ["", "cluster a u 1 sealedbox", "robot a u 1 sealedbox YQ==", "cluster a u x sealedbox YQ=="]
)
def test_a_line_of_another_shape_is_refused(line: str) -> None:
    with pytest.raises(SecretError, match="a recipient line is not"):
        parse_line(line)


class Numbered:
    """Bytes that differ on every call."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, size: int) -> bytes:
        self.count += 1
        return bytes([self.count]) * size


def sealed_for(*clusters: str, **changes: Any) -> FleetSecret:
    arguments: dict[str, Any] = {
        "fleet_id": FLEET,
        "name": "db",
        "namespace": "shop",
        "data": {"password": Masked(b"hunter2"), "user": Masked(b"")},
        "recipients": [Recipient("cluster", name, uid_of(name), key_of(name).public) for name in clusters],
        "selector": Selector(),
        "random": Numbered(),
    }
    return seal(**{**arguments, **changes})


def test_what_is_sealed_opens_for_each_recipient() -> None:
    template = SecretTemplate(labels={"a": "b"})
    secret = sealed_for(
        "munich-01", "berlin-04", immutable=True, template=template, secret_type="example.com/x"
    )
    assert secret.spec.recipients == sorted(secret.spec.recipients)
    assert b"hunter2" not in msgspec.json.encode(secret)
    for name in ("munich-01", "berlin-04"):
        found = open_secret(
            secret, fleet_id=FLEET, uid=uid_of(name), keys=[SealingKey.generate(), key_of(name)]
        )
        assert found.data["password"].reveal() == b"hunter2"
        assert found.data["user"].reveal() == b""
        assert (found.immutable, found.type, dict(found.labels)) == (True, "example.com/x", {"a": "b"})


def test_what_cannot_be_sealed_is_refused() -> None:
    with pytest.raises(SecretError, match="nobody could open"):
        sealed_for()
    with pytest.raises(SecretError, match="entry's name"):
        sealed_for("berlin-04", data={"a b": Masked(b"x")})
    with pytest.raises(SecretError, match="no usable X25519"):
        sealed_for(recipients=[Recipient("cluster", "a", "u", bytes(32))])
    with pytest.raises(SecretError, match="no usable X25519"):
        wrap(b"short", b"x")


def test_masked_values_do_not_show_themselves() -> None:
    value = Masked(b"hunter2")
    shown = [
        repr(value),
        str(value),
        f"{value}",
        f"{value!r:>9}",
        str.format("{}", value),
        repr({"a": value}),
        repr([value]),
    ]
    assert not any("hunter2" in text for text in shown)
    assert value == Masked(b"hunter2") != Masked(b"other")
    assert value.reveal() == b"hunter2"
    for encode in (pickle.dumps, canonical_json, msgspec.json.encode, copy.deepcopy):
        with pytest.raises(TypeError):
            encode(value)
    assert "hunter2" not in repr(
        open_secret(
            sealed_for("berlin-04"), fleet_id=FLEET, uid=uid_of("berlin-04"), keys=[key_of("berlin-04")]
        )
    )


def test_keys_have_one_text_form_and_never_print() -> None:
    identity, sealing = IdentityKey.generate(), SealingKey.generate(3)
    assert decode_public(encode_identity(identity.public)) == identity.public
    assert decode_public(encode_sealing(sealing.public)) == sealing.public
    assert IdentityKey.from_seed(identity.seed).public == identity.public
    assert SealingKey.from_bytes(sealing.private, 3).public == sealing.public
    assert identity.seed.hex() not in repr(identity)
    assert "SigningKey" not in repr(identity)
    assert "PrivateKey" not in repr(sealing)
    assert fingerprint(b"").startswith("SHA256:47DEQ")
    for bad in ("", "ed25519:zz", "ed25519:00", "rsa:" + "00" * 32, "00" * 32):
        with pytest.raises(SecretError, match="no public key"):
            decode_public(bad)
    with pytest.raises(SecretError, match="does not open"):
        sealing.unwrap(b"x" * 80)


def test_a_join_proof_is_bound_to_all_that_it_names() -> None:
    parts: list[Any] = ["secret", "name", "uid", b"identity", b"sealing", b"csr"]
    statements = {join_statement(*parts)}
    for index, part in enumerate(parts):
        changed = [*parts]
        changed[index] = part + (b"x" if isinstance(part, bytes) else "x")
        statements.add(join_statement(*changed))
    assert len(statements) == len(parts) + 1
