"""Tables. Every write is keyed by what it is about, so that rollouts can be claimed one by one later."""

from __future__ import annotations

import sqlalchemy as sa

VERSION = 2

metadata = sa.MetaData()

meta = sa.Table(
    "meta",
    metadata,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("value", sa.String, nullable=False),
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("digest", sa.String, nullable=False, unique=True),
    sa.Column("cluster", sa.String, nullable=False),
    sa.Column("created", sa.BigInteger, nullable=False),
    sa.Column("expires", sa.BigInteger, nullable=False),
    sa.Column("used", sa.BigInteger, nullable=False),
    sa.Column("identity", sa.String, nullable=False),
)

joins = sa.Table(
    "joins",
    metadata,
    sa.Column("cluster", sa.String, primary_key=True),
    sa.Column("uid", sa.String, nullable=False),
    sa.Column("identity", sa.LargeBinary, nullable=False),
    sa.Column("sealing", sa.LargeBinary, nullable=False),
    sa.Column("sealing_generation", sa.BigInteger, nullable=False),
    sa.Column("sealing_signature", sa.LargeBinary, nullable=False),
    sa.Column("csr", sa.LargeBinary, nullable=False),
    sa.Column("requested", sa.BigInteger, nullable=False),
    sa.Column("agent_version", sa.String, nullable=False),
    sa.Column("issued", sa.BigInteger, nullable=False),
    sa.Column("renewals", sa.BigInteger, nullable=False),
    sa.Column("refused", sa.BigInteger, nullable=False),
)

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("cluster", sa.String, primary_key=True),
    sa.Column("epoch", sa.String, nullable=False),
    sa.Column("last_seq", sa.BigInteger, nullable=False),
    sa.Column("last_seen", sa.BigInteger, nullable=False),
    sa.Column("agent_version", sa.String, nullable=False),
    sa.Column("kubernetes_version", sa.String, nullable=False),
)

reports = sa.Table(
    "reports",
    metadata,
    sa.Column("cluster", sa.String, primary_key=True),
    sa.Column("bundle", sa.String, primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
)

audit_heads = sa.Table(
    "audit_heads",
    metadata,
    sa.Column("writer", sa.String, primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("hash", sa.String, nullable=False),
    sa.Column("told_seq", sa.BigInteger, nullable=False),
    sa.Column("told_hash", sa.String, nullable=False),
)

operators = sa.Table(
    "operators",
    metadata,
    sa.Column("serial", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("role", sa.String, nullable=False),
    sa.Column("issued", sa.BigInteger, nullable=False),
    sa.Column("expires", sa.BigInteger, nullable=False),
    sa.Column("revoked", sa.BigInteger, nullable=False),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("stream", sa.String, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
)

# A cache of the events: no part of a backup, and a program that does not know it need not.
snapshots = sa.Table(
    "snapshots",
    metadata,
    sa.Column("stream", sa.String, primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
)
