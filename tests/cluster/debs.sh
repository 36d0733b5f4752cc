#!/usr/bin/env bash
# debs.sh: Debian's container runtime, unpacked under $ROOT/deb and laid over /usr on the nodes only: the machine stays as it is.
set -euo pipefail
. "$(dirname "$0")/env.sh"
rm -rf "$ROOT/debs" "$ROOT/deb"
mkdir -p "$ROOT/debs" "$ROOT/deb"
cd "$ROOT/debs"
compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null || apt-get update
apt-get download containerd runc containernetworking-plugins iptables libip6tc2 libnftnl11 nftables libnftables1 \
    conntrack libnetfilter-conntrack3 libnfnetlink0 busybox-static
for package in *.deb; do dpkg -x "$package" "$ROOT/deb"; done
cp -n "$ROOT"/deb/bin/busybox "$ROOT/deb/usr/bin/" 2>/dev/null || true
cd "$ROOT/deb/usr/sbin"
for name in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do
    ln -sfn xtables-nft-multi $name
done
