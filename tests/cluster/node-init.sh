#!/usr/bin/env bash
# node-init.sh NODE: pid 1 of a node. Makes its root, then starts containerd, kubelet, kube-proxy. Called by node.sh inside the new namespaces.
set -euo pipefail; . "$(dirname "$0")/env.sh"; N=$1; D=$ROOT/nodes/$N; R=$D/root
mount -t tmpfs -o mode=755 lab-root "$R"; cd "$R"
mkdir -p usr etc var run tmp opt root home srv mnt proc sys dev lab old; chmod 1777 tmp
for l in bin sbin lib lib32 lib64; do [ -L /$l ] && ln -s "$(readlink /$l)" $l; done
if [ -d "$ROOT/deb/usr" ]; then mount -t overlay -o "ro,lowerdir=$ROOT/deb/usr:/usr" lab-usr usr; else mount --bind /usr usr; mount -o remount,bind,ro usr; fi
mount -t overlay -o "lowerdir=/etc,upperdir=$D/etc.up,workdir=$D/etc.wk" lab-etc etc
mkdir -p "$D"/var/{lib/kubelet,lib/containerd,lib/cni,log,tmp,cache} "$D"/opt/cni/bin; ln -sfn /run "$D/var/run"
mount --bind "$D/var" var; mount --bind "$D/opt" opt; mount -t tmpfs -o mode=755 lab-run run; mount --bind "$D/tmp" tmp; chmod 1777 tmp
mount --bind "$ROOT" lab; mkdir -p lab/scripts; mount --bind "$HERE" lab/scripts
mount -t proc proc proc
# The kubelet sets three sysctls of the whole machine; show it the values it wants instead, and let nothing on the node write the machine's own.
mkdir -p run/sysctl; for s in kernel/panic=10 kernel/panic_on_oops=1 vm/overcommit_memory=1; do f=run/sysctl/${s//\//.}; echo "${s#*=}" >"$f"; mount --bind "$f" "proc/sys/${s%=*}"; done
for s in vm kernel fs; do mount --rbind proc/sys/$s proc/sys/$s; mount -o remount,bind,ro proc/sys/$s; done
mount -t sysfs sysfs sys; mount -t tmpfs -o mode=755 lab-cg sys/fs/cgroup
while IFS=: read -r id c p; do case "$id:$c" in
  0:) if [ -d /sys/fs/cgroup/unified ]; then mkdir sys/fs/cgroup/unified; mount -t cgroup2 cgroup2 sys/fs/cgroup/unified; else umount sys/fs/cgroup; mount -t cgroup2 cgroup2 sys/fs/cgroup; fi;;
  *:name=*) mkdir "sys/fs/cgroup/${c#name=}"; mount -t cgroup -o "none,$c" cgroup "sys/fs/cgroup/${c#name=}";;
  *) mkdir "sys/fs/cgroup/$c"; mount -t cgroup -o "$c" cgroup "sys/fs/cgroup/$c";; esac; done </proc/self/cgroup
mount -t bpf -o mode=700 bpf sys/fs/bpf
mount --rbind /dev dev; mount -t tmpfs -o mode=1777 shm dev/shm; mount -t mqueue mqueue dev/mqueue 2>/dev/null || true
pivot_root . old; cd /; umount -l /old; rmdir /old; mount --make-rshared /
hostname "$N"; export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LD_LIBRARY_PATH=
printf '127.0.0.1 localhost\n%s %s\n' "$(node_ip "$N")" "$N" >/etc/hosts; : >/etc/resolv.conf; echo "lab-$N" | md5sum | cut -c1-32 >/etc/machine-id
mkdir -p /etc/cni/net.d /etc/containerd /etc/kubernetes/manifests /run/netns
cp -u /usr/lib/cni/{bridge,ptp,host-local,portmap,loopback,bandwidth,tuning} /opt/cni/bin/ 2>/dev/null || true
[ -e /etc/cni/net.d/10-lab.conflist ] || sed "s#@CIDR@#$(node_cidr "$N")#" /lab/scripts/cni.conflist >/etc/cni/net.d/10-lab.conflist
cp /lab/scripts/containerd.toml /etc/containerd/config.toml; cp /lab/scripts/kubelet.yaml /etc/kubernetes/kubelet.yaml
sed "s#@NODE@#$N#;s#@MODE@#${PROXY_MODE:-iptables}#" /lab/scripts/kube-proxy.yaml >/etc/kubernetes/kube-proxy.yaml
L=/lab/log; P=/lab/bin
up() { local n=$1; shift; setsid "$@" >>"$L/$N.$n.log" 2>&1 </dev/null & echo $! >"/run/$n.pid"; }
up containerd containerd --config /etc/containerd/config.toml
until ctr -n k8s.io version >/dev/null 2>&1; do sleep 0.1; done
for i in /lab/images/*.tar; do ctr -n k8s.io images import "$i"; done
until (exec 3<>/dev/tcp/$CP_IP/$API_PORT) 2>/dev/null; do sleep 0.2; done
until curl -sf -o /dev/null --cacert /lab/pki/ca.crt --cert /lab/pki/node-$N.crt --key /lab/pki/node-$N.key https://$CP_IP:$API_PORT/readyz; do sleep 0.2; done
up kubelet $P/kubelet --config=/etc/kubernetes/kubelet.yaml --kubeconfig=/lab/pki/node-$N.conf --hostname-override=$N --node-ip=$(node_ip "$N")
up kube-proxy $P/kube-proxy --config=/etc/kubernetes/kube-proxy.yaml
while :; do sleep 3600 & wait $! || true; done
