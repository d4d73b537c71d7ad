//! Deterministic pseudo-random vectors, for tests and demonstrations without any model.

use aionis_core::ports::embed::{EmbedError, EmbedPurpose, Embedder};
use async_trait::async_trait;
use sha2::{Digest, Sha256};

/// Texts per call.
const BATCH_SIZE: usize = 256;

/// The mulberry32 generator: 32-bit state, numbers in [0, 1) that are multiples of 2^-32.
struct Mulberry32(u32);

impl Mulberry32 {
    fn next_unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x6D2B_79F5);
        let s = self.0;
        let mut t = (s ^ (s >> 15)).wrapping_mul(s | 1);
        t ^= t.wrapping_add((t ^ (t >> 7)).wrapping_mul(t | 61));
        f64::from(t ^ (t >> 14)) / 4_294_967_296.0
    }
}

/// Components in double precision: `2r - 1` per draw, seeded by the first four bytes (little endian) of the SHA-256 of
/// the text. The vectors are not normalised and carry no meaning; equal texts give equal vectors.
fn components(text: &str) -> impl Iterator<Item = f64> {
    let digest = Sha256::digest(text.as_bytes());
    let mut generator = Mulberry32(u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]));
    std::iter::repeat_with(move || 2.0 * generator.next_unit() - 1.0)
}

/// The provider `fake:deterministic`.
#[derive(Clone, Debug)]
pub struct FakeEmbedder {
    dim: usize,
}

impl FakeEmbedder {
    /// A provider of vectors with `dim` components.
    pub fn new(dim: usize) -> Self {
        Self { dim }
    }

    /// The vector of one text.
    pub fn vector(&self, text: &str) -> Vec<f32> {
        #[expect(clippy::cast_possible_truncation, reason = "stored vectors are single precision")]
        components(text).take(self.dim).map(|component| component as f32).collect()
    }
}

#[async_trait]
impl Embedder for FakeEmbedder {
    fn name(&self) -> &str {
        "fake:deterministic"
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn batch_size(&self) -> usize {
        BATCH_SIZE
    }

    fn is_local(&self) -> bool {
        true
    }

    async fn embed(&self, texts: &[String], _purpose: EmbedPurpose) -> Result<Vec<Vec<f32>>, EmbedError> {
        Ok(texts.iter().map(|text| self.vector(text)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HI: [f64; 4] =
        [-0.290_503_594_558_686, 0.819_814_434_740_692_4, 0.406_517_665_367_573_5, -0.756_314_343_307_167_3];
    const EMPTY: [f64; 2] = [0.868_583_988_863_974_8, 0.027_033_951_599_150_896];

    #[test]
    fn components_equal_the_golden_ones_exactly() {
        assert_eq!(components("hi").take(4).collect::<Vec<_>>(), HI);
        assert_eq!(components("").take(2).collect::<Vec<_>>(), EMPTY);
    }

    #[tokio::test]
    async fn vectors_are_the_components_in_single_precision() {
        let fake = FakeEmbedder::new(1536);
        let texts = ["hi".to_owned(), String::new(), "hi".to_owned()];
        let vectors = fake.embed(&texts, EmbedPurpose::Query).await.unwrap();
        assert_eq!(vectors.iter().map(Vec::len).collect::<Vec<_>>(), [1536; 3]);
        assert_eq!(vectors[0], vectors[2]);
        for (component, expected) in vectors[0].iter().zip(HI) {
            assert_eq!(*component, expected as f32);
        }
        assert_eq!(vectors[1][1], EMPTY[1] as f32);
        assert_eq!((fake.name(), fake.dim(), fake.is_local()), ("fake:deterministic", 1536, true));
    }
}
