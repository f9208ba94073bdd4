//! Snapshot files: named, laid out, written in pieces, verified whole.
//!
//! A snapshot is a file of its own, `snap/<group>-<index>-<term>.snap` (hexadecimal, 16 digits each). It is written
//! aside piece by piece ([`SnapshotWriter`], with `Job::WriteAside` and `Job::Commit`) or received from a peer, and
//! read as a whole ([`SnapshotReader`]). Several may lie side by side; which one counts is what the log says. All
//! numbers are little-endian, all parts multiples of 8 bytes:
//!
//! | part | offset | size | field |
//! |---|---|---|---|
//! | header | 0 | 8 | magic `RRSNAP01` |
//! | | 8 | 8 | log id |
//! | | 16 | 8 | group |
//! | | 24 | 8 | index |
//! | | 32 | 8 | term |
//! | | 40 | 8 | four counts of 16 bits: voters, outgoing voters, learners, next learners |
//! | | 48 | 4 | flags: 1 auto leave, 2 witnesses |
//! | | 52 | 4 | number of witnesses (flag 2), or zero |
//! | | 56 | 4 | CRC-32 of bytes 0..56 and of the members |
//! | | 60 | 4 | zero |
//! | members | 64 | 8 n | in the order of the counts; then the witnesses among them |
//! | chunk | 0 | 4 | length |
//! | | 4 | 4 | CRC-32 of number and bytes, seeded with the header's |
//! | | 8 | 8 | number of the chunk, from 0 |
//! | | 16 | length | the bytes, then zeros up to a multiple of 8 |
//! | trailer | 0 | 4 | `u32::MAX` |
//! | | 4 | 4 | CRC-32 of what follows |
//! | | 8 | 8 | chunks |
//! | | 16 | 8 | payload bytes |
//! | | 24 | 8 | digest |
//!
//! The digest is FNV-1a (64 bits) over the CRCs of header and chunks in order: an exchanged, repeated or missing chunk
//! is seen.

use std::path::{Path, PathBuf};

use bytes::{BufMut, Bytes, BytesMut};
use crc32fast::Hasher;
use ringraft_raft::{ConfState, EntryId, GroupId, Index, PeerId, Term};

use crate::wal::block::{u16_at, u32_at, u64_at};
use crate::wal::section::MEMBERS_MAX;

/// Longest chunk, in bytes.
pub const CHUNK_BYTES_MAX: usize = 16 << 20;

const MAGIC: &[u8; 8] = b"RRSNAP01";
const HEADER: usize = 64;
const CHUNK: usize = 16;
const TRAILER: usize = 32;
const TRAILER_MARK: u32 = u32::MAX;
const AUTO_LEAVE: u32 = 1;
const WITNESSES: u32 = 2;

const _: () = assert!((CHUNK_BYTES_MAX as u64) < TRAILER_MARK as u64, "a chunk is told from the trailer");

/// Whose snapshot, up to where: what a file's name says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SnapshotName {
    /// The group.
    pub group: GroupId,
    /// The last entry in it.
    pub id: EntryId,
}

impl SnapshotName {
    /// The file's path under an engine's directory.
    #[must_use]
    pub fn path(&self, dir: &Path) -> PathBuf {
        dir.join("snap").join(self.file_name())
    }

    /// The file's name.
    #[must_use]
    pub fn file_name(&self) -> String {
        format!("{:016x}-{:016x}-{:016x}.snap", self.group.0, self.id.index.0, self.id.term.0)
    }

    /// What a file name says; nothing if it is not of a snapshot.
    #[must_use]
    pub fn parse(file_name: &str) -> Option<SnapshotName> {
        let mut numbers = file_name.strip_suffix(".snap")?.split('-').map(|digits| {
            let canonical = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            u64::from_str_radix(digits, 16).ok().filter(|_| canonical)
        });
        let (group, index, term) = (numbers.next()??, numbers.next()??, numbers.next()??);
        let id = EntryId { term: Term(term), index: Index(index) };
        numbers.next().is_none().then_some(SnapshotName { group: GroupId(group), id })
    }
}

