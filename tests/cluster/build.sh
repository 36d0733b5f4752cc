#!/usr/bin/env bash
# build.sh kubernetes | coredns | pods: builds Kubernetes and etcd from their Go modules (pinned in versions/) into $ROOT/bin; or CoreDNS; or what runs in pods, into $ROOT/pods.
set -euo pipefail
. "$(dirname "$0")/env.sh"
export CGO_ENABLED=0 GOFLAGS=-buildvcs=false
KUBE=$(sed -n 's/^require k8s.io\/kubernetes v//p' "$HERE/versions/go.mod")
mkdir -p "$ROOT/bin" "$ROOT/pods"

# Into a directory of its own first: what runs meanwhile, or what an interrupted build leaves, is whole.
kubernetes() {
    local version=k8s.io/component-base/version
    rm -rf "$ROOT/build" "$ROOT/bin.new"
    mkdir -p "$ROOT/build" "$ROOT/bin.new"
    cp "$HERE"/versions/* "$ROOT/build/"
    cd "$ROOT/build"
    "$HERE/go.sh" build -trimpath -o "$ROOT/bin.new/" \
        -ldflags "-s -w -X $version.gitVersion=v$KUBE -X $version.gitMajor=1 -X $version.gitMinor=$(cut -d. -f2 <<<"$KUBE")" \
        go.etcd.io/etcd/server/v3 k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kube-scheduler,kube-proxy,kubelet,kubectl}
    # Go names a program by its module's last element that is not a version.
    mv "$ROOT/bin.new/server" "$ROOT/bin.new/etcd"
    mv -f "$ROOT"/bin.new/* "$ROOT/bin/"
    rmdir "$ROOT/bin.new"
}

coredns() {
    rm -rf "$ROOT/build-dns"
    mkdir -p "$ROOT/build-dns"
    cp "$HERE"/coredns/* "$ROOT/build-dns/"
    cd "$ROOT/build-dns"
    "$HERE/go.sh" build -trimpath -ldflags '-s -w' -o "$ROOT/bin/coredns.new" .
    mv -f "$ROOT/bin/coredns.new" "$ROOT/bin/coredns"
}

pods() {
    cc -Os -static -s -o "$ROOT/pods/pause" "$HERE/pause.c"
    cd "$HERE/testapp"
    "$HERE/go.sh" build -trimpath -ldflags '-s -w' -o "$ROOT/pods/testapp" .
    cp "$ROOT/deb/bin/busybox" "$ROOT/pods/busybox"
}

case ${1:-} in
kubernetes | coredns | pods) "$1" ;;
*) sed -n 2p "$0"; exit 2 ;;
esac
