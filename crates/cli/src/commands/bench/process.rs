//! CPU time and memory of a process, from `/proc`.

use std::fs;

use super::BenchError;

/// Kernel clock ticks per second as `/proc` reports them, when the auxiliary vector does not say.
const DEFAULT_TICKS: u64 = 100;
/// `AT_CLKTCK` of the auxiliary vector.
const AT_CLKTCK: u64 = 17;

/// Reads the figures of this process and, if asked for, of the server.
#[derive(Debug)]
pub(crate) struct Processes {
    server: Option<u32>,
    ticks: u64,
}

/// CPU seconds used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CpuTimes {
    /// By this process, all threads.
    pub(crate) client: Option<f64>,
    /// By the server, all threads.
    pub(crate) server: Option<f64>,
}

impl CpuTimes {
    /// What was used since `start`.
    pub(crate) fn since(self, start: Self) -> Self {
        let difference = |end: Option<f64>, start: Option<f64>| Some(((end? - start?) * 1000.0).round() / 1000.0);
        Self { client: difference(self.client, start.client), server: difference(self.server, start.server) }
    }
}

impl Processes {
    /// Fails if the server's figures cannot be read, so a mistyped id shows at once.
    pub(crate) fn new(server: Option<u32>) -> Result<Self, BenchError> {
        let ticks = fs::read("/proc/self/auxv").ok().and_then(|raw| parse_ticks(&raw)).unwrap_or(DEFAULT_TICKS);
        let processes = Self { server, ticks };
        if let Some(pid) = server
            && processes.cpu_seconds(&pid.to_string()).is_none()
        {
            return Err(BenchError::Args(format!("--server-pid {pid}: /proc/{pid}/stat cannot be read")));
        }
        Ok(processes)
    }

    /// The CPU seconds used so far.
    pub(crate) fn cpu(&self) -> CpuTimes {
        CpuTimes {
            client: self.cpu_seconds("self"),
            server: self.server.and_then(|pid| self.cpu_seconds(&pid.to_string())),
        }
    }

    /// Resident memory of the server in bytes.
    pub(crate) fn server_rss(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.server?)).ok()?;
        parse_rss(&status)
    }

    fn cpu_seconds(&self, pid: &str) -> Option<f64> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(parse_cpu_ticks(&stat)? as f64 / self.ticks as f64)
    }
}

/// `utime + stime` of a `stat` line. The command may contain blanks and parentheses: fields count from the last `)`.
fn parse_cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map(str::parse::<u64>);
    Some(times.next()?.ok()? + times.next()?.ok()?)
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
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 8 0 100 1000 10";
        assert_eq!(parse_cpu_ticks(stat), Some(300));
        assert_eq!(parse_cpu_ticks("nonsense"), None);
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
        let start = CpuTimes { client: Some(1.0), server: None };
        let used = CpuTimes { client: Some(1.5), server: Some(3.0) }.since(start);
        assert_eq!((used.client, used.server), (Some(0.5), None));
    }
}
