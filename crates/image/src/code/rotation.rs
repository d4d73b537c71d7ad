//! A random rotation, the same everywhere and for ever.

/// The unit vector in a rotated space of so many words of 64 coordinates: random signs, then Hadamard transforms of parts
/// that overlap from one round to the next, so that every coordinate is mixed with every other.
pub(super) fn rotate(vector: &[f32], words: usize) -> Vec<f32> {
    let norm = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    #[expect(clippy::cast_possible_truncation, reason = "a coordinate of a unit vector")]
    let scale = if norm > 0.0 { (1.0 / norm) as f32 } else { 0.0 };
    let mut rotated: Vec<f32> = vector.iter().map(|x| x * scale).collect();
    rotated.resize(64 * words, 0.0);
    let mut state = 0x5eed_u64;
    for round in 0..3 {
        for chunk in rotated.chunks_mut(64) {
            // SplitMix64 (Steele, Lea and Flood, 2014): the same signs everywhere and for ever.
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            let bits = z ^ (z >> 31);
            for (at, x) in chunk.iter_mut().enumerate() {
                *x = f32::from_bits(x.to_bits() ^ (((bits >> at & 1) as u32) << 31));
            }
        }
        // Powers of two from the left, then from the right, then from the left again.
        let mut rest: &mut [f32] = &mut rotated;
        while !rest.is_empty() {
            let part = 1 << rest.len().ilog2();
            let (now, later) = match round % 2 {
                0 => rest.split_at_mut(part),
                _ => {
                    let (later, now) = rest.split_at_mut(rest.len() - part);
                    (now, later)
                }
            };
            hadamard(now);
            rest = later;
        }
    }
    rotated
}

fn hadamard(values: &mut [f32]) {
    let mut half = 1;
    while half < values.len() {
        for block in values.chunks_mut(2 * half) {
            let (low, high) = block.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    #[expect(clippy::cast_precision_loss, reason = "a dimension is far below 2^24")]
    let scale = 1.0 / (values.len() as f32).sqrt();
    values.iter_mut().for_each(|x| *x *= scale);
}

#[cfg(test)]
mod tests {
    use super::{super::tests::vectors, *};
    use crate::quantised::cosine;

    #[test]
    fn a_rotation_keeps_lengths_and_angles() {
        let vectors = vectors(3, 700);
        let rotated: Vec<Vec<f32>> = vectors.iter().map(|vector| rotate(vector, 11)).collect();
        for (vector, turned) in vectors.iter().zip(&rotated) {
            let norm: f32 = turned.iter().map(|x| x * x).sum();
            assert!((norm - 1.0).abs() < 1e-4, "{norm}");
            let before = cosine(&vectors[0], vector);
            let after = cosine(&rotated[0], turned);
            assert!((before - after).abs() < 1e-5, "{before} {after}");
        }
    }
}
