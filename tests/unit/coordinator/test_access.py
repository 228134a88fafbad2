"""Who is let in, and as what: roles, the admin token, certificates; and what is written down of it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from muster_coordinator.access.calls import CALLER, Calls
from muster_coordinator.access.errors import DeniedError, UnauthenticatedError
from muster_coordinator.access.oidc import TokenVerifier
from muster_coordinator.access.principal import Access, Credentials, Principal
from muster_coordinator.access.roles import METHODS, ROLLOUT_ACTIONS, SERVICE, Role, least_role
from muster_core.audit.chain import Entry, decode
from muster_host.auditlog import AuditLog
from muster_proto.v1 import operator_pb2 as op

ADMIN = "an-admin-token-made-for-this-test"
GET, START = SERVICE + "ListClusters", SERVICE + "StartRollout"


def admitting(verifier: TokenVerifier | None = None) -> Access:
    """Every certificate that names an operator counts here; which do is the books' business."""
    return Access(ADMIN, verifier, lambda serial, name: None)


def bearer(token: str) -> Credentials:
    return Credentials(f"Bearer {token}")


# --- roles -------------------------------------------------------------------------------------------------------------


def test_every_method_of_the_operator_api_has_a_least_role_and_no_other_has() -> None:
    service = op.DESCRIPTOR.services_by_name["Operator"]
    assert f"/{service.full_name}/" == SERVICE
    assert {method.name for method in service.methods} == set(METHODS)


def test_every_action_on_a_rollout_has_a_least_role() -> None:
    actions = set(op.ActOnRolloutRequest.Action.keys()) - {"UNSPECIFIED"}
    assert actions == set(ROLLOUT_ACTIONS)


@pytest.mark.parametrize(
    "method", ["", "GetInfo", SERVICE, SERVICE + "Format", "/muster.v1.Link/GetInfo", SERVICE + "GetInfo/"]
)
async def test_an_unknown_method_is_denied_even_to_an_administrator(method: str) -> None:
    assert least_role(method) is None
    with pytest.raises(DeniedError) as caught:
        await admitting().authorize(method, bearer(ADMIN))
    assert caught.value.code == "L062"


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("method", sorted(METHODS))
async def test_a_role_may_do_what_it_and_the_roles_before_it_may(role: Role, method: str) -> None:
    credentials = Credentials(uris=[f"muster://operator/ada/{role.word}"])
    access = admitting()
    if role >= METHODS[method]:
        assert await access.authorize(SERVICE + method, credentials) == Principal("ada", role, "certificate")
    else:
        with pytest.raises(DeniedError) as caught:
            await access.authorize(SERVICE + method, credentials)
        assert METHODS[method].word in str(caught.value)


def test_an_action_needs_its_own_role_and_an_unknown_one_is_denied() -> None:
    Principal("ada", Role.OPERATOR, "oidc").require_action("PAUSE")
    for who, action in ((Role.VIEWER, "PAUSE"), (Role.ADMIN, "ERASE")):
        with pytest.raises(DeniedError):
            Principal("ada", who, "oidc").require_action(action)


@pytest.mark.parametrize("text", ["Admin", "root", "", "4"])
def test_a_word_that_is_no_role_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="viewer, operator, approver, admin"):
        Role.parse(text)


# --- the admin token and certificates ----------------------------------------------------------------------------------


async def test_the_admin_token_is_an_administrator() -> None:
    principal = await admitting().authorize(START, bearer(ADMIN))
    assert principal == Principal("admin", Role.ADMIN, "admin-token")


@pytest.mark.parametrize(
    "authorization",
    ["", ADMIN, f"Basic {ADMIN}", "Bearer ", f"Bearer {ADMIN}x", f"Bearer {ADMIN[:-1]}", "Bearer \udc80é"],
)
async def test_without_the_whole_admin_token_nobody_is_known(authorization: str) -> None:
    with pytest.raises(UnauthenticatedError):
        await admitting().authorize(GET, Credentials(authorization))


def test_an_empty_admin_token_is_never_set_up() -> None:
    with pytest.raises(ValueError, match="everybody"):
        Access("", None, lambda serial, name: None)


@pytest.mark.parametrize(
    "uris",
    [
        ["muster://operator/ada/root"],
        ["muster://operator/ada"],
        ["muster://operator//admin"],
        ["muster://operator/ada/admin/"],
        ["muster://operator/ada/admin\n"],
        ["muster://operator/a/b/admin"],
        ["muster://operator/ada/viewer", "muster://operator/ada/admin"],
        ["muster://cluster/5f0c/" + "a" * 64, "muster://operator/ada/admin"],
        ["muster://operator/ada/admin", "muster://cluster/5f0c/" + "a" * 64],
    ],
)
async def test_a_certificate_that_does_not_name_one_operator_and_one_role_is_refused(uris: list[str]) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        await admitting().authorize(GET, Credentials(uris=uris))
    assert caught.value.code == "L060"


