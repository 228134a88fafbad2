"""Who may call what: one table, every method of the operator API in it.

Owns the roles, their order, and the least role of every method and of every action on a rollout. A method that is not in the
table is denied to everybody. It never knows how somebody proved who they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum


class Role(IntEnum):
    """Each may do all that the ones before it may."""

    VIEWER = 1
    OPERATOR = 2
    APPROVER = 3
    ADMIN = 4

    @classmethod
    def parse(cls, text: str) -> Role:
        """``ValueError`` for anything but the four words in lower case."""
        for role in cls:
            if role.word == text:
                return role
        raise ValueError(f"{text!r} is no role; roles are viewer, operator, approver, admin")

    @property
    def and_above(self) -> str:
        """Who may what this role may: ``approver or admin``."""
        return " or ".join(role.word for role in Role if role >= self)

    @property
    def word(self) -> str:
        return self.name.lower()


SERVICE = "/muster.v1.Operator/"

METHODS: Mapping[str, Role] = {
    "GetInfo": Role.VIEWER,
    "ListTokens": Role.VIEWER,  # ids and states; never a secret
    "ListJoins": Role.VIEWER,
    "ListClusters": Role.VIEWER,
    "ListBundles": Role.VIEWER,
    "ListRollouts": Role.VIEWER,
    "GetCluster": Role.VIEWER,
    "GetBundle": Role.VIEWER,
    "GetRollout": Role.VIEWER,
    "Explain": Role.VIEWER,
    "ListOwed": Role.VIEWER,
    "ListFreezes": Role.VIEWER,
    "ListEvents": Role.VIEWER,
    "Watch": Role.VIEWER,
    "ListOperators": Role.VIEWER,
    "ListAudit": Role.VIEWER,
    "ListAuditHeads": Role.VIEWER,
    "Refresh": Role.OPERATOR,
    "CreateToken": Role.OPERATOR,  # lets a cluster ask; a signed registry entry lets it in
    "StartRollout": Role.OPERATOR,
    "RollBack": Role.OPERATOR,
    "RenewDirective": Role.OPERATOR,
    "CreateFreeze": Role.OPERATOR,
    "DeleteFreeze": Role.OPERATOR,
    "AcknowledgeFloor": Role.APPROVER,
    "RejectJoin": Role.APPROVER,
    "ActOnRollout": Role.OPERATOR,  # and by action, below
    "AcknowledgeHead": Role.ADMIN,
    "IssueCertificate": Role.ADMIN,
    "RevokeOperator": Role.ADMIN,
}

ROLLOUT_ACTIONS: Mapping[str, Role] = {
    "PAUSE": Role.OPERATOR,
    "RESUME": Role.OPERATOR,
    "ABORT": Role.OPERATOR,
    "RETRY": Role.OPERATOR,
    "SKIP": Role.OPERATOR,
    "APPROVE": Role.APPROVER,
    "REJECT": Role.APPROVER,
    "PROMOTE": Role.APPROVER,
}


def least_role(method: str) -> Role | None:
    """Of a full gRPC method name (``/muster.v1.Operator/GetInfo``); None: nobody may."""
    if not method.startswith(SERVICE):
        return None
    return METHODS.get(method.removeprefix(SERVICE))
