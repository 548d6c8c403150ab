//! What the proxy adds to a request, and how it recognises its own.

use std::{fmt::Write as _, net::IpAddr};

use http::{HeaderMap, Version, header};
use pingora::http::RequestHeader;

const FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED_PROTO: &str = "x-forwarded-proto";
const FORWARDED_HOST: &str = "x-forwarded-host";

/// The name of a site's proxies in Via: all proxies of a site are one hop.
#[derive(Clone, Debug)]
pub struct Pseudonym(String);

impl Pseudonym {
    /// `meridian-<site>`; what may not stand in a Via becomes a hyphen.
    #[must_use]
    pub fn of_site(site: &str) -> Self {
        let allowed =
            |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_') { c } else { '-' };
        Self(format!("meridian-{}", site.chars().map(allowed).collect::<String>()))
    }

    /// True when a Via header says that the request has passed this site.
    #[must_use]
    pub fn is_in(&self, headers: &HeaderMap) -> bool {
        headers
            .get_all(header::VIA)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|hop| hop.split_ascii_whitespace().nth(1))
            .any(|received_by| received_by.eq_ignore_ascii_case(&self.0))
    }
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// Address of the client, if the socket tells.
    pub client: Option<IpAddr>,
    /// Over TLS.
    pub is_tls: bool,
    /// The host it asked for, as it asked.
    pub host: &'a str,
    /// Protocol it spoke.
    pub version: Version,
}

/// Adds X-Forwarded-For (appended to what is there), -Proto and -Host (replaced), and Via (appended).
///
/// # Errors
/// If a value is no valid header, which a checked host cannot cause.
pub fn add_headers(
    request: &mut RequestHeader,
    origin: Origin<'_>,
    pseudonym: &Pseudonym,
) -> pingora::Result<()> {
    if let Some(client) = origin.client {
        let value = appended(&request.headers, FORWARDED_FOR, format_args!("{client}"));
        request.insert_header(FORWARDED_FOR, value)?;
    }
    request.insert_header(FORWARDED_PROTO, if origin.is_tls { "https" } else { "http" })?;
    request.insert_header(FORWARDED_HOST, origin.host)?;
    let version = match origin.version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2.0",
        _ => "1.1",
    };
    let value = appended(&request.headers, header::VIA.as_str(), format_args!("{version} {}", pseudonym.0));
    request.insert_header(header::VIA, value)
}

/// All values of `name` and `addition` as one list.
fn appended(headers: &HeaderMap, name: &str, addition: std::fmt::Arguments<'_>) -> String {
    let mut list = String::new();
    for value in headers.get_all(name).iter().filter_map(|value| value.to_str().ok()) {
        list.push_str(value);
        list.push_str(", ");
    }
    // Writing to a String cannot fail.
    let _ = list.write_fmt(addition);
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(headers: &[(&'static str, &'static str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for &(name, value) in headers {
            request.append_header(name, value).unwrap();
        }
        let client = Some([192, 0, 2, 7].into());
        let origin = Origin { client, is_tls: true, host: "a.example", version: Version::HTTP_2 };
        add_headers(&mut request, origin, &Pseudonym::of_site("eu west")).unwrap();
        request
    }

    #[test]
    fn forwarded_headers_say_who_asked_for_what() {
        let request = added(&[]);
        assert_eq!(request.headers["x-forwarded-for"], "192.0.2.7");
        assert_eq!(request.headers["x-forwarded-proto"], "https");
        assert_eq!(request.headers["x-forwarded-host"], "a.example");
        assert_eq!(request.headers["via"], "2.0 meridian-eu-west");
    }

    #[test]
    fn lists_grow_and_claims_are_replaced() {
        let request = added(&[
            ("x-forwarded-for", "198.51.100.1"),
            ("x-forwarded-for", "198.51.100.2"),
            ("x-forwarded-proto", "gopher"),
            ("via", "1.1 other"),
        ]);
        assert_eq!(request.headers["x-forwarded-for"], "198.51.100.1, 198.51.100.2, 192.0.2.7");
        assert_eq!(request.headers["x-forwarded-proto"], "https");
        assert_eq!(request.headers["via"], "1.1 other, 2.0 meridian-eu-west");
        assert_eq!(request.headers.get_all("x-forwarded-for").iter().count(), 1);
    }

    #[test]
    fn own_hop_is_recognised_anywhere_in_via() {
        let request = added(&[("via", "1.1 first, HTTP/1.1 second (comment)")]);
        assert!(Pseudonym::of_site("eu west").is_in(&request.headers));
        assert!(!Pseudonym::of_site("eu").is_in(&request.headers), "another site is no loop");
    }
}
