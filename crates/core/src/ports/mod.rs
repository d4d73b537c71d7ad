//! The ports: what the kernel needs from the outside world. Adapters implement them; the core only names them.

pub mod embed;
pub mod store;
