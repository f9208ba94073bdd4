//! The layout of a block: one batch, one write, one sync. Pure.
//!
//! A block is a header, a body and zeros up to a multiple of 4096 bytes. Header, little-endian:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | magic `RRBK` |
//! | 4 | 2 | version: 2; 1 is read, too |
//! | 6 | 2 | kind: 1 head of a segment, 2 batch, 3 footer |
//! | 8 | 4 | CRC-32 of bytes 0..8 and 12..80 |
//! | 12 | 4 | CRC-32 of the body, seeded with the CRC-32 of bytes 16..48 and 72..80 |
//! | 16 | 8 | log id |
//! | 24 | 8 | generation of the segment: unique, never reused |
//! | 32 | 8 | position: offset of this block in its segment |
//! | 40 | 8 | LSN: number of the batch, from 1; of others: that of the last batch before it |
//! | 48 | 8 | durable mark: every batch up to this LSN was known durable when this block was submitted |
//! | 56 | 8 | first: the oldest generation that is still needed once this block is durable |
//! | 64 | 4 | body length |
//! | 68 | 4 | sections in the body |
//! | 72 | 8 | epoch: raised each time the log is opened |
//!
//! The header has a checksum of its own, so that its length and its marks can be trusted when the body is torn.
//! A head's body begins with (then follow its sections, the checkpoint):
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 2 | checksum kind: 1 CRC-32 (IEEE) |
//! | 2 | 2 | flags: 1 groups may be lost |
//! | 4 | 4 | place of the previous segment's footer, in units of 4096 bytes; 0: none |
//! | 8 | 8 | generation of the previous segment; 0: none |
//! | 16 | 8 | bytes of this segment |

use crc32fast::Hasher;
use ringraft_io::BLOCK_ALIGN;

/// Bytes of a block's header.
pub(crate) const HEADER: usize = 80;
/// Bytes of the fields that a head's body begins with.
pub(crate) const HEAD: usize = 24;

const MAGIC: u32 = u32::from_le_bytes(*b"RRBK");
const VERSION: u16 = 2;
const VERSION_OLDEST: u16 = 1;
const CHECKSUM_CRC32: u16 = 1;
const GROUPS_LOST: u16 = 1;
/// Numbers of batches and epochs lie below: so that counting on never overflows.
const COUNT_END: u64 = 1 << 62;

const _: () = assert!(HEADER.is_multiple_of(8) && HEAD.is_multiple_of(8), "records stay aligned");
const _: () = assert!(HEADER <= 512, "a header lies within one sector");

/// What a block is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Begins a segment.
    Head,
    /// Holds what groups appended.
    Batch,
    /// Says where the entries of a sealed segment lie.
    Footer,
}

/// The header's fields, without the checksums.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) log_id: u64,
    pub(crate) generation: u64,
    pub(crate) position: u64,
    pub(crate) lsn: u64,
    pub(crate) durable: u64,
    pub(crate) first: u64,
    pub(crate) body_len: u32,
    pub(crate) sections: u32,
    pub(crate) epoch: u64,
}

/// What a head says beside its header and its checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Head {
    pub(crate) previous: u64,
    /// Place of the previous segment's footer, in blocks; 0: there is none.
    pub(crate) footer: u32,
    pub(crate) segment_bytes: u64,
    /// Damage may have taken groups that nothing else tells of.
    pub(crate) groups_lost: bool,
}

/// Why bytes are not the block that was looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BlockError {
    /// Nothing was ever written here.
    #[error("blank")]
    Blank,
    /// No block begins here.
    #[error("not a block")]
    Magic,
    /// The header's checksum is wrong.
    #[error("header checksum")]
    Header,
    /// Written by another release.
    #[error("unknown version {0}")]
    Version(u16),
    /// Of another log.
    #[error("of log {0:#018x}")]
    Foreign(u64),
    /// It was written for another place.
    #[error("misplaced")]
    Misplaced,
    /// It ends behind the end of the file.
    #[error("length")]
    Length,
    /// The body's checksum is wrong.
    #[error("body checksum")]
    Body,
    /// Another block should be here: of another generation, number, kind or age.
    #[error("stale")]
    Stale,
}

