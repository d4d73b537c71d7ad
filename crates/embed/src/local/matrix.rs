//! The embedding matrix, read from a safetensors file row by row and held in half precision.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use half::f16;
use half::slice::HalfFloatSliceExt;
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::LocalModelError;

/// Bytes of the length field before the header.
const LENGTH_BYTES: u64 = 8;
/// Longest header accepted; a model of one tensor needs a hundred bytes.
const MAX_HEADER_BYTES: u64 = 1 << 20;
/// Read buffer, so that the raw file never lies in memory as a whole.
const BUFFER_BYTES: usize = 256 << 10;
/// Names the one tensor may have: that of model2vec and that of sentence-transformers.
const TENSOR_NAMES: [&str; 2] = ["embeddings", "embedding.weight"];

/// Token vectors, one row per token id.
pub(super) struct Matrix {
    values: Vec<f16>,
    dim: usize,
}

impl Matrix {
    /// Reads the one tensor of the file at `path` (f32 or f16, two-dimensional).
    ///
    /// # Errors
    /// When the file cannot be read, is not such a file, or holds further tensors (weights or a token mapping would
    /// change what a row means).
    pub(super) fn load(path: &Path) -> Result<Self, LocalModelError> {
        let file = File::open(path).map_err(|source| LocalModelError::read(path, source))?;
        let length = file.metadata().map_err(|source| LocalModelError::read(path, source))?.len();
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, file);
        let (dtype, rows, dim) = read_header(&mut reader, length, path)?;
        let values =
            read_values(&mut reader, dtype, rows, dim).map_err(|source| LocalModelError::read(path, source))?;
        if values.iter().any(|value| !value.is_finite()) {
            return Err(LocalModelError::unsupported(
                path,
                "the matrix holds numbers that are not finite in half precision",
            ));
        }
        Ok(Self { values, dim })
    }

    /// Components of a row.
    pub(super) fn dim(&self) -> usize {
        self.dim
    }

    /// Number of rows.
    pub(super) fn rows(&self) -> usize {
        self.values.len() / self.dim
    }

    /// The mean of the rows `ids`, scaled to length 1; `None` when it has no direction (no ids, or a zero sum).
    pub(super) fn unit_mean(&self, ids: impl Iterator<Item = u32>) -> Option<Vec<f32>> {
        let mut sum = vec![0.0_f32; self.dim];
        let mut row = vec![0.0_f32; self.dim];
        for id in ids {
            let start = usize::try_from(id).ok()?.checked_mul(self.dim)?;
            self.values.get(start..start + self.dim)?.convert_to_f32_slice(&mut row);
            for (total, value) in sum.iter_mut().zip(&row) {
                *total += value;
            }
        }
        // The mean and the sum have the same direction, so the division by the count is left out.
        let norm = sum.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>().sqrt();
        if !norm.is_normal() {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "the result is single precision")]
        for value in &mut sum {
            *value = (f64::from(*value) / norm) as f32;
        }
        Some(sum)
    }
}

/// Element type, rows and columns, after checking that the file is as long as its header says.
fn read_header(reader: &mut impl Read, length: u64, path: &Path) -> Result<(Dtype, usize, usize), LocalModelError> {
    let mut size = [0_u8; LENGTH_BYTES as usize];
    reader.read_exact(&mut size).map_err(|source| LocalModelError::read(path, source))?;
    let header_bytes = u64::from_le_bytes(size);
    if header_bytes > MAX_HEADER_BYTES {
        return Err(LocalModelError::unsupported(path, "the header is too long"));
    }
    let mut header = Vec::new();
    reader.take(header_bytes).read_to_end(&mut header).map_err(|source| LocalModelError::read(path, source))?;
    let metadata: Metadata = serde_json::from_slice(&header)
        .map_err(|error| LocalModelError::unsupported(path, format!("the header is not valid: {error}")))?;
    let data_bytes = u64::try_from(metadata.data_len()).unwrap_or(u64::MAX);
    if length.checked_sub(LENGTH_BYTES + header_bytes) != Some(data_bytes) {
        return Err(LocalModelError::unsupported(path, "the file length does not agree with the header"));
    }
    let tensors = metadata.tensors();
    let tensor = TENSOR_NAMES.iter().find_map(|name| tensors.get(*name)).filter(|_| tensors.len() == 1);
    let Some(tensor) = tensor else {
        return Err(LocalModelError::unsupported(path, "exactly one tensor named `embeddings` is expected"));
    };
    match (tensor.dtype, tensor.shape.as_slice()) {
        (Dtype::F32 | Dtype::F16, &[rows, dim]) if rows > 0 && dim > 0 => Ok((tensor.dtype, rows, dim)),
        (dtype, shape) => Err(LocalModelError::unsupported(
            path,
            format!("a matrix of F32 or F16 is expected, found {dtype:?} of shape {shape:?}"),
        )),
    }
}

/// The matrix in half precision. The element count was checked against the file length by the header.
fn read_values(reader: &mut impl Read, dtype: Dtype, rows: usize, dim: usize) -> std::io::Result<Vec<f16>> {
    let mut values = Vec::with_capacity(rows * dim);
    let width = if dtype == Dtype::F32 { 4 } else { 2 };
    let mut bytes = vec![0_u8; dim * width];
    let mut floats = vec![0.0_f32; dim];
    let mut halves = vec![f16::ZERO; dim];
    for _ in 0..rows {
        reader.read_exact(&mut bytes)?;
        if dtype == Dtype::F32 {
            for (float, raw) in floats.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *float = f32::from_le_bytes(*raw);
            }
            halves.convert_from_f32_slice(&floats);
        } else {
            for (half, raw) in halves.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *half = f16::from_le_bytes(*raw);
            }
        }
        values.extend_from_slice(&halves);
    }
    Ok(values)
}