/// Makes the bytes of a snapshot file, piece by piece, in the order in which they go into the file.
#[derive(Clone, Debug)]
pub struct SnapshotWriter {
    header_crc: u32,
    chunks: u64,
    payload_bytes: u64,
    digest: Digest,
    file_bytes: u64,
}

impl SnapshotWriter {
    /// Begins a snapshot. Gives the first piece, for offset 0.
    ///
    /// # Panics
    /// If `conf` names more than [`MEMBERS_MAX`] members.
    #[must_use]
    pub fn new(log_id: u64, name: SnapshotName, conf: &ConfState) -> (SnapshotWriter, Bytes) {
        assert!(conf.names() <= MEMBERS_MAX, "{} members", conf.names());
        let lists = conf.lists();
        let flag = |there: bool, flag: u32| if there { flag } else { 0 };
        let mut out = BytesMut::with_capacity(HEADER + 8 * conf.names());
        out.put_slice(MAGIC);
        out.put_u64_le(log_id);
        out.put_u64_le(name.group.0);
        out.put_u64_le(name.id.index.0);
        out.put_u64_le(name.id.term.0);
        let count = |list: &Vec<PeerId>| u16::try_from(list.len()).expect("bounded by MEMBERS_MAX");
        lists[..4].iter().for_each(|list| out.put_u16_le(count(list)));
        out.put_u32_le(flag(conf.auto_leave, AUTO_LEAVE) | flag(!conf.witnesses.is_empty(), WITNESSES));
        out.put_u32_le(count(&conf.witnesses).into());
        out.put_u64_le(0);
        for peer in lists.into_iter().flatten() {
            out.put_u64_le(peer.0);
        }
        let header_crc = header_checksum(&out);
        out[56..60].copy_from_slice(&header_crc.to_le_bytes());
        let writer = SnapshotWriter {
            header_crc,
            chunks: 0,
            payload_bytes: 0,
            digest: Digest::of(header_crc),
            file_bytes: out.len() as u64,
        };
        (writer, out.freeze())
    }

    /// Where in the file the next piece goes.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The next chunk's piece. Copies the payload once.
    ///
    /// # Panics
    /// If the payload is longer than [`CHUNK_BYTES_MAX`].
    pub fn chunk(&mut self, payload: &[u8]) -> Bytes {
        assert!(payload.len() <= CHUNK_BYTES_MAX, "chunk of {} bytes", payload.len());
        let crc = chunk_checksum(self.header_crc, self.chunks, payload);
        let mut out = BytesMut::with_capacity(CHUNK + payload.len().next_multiple_of(8));
        out.put_u32_le(u32::try_from(payload.len()).expect("bounded by CHUNK_BYTES_MAX"));
        out.put_u32_le(crc);
        out.put_u64_le(self.chunks);
        out.put_slice(payload);
        out.put_bytes(0, payload.len().next_multiple_of(8) - payload.len());
        self.chunks += 1;
        self.payload_bytes += payload.len() as u64;
        self.digest.add(crc);
        self.file_bytes += out.len() as u64;
        out.freeze()
    }

    /// The last piece. Behind it, the file is whole.
    #[must_use]
    pub fn finish(self) -> Bytes {
        let mut out = BytesMut::with_capacity(TRAILER);
        out.put_u32_le(TRAILER_MARK);
        out.put_u32_le(0);
        out.put_u64_le(self.chunks);
        out.put_u64_le(self.payload_bytes);
        out.put_u64_le(self.digest.0);
        let crc = crc32fast::hash(&out[8..]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out.freeze()
    }
}

/// A snapshot file that is whole and as it was written.
#[derive(Clone, Debug)]
pub struct SnapshotReader {
    bytes: Bytes,
    name: SnapshotName,
    conf: ConfState,
    chunks_at: usize,
    chunks: u64,
    payload_bytes: u64,
}

impl SnapshotReader {
    /// As [`SnapshotReader::new`], whatever log it belongs to: for looking at files from outside.
    ///
    /// # Errors
    /// If it is damaged or cut.
    pub fn of_any_log(bytes: Bytes) -> Result<SnapshotReader, SnapshotError> {
        let log_id = bytes.get(8..16).map_or(0, |_| u64_at(&bytes, 8));
        SnapshotReader::new(bytes, log_id)
    }