/// Bytes of the block with a body of this length.
pub(crate) const fn padded_len(body_len: usize) -> usize {
    (HEADER + body_len).next_multiple_of(BLOCK_ALIGN)
}

/// Writes header and checksums in front of the body that `block[HEADER..]` begins with, and zeros behind it.
pub(crate) fn seal(header: &Header, block: &mut [u8]) {
    let end = HEADER + header.body_len as usize;
    assert!(end <= block.len() && block.len().is_multiple_of(BLOCK_ALIGN), "block of {} bytes", block.len());
    let kind: u16 = match header.kind {
        Kind::Head => 1,
        Kind::Batch => 2,
        Kind::Footer => 3,
    };
    block[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    block[4..6].copy_from_slice(&VERSION.to_le_bytes());
    block[6..8].copy_from_slice(&kind.to_le_bytes());
    let numbers = [header.log_id, header.generation, header.position, header.lsn, header.durable, header.first];
    for (number, at) in numbers.into_iter().zip((16..).step_by(8)) {
        block[at..at + 8].copy_from_slice(&number.to_le_bytes());
    }
    block[64..68].copy_from_slice(&header.body_len.to_le_bytes());
    block[68..72].copy_from_slice(&header.sections.to_le_bytes());
    block[72..80].copy_from_slice(&header.epoch.to_le_bytes());
    let body_crc = body_checksum(&block[..end]);
    block[12..16].copy_from_slice(&body_crc.to_le_bytes());
    let header_crc = header_checksum(block);
    block[8..12].copy_from_slice(&header_crc.to_le_bytes());
    block[end..].fill(0);
}

/// Reads the header of the block that lies at `position` of a segment and that `bytes` begins with. `bytes_left` is
/// what the file has from there on.
pub(crate) fn read_header(bytes: &[u8], log_id: u64, position: u64, bytes_left: u64) -> Result<Header, BlockError> {
    let bytes = bytes.get(..HEADER).ok_or(BlockError::Length)?;
    if bytes.iter().all(|byte| *byte == 0) {
        return Err(BlockError::Blank);
    }
    if u32_at(bytes, 0) != MAGIC {
        return Err(BlockError::Magic);
    }
    if header_checksum(bytes) != u32_at(bytes, 8) {
        return Err(BlockError::Header);
    }
    let version = u16_at(bytes, 4);
    if !(VERSION_OLDEST..=VERSION).contains(&version) {
        return Err(BlockError::Version(version));
    }
    let found = u64_at(bytes, 16);
    if found != log_id {
        return Err(BlockError::Foreign(found));
    }
    let kind = match u16_at(bytes, 6) {
        1 => Kind::Head,
        2 => Kind::Batch,
        3 => Kind::Footer,
        _ => return Err(BlockError::Magic),
    };
    let header = Header {
        kind,
        log_id: found,
        generation: u64_at(bytes, 24),
        position: u64_at(bytes, 32),
        lsn: u64_at(bytes, 40),
        durable: u64_at(bytes, 48),
        first: u64_at(bytes, 56),
        body_len: u32_at(bytes, 64),
        sections: u32_at(bytes, 68),
        epoch: u64_at(bytes, 72),
    };
    let generations = 1..u64::from(u32::MAX);
    let counts = header.lsn.max(header.durable).max(header.epoch) < COUNT_END;
    if header.position != position || !generations.contains(&header.generation) || !counts {
        return Err(BlockError::Misplaced);
    }
    if padded_len(header.body_len as usize) as u64 > bytes_left {
        return Err(BlockError::Length);
    }
    Ok(header)
}

/// The body of the block that `bytes` begins with, if it is as it was written.
pub(crate) fn read_body<'a>(header: &Header, bytes: &'a [u8]) -> Result<&'a [u8], BlockError> {
    let block = bytes.get(..HEADER + header.body_len as usize).ok_or(BlockError::Length)?;
    if body_checksum(block) != u32_at(block, 12) {
        return Err(BlockError::Body);
    }
    Ok(&block[HEADER..])
}