@pytest.mark.parametrize(
    "uris", [[], ["muster://cluster/5f0c/" + "a" * 64], ["https://example.com/muster://operator/ada/admin"]]
)
async def test_a_certificate_of_a_cluster_is_no_operator(uris: list[str]) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        await admitting().authorize(GET, Credentials(uris=uris))
    assert caught.value.code == "L001"


async def test_two_credentials_are_one_too_many() -> None:
    with pytest.raises(UnauthenticatedError, match="two"):
        await admitting().authorize(GET, Credentials(f"Bearer {ADMIN}", ["muster://operator/ada/viewer"]))


# --- what is written down ----------------------------------------------------------------------------------------------


async def calls_in(folder: Path) -> tuple[Calls, AuditLog]:
    audit = await AuditLog.open(folder, "coordinator/test", time.time)
    return Calls(admitting(), audit), audit


def written(folder: Path) -> list[Entry]:
    lines = (folder / "audit-0000000000000001.jsonl").read_bytes().splitlines(keepends=True)
    return [decode(line) for line in lines][1:]


async def test_a_call_that_changes_something_is_on_disk_with_who_before_it_is_answered(
    tmp_path: Path,
) -> None:
    calls, _ = await calls_in(tmp_path)
    principal = await calls.enter(START, Credentials(uris=["muster://operator/ada/operator"]))
    assert CALLER.get() == principal
    request = op.StartRolloutRequest(bundle="shop", commit="3f2c", again=True, reason="the fix")
    await calls.leave(START, principal, request, "refused", "MUSTER-R009")
    (entry,) = written(tmp_path)
    assert (entry.actor, entry.action, entry.object, entry.result) == (
        "ada",
        "call",
        "StartRollout shop",
        "refused",
    )
    assert entry.detail == {
        "bundle": "shop",
        "code": "MUSTER-R009",
        "commit": "3f2c",
        "how": "certificate",
        "reason": "the fix",
        "role": "operator",
    }


async def test_an_action_on_a_rollout_is_written_down_by_its_name(tmp_path: Path) -> None:
    calls, _ = await calls_in(tmp_path)
    method = SERVICE + "ActOnRollout"
    principal = await calls.enter(method, bearer(ADMIN))
    request = op.ActOnRolloutRequest(
        rollout="shop-0007", action=op.ActOnRolloutRequest.PAUSE, reason="x" * 5000
    )
    await calls.leave(method, principal, request, "ok", "")
    (entry,) = written(tmp_path)
    assert (entry.object, entry.detail["verb"], entry.detail["rollout"]) == (
        "ActOnRollout shop-0007",
        "PAUSE",
        "shop-0007",
    )
    assert len(entry.detail["reason"].encode()) == 1024


async def test_a_reading_call_is_written_down_without_waiting_for_the_disk(tmp_path: Path) -> None:
    calls, audit = await calls_in(tmp_path)
    principal = await calls.enter(SERVICE + "GetCluster", bearer(ADMIN))
    await calls.leave(SERVICE + "GetCluster", principal, op.GetRequest(name="berlin-04"), "ok", "")
    assert written(tmp_path) == []
    await audit.flush()
    assert [entry.object for entry in written(tmp_path)] == ["GetCluster berlin-04"]


async def test_a_call_that_is_denied_is_written_down_and_one_by_a_stranger_is_not(tmp_path: Path) -> None:
    calls, audit = await calls_in(tmp_path)
    with pytest.raises(DeniedError):
        await calls.enter(START, Credentials(uris=["muster://operator/bob/viewer"]))
    for _ in range(100):
        with pytest.raises(UnauthenticatedError):
            await calls.enter(START, bearer("guess"))
    await audit.flush()
    (entry,) = written(tmp_path)
    assert (entry.actor, entry.result, entry.detail["code"]) == ("bob", "denied", "MUSTER-L062")


async def test_no_part_of_a_credential_is_written_down(tmp_path: Path) -> None:
    calls, audit = await calls_in(tmp_path)
    principal = await calls.enter(SERVICE + "CreateToken", bearer(ADMIN))
    await calls.leave(
        SERVICE + "CreateToken", principal, op.CreateTokenRequest(cluster="berlin-04"), "ok", ""
    )
    await audit.flush()
    assert ADMIN not in (tmp_path / "audit-0000000000000001.jsonl").read_text()
    assert ADMIN not in repr(bearer(ADMIN))
