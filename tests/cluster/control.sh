#!/usr/bin/env bash
# control.sh api|controllers|scheduler|dns: starts a part of the control plane in the namespace cp; api and dns wait until it is ready. `stop-api` ends the API server alone, `stop-controllers` the controllers.
set -euo pipefail
. "$(dirname "$0")/env.sh"

api() {
    mkdir -p -m 700 "$ROOT/etcd-data"
    [ -f "$RUN/etcd.pid" ] || start etcd "$ROOT/bin/etcd" --name e --data-dir "$ROOT/etcd-data" \
        --listen-client-urls http://127.0.0.1:$ETCD_PORT --advertise-client-urls http://127.0.0.1:$ETCD_PORT \
        --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
        --initial-cluster e=http://127.0.0.1:2380 --unsafe-no-fsync --log-level warn
    start apiserver "$ROOT/bin/kube-apiserver" --etcd-servers=http://127.0.0.1:$ETCD_PORT \
        --bind-address=0.0.0.0 --advertise-address=$CP_IP --secure-port=$API_PORT --service-cluster-ip-range=$SERVICES \
        --client-ca-file="$PKI/ca.crt" --tls-cert-file="$PKI/apiserver.crt" --tls-private-key-file="$PKI/apiserver.key" \
        --service-account-issuer=https://kubernetes.default.svc.cluster.local \
        --service-account-key-file="$PKI/sa.pub" --service-account-signing-key-file="$PKI/sa.key" \
        --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true \
        --kubelet-client-certificate="$PKI/kubelet-client.crt" --kubelet-client-key="$PKI/kubelet-client.key" \
        --kubelet-preferred-address-types=InternalIP --cert-dir="$RUN" --profiling=false
    wait_for "kube-apiserver" 60 kc get --raw /readyz
}

controllers() {
    start controller-manager "$ROOT/bin/kube-controller-manager" --kubeconfig="$PKI/controller-manager.conf" \
        --authentication-kubeconfig="$PKI/controller-manager.conf" --authorization-kubeconfig="$PKI/controller-manager.conf" \
        --service-account-private-key-file="$PKI/sa.key" --root-ca-file="$PKI/ca.crt" \
        --cluster-signing-cert-file="$PKI/ca.crt" --cluster-signing-key-file="$PKI/ca.key" \
        --use-service-account-credentials=true --allocate-node-cidrs=false --node-monitor-grace-period=40s \
        --leader-elect=false --bind-address=127.0.0.1 --cert-dir="$RUN"
}

scheduler() {
    start scheduler "$ROOT/bin/kube-scheduler" --kubeconfig="$PKI/scheduler.conf" \
        --authentication-kubeconfig="$PKI/scheduler.conf" --authorization-kubeconfig="$PKI/scheduler.conf" \
        --leader-elect=false --bind-address=127.0.0.1 --cert-dir="$RUN"
}

# CoreDNS is a process of the control plane; a Service and its slice lead to it.
dns() {
    cat >"$RUN/Corefile" <<X
.:53 {
  bind $CP_IP
  errors
  ready 127.0.0.1:8181
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $PKI/admin.conf
    ttl 1
  }
  loadbalance
}
X
    start coredns "$ROOT/bin/coredns" -conf "$RUN/Corefile"
    kc apply -f "$HERE/manifests/dns.yaml" >/dev/null
    wait_for coredns 20 in_cp curl -sf http://127.0.0.1:8181/ready
}

case ${1:-} in
api | controllers | scheduler | dns) "$1" ;;
stop-api) stop apiserver ;;
stop-controllers) stop controller-manager ;;
*) sed -n 2p "$0"; exit 2 ;;
esac
