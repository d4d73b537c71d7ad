//! Calls of remote providers: one policy for concurrency, time limits, retries and errors.

use std::error::Error;
use std::hash::{BuildHasher, RandomState};
use std::sync::Once;
use std::time::Duration;

use aionis_core::ports::embed::{EmbedError, EmbedErrorKind};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::sync::Semaphore;

use crate::preview::{Confidential, MAX_MESSAGE_BYTES, capped, preview};
use crate::settings::{HttpSettings, Secret};

/// Longest answer read.
const MAX_BODY_BYTES: usize = 64 << 20;
/// How much of an error answer is read for its message.
const MAX_ERROR_BODY_BYTES: usize = 16 << 10;

/// Makes ring the process-wide cryptography of TLS unless another was installed before.
pub fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if rustls::crypto::ring::default_provider().install_default().is_err() {
            tracing::debug!("TLS cryptography was already installed");
        }
    });
}

/// The error with its causes, without the address, which may hold a credential.
pub(crate) fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    capped(text)
}

/// One request, the same for all attempts.
pub(crate) struct Post<'a> {
    /// Address.
    pub(crate) url: &'a Url,
    /// Value of the header `Authorization`.
    pub(crate) authorization: &'a HeaderValue,
    /// Encoded JSON.
    pub(crate) body: Vec<u8>,
    /// What must not appear in messages.
    pub(crate) confidential: Confidential<'a>,
}

/// The `Authorization` header for a bearer credential; `None` when it holds characters no header can carry.
pub(crate) fn bearer(secret: &Secret) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", secret.expose().trim())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Sends the requests of one provider.
pub(crate) struct HttpCaller {
    client: Client,
    settings: HttpSettings,
    permits: Semaphore,
}

impl HttpCaller {
    /// A caller with its own connections. It never follows redirects, so that a credential and texts reach only the
    /// configured address.
    ///
    /// # Errors
    /// The description of why the HTTP client cannot be made (no usable root certificates, for example).
    pub(crate) fn new(settings: &HttpSettings) -> Result<Self, String> {
        install_crypto();
        let client = Client::builder().redirect(Policy::none()).build().map_err(describe)?;
        let permits = settings.max_concurrency.clamp(1, Semaphore::MAX_PERMITS);
        Ok(Self { client, settings: settings.clone(), permits: Semaphore::new(permits) })
    }

    /// Posts until `parse` accepts an answer, an error is final, or the attempts are used up. `parse` gets the body of
    /// a 2xx answer; its errors are retried by their kind like those of the transport.
    ///
    /// # Errors
    /// That of the last attempt.
    pub(crate) async fn post<T>(
        &self,
        request: &Post<'_>,
        parse: impl Fn(&[u8]) -> Result<T, EmbedError>,
    ) -> Result<T, EmbedError> {
        let mut attempt = 0;
        loop {
            let error = match self.attempt(request, &parse).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let Some(delay) = self.delay_after(&error, attempt) else { return Err(error) };
            tracing::debug!(attempt, kind = ?error.kind, status = error.status, ?delay, "embedding call is tried again");
            tokio::time::sleep(delay).await;
            attempt += 1;
        }
    }

    /// One attempt, with its share of the concurrency and its time limit. The share is given back during pauses.
    async fn attempt<T>(
        &self,
        request: &Post<'_>,
        parse: &impl Fn(&[u8]) -> Result<T, EmbedError>,
    ) -> Result<T, EmbedError> {
        let _permit = self.permits.acquire().await.map_err(|error| unavailable(error.to_string()))?;
        let sent = self
            .client
            .post(request.url.clone())
            .header(AUTHORIZATION, request.authorization)
            .header(CONTENT_TYPE, "application/json")
            .timeout(self.settings.timeout)
            .body(request.body.clone())
            .send()
            .await;
        let mut response = sent.map_err(|error| self.transport_error(error))?;
        if !response.status().is_success() {
            return Err(status_error(response, &request.confidential).await);
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.transport_error(error))? {
            if body.len() + chunk.len() > MAX_BODY_BYTES {
                let message = format!("the answer is longer than {MAX_BODY_BYTES} bytes");
                return Err(EmbedError::new(EmbedErrorKind::BadResponse, message));
            }
            body.extend_from_slice(&chunk);
        }
        parse(&body)
    }

