//! Domain names as Meridian's objects write them.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// A fully qualified domain name in presentation form: lower case, no trailing dot, never empty.
///
/// The first label may be `*` (a wildcard as RFC 4592 and Ingress hosts use it); every other label
/// has 1 to 63 characters of letters, digits, `-` and `_`, and the whole at most 253.
/// Ordered by bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DnsName(Arc<str>);

/// Why a text is no domain name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDnsName {
    /// Nothing but an optional dot.
    #[error("a domain name must not be empty")]
    Empty,
    /// Longer than 253 characters (RFC 1035 section 2.3.4).
    #[error("{0:?} is longer than 253 characters")]
    TooLong(String),
    /// A label that is empty, longer than 63 characters, or has a character outside `[a-z0-9_-]`.
    #[error("label {label:?} of {name:?} is not valid")]
    Label {
        /// The whole name.
        name: String,
        /// The label at fault.
        label: String,
    },
}

impl DnsName {
    /// The name as text, lower case, without trailing dot.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The labels, leftmost first; never empty.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('.')
    }

    /// True when the leftmost label is `*`.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with("*.")
    }

    /// True when this name equals `zone` or lies below it.
    #[must_use]
    pub fn is_in(&self, zone: &DnsName) -> bool {
        self.0.strip_suffix(&*zone.0).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    /// The name one label up; none for a top-level name.
    #[must_use]
    pub fn parent(&self) -> Option<DnsName> {
        self.0.split_once('.').map(|(_, rest)| DnsName(rest.into()))
    }

    /// `prefix.self`, validated.
    ///
    /// # Errors
    /// As [`DnsName::from_str`].
    pub fn child(&self, prefix: &str) -> Result<DnsName, InvalidDnsName> {
        format!("{prefix}.{self}").parse()
    }
}

impl FromStr for DnsName {
    type Err = InvalidDnsName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let trimmed = text.strip_suffix('.').unwrap_or(text);
        if trimmed.is_empty() {
            return Err(InvalidDnsName::Empty);
        }
        if trimmed.len() > 253 {
            return Err(InvalidDnsName::TooLong(trimmed.to_owned()));
        }
        for (position, label) in trimmed.split('.').enumerate() {
            let is_wildcard = position == 0 && label == "*" && trimmed.len() > 1;
            let is_plain = (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
            if !is_wildcard && !is_plain {
                return Err(InvalidDnsName::Label { name: trimmed.to_owned(), label: label.to_owned() });
            }
        }
        Ok(Self(trimmed.to_ascii_lowercase().into()))
    }
}

impl TryFrom<String> for DnsName {
    type Error = InvalidDnsName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<DnsName> for String {
    fn from(name: DnsName) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> DnsName {
        text.parse().unwrap()
    }

    #[test]
    fn case_and_trailing_dot_do_not_matter() {
        assert_eq!(name("App.Example.ORG."), name("app.example.org"));
    }

    #[test]
    fn a_name_is_in_its_zone_only_at_a_label_border() {
        assert!(name("a.example.org").is_in(&name("example.org")));
        assert!(name("example.org").is_in(&name("example.org")));
        assert!(!name("notexample.org").is_in(&name("example.org")));
    }

    #[test]
    fn malformed_names_are_refused() {
        for text in ["", ".", "a..b", "a b", "*", "a.*.b", &"x".repeat(64), &"a.".repeat(200)] {
            assert!(text.parse::<DnsName>().is_err(), "{text:?}");
        }
    }
}
