//! Synthetic GeoIP databases for tests and the demo.
//!
//! Networks are those reserved for documentation (RFC 5737, RFC 3849) and benchmarking (RFC 2544), so
//! that a fixture can never be mistaken for knowledge about real addresses.

use std::{io, net::IpAddr};

use ipnet::{IpNet, Ipv6Net};
use maxminddb_writer::{Database, metadata::IpVersion, paths::IpAddrWithMask};
use serde::{Deserialize, Serialize};

/// The layout of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schema {
    /// MaxMind's: `location.latitude`, `country.iso_code`, doubles.
    Nested,
    /// The ip-location databases': `latitude`, `country_code`, 32-bit floats.
    Flat,
    /// No place at all: a database of networks' owners, to test that it is refused.
    Networks,
}

/// One network and its place; the JSON form is one line of a fixture's source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// The network.
    pub network: IpNet,
    /// ISO 3166-1 alpha-2.
    pub country: String,
    /// The city, for people.
    pub city: String,
    /// Degrees north.
    pub latitude: f64,
    /// Degrees east.
    pub longitude: f64,
}

/// A synthetic database before it is encoded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fixture {
    lines: Vec<Line>,
}

/// Why a fixture's source cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("line {number} of the fixture")]
pub struct BadLine {
    /// Its number, from 1.
    pub number: usize,
    /// The cause.
    #[source]
    pub cause: serde_json::Error,
}

impl Fixture {
    /// A Taiwanese, a German and an Iowan network, and some more: see `testdata/geoip.jsonl`.
    ///
    /// # Panics
    /// Never: the source is part of this crate and tested.
    #[must_use]
    pub fn standard() -> Self {
        Self::parse(include_str!("../testdata/geoip.jsonl")).expect("the committed fixture parses")
    }

    /// Reads one JSON object a line; empty lines and lines that start with `#` are comments.
    ///
    /// # Errors
    /// [`BadLine`] with its number.
    pub fn parse(text: &str) -> Result<Self, BadLine> {
        let meaningful =
            text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
        let lines = meaningful
            .map(|(index, line)| {
                serde_json::from_str(line).map_err(|cause| BadLine { number: index + 1, cause })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { lines })
    }

    /// Adds a network.
    #[must_use]
    pub fn with(mut self, line: Line) -> Self {
        self.lines.push(line);
        self
    }

    /// The networks, in order.
    pub fn networks(&self) -> impl Iterator<Item = IpNet> {
        self.lines.iter().map(|line| line.network)
    }

    /// The bytes of an MMDB file for IPv4 and IPv6.
    ///
    /// # Errors
    /// The encoder's, as an I/O error.
    pub fn encode(&self, schema: Schema) -> io::Result<Vec<u8>> {
        let mut database = Database::default();
        database.metadata.ip_version = IpVersion::V6;
        database.metadata.binary_format_major_version = 2;
        // Fixed, so that equal sources give equal files.
        database.metadata.build_epoch = 1_767_225_600;
        database.metadata.languages = vec!["en".into()];
        database.metadata.description.insert("en".into(), "Synthetic; not about real addresses".into());
        database.metadata.database_type = match schema {
            Schema::Nested => "Meridian-Synthetic-City",
            Schema::Flat => "Meridian-Synthetic-City-Flat",
            Schema::Networks => "Meridian-Synthetic-Networks",
        }
        .into();
        // A shorter prefix that is inserted later would hide the longer ones inside it.
        let mut lines: Vec<&Line> = self.lines.iter().collect();
        lines.sort_by_key(|line| line.network.prefix_len());
        for line in lines {
            let data = match schema {
                Schema::Nested => database.insert_value(Nested::from(line)),
                Schema::Flat => database.insert_value(Flat::from(line)),
                Schema::Networks => database.insert_value(Network { autonomous_system_number: 64496 }),
            };
            let network = in_v6_tree(line.network);
            let path = IpAddrWithMask::new(IpAddr::V6(network.addr()), network.prefix_len());
            database.insert_node(path, data.map_err(io::Error::other)?);
        }
        database.write_to(Vec::new()).map_err(io::Error::other)
    }
}

/// IPv4 networks live at `::/96` of an IPv6 tree.
fn in_v6_tree(network: IpNet) -> Ipv6Net {
    match network {
        IpNet::V6(v6) => v6,
        IpNet::V4(v4) => {
            let address = std::net::Ipv6Addr::from_bits(u128::from(v4.addr().to_bits()));
            // A v4 prefix is at most 32 long, so the sum is at most 128.
            Ipv6Net::new_assert(address, 96 + v4.prefix_len())
        }
    }
}

#[derive(Serialize)]
struct Nested<'a> {
    city: Names<'a>,
    country: NestedCountry<'a>,
    location: NestedLocation,
}

#[derive(Serialize)]
struct Names<'a> {
    names: English<'a>,
}

#[derive(Serialize)]
struct English<'a> {
    en: &'a str,
}

#[derive(Serialize)]
struct NestedCountry<'a> {
    iso_code: &'a str,
}

#[derive(Serialize)]
struct NestedLocation {
    latitude: f64,
    longitude: f64,
}

impl<'a> From<&'a Line> for Nested<'a> {
    fn from(line: &'a Line) -> Self {
        Self {
            city: Names { names: English { en: &line.city } },
            country: NestedCountry { iso_code: &line.country },
            location: NestedLocation { latitude: line.latitude, longitude: line.longitude },
        }
    }
}

#[derive(Serialize)]
struct Flat<'a> {
    city: &'a str,
    country_code: &'a str,
    latitude: f32,
    longitude: f32,
}

impl<'a> From<&'a Line> for Flat<'a> {
    #[expect(clippy::cast_possible_truncation, reason = "the schema has 32-bit coordinates")]
    fn from(line: &'a Line) -> Self {
        Self {
            city: &line.city,
            country_code: &line.country,
            latitude: line.latitude as f32,
            longitude: line.longitude as f32,
        }
    }
}

#[derive(Serialize)]
struct Network {
    autonomous_system_number: u32,
}
