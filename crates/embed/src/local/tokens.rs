//! Text to token ids, the way model2vec does it.

use std::path::Path;

use serde::Deserialize;
use tokenizers::Tokenizer;

use super::LocalModelError;

/// Tokens of a text that count; the rest is cut off before unknown tokens are dropped, as model2vec does.
pub(super) const MAX_TOKENS: usize = 512;
/// Bytes of a text that are looked at: 32 per token, so that a huge text costs no more than a long one.
pub(super) const MAX_TEXT_BYTES: usize = 32 * MAX_TOKENS;

/// The part of `tokenizer.json` that names the unknown token; the tokenizer itself does not tell it.
#[derive(Deserialize)]
struct TokenizerFile {
    model: UnknownToken,
}

#[derive(Deserialize)]
struct UnknownToken {
    /// WordPiece, BPE, WordLevel.
    unk_token: Option<String>,
    /// Unigram.
    unk_id: Option<u32>,
}

/// A tokenizer without special tokens, padding and truncation.
pub(super) struct Tokens {
    tokenizer: Tokenizer,
    unknown: Option<u32>,
}

impl Tokens {
    /// Reads `tokenizer.json` at `path`.
    ///
    /// # Errors
    /// When the file cannot be read or is no tokenizer.
    pub(super) fn load(path: &Path) -> Result<Self, LocalModelError> {
        let bytes = std::fs::read(path).map_err(|source| LocalModelError::read(path, source))?;
        let invalid = |error: String| LocalModelError::unsupported(path, format!("not a tokenizer: {error}"));
        let file: TokenizerFile = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
        let mut tokenizer = Tokenizer::from_bytes(&bytes).map_err(|error| invalid(error.to_string()))?;
        tokenizer.with_truncation(None).map_err(|error| invalid(error.to_string()))?;
        tokenizer.with_padding(None);
        let unknown = match file.model {
            UnknownToken { unk_token: Some(token), .. } => tokenizer.token_to_id(&token),
            UnknownToken { unk_id, .. } => unk_id,
        };
        Ok(Self { tokenizer, unknown })
    }

    /// Id of the token that stands for everything out of the vocabulary.
    pub(super) fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    /// One more than the highest id the tokenizer may return.
    pub(super) fn id_limit(&self) -> usize {
        let highest = self.tokenizer.get_vocab(true).into_values().max();
        highest.and_then(|id| usize::try_from(id).ok()).map_or(0, |id| id + 1)
    }

    /// The ids of the known tokens among the first [`MAX_TOKENS`] tokens of `text`.
    ///
    /// # Errors
    /// The tokenizer's own error, which may name the text.
    pub(super) fn known_ids(&self, text: &str) -> tokenizers::Result<impl Iterator<Item = u32>> {
        let cut = text.floor_char_boundary(MAX_TEXT_BYTES);
        let encoding = self.tokenizer.encode_fast(&text[..cut], false)?;
        let mut ids = encoding.get_ids().to_vec();
        ids.truncate(MAX_TOKENS);
        let unknown = self.unknown;
        Ok(ids.into_iter().filter(move |id| Some(*id) != unknown))
    }
}
