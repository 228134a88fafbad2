"""Policies: every dialect compiles to one kind of rule, and evaluation is pure.

Built: the Pod Security Standards, and Kyverno policies with validate patterns and autogen. The rest is refused by name.
"""

from muster_core.policy.engine import PodSecuritySettings, PolicySet, compile_policies
from muster_core.policy.verdict import CompiledRule, Context, PolicyError, Verdict, blocked

__all__ = [
    "CompiledRule",
    "Context",
    "PodSecuritySettings",
    "PolicyError",
    "PolicySet",
    "Verdict",
    "blocked",
    "compile_policies",
]