    /// Verifies all of `bytes`.
    ///
    /// # Errors
    /// [`SnapshotError`]: the first thing that is wrong, and where.
    pub fn new(bytes: Bytes, log_id: u64) -> Result<SnapshotReader, SnapshotError> {
        let (name, conf, header_crc, chunks_at) = read_header(&bytes, log_id)?;
        let (mut at, mut chunks, mut payload_bytes) = (chunks_at, 0, 0);
        let mut digest = Digest::of(header_crc);
        loop {
            let head = bytes.get(at..at + CHUNK).ok_or(SnapshotError::Short { offset: at })?;
            let (len, crc) = (u32_at(head, 0), u32_at(head, 4));
            if len == TRAILER_MARK {
                break;
            }
            let len = len as usize;
            if len > CHUNK_BYTES_MAX {
                return Err(SnapshotError::Chunk { number: chunks, offset: at });
            }
            let end = at + CHUNK + len.next_multiple_of(8);
            let body = bytes.get(at + CHUNK..end).ok_or(SnapshotError::Short { offset: at })?;
            let (payload, padding) = body.split_at(len);
            let good = u64_at(head, 8) == chunks
                && chunk_checksum(header_crc, chunks, payload) == crc
                && padding.iter().all(|byte| *byte == 0);
            if !good {
                return Err(SnapshotError::Chunk { number: chunks, offset: at });
            }
            digest.add(crc);
            chunks += 1;
            payload_bytes += len as u64;
            at = end;
        }
        let trailer = bytes.get(at..at + TRAILER).ok_or(SnapshotError::Short { offset: at })?;
        let good = crc32fast::hash(&trailer[8..]) == u32_at(trailer, 4)
            && u64_at(trailer, 8) == chunks
            && u64_at(trailer, 16) == payload_bytes
            && u64_at(trailer, 24) == digest.0;
        if !good {
            return Err(SnapshotError::Trailer { offset: at });
        }
        if bytes.len() != at + TRAILER {
            return Err(SnapshotError::Long { offset: at + TRAILER });
        }
        Ok(SnapshotReader { bytes, name, conf, chunks_at, chunks, payload_bytes })
    }

    /// Whose snapshot, up to where. A file whose name says otherwise was renamed.
    #[must_use]
    pub fn name(&self) -> SnapshotName {
        self.name
    }

    /// The membership in it.
    #[must_use]
    pub fn conf(&self) -> &ConfState {
        &self.conf
    }

    /// How many chunks there are.
    #[must_use]
    pub fn chunk_count(&self) -> u64 {
        self.chunks
    }

    /// Bytes of all chunks.
    #[must_use]
    pub fn payload_bytes(&self) -> u64 {
        self.payload_bytes
    }

    /// The chunks in order, as slices of the file.
    pub fn chunks(&self) -> impl Iterator<Item = Bytes> + '_ {
        let mut at = self.chunks_at;
        (0..self.chunks).map(move |_| {
            let len = u32_at(&self.bytes, at) as usize;
            let payload = self.bytes.slice(at + CHUNK..at + CHUNK + len);
            at += CHUNK + len.next_multiple_of(8);
            payload
        })
    }
}

