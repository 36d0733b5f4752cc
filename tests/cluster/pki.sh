#!/usr/bin/env bash
# pki.sh: one CA, the parts' certificates and kubeconfigs, the service-account key pair. Idempotent.
set -euo pipefail; . "$(dirname "$0")/env.sh"; cd "$PKI"; umask 077
key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key" 2>/dev/null; }
[ -f ca.crt ] || { key ca; openssl req -x509 -new -key ca.key -sha256 -days 3650 -subj /CN=test-ca -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign -out ca.crt; }
[ -f sa.key ] || { openssl genrsa -out sa.key 2048 2>/dev/null; openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null; }
cert() { # name subject ext
  [ -f "$1.crt" ] && return 0; key "$1"
  openssl req -new -key "$1.key" -subj "$2" -out "$1.csr" 2>/dev/null
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -set_serial "0x$(openssl rand -hex 8)" -days 365 -sha256 -extfile <(printf 'basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\n%s\n' "$3") -out "$1.crt" 2>/dev/null; rm -f "$1.csr"; }
conf() { # name server
  cat >"$1.conf" <<X
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "$2", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: u, user: {client-certificate-data: $(base64 -w0 $1.crt), client-key-data: $(base64 -w0 $1.key)}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
X
}
S=subjectAltName=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,DNS:localhost,IP:127.0.0.1,IP:10.96.0.1,IP:$CP_IP
cert apiserver /CN=kube-apiserver "$S
extendedKeyUsage=serverAuth"
C=extendedKeyUsage=clientAuth
cert kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client $C
cert admin /O=system:masters/CN=admin $C
cert controller-manager /CN=system:kube-controller-manager $C
cert scheduler /CN=system:kube-scheduler $C
cert proxy /CN=system:kube-proxy $C
for n in $NODES; do cert "node-$n" "/O=system:nodes/CN=system:node:$n" $C; done
for c in admin controller-manager scheduler proxy $(printf 'node-%s ' $NODES); do conf "$c" "https://$CP_IP:$API_PORT"; done
