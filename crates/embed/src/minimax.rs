//! MiniMax embeddings over HTTP.

use aionis_core::ports::embed::{EmbedError, EmbedErrorKind, EmbedPurpose, Embedder};
use async_trait::async_trait;
use reqwest::Url;
use reqwest::header::HeaderValue;
use serde::{Deserialize, Serialize};

use crate::BuildError;
use crate::http::{HttpCaller, Post, bearer};
use crate::preview::{Confidential, MAX_MESSAGE_BYTES, capped, preview};
use crate::remote::{bad_response, check_vectors, decode, parse_url};
use crate::settings::{DEFAULT_REMOTE_DIM, EmbedSettings, MiniMaxType, Secret};

/// Texts per request.
const BATCH_SIZE: usize = 32;

#[derive(Serialize)]
struct Request<'a> {
    model: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    texts: &'a [String],
}

#[derive(Deserialize)]
struct Answer {
    base_resp: BaseResponse,
    /// Null or absent when the call failed.
    vectors: Option<Vec<Vec<f32>>>,
}

#[derive(Deserialize)]
struct BaseResponse {
    status_code: i64,
}

/// The provider `minimax:<model>`.
pub(crate) struct MiniMaxEmbedder {
    name: String,
    model: String,
    url: Url,
    api_key: Secret,
    authorization: HeaderValue,
    document_type: MiniMaxType,
    dim: usize,
    caller: HttpCaller,
}

impl MiniMaxEmbedder {
    /// Checks the settings and prepares the HTTP client.
    ///
    /// # Errors
    /// [`BuildError`] naming the setting that is missing or unusable.
    pub(crate) fn new(settings: &EmbedSettings) -> Result<Self, BuildError> {
        let minimax = &settings.minimax;
        let missing = |variable| BuildError::MissingSetting { provider: "minimax", variable };
        let api_key = minimax.api_key.clone().filter(|key| !key.is_blank()).ok_or(missing("MINIMAX_API_KEY"))?;
        let group_id = minimax.group_id.as_deref().map(str::trim).filter(|group| !group.is_empty());
        let group_id = group_id.ok_or(missing("MINIMAX_GROUP_ID"))?;
        let authorization = bearer(&api_key).ok_or_else(|| {
            BuildError::invalid("MINIMAX_API_KEY", "it holds characters that no HTTP header can carry")
        })?;
        let mut url =
            parse_url(&minimax.endpoint).map_err(|reason| BuildError::invalid("MINIMAX_EMBED_ENDPOINT", reason))?;
        url.query_pairs_mut().append_pair("GroupId", group_id);
        Ok(Self {
            name: format!("minimax:{}", minimax.model),
            model: minimax.model.clone(),
            url,
            api_key,
            authorization,
            document_type: minimax.document_type,
            dim: settings.dim.unwrap_or(DEFAULT_REMOTE_DIM),
            caller: HttpCaller::new(&settings.http).map_err(BuildError::HttpClient)?,
        })
    }

    async fn embed_batch(&self, texts: &[String], kind: MiniMaxType) -> Result<Vec<Vec<f32>>, EmbedError> {
        let request = Request { model: &self.model, kind: kind.as_str(), texts };
        let body = serde_json::to_vec(&request).map_err(|error| bad_response(error.to_string()))?;
        let confidential = Confidential { secret: &self.api_key, inputs: texts };
        let post = Post { url: &self.url, authorization: &self.authorization, body, confidential };
        self.caller.post(&post, |body| parse(body, &confidential, self.dim)).await
    }
}

/// The vectors of an answer. MiniMax reports most failures with HTTP 200 and a code of its own.
fn parse(body: &[u8], confidential: &Confidential<'_>, dim: usize) -> Result<Vec<Vec<f32>>, EmbedError> {
    let answer: Answer = decode(body)?;
    let code = answer.base_resp.status_code;
    if code != 0 {
        let start = format!("MiniMax answered with code {code}: ");
        let shown = preview(body, confidential, MAX_MESSAGE_BYTES - start.len());
        return Err(EmbedError::new(kind_of(code), capped(start + &shown)));
    }
    let vectors = answer.vectors.unwrap_or_default();
    check_vectors(&vectors, confidential.inputs.len(), dim)?;
    Ok(vectors)
}

/// What a code in `base_resp` means. Codes 1004, 1008, 2049: credential, funds; 1002, 1039, 1041, 2045, 2056: limits
/// on requests, tokens, connections, growth and use; 1000, 1001, 1013, 1024, 1033: failures of the service; 1026,
/// 1027, 1042, 2013: the content or the parameters are refused.
fn kind_of(code: i64) -> EmbedErrorKind {
    match code {
        1004 | 1008 | 2049 => EmbedErrorKind::Unauthorized,
        1002 | 1039 | 1041 | 2045 | 2056 => EmbedErrorKind::RateLimited,
        1000 | 1001 | 1013 | 1024 | 1033 => EmbedErrorKind::Unavailable,
        1026 | 1027 | 1042 | 2013 => EmbedErrorKind::Rejected,
        _ => EmbedErrorKind::BadResponse,
    }
}

#[async_trait]
impl Embedder for MiniMaxEmbedder {
    fn name(&self) -> &str {
        &self.name
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn batch_size(&self) -> usize {
        BATCH_SIZE
    }

    fn is_local(&self) -> bool {
        false
    }

    /// Documents are sent with the configured type, questions always as `query`.
    async fn embed(&self, texts: &[String], purpose: EmbedPurpose) -> Result<Vec<Vec<f32>>, EmbedError> {
        let kind = match purpose {
            EmbedPurpose::Document => self.document_type,
            EmbedPurpose::Query => MiniMaxType::Query,
        };
        let mut vectors = Vec::with_capacity(texts.len());
        for batch in texts.chunks(BATCH_SIZE) {
            vectors.extend(self.embed_batch(batch, kind).await?);
        }
        Ok(vectors)
    }
}
