//! Clustered unit vectors, written straight as JSON.

use super::rng::Rng;

/// How many directions the vectors gather around.
pub(crate) const CLUSTERS: usize = 64;
/// Length of the perturbation relative to the centre: a cosine of about 0.86 to it.
const SPREAD: f32 = 0.6;
/// Decimals of a component.
const SCALE: f32 = 1_000_000.0;

/// A fixed set of cluster centres.
#[derive(Debug)]
pub(crate) struct Clusters {
    centres: Vec<Vec<f32>>,
    noise: f32,
}

impl Clusters {
    /// Centres of `dim` components, decided by `seed`.
    pub(crate) fn new(dim: usize, seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0xC1A5_7E25);
        let centres = (0..CLUSTERS)
            .map(|_| {
                let mut centre: Vec<f32> = (0..dim).map(|_| rng.signed()).collect();
                normalise(&mut centre);
                centre
            })
            .collect();
        // A uniform draw in [-a, a] has variance a²/3.
        Self { centres, noise: SPREAD * (3.0 / dim as f32).sqrt() }
    }

    /// A perturbed centre of unit length.
    pub(crate) fn near(&self, cluster: usize, rng: &mut Rng) -> Vec<f32> {
        let centre = &self.centres[cluster % CLUSTERS];
        let mut vector: Vec<f32> = centre.iter().map(|c| c + self.noise * rng.signed()).collect();
        normalise(&mut vector);
        vector
    }

    /// Appends [`Self::near`] as a JSON array of fixed-point numbers.
    pub(crate) fn write(&self, cluster: usize, rng: &mut Rng, out: &mut String) {
        out.push('[');
        for (index, component) in self.near(cluster, rng).into_iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            push_fixed(component, out);
        }
        out.push(']');
    }
}

fn normalise(vector: &mut [f32]) {
    let norm = vector.iter().map(|c| c * c).sum::<f32>().sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|c| *c /= norm);
    }
}

/// Appends a component in `[-1, 1]` with six decimals; much cheaper than shortest-float formatting.
fn push_fixed(value: f32, out: &mut String) {
    if value < 0.0 {
        out.push('-');
    }
    let scaled = (value.abs().min(1.0) * SCALE).round() as u32;
    out.push(if scaled >= 1_000_000 { '1' } else { '0' });
    out.push('.');
    let mut divisor = 100_000;
    while divisor > 0 {
        out.push(char::from(b'0' + (scaled / divisor % 10) as u8));
        divisor /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_point_numbers() {
        let text = |value| {
            let mut out = String::new();
            push_fixed(value, &mut out);
            out
        };
        assert_eq!(text(0.5), "0.500000");
        assert_eq!(text(-0.012_345), "-0.012345");
        assert_eq!(text(1.0), "1.000000");
        assert_eq!(text(0.0), "0.000000");
    }

    #[test]
    fn vectors_are_unit_and_near_their_centre() {
        let clusters = Clusters::new(384, 1);
        let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
        let vector = clusters.near(3, &mut Rng::new(9));
        assert!((cosine(&vector, &vector) - 1.0).abs() < 1e-4);
        assert!((0.75..0.95).contains(&cosine(&vector, &clusters.centres[3])));
        assert!(cosine(&vector, &clusters.centres[4]).abs() < 0.4);
    }

    #[test]
    fn written_vectors_are_json() {
        let mut out = String::new();
        Clusters::new(16, 1).write(0, &mut Rng::new(1), &mut out);
        let parsed: Vec<f32> = serde_json::from_str(&out).unwrap();
        assert_eq!(parsed.len(), 16);
    }
}
