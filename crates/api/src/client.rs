//! Where a request comes from: its peer, or, behind proxies that are trusted, whoever they say.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::{
    extract::ConnectInfo,
    http::{Extensions, HeaderMap, HeaderName, header},
};
use ipnet::IpNet;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Networks whose members are proxies, which say truly whom they ask for (`AIONIS_TRUSTED_PROXIES`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Reads a comma list of networks (`10.0.0.0/8`, `2001:db8::/32`) and single addresses.
    ///
    /// # Errors
    /// The entry that is neither; one line.
    pub fn parse(list: &str) -> Result<Self, String> {
        let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let networks = entries.map(|entry| {
            let address = || entry.parse::<IpAddr>().map(IpNet::from);
            entry.parse::<IpNet>().or_else(|_| address()).map_err(|_| {
                format!("{entry:?} is no network; use addresses or CIDRs such as 10.0.0.0/8, separated by commas")
            })
        });
        networks.collect::<Result<_, _>>().map(Self)
    }

    fn holds(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    /// Whose it is.
    pub(crate) address: IpAddr,
    /// Whether it came from this machine, and through no proxy.
    pub(crate) is_local: bool,
}

impl Client {
    /// Who sent a request. Without a peer, as in tests, it is the address of nobody.
    pub(crate) fn of(extensions: &Extensions, headers: &HeaderMap, trusted: &TrustedProxies) -> Self {
        let peer = extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip().to_canonical());
        let Some(peer) = peer else { return Self { address: Ipv4Addr::UNSPECIFIED.into(), is_local: false } };
        let is_proxy = trusted.holds(peer);
        let forwarded = [header::FORWARDED, FORWARDED_FOR].iter().any(|name| headers.contains_key(name));
        // Also a proxy nobody told about takes the privilege of this machine away from whom it asks for.
        let is_local = peer.is_loopback() && !is_proxy && !forwarded;
        Self { address: if is_proxy { behind(peer, headers, trusted) } else { peer }, is_local }
    }
}

/// Whom a trusted proxy asks for. Where the two headers say different things, one of them came from outside and nobody
/// knows which: the request is the proxy's own then.
fn behind(proxy: IpAddr, headers: &HeaderMap, trusted: &TrustedProxies) -> IpAddr {
    let walked = |hops: Vec<Option<IpAddr>>| walk(proxy, &hops, trusted);
    let forwarded = headers.contains_key(header::FORWARDED).then(|| walked(forwarded_hops(headers)));
    let listed = headers.contains_key(FORWARDED_FOR).then(|| walked(listed_hops(headers)));
    match (forwarded, listed) {
        (Some(one), Some(other)) if one != other => proxy,
        (one, other) => one.or(other).unwrap_or(proxy),
    }
}

/// From the right, where the nearest proxy wrote, over trusted hops to the first one that is not: whatever stands left of
/// it may be made up. What cannot be read ends the walk.
fn walk(proxy: IpAddr, hops: &[Option<IpAddr>], trusted: &TrustedProxies) -> IpAddr {
    let mut at = proxy;
    for hop in hops.iter().rev() {
        match hop {
            Some(hop) if trusted.holds(at) => at = *hop,
            _ => break,
        }
    }
    at
}

/// Addresses of `x-forwarded-for`, all its lines.
fn listed_hops(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let lines = headers.get_all(FORWARDED_FOR).iter();
    lines.flat_map(|line| line.to_str().unwrap_or("?").split(',').map(address)).collect()
}

/// Addresses of `forwarded` (RFC 7239), all its lines.
fn forwarded_hops(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let lines = headers.get_all(header::FORWARDED).iter();
    let elements = lines.flat_map(|line| unquoted_split(line.to_str().unwrap_or("?"), ','));
    elements.map(hop_of).collect()
}

fn hop_of(element: &str) -> Option<IpAddr> {
    let mut found = unquoted_split(element, ';').into_iter().filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then_some(value)
    });
    let value = found.next()?.trim();
    // Twice in one element means nothing.
    if found.next().is_some() {
        return None;
    }
    let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    address(inner.unwrap_or(value))
}

