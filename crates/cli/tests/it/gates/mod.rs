//! `aionis gate` and `aionis scale`, as whole processes: for every check a planted violation that it finds.

mod catalogue;
mod core;
mod core_server;
mod perf;
mod scale;
mod scoped;
mod world;
