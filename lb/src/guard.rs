//! What a request must look like before it is routed.
//!
//! pingora refuses most of what is malformed, and escapes spaces and control bytes in the target. What it
//! lets through and a backend could read differently is refused here: a missing Host, Content-Length beside
//! Transfer-Encoding. Targets are brought to one form before routing: origin form, dot segments resolved.
//! Percent-encoded characters are compared as they are written, so path rules are for routing, not for
//! keeping people out.

use http::{Uri, Version, header};
use pingora::http::RequestHeader;

use crate::refusal::Refusal;

/// True when an HTTP/1 head, as it came over the wire, has a Content-Length.
///
/// pingora removes it when there is a Transfer-Encoding too, as RFC 9112 section 6.3 allows, so the parsed
/// headers do not tell. Whoever sends both may be trying to smuggle a request past one of two readers.
#[must_use]
pub fn has_content_length(head: &[u8]) -> bool {
    let name = header::CONTENT_LENGTH;
    let name = name.as_str().as_bytes();
    head.split(|&byte| byte == b'\n').any(|line| {
        line.split_at_checked(name.len()).is_some_and(|(start, rest)| {
            start.eq_ignore_ascii_case(name) && matches!(rest.first(), Some(b':' | b' ' | b'\t'))
        })
    })
}

/// Brings the target to origin form without dot segments. Changes nothing in the usual case.
///
/// # Errors
/// [`Refusal::BadTarget`] when it leads above the root.
pub fn to_origin_form(request: &mut RequestHeader) -> Result<(), Refusal> {
    let is_absolute = request.version != Version::HTTP_2 && !request.raw_path().starts_with(b"/");
    match without_dot_segments(&request.uri)? {
        Some(uri) => request.set_uri(uri),
        // pingora keeps the absolute form for the wire and has compared its authority with Host. Origin
        // servers are sent the origin form (RFC 9112 section 3.2.1).
        None if is_absolute => request.set_uri(request.uri.clone()),
        None => {}
    }
    Ok(())
}

/// The host the request is for: the authority of its target, else its only Host header.
///
/// # Errors
/// [`Refusal::BadHost`] when there is none, more than one, or an empty one.
pub fn host(request: &RequestHeader) -> Result<&str, Refusal> {
    let mut hosts = request.headers.get_all(header::HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(Refusal::BadHost);
    }
    let named = match (request.uri.authority(), first) {
        // Absolute form, and every HTTP/2 request. HTTP/1.1 demands the header all the same.
        (Some(authority), Some(_)) => Some(authority.as_str()),
        (Some(authority), None) if request.version == Version::HTTP_2 => Some(authority.as_str()),
        (Some(_), None) => None,
        (None, header) => header.and_then(|value| value.to_str().ok()),
    };
    match named {
        Some(host) if !host.is_empty() && !host.contains(['/', '@', ' ']) => Ok(host),
        _ => Err(Refusal::BadHost),
    }
}

/// The target with its dot segments resolved (RFC 3986 section 5.2.4, `%2e` included); none when it has
/// none, which is the usual case and costs one scan.
///
/// # Errors
/// [`Refusal::BadTarget`] when it leads above the root.
fn without_dot_segments(uri: &Uri) -> Result<Option<Uri>, Refusal> {
    let path = uri.path();
    if !path.split('/').any(is_dots) {
        return Ok(None);
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match dots(segment) {
            None => kept.push(segment),
            Some(count) => {
                if count == 2 && kept.pop().is_none() {
                    return Err(Refusal::BadTarget);
                }
                if is_last {
                    kept.push("");
                }
            }
        }
    }
    let path = format!("/{}", kept.join("/"));
    let target = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target.try_into().map_err(|_| Refusal::BadTarget)?);
    Uri::from_parts(parts).map(Some).map_err(|_| Refusal::BadTarget)
}

fn is_dots(segment: &str) -> bool {
    dots(segment).is_some()
}

/// How many dots a segment that has nothing else has: 1 or 2.
fn dots(segment: &str) -> Option<u8> {
    let mut rest = segment;
    let mut count = 0;
    while !rest.is_empty() && count < 3 {
        let encoded = rest.get(..3).is_some_and(|code| code.eq_ignore_ascii_case("%2e"));
        rest = if encoded { &rest[3..] } else { rest.strip_prefix('.')? };
        count += 1;
    }
    matches!(count, 1 | 2).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &[u8], headers: &[(&'static str, &'static str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", target, None).unwrap();
        for &(name, value) in headers {
            request.append_header(name, value).unwrap();
        }
        request
    }

    #[test]
    fn one_host_is_needed() {
        assert_eq!(host(&request(b"/", &[("host", "a.example:80")])), Ok("a.example:80"));
        assert_eq!(host(&request(b"/", &[])), Err(Refusal::BadHost));
        assert_eq!(host(&request(b"/", &[("host", "")])), Err(Refusal::BadHost));
        assert_eq!(host(&request(b"/", &[("host", "a"), ("host", "a")])), Err(Refusal::BadHost));
        assert_eq!(host(&request(b"/", &[("host", "a@b")])), Err(Refusal::BadHost));
    }

    #[test]
    fn content_length_is_found_in_a_head_as_it_came() {
        for head in ["POST / HTTP/1.1\r\ncontent-LENGTH: 3\r\n\r\n", "POST / HTTP/1.1\nContent-Length:3\n\n"]
        {
            assert!(has_content_length(head.as_bytes()), "{head:?}");
        }
        for head in ["GET /content-length: HTTP/1.1\r\nX-Content-Length: 3\r\nContent-Lengths: 3\r\n\r\n", ""]
        {
            assert!(!has_content_length(head.as_bytes()), "{head:?}");
        }
    }

    #[test]
    fn absolute_form_becomes_origin_form() {
        let mut absolute = request(b"http://a.example/x?y", &[("host", "a.example")]);
        to_origin_form(&mut absolute).unwrap();
        assert_eq!(absolute.raw_path(), b"/x?y");
    }

    #[test]
    fn dot_segments_are_resolved_before_routing() {
        for (target, resolved) in [
            ("/a/../b?q=../x", "/b?q=../x"),
            ("/a/./b", "/a/b"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/a/%2E%2e/b", "/b"),
            ("/a/.%2e/", "/"),
            ("/a//../b", "/a/b"),
        ] {
            let uri: Uri = target.parse().unwrap();
            let result = without_dot_segments(&uri).unwrap().unwrap();
            assert_eq!(result.path_and_query().unwrap().as_str(), resolved, "{target}");
        }
        for target in ["/", "/a/b", "/a/...", "/.well-known/x", "/a..b", "/%2e%2e%2e"] {
            assert_eq!(without_dot_segments(&target.parse().unwrap()), Ok(None), "{target}");
        }
        assert_eq!(without_dot_segments(&"/../etc".parse().unwrap()), Err(Refusal::BadTarget));
    }
}
