//! A reader of the log's files, written from `FORMAT.md` alone: it shares no code with the engine or the raft crate.
//! It reads everything, believes nothing, and is slow.

use crate::footer::footer;
use crc32fast::Hasher;
use std::collections::BTreeMap;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) kind: u8,
    pub(crate) payload: Vec<u8>,
}

/// What the log says of one group.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Group {
    /// Term, vote, commit.
    pub(crate) hard: (u64, u64, u64),
    /// Index, term.
    pub(crate) base: (u64, u64),
    pub(crate) snapshot: Option<(u64, u64)>,
    /// Voters, outgoing voters, learners, next learners, witnesses; auto leave.
    pub(crate) conf: ([Vec<u64>; 5], bool),
    /// By index.
    pub(crate) entries: BTreeMap<u64, Entry>,
}

#[derive(Clone, Default, Debug)]
pub(crate) struct Log {
    pub(crate) groups: BTreeMap<u64, Group>,
    pub(crate) last_lsn: u64,
    /// Of every record of this segment: group, index, term, first word, offset.
    places: Vec<[u64; 5]>,
}

/// Why there is no block: it is a stranger's, or nothing.
const STRANGER: bool = true;
const NOTHING: bool = false;

/// Offsets in a block's header.
const GENERATION: usize = 24;
const LSN: usize = 40;
const DURABLE: usize = 48;
const FIRST: usize = 56;
const EPOCH: usize = 72;

/// Where a walk through the log has come to.
#[derive(Clone, Copy)]
struct At {
    generation: u64,
    position: usize,
    lsn: u64,
    epoch: u64,
    /// The highest ones met.
    first: u64,
    durable: u64,
}

/// A log; or the newest generation that counts.
type Outcome = Result<Log, u64>;

struct Reader<'a> {
    id: u64,
    files: Vec<&'a [u8]>,
    attested: u64,
}

/// Reads the log `id` in these files (names without the directory, bytes); or says why not.
pub(crate) fn read(files: &[(&str, &[u8])], id: u64) -> Result<Log, String> {
    let canonical = |digits: &str| digits.len() == 4 || digits.len() > 4 && !digits.starts_with('0');
    let decimal = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit()) && canonical(digits);
    let is_segment = |name: &str| name.strip_prefix("seg-").is_some_and(decimal);
    let files = files.iter().filter(|(name, _)| is_segment(name)).map(|(_, bytes)| *bytes).collect();
    let mut reader = Reader { id, files, attested: 0 };
    let mut heads = BTreeMap::new();
    for (at, bytes) in reader.files.clone().into_iter().enumerate() {
        match reader.header(bytes, 0) {
            Ok(head) if u16_at(head, 6) == 1 => {
                let now =
                    At { generation: u64_at(head, GENERATION), position: 0, lsn: 0, epoch: 0, first: 0, durable: 0 };
                let next = reader.header(bytes, head.len()).ok();
                let newer = next.is_some_and(|next| u64_at(next, GENERATION) > now.generation);
                if newer || reader.block(&now, bytes, 1).is_err() {
                    reader.search(bytes, 0);
                } else if u64_at(bytes, 80 + 16) != bytes.len() as u64 {
                    return Err("resized".into());
                } else if heads.insert(now.generation, at).is_some() {
                    return Err("duplicate".into());
                }
            }
            Err(STRANGER) => return Err("stranger".into()),
            _ => reader.search(bytes, 0),
        }
    }
    loop {
        match reader.attempt(&heads)? {
            Ok(log) => return Ok(log),
            Err(upto) => {
                heads.split_off(&(upto + 1)).into_values().for_each(|at| reader.search(reader.files[at], 0));
            }
        }
    }
}

