//! The end-to-end tests: real agents, real eBPF, real traffic. Run them with `cargo xtask test`.

#[cfg(test)]
mod abuse;
#[cfg(test)]
mod authority;
#[cfg(test)]
mod awaiting;
#[cfg(test)]
mod broken;
#[cfg(test)]
mod capture;
#[cfg(test)]
mod certificates;
#[cfg(test)]
mod connects;
#[cfg(test)]
mod endings;
#[cfg(test)]
mod enrolment;
#[cfg(test)]
mod flows;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod load;
#[cfg(test)]
mod manifests;
#[cfg(test)]
mod network;
#[cfg(test)]
mod node;
#[cfg(test)]
mod peer;
#[cfg(test)]
mod policy;
#[cfg(test)]
mod pressure;
#[cfg(test)]
mod programs;
#[cfg(test)]
mod services;
#[cfg(test)]
mod sockets;
#[cfg(test)]
mod sockets_forged;
#[cfg(test)]
mod sockets_host;
#[cfg(test)]
mod sockets_local;
#[cfg(test)]
mod sockets_outage;
#[cfg(test)]
mod sockets_sysctl;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod support;
#[cfg(test)]
mod wire;