/// Why bytes are not a snapshot that can be trusted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SnapshotError {
    /// No snapshot of this version.
    #[error("not a snapshot file that this release knows")]
    Magic,
    /// The header's checksum is wrong.
    #[error("the snapshot's header is damaged")]
    Header,
    /// Of another log.
    #[error("the snapshot belongs to log {found:#018x}")]
    Foreign {
        /// Whose it is.
        found: u64,
    },
    /// It ends too early.
    #[error("the snapshot is cut short in what begins at {offset}")]
    Short {
        /// Where the part begins that is not whole.
        offset: usize,
    },
    /// A chunk is not as it was written.
    #[error("chunk {number} of the snapshot, at {offset}, is damaged")]
    Chunk {
        /// Its number.
        number: u64,
        /// Where it begins.
        offset: usize,
    },
    /// The trailer is damaged, or does not fit what was before it.
    #[error("the snapshot's trailer at {offset} is damaged")]
    Trailer {
        /// Where it begins.
        offset: usize,
    },
    /// Something follows its end.
    #[error("the snapshot ends at {offset}, its file does not")]
    Long {
        /// Where it ends.
        offset: usize,
    },
}

/// FNV-1a over checksums.
#[derive(Clone, Copy, Debug)]
struct Digest(u64);

impl Digest {
    fn of(crc: u32) -> Digest {
        let mut digest = Digest(0xcbf2_9ce4_8422_2325);
        digest.add(crc);
        digest
    }

    fn add(&mut self, crc: u32) {
        for byte in crc.to_le_bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

fn read_header(bytes: &[u8], log_id: u64) -> Result<(SnapshotName, ConfState, u32, usize), SnapshotError> {
    let header = bytes.get(..HEADER).ok_or(SnapshotError::Short { offset: 0 })?;
    if &header[..8] != MAGIC {
        return Err(SnapshotError::Magic);
    }
    let (flags, witnesses) = (u32_at(header, 48), u32_at(header, 52));
    let [a, b, c, d] = [40, 42, 44, 46].map(|at| usize::from(u16_at(header, at)));
    // A number that the flag does not announce is damage, and found by the checksum.
    let counts = [a, b, c, d, if flags & WITNESSES == 0 { 0 } else { witnesses as usize }];
    let end = HEADER + 8 * counts.iter().sum::<usize>();
    let whole = bytes.get(..end).ok_or(SnapshotError::Short { offset: 0 })?;
    let crc = u32_at(header, 56);
    let known = flags & !(AUTO_LEAVE | WITNESSES) == 0
        && (flags & WITNESSES != 0) == (witnesses != 0)
        && counts.iter().sum::<usize>() <= MEMBERS_MAX;
    if header_checksum(whole) != crc || !known || u32_at(header, 60) != 0 {
        return Err(SnapshotError::Header);
    }
    let found = u64_at(header, 8);
    if found != log_id {
        return Err(SnapshotError::Foreign { found });
    }
    let id = EntryId { index: Index(u64_at(header, 24)), term: Term(u64_at(header, 32)) };
    let mut peers = whole[HEADER..].chunks_exact(8).map(|peer| PeerId(u64_at(peer, 0)));
    let mut list = |count: usize| peers.by_ref().take(count).collect();
    let conf = ConfState {
        voters: list(counts[0]),
        voters_outgoing: list(counts[1]),
        learners: list(counts[2]),
        learners_next: list(counts[3]),
        witnesses: list(counts[4]),
        auto_leave: flags & AUTO_LEAVE != 0,
    };
    Ok((SnapshotName { group: GroupId(u64_at(header, 16)), id }, conf, crc, end))
}

fn header_checksum(header: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&header[..56]);
    hasher.update(&header[HEADER..]);
    hasher.finalize()
}

fn chunk_checksum(seed: u32, number: u64, payload: &[u8]) -> u32 {
    let mut hasher = Hasher::new_with_initial(seed);
    hasher.update(&number.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> SnapshotName {
        SnapshotName { group: GroupId(3), id: EntryId { term: Term(2), index: Index(0xabc) } }
    }

    fn conf() -> ConfState {
        ConfState {
            voters: vec![PeerId(1), PeerId(2)],
            learners: vec![PeerId(9)],
            auto_leave: true,
            ..ConfState::default()
        }
    }

    fn sample(chunks: &[&[u8]]) -> Vec<u8> {
        let (mut writer, first) = SnapshotWriter::new(7, name(), &conf());
        let mut file = first.to_vec();
        for chunk in chunks {
            assert_eq!(writer.file_bytes(), file.len() as u64);
            file.extend_from_slice(&writer.chunk(chunk));
        }
        file.extend_from_slice(&writer.finish());
        file
    }

    fn read(file: &[u8]) -> Result<SnapshotReader, SnapshotError> {
        SnapshotReader::new(Bytes::copy_from_slice(file), 7)
    }

    #[test]
    fn round_trip() {
        let many: [&[&[u8]]; 3] = [&[], &[b"one"], &[b"", b"two of them", &[7; 1000]]];
        for chunks in many {
            let reader = read(&sample(chunks)).unwrap();
            assert_eq!((reader.name(), reader.conf()), (name(), &conf()));
            assert_eq!(reader.chunk_count(), chunks.len() as u64);
            assert_eq!(reader.payload_bytes(), chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>());
            assert!(reader.chunks().eq(chunks.iter().copied()));
        }
    }

    #[test]
    fn memberships_with_witnesses() {
        let conf = ConfState { voters: (1..=3).map(PeerId).collect(), witnesses: vec![PeerId(3)], ..conf() };
        let (writer, first) = SnapshotWriter::new(7, name(), &conf);
        let file = [first, writer.finish()].concat();
        assert_eq!(read(&file).unwrap().conf(), &conf);
        for bit in 0..file.len() * 8 {
            let mut bad = file.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bad).is_err(), "bit {bit}");
        }
        // Right checksums, but a number without its flag, or the flag without a number.
        for (at, value) in [(48, 1), (52, 0)] {
            let mut bad = file.clone();
            bad[at] = value;
            let crc = header_checksum(&bad[..HEADER + 8 * if at == 48 { 4 } else { 5 }]);
            bad[56..60].copy_from_slice(&crc.to_le_bytes());
            assert!(matches!(read(&bad), Err(SnapshotError::Header)), "byte {at}");
        }
    }

