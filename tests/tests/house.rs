//! The import matrix: which crate may link which, over all normal dependencies, transitively.
//!
//! The matrix keeps decisions pure and the edges small: an edge binary that could import kube would
//! sooner or later hold member credentials. What fails here fails before a reviewer has to see it.

use std::{collections::BTreeSet, process::Command};

/// What a crate of the house may link of the things the matrix speaks of.
struct Row {
    krate: &'static str,
    may: &'static [&'static str],
}

/// Crates the matrix speaks of. `kube` stands for its client: api may use the derive.
const WATCHED: &[&str] = &[
    "meridian-api",
    "meridian-core",
    "meridian-feed",
    "meridian-runtime",
    "meridian-controller",
    "meridian-dns",
    "meridian-lb",
    "meridian-sandbox",
    "meridianctl",
    "meridian-demo",
    "meridian-tests",
    "kube-client",
    "kube-runtime",
    "hickory-proto",
    "pingora",
    "tokio",
];

#[rustfmt::skip]
const MATRIX: &[Row] = &[
    Row { krate: "meridian-api", may: &[] },
    Row { krate: "meridian-core", may: &[] },
    Row { krate: "meridian-feed", may: &["meridian-core", "tokio"] },
    Row { krate: "meridian-runtime", may: &["meridian-core", "tokio"] },
    Row { krate: "meridian-controller", may: &["meridian-api", "meridian-core", "meridian-feed", "meridian-runtime", "kube-client", "kube-runtime", "tokio"] },
    Row { krate: "meridian-dns", may: &["meridian-core", "meridian-feed", "meridian-runtime", "hickory-proto", "tokio"] },
    Row { krate: "meridian-lb", may: &["meridian-core", "meridian-feed", "meridian-runtime", "pingora", "tokio"] },
    Row { krate: "meridian-sandbox", may: &["meridian-api", "tokio"] },
    Row { krate: "meridianctl", may: &["meridian-api", "meridian-core", "meridian-feed", "meridian-runtime", "meridian-controller", "kube-client", "kube-runtime", "tokio"] },
];

/// Crates that would bring a second TLS provider or stack into the build.
const BANNED: &[&str] = &["aws-lc-rs", "aws-lc-sys", "openssl", "openssl-sys", "native-tls", "boring"];

/// Runs `cargo tree` over normal dependencies; each package name once.
///
/// Not `cargo metadata`: its graph unites the features of the whole workspace, so an optional
/// dependency that one crate asks for would seem to be linked by all.
fn tree(arguments: &[&str]) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .args(["tree", "--locked", "--offline", "--edges", "normal", "--prefix", "none", "--format", "{p}"])
        .args(arguments)
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo tree {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("cargo prints UTF-8");
    text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// Names that `krate` links through normal dependencies, itself excluded.
fn linked(krate: &str) -> BTreeSet<String> {
    let mut names = tree(&["--package", krate]);
    assert!(names.remove(krate), "cargo tree does not list {krate}");
    names
}

fn members() -> BTreeSet<String> {
    tree(&["--workspace", "--depth", "0"])
}

#[test]
fn every_crate_links_only_what_the_matrix_allows() {
    for row in MATRIX {
        let linked = linked(row.krate);
        let forbidden: Vec<&&str> =
            WATCHED.iter().filter(|name| linked.contains(**name) && !row.may.contains(name)).collect();
        assert!(forbidden.is_empty(), "{} links {forbidden:?}", row.krate);
    }
}

#[test]
fn the_matrix_sees_what_is_really_linked() {
    assert!(linked("meridian-controller").contains("kube-client"));
    assert!(linked("meridian-dns").contains("hickory-proto"));
    assert!(linked("meridian-lb").contains("pingora"));
}

#[test]
fn the_matrix_names_every_crate_that_is_not_exempt() {
    let exempt = ["meridian-demo", "meridian-bench", "meridian-tests"];
    for name in members() {
        assert!(
            exempt.contains(&name.as_str()) || MATRIX.iter().any(|row| row.krate == name),
            "{name} has no row"
        );
    }
}

#[test]
fn one_tls_provider_and_no_openssl() {
    for name in members() {
        let linked = linked(&name);
        let banned: Vec<&&str> = BANNED.iter().filter(|name| linked.contains(**name)).collect();
        assert!(banned.is_empty(), "{name} links {banned:?}");
    }
}
