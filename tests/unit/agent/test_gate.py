"""What policies see of the cluster: which objects are there already, and the labels of namespaces."""

from __future__ import annotations

from muster_proto.v1 import link_pb2 as wire
from unit.agent.stage import KIND, config_map
from unit.agent.test_pipeline import Stage, anyio_backend, stage

__all__ = ["anyio_backend", "stage"]

FLEET = KIND.format(
    kind="Fleet",
    name="acme",
    spec="{id: 0123456789abcdef, defaults: {plan: rings}, policies: {paths: [policies]}}",
)


def policy(match: str) -> str:
    return f"""\
apiVersion: kyverno.io/v1
kind: ClusterPolicy
metadata: {{name: frozen}}
spec:
  validationFailureAction: Enforce
  rules:
  - name: must-say-one
    match:
      any:
      - resources: {{kinds: [ConfigMap], {match}}}
    validate:
      message: "only one"
      pattern: {{data: {{a: one}}}}
"""


async def test_a_rule_for_updates_judges_only_objects_that_are_there(stage: Stage) -> None:
    stage.commit({"fleet.yaml": FLEET, "policies/frozen.yaml": policy("operations: [UPDATE]")})
    made = stage.commit({"bundles/shop/map.yaml": config_map("web", "two")})
    changed = stage.commit({"bundles/shop/map.yaml": config_map("web", "three")})
    async with stage.agent():
        await stage.offer(made, "shop-0001")
        await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)
        await stage.offer(changed, "shop-0002")
        report = await stage.outcome("shop-0002", wire.OUTCOME_FAILED)
    assert (report.code, report.violations[0].rule) == ("P001", "must-say-one")
    assert await stage.value() == "two"


async def test_namespace_labels_are_those_of_the_cluster_and_of_the_bundle(stage: Stage) -> None:
    selector = "namespaceSelector: {matchLabels: {team: web}}"
    stage.commit({"fleet.yaml": FLEET, "policies/frozen.yaml": policy(selector)})
    free = stage.commit({"bundles/shop/map.yaml": config_map("web", "two")})
    labelled = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {team: web}}\n"
    own = stage.commit({"bundles/shop/namespace.yaml": labelled})
    bare = stage.commit({"bundles/shop/namespace.yaml": None})
    async with stage.agent():
        await stage.offer(free, "shop-0001")
        await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)
        await stage.offer(own, "shop-0002")
        assert (await stage.outcome("shop-0002", wire.OUTCOME_FAILED)).code == "P001"
        status, _ = await stage("PATCH", "/api/v1/namespaces/shop", {"metadata": {"labels": {"team": "web"}}})
        assert status == 200
        await stage.offer(bare, "shop-0003")
        report = await stage.outcome("shop-0003", wire.OUTCOME_FAILED)
    assert report.code == "P001"
    assert await stage.value() == "two"
