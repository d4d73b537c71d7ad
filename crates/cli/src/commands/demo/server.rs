//! A server of the demo's own, as a child process on a free port.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use tokio::process::{Child, Command};

use crate::{client::Client, failure::Failure};

/// A running child.
pub(super) struct OwnServer {
    child: Child,
    port: u16,
    data_dir: PathBuf,
    model_dir: Option<PathBuf>,
}

const START_MAX: Duration = Duration::from_secs(20);

impl OwnServer {
    /// Starts `aionis serve` on a data directory and waits until it answers.
    pub(super) async fn start(data_dir: &Path, model_dir: Option<&Path>) -> Result<Self, Failure> {
        std::fs::create_dir_all(data_dir)
            .map_err(|e| Failure::new(format!("cannot make the data directory {}: {e}", data_dir.display())))?;
        let port_file = data_dir.join("port");
        // A file of an earlier run would name a port that is not ours.
        match std::fs::remove_file(&port_file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("serve")
            .args(["--host", "127.0.0.1", "--port", "0"])
            .arg("--port-file")
            .arg(&port_file)
            .arg("--data-dir")
            .arg(data_dir)
            // The demo's own server, for nobody else and on loopback, whatever the environment says for another one.
            .env("MEMORY_AUTH_MODE", "off")
            .env("APP_ENV", "dev")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if let Some(model_dir) = model_dir {
            command.arg("--model-dir").arg(model_dir);
        }
        let mut child = command.spawn().map_err(|e| Failure::new(format!("the server cannot be started: {e}")))?;
        let port = wait_for_port(&mut child, &port_file).await?;
        Ok(Self { child, port, data_dir: data_dir.to_owned(), model_dir: model_dir.map(Path::to_owned) })
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Stops the server and starts it again on the same data.
    pub(super) async fn restart(self) -> Result<Self, Failure> {
        let (data_dir, model_dir) = (self.data_dir.clone(), self.model_dir.clone());
        self.stop().await?;
        Self::start(&data_dir, model_dir.as_deref()).await
    }

    /// Asks the server to stop (SIGTERM) and waits until it has.
    pub(super) async fn stop(mut self) -> Result<(), Failure> {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)
                .map_err(|e| Failure::new(format!("the server could not be told to stop: {e}")))?;
        }
        let ended = tokio::time::timeout(START_MAX, self.child.wait())
            .await
            .map_err(|_| Failure::new("the server did not stop in time"))??;
        if ended.success() { Ok(()) } else { Err(Failure::new(format!("the server ended with {ended}"))) }
    }
}

async fn wait_for_port(child: &mut Child, port_file: &Path) -> Result<u16, Failure> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            let mut said = String::new();
            if let Some(stderr) = child.stderr.as_mut() {
                tokio::io::AsyncReadExt::read_to_string(stderr, &mut said).await?;
            }
            return Err(Failure::new(format!("the server ended at once ({status}): {}", said.trim())));
        }
        let port = std::fs::read_to_string(port_file).ok().and_then(|text| text.trim().parse().ok());
        if let Some(port) = port {
            let client = Client::new(&format!("http://127.0.0.1:{port}"), Duration::from_secs(5))?;
            if client.get("/health/live").await.is_ok_and(|(status, _)| status.is_success()) {
                return Ok(port);
            }
        }
        if started.elapsed() > START_MAX {
            return Err(Failure::new("the server did not answer in time"));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
