//! A fingerprint of a JSON value that is the same in every process and version.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

/// 128-bit FNV-1a over a canonical form of a JSON value: keys sorted, every part delimited. Not meant to resist an
/// attacker, who could only suppress the repair of an object that he may edit anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(u128);

const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

impl Fingerprint {
    /// The fingerprint of a value. Maps are equal whatever the order of their keys. O(size).
    #[must_use]
    pub fn of(value: &Value) -> Self {
        let mut state = OFFSET;
        feed(&mut state, value);
        Self(state)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A text that is no fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not 32 hexadecimal digits")]
pub struct NotAFingerprint;

impl FromStr for Fingerprint {
    type Err = NotAFingerprint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(NotAFingerprint);
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| NotAFingerprint)
    }
}

fn bytes(state: &mut u128, data: &[u8]) {
    for byte in data {
        *state = (*state ^ u128::from(*byte)).wrapping_mul(PRIME);
    }
}

fn text(state: &mut u128, tag: u8, data: &str) {
    bytes(state, &[tag]);
    bytes(state, &u64::try_from(data.len()).unwrap_or(u64::MAX).to_le_bytes());
    bytes(state, data.as_bytes());
}

fn feed(state: &mut u128, value: &Value) {
    match value {
        Value::Null => bytes(state, b"n"),
        Value::Bool(flag) => bytes(state, if *flag { b"t" } else { b"f" }),
        Value::Number(number) => text(state, b'#', &number.to_string()),
        Value::String(string) => text(state, b's', string),
        Value::Array(items) => {
            bytes(state, b"[");
            for item in items {
                feed(state, item);
            }
            bytes(state, b"]");
        }
        Value::Object(map) => {
            bytes(state, b"{");
            // The map's own order depends on a feature of serde_json that any crate may switch on.
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_unstable();
            for key in keys {
                text(state, b'k', key);
                feed(state, &map[key]);
            }
            bytes(state, b"}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Fingerprint;
    use serde_json::json;

    #[test]
    fn fingerprint_never_changes_between_versions() {
        // Pinned: another value would rewrite every object of every fleet at an upgrade.
        let value = json!({"b": [1, "x", null, true], "a": {"c": 1.5}});
        assert_eq!(Fingerprint::of(&value).to_string(), PINNED);
    }

    const PINNED: &str = "943ea959f2afbff310c2d8ae903fc9ca";

    #[test]
    fn borders_between_parts_matter() {
        assert_ne!(Fingerprint::of(&json!(["ab", "c"])), Fingerprint::of(&json!(["a", "bc"])));
        assert_ne!(Fingerprint::of(&json!([[1], 2])), Fingerprint::of(&json!([[1, 2]])));
        assert_ne!(Fingerprint::of(&json!("1")), Fingerprint::of(&json!(1)));
    }

    #[test]
    fn fingerprint_survives_a_round_trip_as_text() {
        let print = Fingerprint::of(&json!({}));
        assert_eq!(print.to_string().parse(), Ok(print));
        assert!("12".parse::<Fingerprint>().is_err());
        assert!("+0000000000000000000000000000001".parse::<Fingerprint>().is_err());
    }
}
