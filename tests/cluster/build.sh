#!/usr/bin/env bash
# build.sh [coredns | pods]: builds Kubernetes and etcd from their Go modules (pinned in versions/) into $ROOT/bin; or CoreDNS; or what runs in pods, into $ROOT/pods.
set -euo pipefail
. "$(dirname "$0")/env.sh"
export GOTOOLCHAIN=local CGO_ENABLED=0 GOFLAGS=-buildvcs=false
KUBE=$(sed -n 's/^require k8s.io\/kubernetes v//p' "$HERE/versions/go.mod")
mkdir -p "$ROOT/bin" "$ROOT/build" "$ROOT/pods"

kubernetes() {
    local version=k8s.io/component-base/version
    cp "$HERE"/versions/{go.sum,tools.go} "$ROOT/build/"
    cp "$HERE/versions/go.mod" "$ROOT/build/go.mod.new"
    mv "$ROOT/build/go.mod.new" "$ROOT/build/go.mod"
    cd "$ROOT/build"
    rm -f "$ROOT"/bin/{etcd,kube*}
    go build -trimpath -o "$ROOT/bin/" \
        -ldflags "-s -w -X $version.gitVersion=v$KUBE -X $version.gitMajor=1 -X $version.gitMinor=$(cut -d. -f2 <<<"$KUBE")" \
        go.etcd.io/etcd/server/v3 k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kube-scheduler,kube-proxy,kubelet}
    for name in server v3; do
        if [ -f "$ROOT/bin/$name" ]; then mv "$ROOT/bin/$name" "$ROOT/bin/etcd"; fi
    done
}

coredns() {
    mkdir -p "$ROOT/build-dns"
    cp "$HERE"/coredns/* "$ROOT/build-dns/"
    cd "$ROOT/build-dns"
    go build -mod=mod -trimpath -ldflags '-s -w' -o "$ROOT/bin/coredns" .
}

pods() {
    cc -Os -static -s -o "$ROOT/pods/pause" "$HERE/pause.c"
    cd "$HERE/testapp"
    go build -trimpath -ldflags '-s -w' -o "$ROOT/pods/testapp" .
    cp "$ROOT/deb/bin/busybox" "$ROOT/pods/busybox"
}

case ${1:-kubernetes} in
kubernetes | coredns | pods) "${1:-kubernetes}" ;;
*) sed -n 2p "$0"; exit 2 ;;
esac
