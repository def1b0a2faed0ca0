//go:build tools

// Package apiserver pins the API server that leadership is tested against: go build k8s.io/kubernetes/cmd/kube-apiserver
package apiserver

import _ "k8s.io/kubernetes/cmd/kube-apiserver"
