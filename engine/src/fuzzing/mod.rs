//! What a fuzzer runs: functions of any bytes that must not panic. Compiled for tests and for fuzzers only.

mod disk;

use std::path::Path;

use bytes::Bytes;
use crc32fast::Hasher;
use ringraft_io::BLOCK_ALIGN;
use ringraft_raft::record::GroupSeed;

use crate::snapshot::{SnapshotName, SnapshotReader, SnapshotWriter};
use crate::wal::block::{self, Header, Kind};
use crate::wal::footer::{self, Items};
use crate::wal::pool::Pool;
use crate::wal::section::{self, Parts, Section};

const LOG: u64 = 7;

/// A disk that was written by somebody who knows our checksums, and damaged then; [`disk`](self) says how bytes tell
/// it.
pub fn log(bytes: &[u8]) {
    disk::recover(bytes);
}

/// A block, as it is and with right checksums.
pub fn block(bytes: &[u8]) {
    block_in(bytes);
    let mut sealed = bytes.to_vec();
    if seal(&mut sealed) {
        block_in(&sealed);
    }
}

/// At any position of a segment that goes on for some blocks; a header says how long its body is.
fn block_in(bytes: &[u8]) {
    let position = bytes.get(32..40).map_or(0, |_| block::u64_at(bytes, 32));
    let left = (bytes.len() + BLOCK_ALIGN) as u64;
    let Ok(header) = block::read_header(bytes, LOG, position, left) else { return };
    assert!(block::padded_len(header.body_len as usize) as u64 <= left);
    let Ok(body) = block::read_body(&header, bytes) else { return };
    assert_eq!(body.len(), header.body_len as usize);

    let mut again = vec![0xff; block::padded_len(body.len())];
    again[block::HEADER..block::HEADER + body.len()].copy_from_slice(body);
    block::seal(&header, &mut again);
    assert_eq!(block::read_header(&again, LOG, position, again.len() as u64), Ok(header));
    assert_eq!(block::read_body(&header, &again), Ok(body));
    match header.kind {
        Kind::Head => {
            if let Ok(head) = block::read_head(body) {
                let mut fields = [0; block::HEAD];
                block::put_head(&head, &mut fields);
                assert_eq!(block::read_head(&fields), Ok(head));
                sections(&body[block::HEAD..]);
            }
        }
        Kind::Batch => sections(body),
        Kind::Footer => footer(body),
    }
}

/// Puts in what a block of our log has, and its checksums; whether there is room for a header.
fn seal(bytes: &mut [u8]) -> bool {
    let Some(header) = bytes.first_chunk_mut::<{ block::HEADER }>() else { return false };
    let generation = block::u64_at(header, 24).clamp(1, u64::from(u32::MAX) - 1);
    let body_len = block::u32_at(header, 64).min(u32::try_from(bytes.len() - block::HEADER).expect("short"));
    let header = Header {
        kind: [Kind::Head, Kind::Batch, Kind::Footer][usize::from(bytes[6]) % 3],
        log_id: LOG,
        generation,
        position: block::u64_at(bytes, 32),
        lsn: block::u64_at(bytes, 40),
        durable: block::u64_at(bytes, 48),
        first: block::u64_at(bytes, 56),
        body_len,
        sections: block::u32_at(bytes, 68),
        epoch: block::u64_at(bytes, 72),
    };
    let mut whole = bytes.to_vec();
    whole.resize(bytes.len().next_multiple_of(BLOCK_ALIGN), 0);
    block::seal(&header, &mut whole);
    bytes.copy_from_slice(&whole[..bytes.len()]);
    true
}

/// The body of a batch.
pub fn sections(body: &[u8]) {
    let mut rest = body;
    while let Ok(section) = section::read(rest) {
        assert!((section::HEADER..=rest.len()).contains(&section.len));
        is_one(&section);
        rest = &rest[section.len..];
    }
}

