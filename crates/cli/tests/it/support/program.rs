//! Runs of the program that end by themselves.

use std::{
    io::Read,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use serde_json::Value;

use super::until;

/// Longest time a run may take before it counts as hanging.
const RUN_MAX: Duration = Duration::from_secs(60);

/// The program, with nothing of the developer's environment.
pub(crate) fn aionis(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aionis"));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .current_dir(directory)
        .stdin(Stdio::null());
    command
}

/// The program on a data directory, with the deterministic provider.
pub(crate) fn aionis_on(data: &Path, args: &[&str]) -> Command {
    let mut command = aionis(data.parent().unwrap());
    command.args(args).arg("--data-dir").arg(data);
    command
}

/// The deterministic provider with small vectors.
pub(crate) fn fake(command: &mut Command) -> &mut Command {
    command.env("EMBEDDING_PROVIDER", "fake").env("EMBEDDING_DIM", "16")
}

/// What a run left.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// Insists on an exit code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:#?}"))
    }

    /// The one line an error is told in.
    #[track_caller]
    pub(crate) fn one_line(&self) -> &str {
        let mut lines = self.stderr.lines();
        let line = lines.next().unwrap_or_else(|| panic!("nothing on stderr: {self:#?}"));
        assert_eq!(lines.next(), None, "more than one line: {self:#?}");
        assert!(self.stdout.is_empty(), "an error has no result: {self:#?}");
        line
    }
}

/// Runs to the end.
pub(crate) fn run(command: &mut Command) -> Ended {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    std::thread::scope(|scope| {
        let stdout = scope.spawn(|| all_of(stdout));
        let stderr = scope.spawn(|| all_of(stderr));
        let status = ends(&mut child, RUN_MAX);
        Ended { code: status.code(), stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
    })
}

fn all_of(mut from: impl Read) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).unwrap();
    text
}

/// Waits for the end of a child, which is killed when it takes too long.
pub(crate) fn ends(child: &mut Child, limit: Duration) -> ExitStatus {
    let guard = KillAtPanic(child);
    until("the process ends", limit, || guard.0.try_wait().unwrap())
}

struct KillAtPanic<'a>(&'a mut Child);

impl Drop for KillAtPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}
