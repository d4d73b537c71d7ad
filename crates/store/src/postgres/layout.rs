//! Which connections were made before flat and partitioned tables were exchanged: how they plan statements does not fit any
//! more. They work, so that a hint that is lost does no harm; the pool makes each connection anew after half an hour anyway.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// When the layout last changed, as far as this process was told.
#[derive(Debug, Default)]
pub(crate) struct Layout(Mutex<Option<Instant>>);

impl Layout {
    /// It changed now.
    pub(crate) fn changed(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether a connection of some age was made after the last change.
    pub(crate) fn is_current(&self, age: Duration) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none_or(|at| at.elapsed() > age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_from_before_the_change_is_not_current() {
        let layout = Layout::default();
        assert!(layout.is_current(Duration::from_secs(3_600)));
        layout.changed();
        assert!(!layout.is_current(Duration::from_secs(3_600)));
        while !layout.is_current(Duration::ZERO) {
            std::hint::spin_loop();
        }
    }
}
