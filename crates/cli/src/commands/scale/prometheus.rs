//! Two readings of a server's `/metrics`, and what changed between them.

use std::collections::{BTreeMap, BTreeSet};

/// Observations a percentile needs; with fewer it says nothing.
pub(super) const OBSERVATIONS_MIN: f64 = 20.0;

/// What a server shows at a moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading {
    /// Values by series: name and labels, as the text format writes them.
    samples: BTreeMap<Series, f64>,
    /// Metrics the server says it has, whether or not anything happened to them yet.
    declared: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Series {
    name: String,
    labels: BTreeMap<String, String>,
}

impl Reading {
    /// Reads the text format. Lines that are neither samples nor declare a metric are passed over; a reading without any
    /// sample is none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let samples: BTreeMap<Series, f64> =
            text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect();
        let declared = text.lines().filter_map(declares).map(str::to_owned).collect();
        (!samples.is_empty()).then_some(Self { samples, declared })
    }

    /// Whether the server says that it has a metric. Of one it does not have, nothing is known: not that it is zero.
    pub(super) fn declares(&self, name: &str) -> bool {
        self.declared.contains(name)
    }

    /// The value of a metric without labels.
    pub(super) fn gauge(&self, name: &str) -> Option<f64> {
        self.samples.iter().find(|(series, _)| series.name == name).map(|(_, value)| *value)
    }

    fn of<'a>(&'a self, name: &'a str, labels: &'a [(&'a str, &'a str)]) -> impl Iterator<Item = (&'a Series, f64)> {
        self.samples.iter().filter(move |(series, _)| series.name == name && series.has(labels)).map(|(s, v)| (s, *v))
    }

    fn value(&self, series: &Series) -> f64 {
        self.samples.get(series).copied().unwrap_or(0.0)
    }
}

impl Series {
    fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(name, value)| self.labels.get(*name).is_some_and(|held| held == value))
    }
}

/// The metric a line declares: `# HELP name …` or `# TYPE name …`.
fn declares(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "))?;
    rest.split_whitespace().next()
}

/// `name{label="value",…} number`
fn sample(line: &str) -> Option<(Series, f64)> {
    let (series, value) = line.trim().rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, rest)) = series.split_once('{') else {
        return Some((Series { name: series.to_owned(), labels: BTreeMap::new() }, value));
    };
    let mut labels = BTreeMap::new();
    let mut rest = rest.strip_suffix('}')?;
    while !rest.is_empty() {
        let (label, after) = rest.split_once("=\"")?;
        let end = closing(after)?;
        labels.insert(label.to_owned(), after[..end].to_owned());
        rest = after[end + 1..].trim_start_matches(',');
    }
    Some((Series { name: name.to_owned(), labels }, value))
}

/// Where the quote is that ends a value; one after a backslash does not.
fn closing(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, sign) in text.char_indices() {
        match sign {
            '"' if !escaped => return Some(at),
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    None
}

/// What happened between two readings.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pub(super) before: Reading,
    pub(super) after: Reading,
}

impl Window {
    /// By how much the series of a counter grew together. Nothing if one shrank: the server was started anew meanwhile.
    pub(super) fn grown(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut sum = 0.0;
        for (series, value) in self.after.of(name, labels) {
            let grown = value - self.before.value(series);
            if grown < 0.0 {
                return None;
            }
            sum += grown;
        }
        Some(sum)
    }

    /// A percentile of what a histogram observed, in seconds, with the number of observations: within its bucket by
    /// proportion. Nothing with too few observations. What lies beyond the last bound is said to be at it.
    pub(super) fn percentile(&self, name: &str, labels: &[(&str, &str)], part: f64) -> Percentile {
        let bucket = format!("{name}_bucket");
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for (series, value) in self.after.of(&bucket, labels) {
            let Some(bound) = series.labels.get("le").and_then(|le| le.parse::<f64>().ok()) else { continue };
            let grown = value - self.before.value(series);
            if grown < 0.0 {
                return Percentile { seconds: None, observations: 0.0 };
            }
            // Several series of other labels count together.
            match buckets.iter_mut().find(|(held, _)| held.total_cmp(&bound).is_eq()) {
                Some((_, count)) => *count += grown,
                None => buckets.push((bound, grown)),
            }
        }
        buckets.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let observations = buckets.last().map_or(0.0, |(_, count)| *count);
        let seconds = (observations >= OBSERVATIONS_MIN).then(|| within(&buckets, part * observations)).flatten();
        Percentile { seconds, observations }
    }
}

