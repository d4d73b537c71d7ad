//! What all remote providers share: splitting calls and checking answers.

use aionis_core::ports::embed::{EmbedError, EmbedErrorKind};
use reqwest::Url;
use serde::de::DeserializeOwned;

/// An answer that cannot be used.
pub(crate) fn bad_response(message: impl Into<String>) -> EmbedError {
    EmbedError::new(EmbedErrorKind::BadResponse, message)
}

/// Decodes a JSON answer. The message tells where it is wrong, not what stands there.
pub(crate) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, EmbedError> {
    serde_json::from_slice(body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        bad_response(format!("the answer is not the expected JSON (line {line}, column {column})"))
    })
}

/// Checks that there is one vector of `dim` finite numbers per text.
pub(crate) fn check_vectors(vectors: &[Vec<f32>], texts: usize, dim: usize) -> Result<(), EmbedError> {
    if vectors.len() != texts {
        return Err(bad_response(format!("{texts} texts were sent, {} vectors came back", vectors.len())));
    }
    for vector in vectors {
        if vector.len() != dim {
            let found = vector.len();
            return Err(bad_response(format!("a vector has {found} components, the configured dimension is {dim}")));
        }
        if vector.iter().any(|component| !component.is_finite()) {
            return Err(bad_response("a vector holds a number that is not finite"));
        }
    }
    Ok(())
}

/// Parses an `http` or `https` address.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn parse_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text.trim()).map_err(|error| error.to_string())?;
    if matches!(url.scheme(), "http" | "https") {
        Ok(url)
    } else {
        Err("it must begin with http:// or https://".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_must_be_finite_and_of_the_right_count_and_size() {
        let message = |vectors: &[Vec<f32>]| check_vectors(vectors, 1, 2).map_err(|error| error.message);
        assert_eq!(message(&[vec![0.0, -1.0]]), Ok(()));
        for (vectors, part) in [
            (vec![], "0 vectors"),
            (vec![vec![1.0]], "1 components"),
            (vec![vec![1.0, f32::INFINITY]], "not finite"),
            (vec![vec![f32::NAN, 1.0]], "not finite"),
        ] {
            assert!(message(&vectors).unwrap_err().contains(part));
        }
    }

    #[test]
    fn decoding_errors_show_a_place_but_no_content() {
        let message = decode::<Vec<u8>>(br#"["secret"]"#).unwrap_err().message;
        assert_eq!(message, "the answer is not the expected JSON (line 1, column 9)");
    }
}
