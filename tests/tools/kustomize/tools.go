//go:build tools

// Package tools keeps kustomize's command in go.mod, so that its version and the
// sums of everything it needs are pinned here.
package tools

import _ "sigs.k8s.io/kustomize/kustomize/v5"
