#!/usr/bin/env bash
# go.sh ARGUMENTS...: Go, the machine's own if it is new enough; else the toolchain module of the Go project, unpacked once under $ROOT/go.
set -euo pipefail
. "$(dirname "$0")/env.sh"
LEAST=1.24
VERSION=1.26.8
module=golang.org/toolchain@v0.0.1-go$VERSION.linux

new_enough() {
    local found
    found=$("$1" env GOVERSION 2>/dev/null) && [ "$(printf '%s\n' "go$LEAST" "$found" | sort -V | head -1)" = "go$LEAST" ]
}

# The module proxy's archives never change: https://go.dev/ref/mod#module-proxy.
fetch() {
    local arch sum proxy=${GOPROXY:-https://proxy.golang.org}
    case $(uname -m) in
    x86_64) arch=amd64 sum=30c2b1bf7dcc88d3eb0a1364e47ddd9128edb3110a30e8a0ef61cd5856b31de7 ;;
    aarch64) arch=arm64 sum=02b36b6787b3ac767668f630e2998df45a3b1f9ffee08d1bf3ef6487cd658d99 ;;
    *) echo "error: no pinned Go for $(uname -m): install Go $LEAST or later" >&2; exit 1 ;;
    esac
    echo "    fetching Go $VERSION: there is none of $LEAST or later here" >&2
    rm -rf "$ROOT/go.new"
    mkdir -p "$ROOT/go.new"
    curl -fsSL --retry 3 -o "$ROOT/go.new/go.zip" "${proxy%%[,|]*}/golang.org/toolchain/@v/v0.0.1-go$VERSION.linux-$arch.zip"
    echo "$sum  $ROOT/go.new/go.zip" | sha256sum --check --quiet
    unzip -q -d "$ROOT/go.new" "$ROOT/go.new/go.zip"
    chmod +x "$ROOT/go.new/$module-$arch"/{bin,pkg/tool/linux_$arch}/*
    rm -rf "$ROOT/go"
    mv "$ROOT/go.new/$module-$arch" "$ROOT/go"
    rm -rf "$ROOT/go.new"
}

export GOTOOLCHAIN=local
if new_enough go; then exec go "$@"; fi
new_enough "$ROOT/go/bin/go" || fetch
exec "$ROOT/go/bin/go" "$@"