/// A percentile and on how much it was taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Percentile {
    pub(super) seconds: Option<f64>,
    pub(super) observations: f64,
}

/// Where the observation of a rank lies; `buckets` are cumulative and sorted.
fn within(buckets: &[(f64, f64)], rank: f64) -> Option<f64> {
    let (mut low, mut below) = (0.0, 0.0);
    for &(bound, count) in buckets {
        if count >= rank {
            if bound.is_infinite() {
                return Some(low);
            }
            let of_bucket = count - below;
            let part = if of_bucket > 0.0 { (rank - below) / of_bucket } else { 1.0 };
            return Some((bound - low).mul_add(part, low));
        }
        (low, below) = (bound, count);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: [(&str, &str); 2] = [("route", "/w"), ("class", "2xx")];

    fn window(before: &str, after: &str) -> Window {
        let read = |text: &str| Reading::parse(text).unwrap_or_default();
        Window { before: read(before), after: read(after) }
    }

    fn histogram(counts: [u32; 3]) -> String {
        let line = |le: &str, count: u32| format!("h_bucket{{route=\"/w\",class=\"2xx\",le=\"{le}\"}} {count}\n");
        line("0.1", counts[0]) + &line("0.5", counts[1]) + &line("+Inf", counts[2])
    }

    #[test]
    fn samples_are_read_with_their_labels() {
        let text = "# HELP x y\nx 1\ny{a=\"b \\\"c\\\", d\",e=\"f\"} 2.5\nbroken\n";
        let reading = Reading::parse(text).unwrap();
        assert_eq!(reading.gauge("x"), Some(1.0));
        assert_eq!(reading.of("y", &[("e", "f")]).count(), 1);
        assert_eq!(reading.of("y", &[("a", "b \\\"c\\\", d")]).count(), 1);
        assert_eq!(reading.of("y", &[("e", "g")]).count(), 0);
        assert!(reading.declares("x") && !reading.declares("y"), "a sample alone declares nothing");
        assert!(Reading::parse("# only a remark\n").is_none() && Reading::parse("").is_none());
    }

    #[test]
    fn a_percentile_is_taken_of_what_the_window_saw() {
        // 100 observations before are not counted: all of them were fast.
        let seen = window(&histogram([100, 100, 100]), &histogram([150, 200, 200]));
        let p95 = seen.percentile("h", &ROUTE, 0.95);
        assert_eq!(p95.observations, 100.0);
        // Rank 95 of 100: 50 up to 0.1, so 45 of the 50 in the bucket to 0.5.
        assert!((p95.seconds.unwrap() - (0.1 + 0.4 * 0.9)).abs() < 1e-9, "{p95:?}");
        assert_eq!(window("", &histogram([0, 0, 100])).percentile("h", &ROUTE, 0.95).seconds, Some(0.5));
        let few = window("", &histogram([19, 19, 19])).percentile("h", &ROUTE, 0.95);
        assert_eq!((few.seconds, few.observations), (None, 19.0));
        let restarted = window(&histogram([9, 9, 9]), &histogram([1, 1, 1])).percentile("h", &ROUTE, 0.95);
        assert_eq!(restarted.seconds, None);
        assert_eq!(window("", "x 1\n").percentile("h", &ROUTE, 0.95).observations, 0.0);
    }

    #[test]
    fn counters_grow_together_and_a_restart_is_no_growth() {
        let seen = window("c{a=\"1\"} 5\n", "c{a=\"1\"} 7\nc{a=\"2\"} 3\n");
        assert_eq!(seen.grown("c", &[]), Some(5.0));
        assert_eq!(seen.grown("c", &[("a", "2")]), Some(3.0));
        assert_eq!(seen.grown("none", &[]), Some(0.0));
        assert_eq!(window("c 5\n", "c 1\n").grown("c", &[]), None);
    }
}
