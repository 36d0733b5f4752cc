#!/usr/bin/env bash
# net.sh up | lose NODE | down: the network between the machines: a bridge in the namespace ul, and on it cp (control plane) and the nodes, with static routes to each other's pods.
set -euo pipefail
. "$(dirname "$0")/env.sh"
in_ns() { local ns=$1; shift; nsenter --net="$NS/$ns" "$@"; }

make() {
    if mountpoint -q "$NS/$1"; then return 0; fi
    : >"$NS/$1"
    unshare --net="$NS/$1" true
    in_ns "$1" ip link set lo up
}

join() { # NAMESPACE ADDRESS
    if in_ns "$1" ip link show eth0 >/dev/null 2>&1; then return 0; fi
    in_ns ul ip link add "v-$1" type veth peer name eth0 netns "$NS/$1"
    in_ns ul ip link set "v-$1" master br0 up
    in_ns "$1" ip addr add "$2/24" dev eth0
    in_ns "$1" ip link set eth0 up
}

up() {
    make ul
    in_ns ul ip link show br0 >/dev/null 2>&1 || { in_ns ul ip link add br0 type bridge; in_ns ul ip link set br0 up; }
    make cp
    join cp $CP_IP
    for node in $NODES; do
        make "$node"
        join "$node" "$(node_ip "$node")"
        in_ns "$node" sysctl -qw net.ipv4.ip_forward=1
        in_ns "$node" ip route replace default via $CP_IP
        in_ns cp ip route replace "$(node_cidr "$node")" via "$(node_ip "$node")"
    done
    for node in $NODES; do
        for other in $NODES; do
            [ "$node" = "$other" ] || in_ns "$node" ip route replace "$(node_cidr "$other")" via "$(node_ip "$other")"
        done
    done
}

# The end of a namespace takes its links along, but only after those of its pods have ended.
lose() {
    in_ns ul ip link del "v-$1"
    umount "$NS/$1"
}

down() {
    for ns in $NODES cp ul; do
        if mountpoint -q "$NS/$ns"; then umount "$NS/$ns"; fi
        rm -f "$NS/$ns"
    done
}

case ${1:-} in
up | down) "$1" ;;
lose) lose "$2" ;;
*) sed -n 2p "$0"; exit 2 ;;
esac
