//! Who may ask: the checks that keep other sites' pages and other names out, before a path is looked at.

use hyper::{HeaderMap, Method, StatusCode, Uri, header};
use std::net::SocketAddr;

/// Checks a request's method, host, origin and the browser's account of who asks.
///
/// # Errors
/// The status to answer with.
pub(super) fn check(address: SocketAddr, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), StatusCode> {
    let port = address.port();
    // Exactly these: a name that an attacker points here is another one.
    let hosts = [format!("127.0.0.1:{port}"), format!("localhost:{port}")];
    let is_ours = |host: &str| hosts.iter().any(|ours| ours == host);
    let mut named = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (named.next(), named.next()) else { return Err(StatusCode::BAD_REQUEST) };
    if !host.to_str().is_ok_and(is_ours) || uri.authority().is_some_and(|authority| !is_ours(authority.as_str())) {
        return Err(StatusCode::MISDIRECTED_REQUEST);
    }
    let ours_alone = |value: &header::HeaderValue| {
        value.to_str().is_ok_and(|origin| origin.strip_prefix("http://").is_some_and(is_ours))
    };
    if !headers.get_all(header::ORIGIN).iter().all(ours_alone) {
        return Err(StatusCode::FORBIDDEN);
    }
    let typed_or_ours = |value: &header::HeaderValue| value == "none" || value == "same-origin";
    if !headers.get_all("sec-fetch-site").iter().all(typed_or_ours) {
        return Err(StatusCode::FORBIDDEN);
    }
    if method != Method::GET && method != Method::HEAD {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(method: Method, uri: &str, pairs: &[(&'static str, &str)]) -> Result<(), StatusCode> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        check("127.0.0.1:4000".parse().unwrap(), &method, &uri.parse().unwrap(), &headers)
    }

    #[test]
    fn only_exact_hosts() {
        for host in ["127.0.0.1:4000", "localhost:4000"] {
            assert_eq!(checked(Method::GET, "/s/x", &[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "127.0.0.1",
            "localhost",
            "127.0.0.1:4001",
            "evil.example:4000",
            "localhost.evil.example:4000",
            "[::1]:4000",
            "127.0.0.1:4000.evil.example",
            "LOCALHOST:4000",
            "127.1:4000",
            "user@localhost:4000",
            "",
        ] {
            assert_eq!(checked(Method::GET, "/s/x", &[("host", host)]), Err(StatusCode::MISDIRECTED_REQUEST), "{host}");
        }
        assert_eq!(checked(Method::GET, "/s/x", &[]), Err(StatusCode::BAD_REQUEST));
        let twice = [("host", "localhost:4000"), ("host", "evil.example")];
        assert_eq!(checked(Method::GET, "/s/x", &twice), Err(StatusCode::BAD_REQUEST));
        let host = [("host", "localhost:4000")];
        let absolute = "http://evil.example/s/x";
        assert_eq!(checked(Method::GET, absolute, &host), Err(StatusCode::MISDIRECTED_REQUEST));
    }

    #[test]
    fn pages_of_other_sites_get_nothing() {
        let host = ("host", "localhost:4000");
        assert_eq!(checked(Method::GET, "/", &[host, ("origin", "http://localhost:4000")]), Ok(()));
        for origin in
            ["http://evil.example", "null", "https://localhost:4000", "http://localhost:4001", "localhost:4000"]
        {
            assert_eq!(checked(Method::GET, "/", &[host, ("origin", origin)]), Err(StatusCode::FORBIDDEN), "{origin}");
        }
        for site in ["none", "same-origin"] {
            assert_eq!(checked(Method::GET, "/", &[host, ("sec-fetch-site", site)]), Ok(()), "{site}");
        }
        for site in ["cross-site", "same-site", "new-word"] {
            let pairs = [host, ("sec-fetch-site", site)];
            assert_eq!(checked(Method::GET, "/", &pairs), Err(StatusCode::FORBIDDEN), "{site}");
        }
    }

    #[test]
    fn reading_is_all_that_can_be_done() {
        let host = [("host", "localhost:4000")];
        assert_eq!(checked(Method::HEAD, "/", &host), Ok(()));
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::TRACE, Method::CONNECT] {
            assert_eq!(checked(method.clone(), "/", &host), Err(StatusCode::METHOD_NOT_ALLOWED), "{method}");
        }
    }
}
