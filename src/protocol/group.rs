//! Which group a key belongs to. Part of the protocol: clients and nodes must agree, for ever.

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// A stable 64-bit hash of a key; no defence against keys chosen to collide.
///
/// `h = length * M`, with `M = 0x9e3779b97f4a7c15`; then for every 8 bytes, taken as a little-endian number, the last
/// ones padded with zeros: `h = (h xor number) * M; h = h xor (h >> 32)`; at last the 64-bit finaliser of Murmur3.
#[must_use]
pub fn key_hash(key: &[u8]) -> u64 {
    let mut hash = (key.len() as u64).wrapping_mul(MULTIPLIER);
    let (words, tail) = key.as_chunks::<8>();
    for word in words {
        hash = mix(hash, u64::from_le_bytes(*word));
    }
    if !tail.is_empty() {
        let mut last = [0; 8];
        last[..tail.len()].copy_from_slice(tail);
        hash = mix(hash, u64::from_le_bytes(last));
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// The number of the group that holds `key`, from 0 to `groups - 1`: the high word of `key_hash(key) * groups`.
///
/// # Panics
/// If there are no groups.
#[must_use]
pub fn group_of(key: &[u8], groups: u64) -> u64 {
    assert!(groups > 0, "a cluster has at least one group");
    let high = (u128::from(key_hash(key)) * u128::from(groups)) >> 64;
    u64::try_from(high).expect("below `groups`")
}

fn mix(hash: u64, word: u64) -> u64 {
    let hash = (hash ^ word).wrapping_mul(MULTIPLIER);
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_even() {
        const GROUPS: u64 = 7;
        let mut counts = [0_u32; 7];
        for number in 0..70_000 {
            let group = group_of(format!("key-{number:08}").as_bytes(), GROUPS);
            counts[usize::try_from(group).unwrap()] += 1;
        }
        for count in counts {
            assert!((9_500..10_500).contains(&count), "{counts:?}");
        }
    }

    #[test]
    fn zeros_at_the_end_count() {
        assert_ne!(key_hash(b"a"), key_hash(b"a\0"));
        assert_ne!(key_hash(b""), key_hash(b"\0"));
        assert_eq!(group_of(b"anything", 1), 0);
    }
}
