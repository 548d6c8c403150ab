//! Where things are, and how far apart.
//!
//! A distance is a round-trip time in milliseconds even when it was only computed from places on
//! the globe, so that measured and computed distances rank in one list. The conversion follows
//! the light-in-fibre bound times how crooked the cables between two parts of the world run.

use serde::{Deserialize, Serialize};

use crate::{id::RegionName, time::Millis};

mod regions;

pub use regions::region_location;

/// Mean radius of the Earth in kilometres (IUGG).
const EARTH_RADIUS_KM: f64 = 6371.0088;

/// Round-trip light in fibre covers about 100 km of one-way distance each millisecond.
const KM_PER_MS_ROUND_TRIP: f64 = 100.0;

/// A place on the globe, in degrees (WGS 84).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawPoint")]
pub struct GeoPoint {
    latitude: f64,
    longitude: f64,
}

/// A latitude outside -90..=90, a longitude outside -180..=180, or a NaN.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("latitude {latitude}, longitude {longitude} is no place on the globe")]
pub struct InvalidGeoPoint {
    latitude: f64,
    longitude: f64,
}

#[derive(Deserialize)]
struct RawPoint {
    latitude: f64,
    longitude: f64,
}

impl TryFrom<RawPoint> for GeoPoint {
    type Error = InvalidGeoPoint;

    fn try_from(raw: RawPoint) -> Result<Self, Self::Error> {
        Self::new(raw.latitude, raw.longitude)
    }
}

impl GeoPoint {
    /// A place at `latitude` (-90..=90) and `longitude` (-180..=180) degrees.
    ///
    /// # Errors
    /// [`InvalidGeoPoint`] outside these ranges; the caller names the object and field it read.
    pub fn new(latitude: f64, longitude: f64) -> Result<Self, InvalidGeoPoint> {
        if (-90.0..=90.0).contains(&latitude) && (-180.0..=180.0).contains(&longitude) {
            Ok(Self { latitude, longitude })
        } else {
            Err(InvalidGeoPoint { latitude, longitude })
        }
    }

    /// Degrees north, -90..=90.
    #[must_use]
    pub const fn latitude(self) -> f64 {
        self.latitude
    }

    /// Degrees east, -180..=180.
    #[must_use]
    pub const fn longitude(self) -> f64 {
        self.longitude
    }
}

/// A length on the globe in kilometres.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Km(pub f64);

/// Great-circle distance by the haversine formula; exact enough (0.5 %) for a round Earth.
#[must_use]
pub fn great_circle(a: GeoPoint, b: GeoPoint) -> Km {
    let (lat_a, lat_b) = (a.latitude.to_radians(), b.latitude.to_radians());
    let half_dlat = (lat_b - lat_a) / 2.0;
    let half_dlon = (b.longitude - a.longitude).to_radians() / 2.0;
    let h = half_dlat.sin().powi(2) + lat_a.cos() * lat_b.cos() * half_dlon.sin().powi(2);
    Km(2.0 * EARTH_RADIUS_KM * h.clamp(0.0, 1.0).sqrt().asin())
}

/// Round-trip time that a packet between two places is likely to need.
///
/// Symmetric. Cables between East Asia and Europe run around a continent, so a straight line on
/// the globe flatters them: from Taiwan, Iowa is nearer than Belgium although the map says the
/// opposite.
#[must_use]
pub fn estimated_rtt(a: GeoPoint, b: GeoPoint) -> Millis {
    Millis::new(great_circle(a, b).0 / KM_PER_MS_ROUND_TRIP * path_inflation(a, b))
}

/// Parts of the world between which cables take known detours.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Europe,
    EastAsia,
    SouthAsia,
    Elsewhere,
}

fn part_of(place: GeoPoint) -> Part {
    let (lat, lon) = (place.latitude, place.longitude);
    if (35.0..=72.0).contains(&lat) && (-25.0..=45.0).contains(&lon) {
        Part::Europe
    } else if (-12.0..=55.0).contains(&lat) && (95.0..=150.0).contains(&lon) {
        Part::EastAsia
    } else if (5.0..=38.0).contains(&lat) && (60.0..95.0).contains(&lon) {
        Part::SouthAsia
    } else {
        Part::Elsewhere
    }
}

/// How much longer the usual path is than the great circle.
fn path_inflation(a: GeoPoint, b: GeoPoint) -> f64 {
    match (part_of(a), part_of(b)) {
        (Part::EastAsia, Part::Europe) | (Part::Europe, Part::EastAsia) => 2.3,
        (Part::SouthAsia, Part::Europe) | (Part::Europe, Part::SouthAsia) => 1.5,
        _ => 1.3,
    }
}

/// A two-letter ISO 3166-1 country code, upper case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CountryCode([u8; 2]);

/// A text that is not two ASCII letters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a two-letter country code")]
pub struct InvalidCountryCode(String);

impl CountryCode {
    /// The code as text, upper case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("??")
    }
}

impl std::str::FromStr for CountryCode {
    type Err = InvalidCountryCode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.as_bytes() {
            [a, b] if a.is_ascii_alphabetic() && b.is_ascii_alphabetic() => {
                Ok(Self([a.to_ascii_uppercase(), b.to_ascii_uppercase()]))
            }
            _ => Err(InvalidCountryCode(text.to_owned())),
        }
    }
}

impl TryFrom<String> for CountryCode {
    type Error = InvalidCountryCode;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<CountryCode> for String {
    fn from(code: CountryCode) -> Self {
        code.as_str().to_owned()
    }
}

/// What is known of where a client is. Everything may be unknown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClientLocation {
    /// Where the client's network is.
    pub point: Option<GeoPoint>,
    /// The country it is registered in.
    pub country: Option<CountryCode>,
}

/// Location of an object: its own if it says one, else that of its region in the built-in table.
#[must_use]
pub fn location_of(own: Option<GeoPoint>, region: Option<&RegionName>) -> Option<GeoPoint> {
    own.or_else(|| region.and_then(|name| region_location(name.as_str())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(region: &str) -> GeoPoint {
        region_location(region).unwrap()
    }

    #[test]
    fn great_circle_matches_a_published_distance() {
        // Heathrow to JFK: 5,540 km in airline tables.
        let heathrow = GeoPoint::new(51.4700, -0.4543).unwrap();
        let jfk = GeoPoint::new(40.6413, -73.7781).unwrap();
        assert!((great_circle(heathrow, jfk).0 - 5540.0).abs() < 20.0);
    }

    #[test]
    fn from_taiwan_iowa_is_nearer_than_belgium() {
        let taiwan = GeoPoint::new(25.03, 121.56).unwrap();
        assert!(great_circle(taiwan, place("us-central1")).0 > great_circle(taiwan, place("europe-west1")).0);
        assert!(estimated_rtt(taiwan, place("us-central1")) < estimated_rtt(taiwan, place("europe-west1")));
    }

    #[test]
    fn points_off_the_globe_are_refused() {
        assert!(GeoPoint::new(91.0, 0.0).is_err());
        assert!(GeoPoint::new(0.0, f64::NAN).is_err());
        assert!(serde_json::from_str::<GeoPoint>(r#"{"latitude":0,"longitude":181}"#).is_err());
    }
}
