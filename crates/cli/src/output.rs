//! The only place that prints.
#![expect(clippy::print_stderr, reason = "this module is the program's mouth")]

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
    sync::{Mutex, PoisonError},
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

/// The progress of one thing after the other, for whoever reports it through `&self`.
#[derive(Default)]
pub(crate) struct Bar(Mutex<Option<ProgressBar>>);

impl Bar {
    /// The next thing begins.
    pub(crate) fn start(&self, total: u64, what: &str) {
        self.clear();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress(total, what));
    }

    pub(crate) fn step(&self, steps: u64) {
        if let Some(bar) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            bar.inc(steps);
        }
    }

    pub(crate) fn clear(&self) {
        if let Some(bar) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bar.finish_and_clear();
        }
    }
}
