# env.sh: sourced by the others. Names, addresses and helpers. Everything lives in network namespaces that net.sh makes.
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=${ADIT_K8S_ROOT:-/var/cache/adit-k8s} # what was built, kept between runs, and the running cluster's state
export HERE ROOT
NODES=${NODES:-"n1 n2"}
CP_IP=10.90.0.10 # control plane and DNS
API_PORT=6443 ETCD_PORT=2379
SERVICES=10.96.0.0/16 PODS=10.91.0.0/16
node_ip() { echo "10.90.0.1${1#n}"; }   # n1 -> 10.90.0.11
node_cidr() { echo "10.91.${1#n}.0/24"; } # n1 -> 10.91.1.0/24
PKI=$ROOT/pki RUN=$ROOT/run LOG=$ROOT/log NS=$ROOT/run/ns
mkdir -p "$PKI" "$RUN" "$LOG" "$NS"
export KUBECONFIG=$PKI/admin.conf
PATH=$ROOT/bin:$PATH # kubectl of the cluster's own version

in_cp() { nsenter --net="$NS/cp" "$@"; }
kc() { in_cp kubectl "$@"; }

# start NAME COMMAND...: runs it detached in the control plane's namespace, its pid in $RUN/NAME.pid, its output in $LOG/NAME.log
start() {
    local name=$1
    shift
    in_cp setsid bash -c 'echo $$ >"$0"; exec "$@"' "$RUN/$name.pid" "$@" >"$LOG/$name.log" 2>&1 </dev/null &
}

# stop NAME: SIGTERM, 10 s, SIGKILL
stop() {
    local pid
    pid=$(cat "$RUN/$1.pid" 2>/dev/null) || return 0
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -9 "$pid" 2>/dev/null || true
    rm -f "$RUN/$1.pid"
}

# wait_for WHAT SECONDS COMMAND...
wait_for() {
    local what=$1 end=$((SECONDS + $2))
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || { echo "timed out: $what" >&2; return 1; }
        sleep 0.1
    done
}