    fn transport_error(&self, error: reqwest::Error) -> EmbedError {
        if error.is_timeout() {
            return unavailable(format!("no answer within {} ms", self.settings.timeout.as_millis()));
        }
        unavailable(format!("the provider cannot be reached: {}", describe(error)))
    }

    /// The pause before the next attempt, or `None` when `error` ends the call:
    /// `min(max_delay, base_delay * 2^attempt) + random(0..base_delay)`, or what the provider asked for.
    fn delay_after(&self, error: &EmbedError, attempt: u32) -> Option<Duration> {
        let HttpSettings { base_delay, max_delay, max_retries, .. } = self.settings;
        if attempt >= max_retries || !is_transient(error) {
            return None;
        }
        match error.retry_after {
            Some(wanted) => (wanted <= max_delay).then_some(wanted),
            None => {
                let doubled = base_delay.saturating_mul(2_u32.saturating_pow(attempt));
                Some(doubled.min(max_delay).saturating_add(jitter(base_delay)))
            }
        }
    }
}

/// Whether another attempt may succeed: rate limits, the provider's own failures and the network, but no other 4xx.
fn is_transient(error: &EmbedError) -> bool {
    let client_fault = error.status.is_some_and(|status| (400..500).contains(&status) && status != 429);
    matches!(error.kind, EmbedErrorKind::RateLimited | EmbedErrorKind::Unavailable) && !client_fault
}

/// A random duration below `limit`. The standard library's hash keys are random enough to spread retries.
fn jitter(limit: Duration) -> Duration {
    let limit = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
    RandomState::new().hash_one(limit).checked_rem(limit).map_or(Duration::ZERO, Duration::from_micros)
}

fn unavailable(message: String) -> EmbedError {
    EmbedError::new(EmbedErrorKind::Unavailable, capped(message))
}

/// What a status other than 2xx means. Besides 401 and 403, statuses that no input can cause (wrong address, unknown
/// model, no funds, redirects) count as [`EmbedErrorKind::Unauthorized`]: the setup is at fault and an operator must
/// act, so no text may be given up because of them.
fn kind_of(status: StatusCode) -> EmbedErrorKind {
    match status.as_u16() {
        429 => EmbedErrorKind::RateLimited,
        300..400 | 401 | 402 | 403 | 404 | 405 | 407 | 410 => EmbedErrorKind::Unauthorized,
        408 | 425 => EmbedErrorKind::Unavailable,
        400..500 => EmbedErrorKind::Rejected,
        500.. => EmbedErrorKind::Unavailable,
        _ => EmbedErrorKind::BadResponse,
    }
}

/// The error for an answer other than 2xx.
async fn status_error(mut response: Response, confidential: &Confidential<'_>) -> EmbedError {
    let status = response.status();
    let retry_after = retry_after(response.headers());
    let mut body = Vec::new();
    // A body that breaks off is no error of its own: the status says what happened.
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() >= MAX_ERROR_BODY_BYTES {
            body.truncate(MAX_ERROR_BODY_BYTES);
            break;
        }
    }
    let what = if status.is_redirection() {
        "the provider redirects (set its final address)"
    } else {
        "the provider answered"
    };
    let start = format!("{what} {status}");
    let room = MAX_MESSAGE_BYTES.saturating_sub(start.len() + 2);
    let shown = preview(&body, confidential, room);
    let message = if shown.is_empty() { start } else { format!("{start}: {shown}") };
    EmbedError { kind: kind_of(status), status: Some(status.as_u16()), retry_after, message: capped(message) }
}