    #[test]
    fn every_flip_and_every_cut_is_found() {
        let file = sample(&[b"hello", b"", b"this is a snapshot"]);
        for bit in 0..file.len() * 8 {
            let mut bad = file.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bad).is_err(), "bit {bit}");
        }
        for len in 0..file.len() {
            assert!(read(&file[..len]).is_err(), "cut at {len}");
        }
        let mut long = file;
        long.push(0);
        assert!(matches!(read(&long), Err(SnapshotError::Long { .. })));
    }

    #[test]
    fn chunks_do_not_change_places() {
        let file = sample(&[b"aaaaaaaa", b"bbbbbbbb"]);
        let start = HEADER + 8 * 3;
        let (one, two) = (start..start + 24, start + 24..start + 48);
        let mut swapped = file.clone();
        swapped[one.clone()].copy_from_slice(&file[two.clone()]);
        swapped[two.clone()].copy_from_slice(&file[one.clone()]);
        assert!(matches!(read(&swapped), Err(SnapshotError::Chunk { number: 0, .. })));
        let mut missing = file.clone();
        missing.drain(two);
        assert!(matches!(read(&missing), Err(SnapshotError::Trailer { .. })));
        assert!(matches!(SnapshotReader::new(Bytes::from(file), 8), Err(SnapshotError::Foreign { found: 7 })));
    }

    #[test]
    fn names() {
        let text = "0000000000000003-0000000000000abc-0000000000000002.snap";
        assert_eq!(name().file_name(), text);
        assert_eq!(SnapshotName::parse(text), Some(name()));
        assert_eq!(name().path(Path::new("/x")), Path::new("/x/snap").join(text));
        for bad in ["", "3-abc-2.snap", &text[..text.len() - 1], &text.to_uppercase(), &text.replace("abc", "+bc")] {
            assert_eq!(SnapshotName::parse(bad), None, "{bad}");
        }
        assert_eq!(SnapshotName::parse(&text.replace(".snap", "-0000000000000002.snap")), None);
    }
}
