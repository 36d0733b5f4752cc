#!/usr/bin/env bash
# node.sh start|crash|stop|pid|exec|load NODE [COMMAND... | IMAGE.tar...]: a node is a set of namespaces (network by net.sh; mount, pid, uts, ipc, cgroup) with a root of its own, a containerd, a kubelet and a kube-proxy. `crash` pulls its power cord; `stop` takes its disk away too.
set -euo pipefail
. "$(dirname "$0")/env.sh"
action=$1 N=$2
shift 2
D=$ROOT/nodes/$N

# Each cgroup hierarchy's mount point, and this process's place in it.
cgroups() {
    local controllers path mount
    while IFS=: read -r _ controllers path; do
        case $controllers in
        "") mount=/sys/fs/cgroup/unified; [ -d $mount ] || mount=/sys/fs/cgroup ;;
        name=*) mount=/sys/fs/cgroup/${controllers#name=} ;;
        *) mount=/sys/fs/cgroup/$controllers ;;
        esac
        if [ -d "$mount" ]; then echo "$mount" "${path%/}"; fi
    done </proc/self/cgroup
}

start_node() {
    local mount path group file
    mkdir -p "$D"/{root,etc.up,etc.wk,var,opt,tmp}
    rm -f "$LOG/$N".*.log
    while read -r mount path; do
        group=$mount$path/lab-$N
        mkdir -p "$group"
        case $mount in */cpuset)
            for file in cpuset.cpus cpuset.mems; do cat "$mount$path/$file" >"$group/$file"; done
            echo 1 >"$group/cgroup.clone_children" ;;
        esac
    done < <(cgroups)
    (
        while read -r mount path; do echo $BASHPID >"$mount$path/lab-$N/cgroup.procs"; done < <(cgroups)
        exec setsid nsenter --net="$NS/$N" unshare --mount --pid --uts --ipc --cgroup --fork --kill-child "$HERE/node-init.sh" "$N"
    ) >"$LOG/$N.init.log" 2>&1 </dev/null &
    echo $! >"$RUN/$N.pid"
}

pid() { local outer; outer=$(cat "$RUN/$N.pid"); tr -d ' ' <"/proc/$outer/task/$outer/children"; }

crash_node() {
    local inner outer mount path
    inner=$(pid 2>/dev/null || true)
    if [ -n "$inner" ]; then kill -9 "$inner"; fi
    outer=$(cat "$RUN/$N.pid" 2>/dev/null || true)
    if [ -n "$outer" ]; then for _ in $(seq 100); do kill -0 "$outer" 2>/dev/null || break; sleep 0.1; done; fi
    rm -f "$RUN/$N.pid"
    sleep 0.2
    while read -r mount path; do
        [ ! -d "$mount$path/lab-$N" ] || find "$mount$path/lab-$N" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done < <(cgroups)
}

stop_node() {
    crash_node
    rm -rf "$D"
}

case $action in
start) start_node ;;
crash) crash_node ;;
stop) stop_node ;;
pid) pid ;;
exec) exec nsenter --all --target "$(pid)" -- "$@" ;;
load) for image in "$@"; do "$0" exec "$N" ctr -n k8s.io images import - <"$image"; done ;;
*) sed -n 2p "$0"; exit 2 ;;
esac
