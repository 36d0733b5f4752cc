//! The end-to-end tests: real agents, real eBPF, real traffic. Run them with `cargo xtask test`.

#[cfg(test)]
mod network;
#[cfg(test)]
mod support;
