//! Comparing secrets.

use aionis_core::canon::sha256;
use subtle::ConstantTimeEq;

/// Compares two secrets in a time that tells neither where they differ nor how long they are.
pub(crate) fn same_secret(given: &[u8], held: &[u8]) -> bool {
    sha256(given).0.ct_eq(&sha256(held).0).into()
}