/// Written again, a section says the same.
fn is_one(section: &Section<'_>) {
    let Section { group, hard, base, snapshot, ref conf, reset, doubt, sound, entries, .. } = *section;
    let conf = conf.as_ref();
    let parts =
        Parts { hard, base, snapshot, conf, reset, doubt, sound, fill: entries.is_some_and(|entries| entries.fill) };
    let said = entries.map(|entries| (entries.after, entries.records, entries.run.len()));
    let mut again = vec![0; section::HEADER + parts.len()];
    let len = section::put(group, &parts, said, &mut again);
    again.truncate(len);
    again.extend_from_slice(entries.map_or(&[], |entries| entries.run));
    let read = section::read(&again).expect("our own");
    let without_place = |section: &Section<'_>| Section {
        len: 0,
        entries: section.entries.map(|entries| section::Entries { offset: 0, run: &[], ..entries }),
        conf: section.conf.clone(),
        ..*section
    };
    assert_eq!(without_place(&read), without_place(section));
    assert_eq!(read.entries.map(|entries| entries.run), entries.map(|entries| entries.run));
}

/// The body of a footer, of a segment of 2 GiB.
pub fn footer(body: &[u8]) {
    const END: u64 = 1 << 31;
    if footer::read(body, END).is_none() {
        return;
    }
    let mut records = 0;
    for item in Items::new(body).expect("it was read") {
        assert!(item.records > 0 && u64::from(item.offset) + item.len <= END);
        assert!(item.id.index.0.checked_add(u64::from(item.records)).is_some());
        records += u64::from(item.records);
        // Those that are alike may be many more than bytes.
        assert_eq!(item.words().take(100).count(), item.records.min(100) as usize);
    }
    assert!(records * 24 <= END * (body.len() as u64).div_ceil(16), "every item lies within the segment");
}

/// A snapshot file, as it is and with right checksums.
pub fn snapshot(bytes: &[u8]) {
    let mut sealed = bytes.to_vec();
    seal_snapshot(&mut sealed);
    for bytes in [Bytes::copy_from_slice(bytes), Bytes::from(sealed)] {
        let Ok(reader) = SnapshotReader::of_any_log(bytes.clone()) else { continue };
        let (mut writer, first) = SnapshotWriter::new(block::u64_at(&bytes, 8), reader.name(), reader.conf());
        let mut again = first.to_vec();
        let mut payload = 0;
        for chunk in reader.chunks() {
            payload += chunk.len() as u64;
            again.extend_from_slice(&writer.chunk(&chunk));
        }
        assert_eq!(writer.file_bytes(), again.len() as u64);
        again.extend_from_slice(&writer.finish());
        assert_eq!(again, bytes, "there is one way to write it");
        assert_eq!(payload, reader.payload_bytes());
    }
}

