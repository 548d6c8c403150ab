//! Where a client is, from a MaxMind database.
//!
//! Two schemas are read: MaxMind's own (`location.latitude`, `country.iso_code`) and the flat one of
//! the ip-location databases (`latitude`, `country_code`), with coordinates as 64- or 32-bit floats.

use std::{fmt, net::IpAddr, path::Path};

use ipnet::IpNet;
use maxminddb::{MaxMindDbError, Reader, WithinOptions};
use meridian_core::geo::{ClientLocation, CountryCode, GeoPoint};
use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, Visitor},
};

/// Records looked at to tell a location database from another kind.
const SAMPLE: usize = 1000;

/// Why a database cannot be used. The message names the file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read, or is no MaxMind database.
    #[error("opening GeoIP database {path}")]
    Open {
        /// The file.
        path: String,
        /// The cause.
        #[source]
        cause: MaxMindDbError,
    },
    /// Its contents are damaged.
    #[error("verifying GeoIP database {path}")]
    Verify {
        /// The file.
        path: String,
        /// The cause.
        #[source]
        cause: MaxMindDbError,
    },
    /// It says nothing of places.
    #[error("GeoIP database {path} of type {kind:?} has neither coordinates nor countries")]
    NoPlaces {
        /// The file.
        path: String,
        /// The type that its metadata declares.
        kind: String,
    },
}

impl Error {
    /// A bounded label for metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Open { .. } => "open",
            Self::Verify { .. } => "verify",
            Self::NoPlaces { .. } => "noPlaces",
        }
    }
}

/// What a database says of an address.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Located {
    /// The place; empty when the database has nothing.
    pub location: ClientLocation,
    /// The prefix around the address for which the database says the same; 0 when it does not cover
    /// the address's family.
    pub tile: u8,
}

/// A location database, in memory.
pub struct Database {
    reader: Reader<Vec<u8>>,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("kind", &self.reader.metadata().database_type).finish()
    }
}

impl Database {
    /// Reads and verifies the file. Blocks; a city database takes a second or more.
    ///
    /// # Errors
    /// [`Error`], naming the file: keep what you have, a person must look.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let name = || path.display().to_string();
        let reader = Reader::open_readfile(path).map_err(|cause| Error::Open { path: name(), cause })?;
        reader.verify().map_err(|cause| Error::Verify { path: name(), cause })?;
        let networks = reader
            .networks(WithinOptions::default())
            .map_err(|cause| Error::Verify { path: name(), cause })?;
        let has_places = networks.take(SAMPLE).any(|found| {
            let record = found.and_then(|found| found.decode::<Place>());
            record.is_ok_and(|record| record.is_some_and(|place| place != Place::default()))
        });
        if !has_places {
            return Err(Error::NoPlaces { path: name(), kind: reader.metadata().database_type.clone() });
        }
        Ok(Self { reader })
    }

    /// What it says of `address`. A record that cannot be read says nothing. IPv4-mapped IPv6
    /// addresses are looked up as the IPv4 addresses they are.
    #[must_use]
    pub fn locate(&self, address: IpAddr) -> Located {
        let address = address.to_canonical();
        let Ok(found) = self.reader.lookup(address) else { return Located::default() };
        // Above the IPv4 part of an IPv6 tree the database speaks of another family.
        let tile = match found.network() {
            Ok(network) if network.is_ipv4() == address.is_ipv4() => network.prefix(),
            _ => 0,
        };
        let place = found.decode::<Place>().ok().flatten().unwrap_or_default();
        Located { location: place.location(), tile }
    }

    /// What it says of a client subnet: at most `max_prefix` bits of the address are used, so that
    /// the tile, cut to as many, holds for all it covers.
    #[must_use]
    pub fn locate_network(&self, network: IpNet, max_prefix: u8) -> Located {
        let length = network.prefix_len().min(max_prefix);
        let cut = IpNet::new(network.addr(), length).map_or(network, |cut| cut.trunc());
        let mut located = self.locate(cut.addr());
        located.tile = located.tile.min(max_prefix);
        located
    }
}

/// The part of a record that matters, in either schema.
#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct Place {
    location: Coordinates,
    latitude: Option<Degrees>,
    longitude: Option<Degrees>,
    country: Country,
    registered_country: Country,
    country_code: Option<String>,
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct Coordinates {
    latitude: Option<Degrees>,
    longitude: Option<Degrees>,
}

