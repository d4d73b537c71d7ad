//! Runs a command with a private PostgreSQL server, whose address it finds in `AIONIS_TEST_PG_URL`.
//!
//! `with-postgres COMMAND [ARGUMENT…]`; the exit code is the command's. With `AIONIS_TEST_PG_URL` set already, the command
//! runs as it is. `cargo nextest` runs half as many tests again as there are processors at a time, unless
//! `NEXTEST_TEST_THREADS` says otherwise: many of ours wait for time-outs, for processes to start, and for the disk.
#![allow(clippy::print_stderr, reason = "a tool for developers")]

use std::{
    process::{Command, ExitCode},
    thread::available_parallelism,
};

use aionis_testkit::postgres::{PrivateServer, URL_VARIABLE};

/// How many tests `cargo nextest` runs at a time.
const THREADS_VARIABLE: &str = "NEXTEST_TEST_THREADS";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let Some(program) = arguments.next() else {
        eprintln!("usage: with-postgres COMMAND [ARGUMENT…]");
        return ExitCode::from(2);
    };
    let own = std::env::var_os(URL_VARIABLE).is_none().then(|| PrivateServer::start(false));
    let mut command = Command::new(&program);
    command.args(arguments);
    if let Some(server) = &own {
        command.env(URL_VARIABLE, server.url("postgres"));
    }
    if std::env::var_os(THREADS_VARIABLE).is_none() {
        let processors = available_parallelism().map_or(1, |n| n.get());
        command.env(THREADS_VARIABLE, (processors + processors / 2).to_string());
    }
    match command.status() {
        Ok(status) => ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
        Err(e) => {
            eprintln!("with-postgres: {} cannot be run: {e}", program.display());
            ExitCode::from(1)
        }
    }
}