/// The wish in `Retry-After`: seconds, or a date, which is compared with the provider's own `Date`.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let wanted = text(RETRY_AFTER)?;
    if let Ok(seconds) = wanted.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let parse = |date: &str| OffsetDateTime::parse(date, &Rfc2822).ok();
    let pause = parse(wanted)? - parse(text(DATE)?)?;
    Some(Duration::try_from(pause).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(max_retries: u32) -> HttpCaller {
        let settings = HttpSettings { max_retries, ..HttpSettings::default() };
        HttpCaller::new(&settings).unwrap()
    }

    fn error(kind: EmbedErrorKind, status: Option<u16>, retry_after: Option<u64>) -> EmbedError {
        EmbedError { status, retry_after: retry_after.map(Duration::from_secs), ..EmbedError::new(kind, "x") }
    }

    #[test]
    fn pauses_double_up_to_the_limit_with_a_random_part_below_the_base() {
        let caller = caller(99);
        let error = error(EmbedErrorKind::Unavailable, Some(503), None);
        for (attempt, base) in [(0, 250), (1, 500), (4, 4_000), (5, 5_000), (40, 5_000)] {
            let delay = caller.delay_after(&error, attempt).unwrap().as_millis();
            assert!((base..base + 250).contains(&delay), "attempt {attempt}: {delay}");
        }
    }

    #[test]
    fn wish_of_the_provider_is_met_or_ends_the_call() {
        let caller = caller(2);
        let wish = |seconds| error(EmbedErrorKind::RateLimited, Some(429), Some(seconds));
        assert_eq!(caller.delay_after(&wish(5), 1), Some(Duration::from_secs(5)));
        assert_eq!(caller.delay_after(&wish(6), 0), None);
        assert_eq!(caller.delay_after(&wish(1), 2), None);
    }

    #[test]
    fn only_transient_errors_are_tried_again() {
        let caller = caller(2);
        let retried = |kind, status| caller.delay_after(&error(kind, status, None), 0).is_some();
        assert!(retried(EmbedErrorKind::Unavailable, None));
        assert!(retried(EmbedErrorKind::Unavailable, Some(500)));
        assert!(retried(EmbedErrorKind::RateLimited, Some(429)));
        assert!(!retried(EmbedErrorKind::Unavailable, Some(408)));
        assert!(!retried(EmbedErrorKind::Unauthorized, Some(401)));
        assert!(!retried(EmbedErrorKind::Rejected, Some(400)));
        assert!(!retried(EmbedErrorKind::BadResponse, None));
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        let headers = |wanted: &'static str, date: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(wanted));
            date.map(|date| headers.insert(DATE, HeaderValue::from_static(date)));
            retry_after(&headers)
        };
        let date = "Wed, 21 Oct 2015 07:28:00 GMT";
        assert_eq!(headers("7", None), Some(Duration::from_secs(7)));
        assert_eq!(headers("Wed, 21 Oct 2015 07:28:30 GMT", Some(date)), Some(Duration::from_secs(30)));
        assert_eq!(headers("Wed, 21 Oct 2015 07:00:00 GMT", Some(date)), Some(Duration::ZERO));
        assert_eq!(headers("Wed, 21 Oct 2015 07:28:30 GMT", None), None);
        assert_eq!(headers("soon", Some(date)), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn statuses_no_input_can_cause_never_reject_an_input() {
        let kind = |status| kind_of(StatusCode::from_u16(status).unwrap());
        for status in [301, 401, 402, 403, 404, 405] {
            assert_eq!(kind(status), EmbedErrorKind::Unauthorized);
        }
        for status in [400, 413, 422] {
            assert_eq!(kind(status), EmbedErrorKind::Rejected);
        }
        assert_eq!(
            [kind(429), kind(500), kind(529)],
            [EmbedErrorKind::RateLimited, EmbedErrorKind::Unavailable, EmbedErrorKind::Unavailable]
        );
    }
}
