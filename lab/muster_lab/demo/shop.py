"""The example shop: what the demo's fleet repository holds, version by version.

Owns texts only; writing and committing them is the story's work.
"""

from __future__ import annotations

from collections.abc import Mapping

CLUSTERS: Mapping[str, str] = {
    "canary-1": "canary",
    "store-1": "stores",
    "store-2": "stores",
    "store-3": "stores",
    "edge-1": "edge",
    "edge-2": "edge",
}

READY_IMAGE = "registry.example/shop:{version}"
NEVER_IMAGE = "registry.example/shop:{version}-never"

FLEET = """\
apiVersion: muster.dev/v1alpha1
kind: Fleet
metadata: {name: demo}
spec:
  id: %(fleet_id)s
  mode: signed-commits
  policies: {paths: [policies], podSecurity: {enforce: baseline, version: latest}}
  defaults: {plan: rings}
  siteClasses:
    connected: {contactInterval: 2s}
    edge: {contactInterval: 2s}
"""

PLAN = """\
apiVersion: muster.dev/v1alpha1
kind: RolloutPlan
metadata: {name: rings}
spec:
  deadline: 40s
  onFailure: {action: rollback, scope: target}
  catchUp: {maxInFlight: 1}
  waves:
  - name: canary
    selector: {matchLabels: {ring: canary}}
    maxInFlight: 1
    maxFailed: 0
    soak: 2s
  - name: stores
    selector: {matchLabels: {ring: stores}}
    maxInFlight: 2
    maxFailed: 0
    soak: 1s
  - name: edge
    rest: true
    maxInFlight: 2
    maxFailed: 0
    quorum: 50%
    offline: {after: 8s}
"""

POLICY = """\
apiVersion: kyverno.io/v1
kind: ClusterPolicy
metadata:
  name: require-labels
  annotations:
    policies.kyverno.io/title: Require Labels
spec:
  validationFailureAction: Enforce
  background: true
  rules:
  - name: check-for-labels
    match:
      any:
      - resources:
          kinds:
          - Pod
    validate:
      message: "The label `team` is required."
      pattern:
        metadata:
          labels:
            team: "?*"
"""

BUNDLE = """\
apiVersion: muster.dev/v1alpha1
kind: Bundle
metadata: {name: shop, labels: {team: web}}
spec:
  source: {path: manifests}
  targets:
  - selector: {}
    values: {REPLICAS: 2}
  render:
    manifests: {}
    substitute: {RING: "${cluster.labels.ring}"}
  plan: rings
  namespace: shop
%(secrets)s  health: {deadline: 10s}
"""

NAMESPACE = """\
apiVersion: v1
kind: Namespace
metadata: {name: shop}
"""


def deployment(version: str, *, image: str = READY_IMAGE, team: str | None = "web") -> str:
    """The shop's Deployment; without ``team`` the policy forbids it."""
    labels = f"{{app: shop, team: {team}}}" if team else "{app: shop}"
    return f"""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: shop
  labels: {labels}
spec:
  replicas: ${{REPLICAS}}
  selector: {{matchLabels: {{app: shop}}}}
  template:
    metadata:
      labels: {labels}
    spec:
      containers:
      - name: shop
        image: {image.format(version=version)}
        ports: [{{containerPort: 8080}}]
        envFrom: [{{configMapRef: {{name: shop}}}}]
        env:
        - name: DB_PASSWORD
          valueFrom: {{secretKeyRef: {{name: shop-db, key: password}}}}
"""


SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: shop, labels: {team: web}}
spec:
  selector: {app: shop}
  ports: [{port: 80, targetPort: 8080}]
"""


def config(version: str) -> str:
    """The shop's ConfigMap: the object that somebody will edit by hand."""
    return f"""\
apiVersion: v1
kind: ConfigMap
metadata: {{name: shop, labels: {{team: web}}}}
data:
  version: "{version}"
  ring: "${{RING}}"
  greeting: welcome
"""


def bundle(*, secret: bool) -> str:
    return BUNDLE % {"secrets": "  secrets: [../../secrets/shop-db.yaml]\n" if secret else ""}


def files(version: str, *, image: str = READY_IMAGE, team: str | None = "web") -> dict[str, str]:
    """The files of one version of the shop, by path in the fleet repository."""
    return {
        "bundles/shop/manifests/namespace.yaml": NAMESPACE,
        "bundles/shop/manifests/deployment.yaml": deployment(version, image=image, team=team),
        "bundles/shop/manifests/service.yaml": SERVICE,
        "bundles/shop/manifests/config.yaml": config(version),
    }
