//! Numbers as ECMAScript prints them: a whole number has no fraction.

use serde::Serializer;

/// Largest magnitude up to which every whole double is exact as an integer.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// Serialises `1000.0` as `1000`, for responses that published clients compare as text.
pub(super) fn plain<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if number.fract() == 0.0 && number.abs() <= MAX_EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "whole and in range")]
        serializer.serialize_i64(*number as i64)
    } else {
        serializer.serialize_f64(*number)
    }
}
