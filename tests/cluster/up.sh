#!/usr/bin/env bash
# up.sh: starts the cluster; says what took how long. NODES="n1" for one node.
set -euo pipefail
. "$(dirname "$0")/env.sh"
began=$(date +%s%N)
say() { printf '%5.1f s  %s\n' "$(awk -v a="$began" -v b="$(date +%s%N)" 'BEGIN { print (b - a) / 1e9 }')" "$*"; }
"$HERE/net.sh" up
"$HERE/pki.sh"
# A node's init waits for the API server; the controller manager would give up.
for node in $NODES; do "$HERE/node.sh" start "$node"; done
"$HERE/control.sh" api
say "kube-apiserver ready"
"$HERE/control.sh" controllers
"$HERE/control.sh" scheduler
for node in $NODES; do wait_for "node $node registered" 60 kc get node "$node"; done
kc wait --for=condition=Ready node --all --timeout=90s >/dev/null
say "nodes ready"
wait_for "default service account" 30 kc get serviceaccount default
"$HERE/control.sh" dns
say "DNS ready"
