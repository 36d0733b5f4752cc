//! Discovery and the CA against a real kube-apiserver and etcd, on loopback. Their binaries are
//! expected in `$ADIT_K8S_ROOT/bin` (default `/var/cache/adit-k8s/bin`); `cargo xtask cluster prepare`
//! builds them. Without them the tests say so and pass, unless
//! `ADIT_K8S_REQUIRE=1`: not every machine that runs the other tests has them.

#[cfg(test)]
mod announce;
#[cfg(test)]
mod ca;
#[cfg(test)]
mod ca_rotation;
#[cfg(test)]
mod discovery;
#[cfg(test)]
mod policies;
#[cfg(test)]
mod scale;
#[cfg(test)]
mod server;
