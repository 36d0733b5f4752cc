//! What is told to the API server, for people who look there and not at a node: by each agent, of the
//! pods of its node, whether they are enrolled; by one of the CA's replicas, of the policies, what adit
//! makes of them; and, if it is to, by each agent that its node is open. What to tell, and when, is [`adit_core::announce`]'s; here it is written. Nothing waits
//! for it.

mod drive;
mod lease;
mod pods;
mod policies;
mod server;
mod taint;

pub use pods::pods;
pub use policies::{Options, policies};
pub use server::Server;
pub use taint::taint;