fn seal_snapshot(bytes: &mut [u8]) {
    const HEADER: usize = 64;
    if bytes.len() < HEADER {
        return;
    }
    let crc = |seed: u32, parts: &[&[u8]]| {
        let mut hasher = Hasher::new_with_initial(seed);
        parts.iter().for_each(|part| hasher.update(part));
        hasher.finalize()
    };
    let lists: usize = (0..4).map(|list| usize::from(block::u16_at(bytes, 40 + 2 * list))).sum();
    let members = 8 * (lists + block::u32_at(bytes, 52) as usize);
    let Some(mut at) = HEADER.checked_add(members).filter(|at| *at <= bytes.len()) else { return };
    let header = crc(0, &[&bytes[..56], &bytes[HEADER..at]]);
    bytes[56..60].copy_from_slice(&header.to_le_bytes());
    let mut digest = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |crc: u32| {
        for byte in crc.to_le_bytes() {
            digest = (digest ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    };
    add(header);
    let (mut chunks, mut payload) = (0_u64, 0_u64);
    while bytes.len() - at >= 16 && block::u32_at(bytes, at) != u32::MAX {
        let len = block::u32_at(bytes, at) as usize;
        let end = at + 16 + len.next_multiple_of(8);
        if end > bytes.len() {
            return;
        }
        let sum = crc(header, &[&chunks.to_le_bytes(), &bytes[at + 16..at + 16 + len]]);
        bytes[at + 4..at + 8].copy_from_slice(&sum.to_le_bytes());
        add(sum);
        (chunks, payload, at) = (chunks + 1, payload + len as u64, end);
    }
    if bytes.len() - at < 32 {
        return;
    }
    for (number, nth) in [chunks, payload, digest].into_iter().zip(1..) {
        bytes[at + 8 * nth..at + 8 * nth + 8].copy_from_slice(&number.to_le_bytes());
    }
    let trailer = crc(0, &[&bytes[at + 8..at + 32]]);
    bytes[at + 4..at + 8].copy_from_slice(&trailer.to_le_bytes());
}

/// The name of a file.
pub fn file_name(bytes: &[u8]) {
    let Ok(name) = std::str::from_utf8(bytes) else { return };
    if let Some(snapshot) = SnapshotName::parse(name) {
        assert_eq!(snapshot.file_name(), name);
        assert_eq!(snapshot.path(Path::new("d")).parent(), Some(Path::new("d/snap")));
    }
    if let Some(number) = Pool::parse_name(name) {
        assert_eq!(format!("seg-{number:04}"), name);
    }
}

/// The seed of a group's records.
fn seed(group: u64) -> GroupSeed {
    GroupSeed::of(ringraft_raft::GroupId(group))
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use ringraft_fuzz_replay::Replay;
    use ringraft_raft::record::encode;
    use ringraft_raft::{ConfState, EntryId, EntryKind, GroupId, HardState, Index, PeerId, Term};

    use super::*;
    use crate::wal::block::Head;
    use crate::wal::footer::{Footer, Links, Mark};
    use crate::wal::section::Doubt;

    fn named(seeds: Vec<(&str, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
        seeds.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect()
    }

    fn run(group: u64, first: u64, entries: &[(u64, usize)]) -> BytesMut {
        let mut out = BytesMut::new();
        for ((term, len), index) in entries.iter().zip(first..) {
            let id = EntryId { term: Term(*term), index: Index(index) };
            encode(seed(group), id, EntryKind::Normal, &[&vec![1; *len]], &mut out);
        }
        out
    }

    fn conf() -> ConfState {
        let list = |ids: &[u64]| ids.iter().copied().map(PeerId).collect();
        ConfState { voters: list(&[1, 2, 3]), learners: list(&[4]), witnesses: list(&[3]), ..ConfState::default() }
    }

    fn section(parts: &Parts<'_>, after: u64, entries: &[(u64, usize)]) -> Vec<u8> {
        let run = run(1, after + 1, entries);
        let mut out = vec![0; section::HEADER + parts.len()];
        let count = u32::try_from(entries.len()).expect("few");
        section::put(GroupId(1), parts, (count > 0).then_some((Index(after), count, run.len())), &mut out);
        out.extend_from_slice(&run);
        out
    }

    fn all_sections() -> Vec<(&'static str, Vec<u8>)> {
        let (id, conf) = (EntryId { term: Term(3), index: Index(9) }, conf());
        let hard = HardState { term: Term(5), vote: PeerId(2), commit: Index(8) };
        let first =
            Parts { hard: Some(hard), base: Some(id), snapshot: Some(id), conf: Some(&conf), ..Parts::default() };
        let reset = Parts { base: Some(id), reset: true, ..Parts::default() };
        let doubt = Parts { doubt: Doubt { hard: true, tail: true }, fill: true, ..Parts::default() };
        let sound = Parts { sound: true, hard: Some(hard), ..Parts::default() };
        vec![
            ("first", section(&first, 9, &[(3, 5), (4, 0)])),
            ("entries", section(&Parts::default(), 4, &[(1, 8), (1, 9), (2, 1)])),
            ("reset", section(&reset, 0, &[])),
            ("fill", section(&doubt, 4, &[(1, 8)])),
            ("sound", section(&sound, 0, &[])),
        ]
    }

    fn a_footer() -> Vec<u8> {
        let mut footer = Footer::none(1 << 20);
        footer.begin(9, Links { previous: 8, head_lsn: 70, previous_footer: 3 });
        let mut marks = [Mark::default(); 3];
        let mut offset = 4096;
        for (group, first, entries) in [
            (1, 1, &[(1, 8)][..]),
            (2, 5, &[(1, 8), (1, 8), (1, 8)]),
            (1, 2, &[(1, 8), (1, 9), (2, 8)]),
            (2, 8, &[(1, 3)]),
        ] {
            let run = run(group, first, entries);
            footer.add(GroupId(group), &mut marks[usize::try_from(group).expect("few")], offset, &run, group == 2);
            offset += u32::try_from(run.len()).expect("short");
        }
        let mut body = vec![0; footer.body_len()];
        footer.write(&mut body);
        body
    }

    /// Without its padding, which nobody reads.
    fn a_block(kind: Kind, sections: u32, body: &[u8]) -> Vec<u8> {
        let body_len = u32::try_from(body.len()).expect("short");
        let (generation, position) = (3, if kind == Kind::Head { 0 } else { 4096 });
        let header = Header {
            kind,
            log_id: LOG,
            generation,
            position,
            lsn: 12,
            durable: 11,
            first: 1,
            body_len,
            sections,
            epoch: 2,
        };
        let mut block = vec![0; block::padded_len(body.len())];
        block[block::HEADER..block::HEADER + body.len()].copy_from_slice(body);
        block::seal(&header, &mut block);
        block.truncate(block::HEADER + body.len());
        block
    }

    #[test]
    fn replay_block() {
        let head = Head { previous: 2, footer: 3, segment_bytes: 1 << 20, groups_lost: false };
        let mut fields = [0; block::HEAD];
        block::put_head(&head, &mut fields);
        let sections = all_sections();
        let seeds = vec![
            ("head", a_block(Kind::Head, 1, &[&fields[..], &sections[0].1].concat())),
            ("batch", a_block(Kind::Batch, 2, &[&sections[1].1[..], &sections[2].1].concat())),
            ("footer", a_block(Kind::Footer, 0, &a_footer())),
            ("blank", vec![0; 100]),
        ];
        Replay { target: "engine_block", run: block, heap: (24 << 10, 60), seeds: named(seeds) }.check();
    }

    #[test]
    fn replay_sections() {
        let mut seeds = all_sections();
        seeds.push(("all", all_sections().into_iter().flat_map(|(_, bytes)| bytes).collect()));
        Replay { target: "engine_sections", run: sections, heap: (4 << 10, 16), seeds: named(seeds) }.check();
    }

    #[test]
    fn replay_footer() {
        let seeds = vec![("four", a_footer()), ("none", vec![0; footer::FIXED])];
        Replay { target: "engine_footer", run: footer, heap: (1 << 10, 8), seeds: named(seeds) }.check();
    }

    #[test]
    fn replay_snapshot() {
        let name = SnapshotName { group: GroupId(4), id: EntryId { term: Term(3), index: Index(9) } };
        let file = |conf: &ConfState, chunks: &[&[u8]]| {
            let (mut writer, first) = SnapshotWriter::new(LOG, name, conf);
            let mut out = first.to_vec();
            chunks.iter().for_each(|chunk| out.extend_from_slice(&writer.chunk(chunk)));
            out.extend_from_slice(&writer.finish());
            out
        };
        let seeds = vec![
            ("empty", file(&ConfState::default(), &[])),
            ("witness", file(&conf(), &[b"one", b""])),
            ("chunks", file(&ConfState { witnesses: Vec::new(), ..conf() }, &[b"eight by", &[7; 33], b"x"])),
        ];
        Replay { target: "engine_snapshot", run: snapshot, heap: (4 << 10, 12), seeds: named(seeds) }.check();
    }

    #[test]
    fn replay_file_name() {
        let name = SnapshotName { group: GroupId(4), id: EntryId { term: Term(3), index: Index(0xabc) } };
        let seeds = vec![
            ("snapshot", name.file_name().into_bytes()),
            ("segment", b"seg-0012".to_vec()),
            ("large", b"seg-4294967295".to_vec()),
        ];
        Replay { target: "engine_file_name", run: file_name, heap: (1 << 10, 8), seeds: named(seeds) }.check();
    }

    #[test]
    fn replay_log() {
        Replay { target: "engine_log", run: log, heap: (1 << 20, 2000), seeds: named(disk::seeds()) }.check();
    }
}
