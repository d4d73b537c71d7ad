//! OpenAI-compatible embeddings over HTTP.

use aionis_core::ports::embed::{EmbedError, EmbedPurpose, Embedder};
use async_trait::async_trait;
use reqwest::Url;
use reqwest::header::HeaderValue;
use serde::{Deserialize, Serialize};

use crate::BuildError;
use crate::http::{HttpCaller, Post, bearer};
use crate::preview::Confidential;
use crate::remote::{bad_response, check_vectors, decode, parse_url};
use crate::settings::{DEFAULT_REMOTE_DIM, EmbedSettings, MAX_OPENAI_BATCH, Secret};

#[derive(Serialize)]
struct Request<'a> {
    model: &'a str,
    input: &'a [String],
    /// Sent only when the dimension was configured: older models refuse it.
    #[serde(skip_serializing_if = "Option::is_none")]
    dimensions: Option<usize>,
}

#[derive(Deserialize)]
struct Answer {
    data: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    /// Position of the text. Some compatible servers leave it out and answer in order.
    index: Option<usize>,
    embedding: Vec<f32>,
}

/// The provider `openai:<model>`.
pub(crate) struct OpenAiEmbedder {
    name: String,
    model: String,
    url: Url,
    api_key: Secret,
    authorization: HeaderValue,
    dim: usize,
    dimensions: Option<usize>,
    batch_size: usize,
    caller: HttpCaller,
}

impl OpenAiEmbedder {
    /// Checks the settings and prepares the HTTP client.
    ///
    /// # Errors
    /// [`BuildError`] naming the setting that is missing or unusable.
    pub(crate) fn new(settings: &EmbedSettings) -> Result<Self, BuildError> {
        let openai = &settings.openai;
        let api_key = openai.api_key.clone().filter(|key| !key.is_blank());
        let api_key = api_key.ok_or(BuildError::MissingSetting { provider: "openai", variable: "OPENAI_API_KEY" })?;
        let authorization = bearer(&api_key).ok_or_else(|| {
            BuildError::invalid("OPENAI_API_KEY", "it holds characters that no HTTP header can carry")
        })?;
        if openai.batch_size == 0 || openai.batch_size > MAX_OPENAI_BATCH {
            return Err(BuildError::invalid(
                "OPENAI_EMBED_BATCH_SIZE",
                format!("{} is not between 1 and {MAX_OPENAI_BATCH}", openai.batch_size),
            ));
        }
        Ok(Self {
            name: format!("openai:{}", openai.model),
            model: openai.model.clone(),
            url: endpoint(&openai.base_url).map_err(|reason| BuildError::invalid("the OpenAI base URL", reason))?,
            api_key,
            authorization,
            dim: settings.dim.unwrap_or(DEFAULT_REMOTE_DIM),
            dimensions: settings.dim,
            batch_size: openai.batch_size,
            caller: HttpCaller::new(&settings.http).map_err(BuildError::HttpClient)?,
        })
    }

    async fn embed_batch(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, EmbedError> {
        let request = Request { model: &self.model, input: texts, dimensions: self.dimensions };
        let body = serde_json::to_vec(&request).map_err(|error| bad_response(error.to_string()))?;
        let confidential = Confidential { secret: &self.api_key, inputs: texts };
        let post = Post { url: &self.url, authorization: &self.authorization, body, confidential };
        self.caller.post(&post, |body| parse(body, texts.len(), self.dim)).await
    }
}

/// `<base>/embeddings`, with the query of the base kept.
fn endpoint(base: &str) -> Result<Url, String> {
    let mut url = parse_url(base)?;
    match url.path_segments_mut() {
        Ok(mut segments) => segments.pop_if_empty().push("embeddings"),
        Err(()) => return Err("it has no path".to_owned()),
    };
    Ok(url)
}

/// The vectors of an answer, in the order of the texts.
fn parse(body: &[u8], texts: usize, dim: usize) -> Result<Vec<Vec<f32>>, EmbedError> {
    let mut items = decode::<Answer>(body)?.data;
    if items.iter().any(|item| item.index.is_some()) {
        items.sort_by_key(|item| item.index);
        if items.iter().enumerate().any(|(at, item)| item.index != Some(at)) {
            return Err(bad_response("the indexes of the vectors are not 0, 1, 2, …"));
        }
    }
    let vectors: Vec<Vec<f32>> = items.into_iter().map(|item| item.embedding).collect();
    check_vectors(&vectors, texts, dim)?;
    Ok(vectors)
}

#[async_trait]
impl Embedder for OpenAiEmbedder {
    fn name(&self) -> &str {
        &self.name
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn batch_size(&self) -> usize {
        self.batch_size
    }

    fn is_local(&self) -> bool {
        false
    }

    async fn embed(&self, texts: &[String], _purpose: EmbedPurpose) -> Result<Vec<Vec<f32>>, EmbedError> {
        let mut vectors = Vec::with_capacity(texts.len());
        for batch in texts.chunks(self.batch_size) {
            vectors.extend(self.embed_batch(batch).await?);
        }
        Ok(vectors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_is_below_the_base_and_keeps_its_query() {
        let url = |base| endpoint(base).map(|url| url.to_string());
        assert_eq!(url("https://api.openai.com/v1").unwrap(), "https://api.openai.com/v1/embeddings");
        assert_eq!(url("http://host:1/v1/").unwrap(), "http://host:1/v1/embeddings");
        assert_eq!(url("https://host/d?api-version=3").unwrap(), "https://host/d/embeddings?api-version=3");
        assert!(url("api.openai.com/v1").is_err() && url("file:///v1").is_err());
    }

    #[test]
    fn vectors_are_put_in_the_order_of_the_texts() {
        let body = br#"{"data":[{"index":1,"embedding":[3,4]},{"index":0,"embedding":[1,2]}]}"#;
        assert_eq!(parse(body, 2, 2).unwrap(), [[1.0, 2.0], [3.0, 4.0]]);
        let body = br#"{"data":[{"embedding":[3,4]},{"embedding":[1,2]}]}"#;
        assert_eq!(parse(body, 2, 2).unwrap(), [[3.0, 4.0], [1.0, 2.0]]);
    }

    #[test]
    fn unusable_answers_are_told_apart() {
        for (body, part) in [
            (r#"{"data":[{"index":0,"embedding":[1,2]}]}"#, "2 texts were sent, 1 vectors"),
            (r#"{"data":[{"index":0,"embedding":[1,2]},{"index":0,"embedding":[1,2]}]}"#, "indexes"),
            (r#"{"data":[{"index":0,"embedding":[1,2]},{"embedding":[1,2]}]}"#, "indexes"),
            (r#"{"data":[{"embedding":[1,2]},{"embedding":[1,2,3]}]}"#, "3 components"),
            (r#"{"data":[{"embedding":[1,2]},{"embedding":[1,NaN]}]}"#, "not the expected JSON"),
            (r#"{"data":[{"embedding":[1,2]},{"embedding":[1,null]}]}"#, "not the expected JSON"),
            ("<html>secret", "line 1, column 1"),
        ] {
            let message = parse(body.as_bytes(), 2, 2).unwrap_err().message;
            assert!(message.contains(part), "{body}: {message}");
        }
    }
}
