//! Paths of one host.

use std::collections::HashMap;

/// Maps paths to indexes of routes.
#[derive(Clone, Debug, Default)]
pub(super) struct Paths {
    exact: HashMap<Box<str>, usize>,
    /// Without the trailing slash, which does not matter in a prefix; `/` itself is empty.
    prefixes: HashMap<Box<str>, usize>,
    /// Distinct lengths of the prefixes, longest first. They bound the lookups of a request, however
    /// many slashes its path has.
    lengths: Vec<usize>,
    default_backend: Option<usize>,
}

impl Paths {
    /// The index that holds exactly `path`: `index` unless somebody came first.
    pub(super) fn claim_exact(&mut self, path: &str, index: usize) -> usize {
        *self.exact.entry(path.into()).or_insert(index)
    }

    /// The index that holds the prefix `path`: `index` unless somebody came first.
    pub(super) fn claim_prefix(&mut self, path: &str, index: usize) -> usize {
        let prefix = path.strip_suffix('/').unwrap_or(path);
        if let Err(position) = self.lengths.binary_search_by(|length| prefix.len().cmp(length)) {
            self.lengths.insert(position, prefix.len());
        }
        *self.prefixes.entry(prefix.into()).or_insert(index)
    }

    /// The index that holds the default backend: `index` unless somebody came first.
    pub(super) fn claim_default(&mut self, index: usize) -> usize {
        *self.default_backend.get_or_insert(index)
    }

    /// The route of `path`: Exact, else the longest Prefix that ends at an element border.
    pub(super) fn find(&self, path: &str) -> Option<usize> {
        if let Some(&index) = self.exact.get(path) {
            return Some(index);
        }
        self.lengths.iter().find_map(|&length| {
            let rest = path.get(length..)?;
            if rest.is_empty() || rest.starts_with('/') {
                self.prefixes.get(&path[..length]).copied()
            } else {
                None
            }
        })
    }

    pub(super) const fn default_backend(&self) -> Option<usize> {
        self.default_backend
    }
}