impl<'a> Reader<'a> {
    fn attempt(&mut self, heads: &BTreeMap<u64, usize>) -> Result<Outcome, String> {
        let Some((&newest, &newest_at)) = heads.last_key_value() else {
            return if self.attested > 0 { Err("lost".into()) } else { Ok(Ok(Log::default())) };
        };
        let mut at = At { generation: newest, position: 0, lsn: 0, epoch: 0, first: 0, durable: 0 };
        let mut link = match self.head(&mut at, self.files[newest_at], None)? {
            Some((_, previous)) => previous,
            None => return Ok(Err(newest - 1)),
        };
        while let Ok(Some(_)) = self.batch(&mut at, self.files[newest_at]) {}
        let mut chain = vec![(newest, newest_at)];
        let mut proven = at.durable;
        while link >= at.first && link > 0 {
            let (naming, naming_at) = chain[chain.len() - 1];
            let head = self.files[naming_at];
            proven = proven.max(u64_at(head, DURABLE));
            let Some(&file) = heads.get(&link).filter(|_| link < naming) else {
                return if proven < u64_at(head, LSN) { Ok(Err(naming - 1)) } else { Err("missing".into()) };
            };
            chain.push((link, file));
            link = previous(self.files[file].get(80..).unwrap_or_default())?;
        }
        if chain[chain.len() - 1].0 > at.first {
            return Err("missing".into());
        }
        chain.reverse();
        self.chain(&chain)
    }

    fn chain(&mut self, chain: &[(u64, usize)]) -> Result<Outcome, String> {
        let mut log = Log::default();
        let mut at = At { generation: chain[0].0, position: 0, lsn: 0, epoch: 0, first: 0, durable: 0 };
        for (nth, &(generation, file)) in chain.iter().enumerate() {
            let bytes = self.files[file];
            let before = (nth > 0).then_some((at.generation, at.lsn));
            let last = at;
            at = At { generation, position: 0, ..at };
            let Some((head, previous)) = self.head(&mut at, bytes, before)? else {
                chain[nth..].iter().for_each(|(_, file)| self.search(self.files[*file], 0));
                return match nth {
                    0 => Err("the oldest head is damaged".into()),
                    _ if self.attested > last.lsn => Err("damaged".into()),
                    _ => Ok(Err(last.generation)),
                };
            };
            log.places.clear();
            self.take(&mut log, head, 104)?;
            let links = [previous, u64_at(head, LSN), u64::from(u32_at(head, 84))];
            let stranger = loop {
                match self.batch(&mut at, bytes) {
                    Ok(Some(batch)) => self.take(&mut log, batch, 80)?,
                    Ok(None) => break false,
                    Err(()) => break true,
                }
            };
            let next = chain.get(nth + 1).is_some_and(|(next, file)| {
                let header = self.header(self.files[*file], 0).ok().filter(|header| u16_at(header, 6) == 1);
                let fits = |h: &[u8]| {
                    (u64_at(h, GENERATION), u64_at(h, LSN)) == (*next, at.lsn) && u64_at(h, EPOCH) >= at.epoch
                };
                header.is_some_and(fits)
            });
            if stranger {
                return Err("stranger".into());
            }
            if next {
                let place = u32_at(self.files[chain[nth + 1].1], 84) as usize * 4096;
                let found = self.block(&At { position: place, ..at }, bytes, 3).ok().filter(|_| place > 0);
                if let Some(found) = found {
                    assert_eq!(
                        (place, footer(body(found))),
                        (at.position, (links, log.places.clone())),
                        "the footer lies"
                    );
                }
                continue;
            }
            self.search(bytes, at.position);
            chain[nth + 1..].iter().for_each(|(_, file)| self.search(self.files[*file], 0));
            if self.attested > at.lsn {
                return Err(format!("damaged behind batch {}, attested is {}", at.lsn, self.attested));
            }
            if nth + 1 < chain.len() {
                return Ok(Err(generation));
            }
        }
        log.last_lsn = at.lsn;
        for group in log.groups.values_mut() {
            if !group.entries.keys().copied().eq(group.base.0 + 1..=group.base.0 + group.entries.len() as u64) {
                return Err("hole".into());
            }
            group.hard.2 = group.hard.2.clamp(group.base.0, group.base.0 + group.entries.len() as u64);
        }
        Ok(Ok(log))
    }

