//! Keeping web pages out where nobody is authenticated. A service on this machine that asks for no credential trusts
//! whoever reaches its port; a browser on this machine reaches it too, on behalf of any page it shows. Two things tell
//! such a request from that of a program: its `Origin`, which pages cannot change, and, where a page has made its own
//! name point at this machine (DNS rebinding), its `Host`.

use std::net::{IpAddr, SocketAddr};

use aionis_core::error::{DomainError, ErrorKind};
use axum::{
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, Uri, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::{
    auth::AuthMode,
    error::ApiError,
    state::{ApiSettings, AppState, CorsOrigins},
};

/// Hosts that requests may name besides this machine (`AIONIS_ALLOWED_HOSTS`), in lower case, without ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedHosts(Vec<String>);

impl AllowedHosts {
    /// Reads a comma list of names and addresses, without ports.
    ///
    /// # Errors
    /// The entry that is neither; one line.
    pub fn parse(list: &str) -> Result<Self, String> {
        let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let hosts = entries.map(|entry| match host_of(entry) {
            Some(host) if host == entry.to_ascii_lowercase() => Ok(host),
            _ => Err(format!(
                "{entry:?} is no host; use names such as memory.example, without port, separated by commas"
            )),
        });
        hosts.collect::<Result<_, _>>().map(Self)
    }
}

/// Stands before everything, so that a page learns nothing at all.
pub(crate) async fn guard(State(state): State<AppState>, request: Request, next: Next) -> Response {
    match check(&state.settings, &request) {
        Ok(()) => next.run(request).await,
        Err(error) => {
            tracing::info!(code = error.code, path = request.uri().path(), "request refused");
            metrics::counter!("aionis_auth_refusals_total", "code" => error.code, "reason" => error.code).increment(1);
            ApiError(error).into_response()
        }
    }
}

fn check(settings: &ApiSettings, request: &Request) -> Result<(), DomainError> {
    if settings.auth.mode() != AuthMode::Off {
        return Ok(());
    }
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip().to_canonical());
    if peer.is_some_and(|peer| peer.is_loopback()) {
        check_host(settings, request.headers(), request.uri())?;
    }
    check_origin(settings, request.headers())
}

/// Headers of proxies change nothing: a page may send them to the host it is from.
fn check_host(settings: &ApiSettings, headers: &HeaderMap, uri: &Uri) -> Result<(), DomainError> {
    let in_uri = uri.authority().map(Authority::as_str);
    let in_headers = headers.get_all(header::HOST).iter().map(|host| host.to_str().unwrap_or("?"));
    for named in in_headers.chain(in_uri) {
        let known =
            host_of(named).is_some_and(|host| is_this_machine(&host) || settings.allowed_hosts.0.contains(&host));
        if !known {
            let message = format!("the request names the host {named:?}, which is not this machine");
            let error = DomainError::new(ErrorKind::Forbidden, "host_not_allowed", message);
            return Err(error.with_details(json!({ "host": named })));
        }
    }
    Ok(())
}

/// A page may call the service it came from, and those of listed origins may. Programs send no origin.
fn check_origin(settings: &ApiSettings, headers: &HeaderMap) -> Result<(), DomainError> {
    for origin in headers.get_all(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or("?");
        let listed = match &settings.cors {
            CorsOrigins::Any => true,
            CorsOrigins::Listed(list) => list.iter().any(|listed| listed == origin),
        };
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let own = host.is_some_and(|host| {
            let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
        });
        if !listed && !own {
            let message = format!("web pages of the origin {origin:?} may not call this service");
            let error = DomainError::new(ErrorKind::Forbidden, "origin_not_allowed", message);
            return Err(error.with_details(json!({ "origin": origin })));
        }
    }
    Ok(())
}

/// The host of `host` or `host:port`, in lower case; without the brackets of IPv6 and a last dot.
fn host_of(named: &str) -> Option<String> {
    if let Ok(address) = named.parse::<IpAddr>() {
        return Some(address.to_string());
    }
    let authority: Authority = named.parse().ok()?;
    if authority.as_str().contains('@') {
        return None;
    }
    let host = authority.host();
    let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    (!host.is_empty()).then_some(host)
}