/// Writes the fields that a head's body begins with.
pub(crate) fn put_head(head: &Head, body: &mut [u8]) {
    body[0..2].copy_from_slice(&CHECKSUM_CRC32.to_le_bytes());
    body[2..4].copy_from_slice(&(if head.groups_lost { GROUPS_LOST } else { 0 }).to_le_bytes());
    body[4..8].copy_from_slice(&head.footer.to_le_bytes());
    body[8..16].copy_from_slice(&head.previous.to_le_bytes());
    body[16..24].copy_from_slice(&head.segment_bytes.to_le_bytes());
}

/// Reads the fields that a head's body begins with; the number of an unknown kind of checksum as the error.
pub(crate) fn read_head(body: &[u8]) -> Result<Head, u16> {
    let Some(body) = body.get(..HEAD) else { return Err(0) };
    match u16_at(body, 0) {
        CHECKSUM_CRC32 => Ok(Head {
            previous: u64_at(body, 8),
            footer: u32_at(body, 4),
            segment_bytes: u64_at(body, 16),
            groups_lost: u16_at(body, 2) & GROUPS_LOST != 0,
        }),
        kind => Err(kind),
    }
}

fn header_checksum(block: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&block[..8]);
    hasher.update(&block[12..HEADER]);
    hasher.finalize()
}

fn body_checksum(block: &[u8]) -> u32 {
    let mut seed = Hasher::new();
    seed.update(&block[16..48]);
    seed.update(&block[72..80]);
    let mut hasher = Hasher::new_with_initial(seed.finalize());
    hasher.update(&block[HEADER..]);
    hasher.finalize()
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Header, Vec<u8>) {
        let header = Header {
            kind: Kind::Batch,
            log_id: 7,
            generation: 3,
            position: 8192,
            lsn: 12,
            durable: 10,
            first: 2,
            body_len: 40,
            sections: 1,
            epoch: 5,
        };
        let mut block = vec![0xee; BLOCK_ALIGN];
        block[HEADER..HEADER + 40].fill(0x5a);
        seal(&header, &mut block);
        (header, block)
    }

    fn read(block: &[u8], position: u64) -> Result<Header, BlockError> {
        let header = read_header(block, 7, position, 4096)?;
        read_body(&header, block).map(|_| header)
    }

    #[test]
    fn round_trip_and_zeros_behind() {
        let (header, block) = sample();
        assert_eq!(read(&block, 8192), Ok(header));
        assert!(block[HEADER + 40..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn every_flipped_bit_is_seen_or_lies_in_the_padding() {
        let (header, block) = sample();
        for bit in 0..block.len() * 8 {
            let mut bad = block.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let seen = read(&bad, 8192).is_err();
            assert_eq!(seen, bit / 8 < HEADER + 40, "bit {bit}");
            assert!(seen || read(&bad, 8192) == Ok(header));
        }
    }

    #[test]
    fn strangers_are_told_apart() {
        let (_, block) = sample();
        assert_eq!(read_header(&block, 8, 8192, 4096), Err(BlockError::Foreign(7)));
        assert_eq!(read_header(&block, 7, 4096, 4096), Err(BlockError::Misplaced));
        assert_eq!(read_header(&block, 7, 8192, 0), Err(BlockError::Length));
        assert_eq!(read_header(&[0; 4096], 7, 0, 4096), Err(BlockError::Blank));
        assert_eq!(read_header(&block[..50], 7, 8192, 4096), Err(BlockError::Length));
        let mut newer = block;
        newer[4] = 9;
        let crc = header_checksum(&newer);
        newer[8..12].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(read_header(&newer, 7, 8192, 4096), Err(BlockError::Version(9)));
    }
}
