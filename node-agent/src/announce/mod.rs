//! What is told to the API server, for people who look there and not at a node: of each pod of this node
//! whether it is enrolled. What to tell, and when, is [`adit_core::announce`]'s; here it is written.
//! Nothing waits for it.

mod pods;
mod server;

pub use pods::pods;
pub use server::Server;
