#!/usr/bin/env bash
# prepare.sh: builds what a cluster consists of into $ROOT, each part once for each state of what it is made from, and says where the time goes.
set -euo pipefail
. "$(dirname "$0")/env.sh"
cd "$ROOT"
mkdir -p stamps
exec 9>prepare.lock
flock 9 # of two checkouts that share $ROOT, one builds

# part NAME INPUTS... -- COMMAND...: unless it has been done with these inputs. What was interrupted has no stamp.
part() {
    local name=$1 inputs=() stamp began=$SECONDS
    shift
    while [ "$1" != -- ]; do inputs+=("$HERE/$1"); shift; done
    shift
    stamp=$(cat "${inputs[@]}" | sha256sum)
    [ "$(cat "stamps/$name" 2>/dev/null)" != "$stamp" ] || return 0
    rm -f "stamps/$name"
    "$@"
    echo "$stamp" >"stamps/$name"
    printf '    %4d s  %s\n' $((SECONDS - began)) "$name"
}

part packages debs.sh -- "$HERE/debs.sh"
part kubernetes build.sh versions/{go.mod,go.sum,tools.go} -- "$HERE/build.sh" kubernetes
part coredns build.sh coredns/{go.mod,go.sum,main.go} -- "$HERE/build.sh" coredns
part pods build.sh debs.sh testapp/{go.mod,main.go} pause.c -- "$HERE/build.sh" pods
