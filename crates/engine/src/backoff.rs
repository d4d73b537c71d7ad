//! Growing pauses between tries.

use std::time::Duration;

/// `base × 2^attempt`, at most `max`, of which the last half is left to chance (`jitter` in 0…1) so that those who
/// failed together do not come back together.
pub fn pause(base: Duration, max: Duration, attempt: u32, jitter: f64) -> Duration {
    let full = base.saturating_mul(2_u32.saturating_pow(attempt.min(20))).min(max);
    full.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
}

/// A number in 0…1 from a fresh random id; good enough to spread retries.
pub fn jitter() -> f64 {
    let (high, _) = uuid::Uuid::new_v4().as_u64_pair();
    #[expect(clippy::cast_precision_loss, reason = "any spread will do")]
    let share = (high >> 11) as f64 / (1_u64 << 53) as f64;
    share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit() {
        let (base, max) = (Duration::from_secs(1), Duration::from_secs(60));
        let full = |attempt| pause(base, max, attempt, 1.0);
        assert_eq!([full(0), full(1), full(3), full(10), full(u32::MAX)].map(|d| d.as_secs()), [1, 2, 8, 60, 60]);
        assert_eq!(pause(base, max, 3, 0.0), Duration::from_secs(4));
        assert!((0..100).map(|_| jitter()).all(|j| (0.0..=1.0).contains(&j)));
    }
}
