//go:build tools

// Package yip pins the stage runner that the lab builds: go build github.com/mudler/yip
package yip

import _ "github.com/mudler/yip"
