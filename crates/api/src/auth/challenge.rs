//! `www-authenticate`: which credentials would be taken.

use axum::http::{HeaderMap, HeaderValue, header};

use super::AuthMode;

/// Says which credentials are taken; `token_refused` when a token was sent and not accepted (RFC 6750).
pub(super) fn add(headers: &mut HeaderMap, mode: AuthMode, token_refused: bool) {
    if mode.takes_keys() {
        headers.append(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("ApiKey realm=\"aionis\", header=\"x-api-key\""),
        );
    }
    if mode.takes_tokens() {
        let bearer =
            if token_refused { "Bearer realm=\"aionis\", error=\"invalid_token\"" } else { "Bearer realm=\"aionis\"" };
        headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static(bearer));
    }
}
