"""The fleet repository that ``muster init`` writes: small, whole, and valid.

Owns its texts. It never overwrites a file.
"""

from __future__ import annotations

from collections.abc import Mapping

FLEET = """\
apiVersion: muster.dev/v1alpha1
kind: Fleet
metadata: {{name: {name}}}
spec:
  id: {fleet_id}
  mode: {mode}
  policies: {{paths: [policies], podSecurity: {{enforce: baseline, warn: restricted, version: latest}}}}
  defaults: {{plan: rings, prune: true}}
  siteClasses:
    connected: {{contactInterval: 1m}}
    edge: {{contactInterval: 4m}}
"""

PLAN = """\
apiVersion: muster.dev/v1alpha1
kind: RolloutPlan
metadata: {name: rings}
spec:
  waves:
  - name: canary
    selector: {matchLabels: {ring: canary}}
    maxInFlight: 1
    maxFailed: 0
    soak: 1m
  - name: rest
    rest: true
    maxInFlight: 25%
    maxFailed: 5%
  deadline: 15m
  onFailure: {action: rollback, scope: target}
  catchUp: {maxInFlight: 10%}
"""

BUNDLE = """\
apiVersion: muster.dev/v1alpha1
kind: Bundle
metadata: {name: hello, labels: {team: platform}}
spec:
  source: {path: manifests}
  targets:
  - selector: {}                  # every cluster
    values: {GREETING: hello}
  render:
    manifests: {}
    substitute: {CLUSTER: "${cluster.name}"}
  namespace: hello
  health: {deadline: 2m}
"""

MANIFESTS = """\
apiVersion: v1
kind: Namespace
metadata: {name: hello}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: hello, labels: {team: platform}}
data:
  greeting: "${GREETING} from ${CLUSTER}"
"""

POLICY = """\
apiVersion: kyverno.io/v1
kind: ClusterPolicy
metadata: {name: require-team-label}
spec:
  validationFailureAction: Enforce
  rules:
  - name: check-team
    match:
      any:
      - resources: {kinds: [Pod]}
    validate:
      message: "The label `team` is required."
      pattern:
        metadata:
          labels:
            team: "?*"
"""

README = """\
# {name}

The desired state of a fleet. `muster validate .` checks it.

    fleet.yaml            the fleet: mode, policies, site classes
    bundles/NAME/         what is deployed: bundle.yaml beside its manifests
    plans/                how it is rolled out
    policies/             what is allowed
    secrets/              sealed for their clusters: muster secret seal
    trust/                who may sign what: muster trust show

The branch `muster/registry` holds one file a cluster; `muster cluster approve` writes it.
"""


def files(name: str, fleet_id: str, mode: str) -> Mapping[str, str]:
    """Path to text."""
    return {
        "fleet.yaml": FLEET.format(name=name, fleet_id=fleet_id, mode=mode),
        "plans/rings.yaml": PLAN,
        "bundles/hello/bundle.yaml": BUNDLE,
        "bundles/hello/manifests/hello.yaml": MANIFESTS,
        "policies/require-team-label.yaml": POLICY,
        "README.md": README.format(name=name),
    }
