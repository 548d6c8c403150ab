//! Names as lookups key them.

use std::borrow::Borrow;

use crate::name::DnsName;

/// A name in lower-case wire form: each label after a byte of its length, without the root's zero.
///
/// Any bytes may stand in a label, because anything may be asked for. An ancestor is a suffix of
/// the bytes, so that walking up the tree needs no allocation; the root is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameKey(Box<[u8]>);

impl NameKey {
    /// Joins `labels`, leftmost first. Letters become lower case (RFC 4343); labels longer than 63
    /// bytes do not exist in DNS and are cut.
    #[must_use]
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut bytes = Vec::with_capacity(64);
        for label in labels {
            let label = &label[..label.len().min(63)];
            // Cannot fail: the label was cut to 63.
            bytes.push(u8::try_from(label.len()).unwrap_or(63));
            bytes.extend(label.iter().map(u8::to_ascii_lowercase));
        }
        Self(bytes.into())
    }

    /// The bytes; see the type.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The name itself, then each name above it; the last is the root, which is empty.
    pub fn ancestors(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::successors(Some(self.as_bytes()), |name| {
            let length = usize::from(*name.first()?);
            name.get(1 + length..)
        })
    }

    /// The wildcard right below `parent`, given as bytes.
    pub(super) fn wildcard_of(parent: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(parent.len() + 2);
        bytes.extend_from_slice(b"\x01*");
        bytes.extend_from_slice(parent);
        Self(bytes.into())
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl From<&DnsName> for NameKey {
    fn from(name: &DnsName) -> Self {
        Self::from_labels(name.labels().map(str::as_bytes))
    }
}

impl Borrow<[u8]> for NameKey {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}
