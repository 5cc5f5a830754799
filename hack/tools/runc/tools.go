//go:build tools

// Package tools pins runc, which starts the containers; ../build compiles it.
package tools

import (
	_ "github.com/opencontainers/runc"
)