    /// The head and the previous generation, if it is whole and continues what was `before`: a generation and its last
    /// batch.
    fn head(&self, at: &mut At, file: &'a [u8], before: Option<(u64, u64)>) -> Result<Option<(&'a [u8], u64)>, String> {
        let Ok(block) = self.block(at, file, 1) else { return Ok(None) };
        let link = previous(body(block))?;
        let fits = before.is_none_or(|before| before == (link, u64_at(block, LSN)));
        if !fits || u64_at(body(block), 16) != file.len() as u64 || u64_at(block, FIRST) > at.generation {
            return Ok(None);
        }
        at.advance(block);
        Ok(Some((block, link)))
    }

    /// The batch that follows; `Err`: a stranger's block.
    fn batch(&self, at: &mut At, file: &'a [u8]) -> Result<Option<&'a [u8]>, ()> {
        let block = match self.block(at, file, 2) {
            Ok(block) => block,
            Err(STRANGER) => return Err(()),
            Err(NOTHING) => return Ok(None),
        };
        let follows = u64_at(block, LSN) == at.lsn + 1 && u64_at(block, DURABLE) <= at.lsn;
        if !follows || u64_at(block, FIRST) > at.generation {
            return Ok(None);
        }
        at.advance(block);
        Ok(Some(block))
    }

    /// A whole block of this kind, of this generation and not of an earlier epoch.
    fn block(&self, at: &At, file: &'a [u8], kind: u16) -> Result<&'a [u8], bool> {
        let block = self.header(file, at.position)?;
        let seed = crc(0, &[&block[16..48], &block[72..80]]);
        let whole = crc(seed, &[body(block)]) == u32_at(block, 12) && u16_at(block, 6) == kind;
        let fits = u64_at(block, GENERATION) == at.generation && u64_at(block, EPOCH) >= at.epoch;
        if whole && fits { Ok(block) } else { Err(NOTHING) }
    }

    /// The block at an offset, if its header is readable.
    fn header(&self, file: &'a [u8], position: usize) -> Result<&'a [u8], bool> {
        let bytes = file.get(position..).filter(|rest| rest.len() >= 80).ok_or(NOTHING)?;
        if &bytes[..4] != b"RRBK" || crc(0, &[&bytes[..8], &bytes[12..80]]) != u32_at(bytes, 8) {
            return Err(NOTHING);
        }
        if !(1..=2).contains(&u16_at(bytes, 4)) || u64_at(bytes, 16) != self.id {
            return Err(STRANGER);
        }
        let good = (1..=3).contains(&u16_at(bytes, 6))
            && u64_at(bytes, 32) == position as u64
            && [LSN, DURABLE, EPOCH].iter().all(|at| u64_at(bytes, *at) < 1 << 62)
            && (1..u64::from(u32::MAX)).contains(&u64_at(bytes, GENERATION));
        let len = (80 + u32_at(bytes, 64) as usize).next_multiple_of(4096);
        bytes.get(..len).filter(|_| good).ok_or(NOTHING)
    }

    /// Looks for durable marks in what is not part of the log.
    fn search(&mut self, file: &'a [u8], mut position: usize) {
        while position < file.len() {
            let block = self.header(file, position).unwrap_or_default();
            self.attested = self.attested.max(if block.is_empty() { 0 } else { u64_at(block, DURABLE) });
            position += block.len().max(4096);
        }
    }

    /// Applies the sections of a block, which begin at an offset.
    fn take(&mut self, log: &mut Log, block: &[u8], from: usize) -> Result<(), String> {
        self.attested = self.attested.max(u64_at(block, DURABLE));
        let (mut body, position) = (&body(block)[from - 80..], usize::try_from(u64_at(block, 32)).unwrap());
        let mut at = position + from;
        let mut count = 0;
        while !body.is_empty() {
            let len = if body.len() < 32 { 0 } else { u32_at(body, 12) as usize };
            if len < 32 || len > body.len() {
                return Err("section length".into());
            }
            section(log, &body[..len], at).ok_or("nonsense in a section")?;
            (body, at) = (&body[len..], at + len);
            count += 1;
        }
        if count == u32_at(block, 68) { Ok(()) } else { Err("number of sections".into()) }
    }
}

impl At {
    fn advance(&mut self, block: &[u8]) {
        self.position += block.len();
        (self.lsn, self.epoch) = (u64_at(block, LSN), u64_at(block, EPOCH));
        self.first = self.first.max(u64_at(block, FIRST));
        self.durable = self.durable.max(u64_at(block, DURABLE));
    }
}

fn body(block: &[u8]) -> &[u8] {
    &block[80..80 + u32_at(block, 64) as usize]
}

/// The previous generation.
fn previous(body: &[u8]) -> Result<u64, String> {
    if body.len() < 24 || u16_at(body, 0) != 1 {
        return Err("unknown checksum".into());
    }
    Ok(u64_at(body, 8))
}

/// Applies one section, which lies at this offset; nothing if it makes no sense.
fn section(log: &mut Log, bytes: &[u8], at: usize) -> Option<()> {
    let flags = u32_at(bytes, 8);
    // Doubts (256, 512, 2048) are not looked at; 1024 fills a hole.
    if flags & !0xfff != 0 || flags & (8 | 128) == 128 {
        return None;
    }
    let (id, after, records) = (u64_at(bytes, 0), u64_at(bytes, 16), u32_at(bytes, 24));
    let mut rest = &bytes[32..];
    let mut number = |there: u32| -> Option<u64> {
        if flags & there == 0 {
            return Some(0);
        }
        let (one, more) = rest.split_at_checked(8)?;
        rest = more;
        Some(u64_at(one, 0))
    };
    let hard = (number(1)?, number(1)?, number(1)?);
    let base = (number(2)?, number(2)?);
    let snapshot = (number(4)?, number(4)?);
    let counts = number(8)?;
    let mut lists: [Vec<u64>; 5] = Default::default();
    for (nth, list) in lists[..4].iter_mut().enumerate() {
        for _ in 0..counts >> (16 * nth) & 0xffff {
            list.push(number(8)?);
        }
    }
    for _ in 0..number(128)? {
        lists[4].push(number(128)?);
    }
    if flags & 8 == 0 && !log.groups.contains_key(&id) {
        return None;
    }
    let group = log.groups.entry(id).or_default();
    if flags & 8 != 0 {
        group.conf = (lists, flags & 16 != 0);
    }
    if flags & 4 != 0 {
        group.snapshot = Some(snapshot);
    }
    if flags & 2 != 0 {
        group.base = base;
        group.entries = group.entries.split_off(&(base.0 + 1));
        if flags & 32 != 0 {
            group.entries.clear();
        }
    }
    if flags & 1 != 0 {
        group.hard = hard;
    }
    if flags & 64 == 0 {
        return rest.is_empty().then_some(());
    }
    if after < group.base.0 {
        return None;
    }
    if flags & 1024 == 0 {
        group.entries.split_off(&(after + 1));
    }
    for nth in 1..=u64::from(records) {
        let (entry, len) = record(rest, id).filter(|(entry, _)| entry.index == after + nth)?;
        let offset = (at + bytes.len() - rest.len()) as u64;
        log.places.push([id, entry.index, entry.term, u32_at(rest, 0).into(), offset]);
        group.entries.insert(entry.index, entry);
        rest = &rest[len..];
    }
    (records > 0 && rest.is_empty()).then_some(())
}

/// The record that `bytes` begins with, and its length.
fn record(bytes: &[u8], group: u64) -> Option<(Entry, usize)> {
    if bytes.len() < 24 {
        return None;
    }
    let (len, kind) = (u32_at(bytes, 0) as usize & 0xfff_ffff, bytes[3] >> 4);
    let padded = (24 + len).next_multiple_of(8);
    let seed = crc(0, &[&group.to_le_bytes()]);
    let good = kind <= 2
        && bytes.len() >= padded
        && crc(seed, &[&bytes[..4], &bytes[8..24 + len]]) == u32_at(bytes, 4)
        && bytes[24 + len..padded].iter().all(|byte| *byte == 0);
    let entry =
        |payload: &[u8]| Entry { index: u64_at(bytes, 8), term: u64_at(bytes, 16), kind, payload: payload.to_vec() };
    good.then(|| (entry(&bytes[24..24 + len]), padded))
}

fn crc(seed: u32, parts: &[&[u8]]) -> u32 {
    let mut hasher = Hasher::new_with_initial(seed);
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