/// Parts between separators that stand in no quoted text.
fn unquoted_split(text: &str, separator: char) -> Vec<&str> {
    let (mut parts, mut from, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            c if c == separator && !quoted => {
                parts.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    parts
}

/// An address, with or without a port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = || text.parse::<IpAddr>().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok();
    bare().or_else(with_port).or_else(in_brackets).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn of(peer: &str, headers: &[(&str, &str)], trusted: &str) -> (String, bool) {
        let mut extensions = Extensions::new();
        extensions.insert(ConnectInfo(SocketAddr::new(peer.parse().unwrap(), 4711)));
        let mut sent = HeaderMap::new();
        for (name, value) in headers {
            sent.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let client = Client::of(&extensions, &sent, &TrustedProxies::parse(trusted).unwrap());
        (client.address.to_string(), client.is_local)
    }

    #[test]
    fn headers_of_strangers_mean_nothing() {
        for headers in [&[("x-forwarded-for", "192.0.2.1")][..], &[("forwarded", "for=192.0.2.1")]] {
            assert_eq!(of("198.51.100.9", headers, "").0, "198.51.100.9");
            assert_eq!(of("198.51.100.9", headers, "10.0.0.0/8").0, "198.51.100.9");
        }
    }

    #[test]
    fn the_walk_goes_over_trusted_hops_only() {
        let trusted = "10.0.0.0/8, 2001:db8:f::/48,192.0.2.200";
        for (headers, wanted) in [
            (&[("x-forwarded-for", "198.51.100.1")][..], "198.51.100.1"),
            (&[("x-forwarded-for", "1.1.1.1, 198.51.100.1, 10.1.1.1")], "198.51.100.1"),
            (&[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "198.51.100.1,192.0.2.200")], "198.51.100.1"),
            (&[("x-forwarded-for", "10.3.3.3, 10.2.2.2")], "10.3.3.3"),
            (&[("x-forwarded-for", "198.51.100.1, unknown, 10.2.2.2")], "10.2.2.2"),
            (&[("x-forwarded-for", "198.51.100.1, ")], "10.0.0.1"),
            (&[("x-forwarded-for", "198.51.100.1:80")], "198.51.100.1"),
            (&[("x-forwarded-for", "[2001:db8::7]:80")], "2001:db8::7"),
            (&[("x-forwarded-for", "::ffff:198.51.100.1")], "198.51.100.1"),
            (&[("forwarded", "for=1.1.1.1, For=\"[2001:db8::7]:80\";proto=https")], "2001:db8::7"),
            (&[("forwarded", "for=198.51.100.1;by=\"a,b;for=1.1.1.1\", for=10.9.9.9")], "198.51.100.1"),
            (&[("forwarded", "for=198.51.100.1;for=1.1.1.1")], "10.0.0.1"),
            (&[("forwarded", "for=_hidden")], "10.0.0.1"),
            (&[("forwarded", "proto=https")], "10.0.0.1"),
            (&[("forwarded", "for=\"198.51.100.1")], "10.0.0.1"),
            (&[("forwarded", "for=198.51.100.1"), ("x-forwarded-for", "198.51.100.1")], "198.51.100.1"),
            (&[("forwarded", "for=1.1.1.1"), ("x-forwarded-for", "198.51.100.1")], "10.0.0.1"),
            (&[], "10.0.0.1"),
        ] {
            assert_eq!(of("10.0.0.1", headers, trusted).0, wanted, "{headers:?}");
        }
        assert_eq!(of("::ffff:10.0.0.1", &[("x-forwarded-for", "198.51.100.1")], trusted).0, "198.51.100.1");
    }

    #[test]
    fn only_who_comes_directly_from_this_machine_is_local() {
        for (peer, headers, trusted, local) in [
            ("127.0.0.1", &[][..], "", true),
            ("::1", &[], "", true),
            ("::ffff:127.0.0.1", &[], "", true),
            ("198.51.100.1", &[], "", false),
            ("127.0.0.1", &[("x-forwarded-for", "127.0.0.1")], "", false),
            ("127.0.0.1", &[("forwarded", "for=127.0.0.1")], "", false),
            ("127.0.0.1", &[], "127.0.0.0/8", false),
            ("127.0.0.1", &[("x-forwarded-for", "127.0.0.1")], "127.0.0.1", false),
        ] {
            assert_eq!(of(peer, headers, trusted).1, local, "{peer} {headers:?} {trusted}");
        }
    }

    #[test]
    fn a_list_that_is_none_is_named() {
        for (list, entry) in [("10.0.0.0/33", "10.0.0.0/33"), ("10.0.0.0/8,proxy.local", "proxy.local"), ("*", "*")] {
            let said = TrustedProxies::parse(list).unwrap_err();
            assert!(said.contains(entry) && said.contains("10.0.0.0/8"), "{said}");
        }
        assert_eq!(TrustedProxies::parse(" , ").unwrap(), TrustedProxies::default());
    }
}
