//! How the verdict of a report is taken, and bounds of checks as flags.

use aionis_core::jobs::checks::Strictness;
use clap::Args;

/// Flags of reports with checks.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct StrictArgs {
    /// Error checks that are inconclusive fail the verdict too.
    #[arg(long)]
    strict: bool,
    /// Warnings count as errors do; implies --strict.
    #[arg(long)]
    strict_warnings: bool,
}

impl StrictArgs {
    pub(crate) fn strictness(self) -> Strictness {
        Strictness { strict: self.strict || self.strict_warnings, strict_warnings: self.strict_warnings }
    }
}

/// A number from 0 to 1.
pub(crate) fn part(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|part| (0.0..=1.0).contains(part)).ok_or_else(|| "must be a number from 0 to 1".to_owned())
}

#[cfg(test)]
mod tests {
    use super::part;

    #[test]
    fn a_part_is_a_number_from_0_to_1() {
        assert_eq!(part("0.35"), Ok(0.35));
        for wrong in ["abc", "", "NaN", "inf", "-0.1", "1.01"] {
            assert!(part(wrong).is_err(), "{wrong}");
        }
    }
}
