//! A Host header as it comes -> a name as tables write it, without allocation.

/// Longest name in presentation form (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 253;

/// Room on the stack for one normalised host.
#[derive(Debug)]
pub struct HostBuffer([u8; MAX_NAME]);

impl Default for HostBuffer {
    fn default() -> Self {
        Self([0; MAX_NAME])
    }
}

impl HostBuffer {
    /// `host` in lower case, without port and trailing dot; none when it can be no name of a rule:
    /// empty, longer than 253 characters, not ASCII, or an IPv6 literal.
    pub fn normalise(&mut self, host: &str) -> Option<&str> {
        if host.starts_with('[') {
            return None;
        }
        let name = host.rsplit_once(':').map_or(host, |(name, _port)| name);
        let name = name.strip_suffix('.').unwrap_or(name);
        let buffer = self.0.get_mut(..name.len())?;
        if name.is_empty() || !name.is_ascii() {
            return None;
        }
        buffer.copy_from_slice(name.as_bytes());
        buffer.make_ascii_lowercase();
        str::from_utf8(buffer).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_port_and_trailing_dot_do_not_matter() {
        for host in ["App.Example.org", "app.example.org:8080", "app.example.org.", "APP.example.org.:80"] {
            assert_eq!(HostBuffer::default().normalise(host), Some("app.example.org"), "{host}");
        }
    }

    #[test]
    fn what_cannot_be_a_name_is_none() {
        for host in ["", ":80", ".", "[::1]:80", "bücher.example", &"x".repeat(254)] {
            assert_eq!(HostBuffer::default().normalise(host), None, "{host}");
        }
    }
}