impl Place {
    fn location(self) -> ClientLocation {
        let latitude = self.location.latitude.or(self.latitude);
        let longitude = self.location.longitude.or(self.longitude);
        let point = match (latitude, longitude) {
            (Some(latitude), Some(longitude)) => GeoPoint::new(latitude.0, longitude.0).ok(),
            _ => None,
        };
        let codes = [self.country.0, self.country_code, self.registered_country.0];
        let country = codes.into_iter().flatten().find_map(|code| code.parse::<CountryCode>().ok());
        ClientLocation { point, country }
    }
}

/// A number that databases store as double, float or integer.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Degrees(f64);

impl<'de> Deserialize<'de> for Degrees {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Degrees;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of degrees")
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Degrees, E> {
                Ok(Degrees(value))
            }

            fn visit_f32<E: de::Error>(self, value: f32) -> Result<Degrees, E> {
                Ok(Degrees(f64::from(value)))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Degrees, E> {
                i32::try_from(value).map(|value| Degrees(f64::from(value))).map_err(E::custom)
            }

            fn visit_i32<E: de::Error>(self, value: i32) -> Result<Degrees, E> {
                Ok(Degrees(f64::from(value)))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Degrees, E> {
                u32::try_from(value).map(|value| Degrees(f64::from(value))).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Number)
    }
}

/// A country: a map with `iso_code`, or the code itself.
#[derive(Debug, Default, PartialEq)]
struct Country(Option<String>);

impl<'de> Deserialize<'de> for Country {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CodeOrMap;
        impl<'de> Visitor<'de> for CodeOrMap {
            type Value = Country;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a country code or a map with iso_code")
            }

            fn visit_str<E: de::Error>(self, code: &str) -> Result<Country, E> {
                Ok(Country(Some(code.to_owned())))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Country, A::Error> {
                let mut country = Country(None);
                while let Some(key) = map.next_key::<String>()? {
                    if key == "iso_code" {
                        country.0 = Some(map.next_value()?);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(country)
            }
        }
        deserializer.deserialize_any(CodeOrMap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::{Fixture, Schema};

    fn database(schema: Schema) -> Database {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), Fixture::standard().encode(schema).unwrap()).unwrap();
        Database::open(file.path()).unwrap()
    }

    fn country(located: &Located) -> Option<&str> {
        located.location.country.as_ref().map(CountryCode::as_str)
    }

    #[test]
    fn both_schemas_say_the_same() {
        let (nested, flat) = (database(Schema::Nested), database(Schema::Flat));
        for network in Fixture::standard().networks() {
            let (a, b) = (nested.locate(network.addr()), flat.locate(network.addr()));
            assert_eq!(country(&a), country(&b));
            let (a, b) = (a.location.point.unwrap(), b.location.point.unwrap());
            // The flat schema has 32-bit coordinates.
            assert!((a.latitude() - b.latitude()).abs() < 1e-4);
            assert!((a.longitude() - b.longitude()).abs() < 1e-4);
        }
    }

    #[test]
    fn tile_is_the_network_of_the_record() {
        let database = database(Schema::Nested);
        let taiwan = database.locate("203.0.113.9".parse().unwrap());
        assert_eq!((country(&taiwan), taiwan.tile), (Some("TW"), 24));
        let mapped = database.locate("::ffff:203.0.113.9".parse().unwrap());
        assert_eq!(mapped, taiwan);
        let unknown = database.locate("10.1.2.3".parse().unwrap());
        assert_eq!(unknown.location, ClientLocation::default());
        assert!(unknown.tile > 0, "a hole has a tile too");
    }

    #[test]
    fn no_more_than_the_allowed_bits_of_a_subnet_are_used() {
        let database = database(Schema::Nested);
        let located = database.locate_network("203.0.113.77/32".parse().unwrap(), 24);
        assert_eq!((country(&located), located.tile), (Some("TW"), 24));
        let coarse = database.locate_network("203.0.113.0/24".parse().unwrap(), 20);
        assert_eq!(coarse.tile, 20);
    }

    #[test]
    fn a_broken_file_is_an_error_that_names_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"not a database").unwrap();
        let error = Database::open(file.path()).unwrap_err();
        assert!(error.to_string().contains(&file.path().display().to_string()), "{error}");
        assert_eq!(error.reason(), "open");

        let whole = Fixture::standard().encode(Schema::Nested).unwrap();
        let mut damaged = whole.clone();
        damaged[..64].fill(0xff);
        std::fs::write(file.path(), &damaged).unwrap();
        assert!(Database::open(file.path()).is_err());
    }

    #[test]
    fn a_database_of_something_else_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), Fixture::standard().encode(Schema::Networks).unwrap()).unwrap();
        assert_eq!(Database::open(file.path()).unwrap_err().reason(), "noPlaces");
    }
}
