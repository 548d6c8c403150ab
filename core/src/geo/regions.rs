//! Where the regions of the large clouds are, from the providers' public documentation.
//!
//! City-level coordinates: a region is tens of kilometres wide, a ranking needs no better.

use super::GeoPoint;

/// The place of a cloud region, or none when the table does not know the name.
///
/// Names are unique over the providers listed (Google Cloud, AWS, Azure), so no provider is asked
/// for. O(log n).
#[must_use]
pub fn region_location(region: &str) -> Option<GeoPoint> {
    let index = REGIONS.binary_search_by_key(&region, |&(name, _, _)| name).ok()?;
    let (_, latitude, longitude) = REGIONS[index];
    GeoPoint::new(latitude, longitude).ok()
}

/// (name, latitude, longitude), sorted by name.
#[rustfmt::skip]
const REGIONS: &[(&str, f64, f64)] = &[
    ("af-south-1", -33.92, 18.42),
    ("africa-south1", -26.2, 28.0),
    ("ap-east-1", 22.32, 114.17),
    ("ap-northeast-1", 35.68, 139.77),
    ("ap-northeast-2", 37.57, 126.98),
    ("ap-northeast-3", 34.69, 135.5),
    ("ap-south-1", 19.08, 72.88),
    ("ap-south-2", 17.39, 78.49),
    ("ap-southeast-1", 1.35, 103.82),
    ("ap-southeast-2", -33.87, 151.21),
    ("ap-southeast-3", -6.21, 106.85),
    ("ap-southeast-4", -37.81, 144.96),
    ("asia-east1", 24.05, 120.52),
    ("asia-east2", 22.32, 114.17),
    ("asia-northeast1", 35.69, 139.69),
    ("asia-northeast2", 34.69, 135.5),
    ("asia-northeast3", 37.57, 126.98),
    ("asia-south1", 19.08, 72.88),
    ("asia-south2", 28.61, 77.21),
    ("asia-southeast1", 1.35, 103.82),
    ("asia-southeast2", -6.21, 106.85),
    ("australia-southeast1", -33.87, 151.21),
    ("australia-southeast2", -37.81, 144.96),
    ("australiaeast", -33.87, 151.21),
    ("brazilsouth", -23.55, -46.63),
    ("ca-central-1", 45.5, -73.57),
    ("ca-west-1", 51.05, -114.07),
    ("canadacentral", 43.65, -79.38),
    ("centralindia", 18.52, 73.86),
    ("centralus", 41.59, -93.62),
    ("eastasia", 22.32, 114.17),
    ("eastus", 37.37, -79.82),
    ("eastus2", 36.67, -78.39),
    ("eu-central-1", 50.11, 8.68),
    ("eu-central-2", 47.38, 8.54),
    ("eu-north-1", 59.33, 18.07),
    ("eu-south-1", 45.46, 9.19),
    ("eu-south-2", 41.65, -0.88),
    ("eu-west-1", 53.35, -6.26),
    ("eu-west-2", 51.51, -0.13),
    ("eu-west-3", 48.86, 2.35),
    ("europe-central2", 52.23, 21.01),
    ("europe-north1", 60.57, 27.19),
    ("europe-southwest1", 40.42, -3.7),
    ("europe-west1", 50.47, 3.82),
    ("europe-west10", 52.52, 13.4),
    ("europe-west12", 45.07, 7.69),
    ("europe-west2", 51.51, -0.13),
    ("europe-west3", 50.11, 8.68),
    ("europe-west4", 53.44, 6.84),
    ("europe-west6", 47.38, 8.54),
    ("europe-west8", 45.46, 9.19),
    ("europe-west9", 48.86, 2.35),
    ("francecentral", 48.86, 2.35),
    ("germanywestcentral", 50.11, 8.68),
    ("il-central-1", 32.09, 34.78),
    ("japaneast", 35.68, 139.77),
    ("japanwest", 34.69, 135.5),
    ("koreacentral", 37.57, 126.98),
    ("me-central-1", 24.45, 54.38),
    ("me-central1", 25.29, 51.53),
    ("me-south-1", 26.23, 50.59),
    ("me-west1", 32.09, 34.78),
    ("northamerica-northeast1", 45.5, -73.57),
    ("northamerica-northeast2", 43.65, -79.38),
    ("northcentralus", 41.88, -87.63),
    ("northeurope", 53.35, -6.26),
    ("norwayeast", 59.91, 10.75),
    ("sa-east-1", -23.55, -46.63),
    ("southafricanorth", -26.2, 28.0),
    ("southamerica-east1", -23.55, -46.63),
    ("southamerica-west1", -33.45, -70.67),
    ("southcentralus", 29.42, -98.49),
    ("southeastasia", 1.35, 103.82),
    ("swedencentral", 60.67, 17.14),
    ("switzerlandnorth", 47.38, 8.54),
    ("uaenorth", 25.2, 55.27),
    ("uksouth", 51.51, -0.13),
    ("us-central1", 41.26, -95.86),
    ("us-east-1", 38.95, -77.45),
    ("us-east-2", 39.96, -83.0),
    ("us-east1", 33.2, -80.01),
    ("us-east4", 39.04, -77.49),
    ("us-east5", 39.96, -83.0),
    ("us-south1", 32.78, -96.8),
    ("us-west-1", 37.35, -121.96),
    ("us-west-2", 45.87, -119.69),
    ("us-west1", 45.6, -121.18),
    ("us-west2", 34.05, -118.24),
    ("us-west3", 40.76, -111.89),
    ("us-west4", 36.17, -115.14),
    ("westeurope", 52.37, 4.9),
    ("westus", 37.78, -122.42),
    ("westus2", 47.23, -119.85),
    ("westus3", 33.45, -112.07),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_sorted_unique_and_on_the_globe() {
        assert!(REGIONS.is_sorted_by(|a, b| a.0 < b.0));
        for (name, ..) in REGIONS {
            assert!(region_location(name).is_some(), "{name}");
        }
    }

    #[test]
    fn unknown_region_has_no_place() {
        assert_eq!(region_location("moon-north1"), None);
    }
}
