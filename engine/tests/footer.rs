//! The footers' half of the independent reader: only to see that they say what their segments say.

use crate::reader::{u32_at, u64_at};

/// What a footer says: previous segment, LSN of the head, previous footer; and the place of every record.
pub(crate) fn footer(body: &[u8]) -> ([u64; 3], Vec<[u64; 5]>) {
    let groups = u32_at(body, 20) as usize;
    let mut rest = &body[32 + 8 * groups..];
    let mut next = vec![(0, 0); groups];
    let mut places = Vec::new();
    for _ in 0..u32_at(body, 24) {
        let (number, mut offset) = (u32_at(rest, 0) as usize, u64::from(u32_at(rest, 4)));
        let (bits, first) = (u32_at(rest, 8), u32_at(rest, 12));
        let (records, follows, alike) = ((bits & 0x1fff_ffff) as usize, bits >> 30 & 1 == 1, bits >> 31 == 1);
        rest = &rest[16..];
        if !follows {
            next[number] = (u64_at(rest, 0), u64_at(rest, 8));
            rest = &rest[16..];
        }
        for nth in 0..records {
            let word = u64::from(if alike || nth == 0 { first } else { u32_at(rest, 4 * nth - 4) });
            places.push([u64_at(body, 32 + 8 * number), next[number].0, next[number].1, word, offset]);
            offset += (24 + (word & 0xfff_ffff)).next_multiple_of(8);
            next[number].0 += 1;
        }
        rest = &rest[if alike { 0 } else { (4 * records - 4).next_multiple_of(8) }..];
    }
    assert!(rest.is_empty());
    ([u64_at(body, 0), u64_at(body, 8), u32_at(body, 16).into()], places)
}
