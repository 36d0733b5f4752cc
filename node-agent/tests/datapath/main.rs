//! The real datapath on the real kernel: eBPF, routes and sockets in network namespaces of the
//! tests' own. Needs root.

#[cfg(test)]
mod capture;
#[cfg(test)]
mod cleanup;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod refused;
#[cfg(test)]
mod rivals;
#[cfg(test)]
mod space;
#[cfg(test)]
mod upstream;
