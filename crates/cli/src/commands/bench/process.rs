//! CPU time and memory of a process, from `/proc`.

use std::fs;

use super::BenchError;

/// Kernel clock ticks per second as `/proc` reports them, when the auxiliary vector does not say.
const DEFAULT_TICKS: u64 = 100;
/// `AT_CLKTCK` of the auxiliary vector.
const AT_CLKTCK: u64 = 17;

/// Reads the figures of this process and, if asked for, of the server and of its database.
#[derive(Debug)]
pub(crate) struct Processes {
    server: Option<u32>,
    database: Option<u32>,
    ticks: u64,
}

/// CPU seconds used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CpuTimes {
    /// By this process, all threads.
    pub(crate) client: Option<f64>,
    /// By the server, all threads.
    pub(crate) server: Option<f64>,
    /// By the database: its first process, its children, and those that have ended.
    pub(crate) database: Option<f64>,
}

impl CpuTimes {
    /// What was used since `start`.
    pub(crate) fn since(self, start: Self) -> Self {
        let difference = |end: Option<f64>, start: Option<f64>| Some(((end? - start?) * 1000.0).round() / 1000.0);
        Self {
            client: difference(self.client, start.client),
            server: difference(self.server, start.server),
            database: difference(self.database, start.database),
        }
    }
}

impl Processes {
    /// Fails if the figures asked for cannot be read, so a mistyped id shows at once.
    pub(crate) fn new(server: Option<u32>, database: Option<u32>) -> Result<Self, BenchError> {
        let ticks = fs::read("/proc/self/auxv").ok().and_then(|raw| parse_ticks(&raw)).unwrap_or(DEFAULT_TICKS);
        let processes = Self { server, database, ticks };
        for (flag, pid) in [("--server-pid", server), ("--database-pid", database)] {
            if let Some(pid) = pid
                && processes.cpu_seconds(&pid.to_string()).is_none()
            {
                return Err(BenchError::Args(format!("{flag} {pid}: /proc/{pid}/stat cannot be read")));
            }
        }
        Ok(processes)
    }

    /// The CPU seconds used so far.
    pub(crate) fn cpu(&self) -> CpuTimes {
        CpuTimes {
            client: self.cpu_seconds("self"),
            server: self.server.and_then(|pid| self.cpu_seconds(&pid.to_string())),
            database: self.database.and_then(|pid| self.family_cpu_seconds(pid)),
        }
    }

    /// Resident memory of the server in bytes.
    pub(crate) fn server_rss(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.server?)).ok()?;
        parse_rss(&status)
    }

    fn cpu_seconds(&self, pid: &str) -> Option<f64> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(ProcessTicks::parse(&stat)?.own as f64 / self.ticks as f64)
    }

    /// CPU seconds of a process, of its children, and of the children that have ended. A database server serves each
    /// connection by a child.
    fn family_cpu_seconds(&self, pid: u32) -> Option<f64> {
        let read = |pid: &str| ProcessTicks::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?);
        let parent = read(&pid.to_string())?;
        let children: u64 = fs::read_dir("/proc")
            .ok()?
            .filter_map(|entry| read(entry.ok()?.file_name().to_str()?))
            .filter(|process| process.parent == pid)
            .map(|process| process.own)
            .sum();
        Some((parent.own + parent.of_ended_children + children) as f64 / self.ticks as f64)
    }
}

/// What a `stat` line says.
#[derive(Debug, PartialEq, Eq)]
struct ProcessTicks {
    /// Id of the parent.
    parent: u32,
    /// `utime + stime`.
    own: u64,
    /// `cutime + cstime`.
    of_ended_children: u64,
}

impl ProcessTicks {
    /// The command may contain blanks and parentheses: fields count from the last `)`.
    fn parse(stat: &str) -> Option<Self> {
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            own: ticks(11)? + ticks(12)?,
            of_ended_children: ticks(13)? + ticks(14)?,
        })
    }
}

/// `VmRSS` of a `status` file.
fn parse_rss(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// `AT_CLKTCK` of an auxiliary vector: pairs of machine words.
fn parse_ticks(raw: &[u8]) -> Option<u64> {
    let word = |chunk: &[u8]| Some(usize::from_ne_bytes(chunk.try_into().ok()?) as u64);
    let (key_len, pair_len) = (size_of::<usize>(), 2 * size_of::<usize>());
    raw.chunks_exact(pair_len)
        .find(|pair| word(&pair[..key_len]) == Some(AT_CLKTCK))
        .and_then(|pair| word(&pair[key_len..]))
        .filter(|&ticks| ticks > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_an_awkward_command() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 3 4 20 0 8 0 100 1000 10";
        assert_eq!(ProcessTicks::parse(stat), Some(ProcessTicks { parent: 1, own: 300, of_ended_children: 7 }));
        assert_eq!(ProcessTicks::parse("nonsense"), None);
    }

    #[test]
    fn a_family_counts_its_children_living_and_ended() {
        let me = std::process::id();
        let processes = Processes::new(None, Some(me)).unwrap();
        let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        let before = processes.cpu().database.unwrap();
        let status = std::process::Command::new("sh").args(["-c", busy]).status().unwrap();
        assert!(status.success());
        let ended = processes.cpu().database.unwrap();
        assert!(ended > before, "a child that has ended counts: {before} {ended}");
        assert!(Processes::new(None, Some(u32::MAX)).is_err());
    }

    #[test]
    fn rss_in_bytes() {
        assert_eq!(parse_rss("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2048 * 1024));
        assert_eq!(parse_rss("Name:\tx\n"), None);
    }

    #[test]
    fn clock_ticks_from_the_auxiliary_vector() {
        let raw: Vec<u8> = [6usize, 4096, 17, 250, 0, 0].iter().flat_map(|w| w.to_ne_bytes()).collect();
        assert_eq!(parse_ticks(&raw), Some(250));
        assert_eq!(parse_ticks(&[]), None);
    }

    #[test]
    fn differences_need_both_ends() {
        let start = CpuTimes { client: Some(1.0), server: None, database: Some(2.0) };
        let used = CpuTimes { client: Some(1.5), server: Some(3.0), database: Some(2.25) }.since(start);
        assert_eq!((used.client, used.server, used.database), (Some(0.5), None, Some(0.25)));
    }
}
