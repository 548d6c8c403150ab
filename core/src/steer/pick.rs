//! One place for one request.

/// Draws one of `weighted` for `key`: weighted rendezvous hashing.
///
/// The same key draws the same name as long as weights stand, each name is drawn in proportion to
/// its weight over many keys, and a changed weight moves only the keys it must. Names of weight 0 are
/// never drawn; the result is the position in the input, none when all weights are 0. Does not
/// allocate; O(n). `seed` of each entry comes from [`weight_key`].
pub fn pick(key: u64, weighted: impl IntoIterator<Item = (u64, f64)>) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (position, (seed, weight)) in weighted.into_iter().enumerate() {
        if weight <= 0.0 {
            continue;
        }
        // h in (0, 1): the 53 top bits, never exactly 0 or 1.
        let h = ((mix(key ^ seed) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        let score = weight / -h.ln();
        if best.is_none_or(|(_, highest)| score > highest) {
            best = Some((position, score));
        }
    }
    best.map(|(position, _)| position)
}

/// The seed of a name for [`pick`]: FNV-1a, mixed. The same everywhere and in every release.
#[must_use]
pub fn weight_key(name: &str) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    mix(hash)
}

/// Finalizer of SplitMix64: every input bit reaches every output bit.
const fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(weights: &[(&str, f64)]) -> Vec<usize> {
        let mut counts = vec![0; weights.len()];
        for key in 0..100_000_u64 {
            let entries = weights.iter().map(|&(name, weight)| (weight_key(name), weight));
            counts[pick(mix(key), entries).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn keys_spread_in_proportion_to_weights() {
        let counts = counts(&[("a", 0.6), ("b", 0.3), ("c", 0.1), ("d", 0.0)]);
        for (count, expected) in counts.iter().zip([60_000_i64, 30_000, 10_000, 0]) {
            assert!((*count as i64 - expected).abs() < 600, "{counts:?}");
        }
    }

    #[test]
    fn losing_a_place_moves_only_its_own_keys() {
        let all = [("a", 1.0), ("b", 1.0), ("c", 1.0)].map(|(n, w)| (weight_key(n), w));
        let without_c = [("a", 1.0), ("b", 1.0), ("c", 0.0)].map(|(n, w)| (weight_key(n), w));
        for key in (0..1000).map(mix) {
            let before = pick(key, all).unwrap();
            if before != 2 {
                assert_eq!(pick(key, without_c), Some(before));
            }
        }
    }

    #[test]
    fn nothing_is_drawn_from_nothing() {
        assert_eq!(pick(7, []), None);
        assert_eq!(pick(7, [(1, 0.0)]), None);
    }
}