/// Names that no name server is asked about (RFC 6761), and addresses of this machine.
fn is_this_machine(host: &str) -> bool {
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::HeaderName};

    use super::*;

    fn code(settings: &ApiSettings, peer: &str, headers: &[(HeaderName, &str)]) -> &'static str {
        let peer = SocketAddr::new(peer.parse().unwrap(), 4711);
        let request =
            headers.iter().fold(Request::get("/health"), |request, (name, value)| request.header(name, *value));
        let request = request.extension(ConnectInfo(peer)).body(Body::empty()).unwrap();
        check(settings, &request).map_or_else(|e| e.code, |()| "passes")
    }

    fn off() -> ApiSettings {
        ApiSettings { cors: CorsOrigins::Listed(Vec::new()), ..ApiSettings::default() }
    }

    #[test]
    fn a_name_that_was_made_to_point_here_is_refused() {
        for here in
            ["127.0.0.1:3001", "localhost", "LOCALHOST:3001", "a.localhost", "[::1]:3001", "127.9.9.9", "localhost."]
        {
            assert_eq!(code(&off(), "127.0.0.1", &[(header::HOST, here)]), "passes", "{here}");
        }
        for other in
            ["evil.example", "evil.example:3001", "127.0.0.1.evil.example", "localhost@evil.example", "0.0.0.0", ""]
        {
            assert_eq!(code(&off(), "127.0.0.1", &[(header::HOST, other)]), "host_not_allowed", "{other:?}");
            let forwarded = HeaderName::from_static("x-forwarded-for");
            let headers = [(header::HOST, other), (forwarded, "192.0.2.1")];
            assert_eq!(code(&off(), "127.0.0.1", &headers), "host_not_allowed", "a page can send that");
        }
        assert_eq!(code(&off(), "::ffff:127.0.0.1", &[(header::HOST, "evil.example")]), "host_not_allowed");
        assert_eq!(code(&off(), "192.0.2.1", &[(header::HOST, "aionis:3001")]), "passes", "another machine");
        assert_eq!(code(&off(), "127.0.0.1", &[]), "passes", "no browser leaves it out");
        let two = [(header::HOST, "localhost"), (header::HOST, "evil.example")];
        assert_eq!(code(&off(), "127.0.0.1", &two), "host_not_allowed");
    }

    #[test]
    fn listed_hosts_pass() {
        let settings = ApiSettings { allowed_hosts: AllowedHosts::parse("Memory.example, 10.0.0.7").unwrap(), ..off() };
        for host in ["memory.example", "MEMORY.example:443", "10.0.0.7:3001"] {
            assert_eq!(code(&settings, "127.0.0.1", &[(header::HOST, host)]), "passes", "{host}");
        }
        assert_eq!(code(&settings, "127.0.0.1", &[(header::HOST, "x.memory.example")]), "host_not_allowed");
        for wrong in ["a.example:80", "http://a.example", "a b", "@"] {
            assert!(AllowedHosts::parse(wrong).unwrap_err().contains("is no host"), "{wrong}");
        }
    }

    #[test]
    fn a_page_may_call_only_where_it_came_from_or_is_listed() {
        let with = |settings: &ApiSettings, origin| {
            code(settings, "127.0.0.1", &[(header::HOST, "127.0.0.1:3001"), (header::ORIGIN, origin)])
        };
        for origin in
            ["https://evil.example", "null", "http://127.0.0.1:8080", "http://localhost:3001", "http://127.0.0.1"]
        {
            assert_eq!(with(&off(), origin), "origin_not_allowed", "{origin}");
        }
        assert_eq!(with(&off(), "http://127.0.0.1:3001"), "passes");
        let listed = ApiSettings { cors: CorsOrigins::Listed(vec!["http://localhost:5173".to_owned()]), ..off() };
        assert_eq!(with(&listed, "http://localhost:5173"), "passes");
        assert_eq!(with(&listed, "http://localhost:5174"), "origin_not_allowed");
        assert_eq!(
            with(&ApiSettings { cors: CorsOrigins::Any, ..off() }, "https://evil.example"),
            "passes",
            "on request"
        );
    }

    #[test]
    fn who_is_authenticated_may_come_from_anywhere() {
        let settings = ApiSettings { auth: crate::Auth::new(AuthMode::ApiKey), ..off() };
        let headers = [(header::HOST, "memory.example"), (header::ORIGIN, "https://app.example")];
        assert_eq!(code(&settings, "127.0.0.1", &headers), "passes");
    }
}
