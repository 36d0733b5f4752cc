#!/usr/bin/env bash
# prepare.sh: builds what a cluster consists of, once for each set of versions (versions/go.mod), into $ROOT. Kubernetes takes 7 minutes on two processors.
set -euo pipefail
. "$(dirname "$0")/env.sh"
cd "$ROOT"
[ -e deb/usr/bin/containerd ] || "$HERE/debs.sh"
built() { cmp -s "$HERE/versions/go.mod" build/go.mod; }
complete() { for program in etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet; do [ -x "bin/$program" ] || return 1; done; }
if ! built || ! complete; then "$HERE/build.sh"; fi
[ -x bin/coredns ] || "$HERE/build.sh" coredns
"$HERE/build.sh" pods
