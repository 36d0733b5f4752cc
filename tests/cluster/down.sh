#!/usr/bin/env bash
# down.sh: ends what up.sh started, by pid, and removes its state. What was built stays.
set -uo pipefail
. "$(dirname "$0")/env.sh"
for node in $NODES; do "$HERE/node.sh" stop "$node"; done
for part in coredns scheduler controller-manager apiserver etcd; do
    if [ -f "$RUN/$part.pid" ]; then kill -9 "$(cat "$RUN/$part.pid")" 2>/dev/null; fi
    stop $part
done
"$HERE/net.sh" down
rm -rf "$ROOT/etcd-data" "$ROOT/nodes" "$PKI" "$RUN"
