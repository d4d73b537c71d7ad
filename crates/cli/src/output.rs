//! The only place that prints.
#![expect(clippy::print_stderr, reason = "this module is the program's mouth")]

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::failure::Failure;

/// One line on stderr, exit 1.
pub(crate) fn fail(failure: &Failure) -> ExitCode {
    eprintln!("aionis: {failure}");
    ExitCode::from(1)
}

/// A line for people.
pub(crate) fn line(text: impl AsRef<str>) {
    // A closed pipe (`aionis … | head`) is not worth a panic.
    let _ = writeln!(std::io::stdout(), "{}", text.as_ref());
}

/// The result as one JSON document.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    line(serde_json::to_string_pretty(value)?);
    Ok(())
}

/// A progress bar on stderr, hidden when that is no terminal.
pub(crate) fn progress(total: u64, what: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:40}] {pos}/{len} {eta}") {
        bar.set_style(style);
    }
    bar.set_message(what.to_owned());
    bar
}
