//! A reader of the log's files, written from `FORMAT.md` alone: it shares no code with the engine or the raft crate.
//! It reads everything, believes nothing, and is slow.

use std::collections::BTreeMap;

use crc32fast::Hasher;

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
    /// Voters, outgoing voters, learners, next learners; auto leave.
    pub(crate) conf: ([Vec<u64>; 4], bool),
    /// The index before the first entry.
    start: u64,
    pub(crate) entries: Vec<Entry>,
}

#[derive(Clone, Default, Debug)]
pub(crate) struct Log {
    pub(crate) groups: BTreeMap<u64, Group>,
    pub(crate) last_lsn: u64,
}

/// A file: its name without the directory, and its bytes.
pub(crate) type File<'a> = (&'a str, &'a [u8]);

#[derive(Clone, Copy)]
struct Header {
    kind: u16,
    generation: u64,
    lsn: u64,
    durable: u64,
    first: u64,
    body_len: usize,
    sections: u32,
    epoch: u64,
}

/// Why there is no block.
#[derive(PartialEq, Eq)]
enum Not {
    Stranger,
    Block,
}

/// Where a walk through the log has come to.
#[derive(Clone, Copy)]
struct At {
    generation: u64,
    position: usize,
    lsn: u64,
    epoch: u64,
    first: u64,
}

type Linked<'a> = (Header, &'a [u8], u64);

enum Outcome {
    Log(Log),
    Shorten(u64),
}

struct Reader<'a> {
    id: u64,
    files: Vec<&'a [u8]>,
    attested: u64,
}

/// Reads the log `id` in these files; or says why not.
pub(crate) fn read(files: &[File], id: u64) -> Result<Log, String> {
    let is_segment = |name: &str| {
        let digits = name.strip_prefix("seg-").unwrap_or("");
        let decimal = digits.len() >= 4 && digits.bytes().all(|byte| byte.is_ascii_digit());
        decimal && (digits.len() == 4 || !digits.starts_with('0'))
    };
    let files = files.iter().filter(|(name, _)| is_segment(name)).map(|(_, bytes)| *bytes).collect();
    let mut reader = Reader { id, files, attested: 0 };
    let mut heads = BTreeMap::new();
    for at in 0..reader.files.len() {
        let bytes = reader.files[at];
        match reader.header(bytes, 0) {
            Ok(header) if header.kind == 1 => {
                if u64_at(bytes, 80 + 16) != bytes.len() as u64 {
                    return Err("resized".into());
                }
                if heads.insert(header.generation, at).is_some() {
                    return Err("duplicate".into());
                }
            }
            Err(Not::Stranger) => return Err("stranger".into()),
            _ => reader.search(bytes, 0),
        }
    }
    loop {
        match reader.attempt(&heads)? {
            Outcome::Log(log) => return Ok(log),
            Outcome::Shorten(upto) => {
                for at in heads.split_off(&(upto + 1)).into_values() {
                    reader.search(reader.files[at], 0);
                }
            }
        }
    }
}

impl<'a> Reader<'a> {
    fn attempt(&mut self, heads: &BTreeMap<u64, usize>) -> Result<Outcome, String> {
        let Some((&newest, &newest_at)) = heads.last_key_value() else {
            return if self.attested > 0 { Err("lost".into()) } else { Ok(Outcome::Log(Log::default())) };
        };
        let mut at = At { generation: newest, position: 0, lsn: 0, epoch: 0, first: 0 };
        let mut link = match self.head(&mut at, self.files[newest_at], None)? {
            Some((_, _, previous)) => previous,
            None => return Ok(Outcome::Shorten(newest - 1)),
        };
        while let Ok(Some(_)) = self.batch(&mut at, self.files[newest_at]) {}
        let mut chain = vec![(newest, newest_at)];
        while link >= at.first && link > 0 {
            let file = *heads.get(&link).filter(|_| link < chain[chain.len() - 1].0).ok_or("missing")?;
            chain.push((link, file));
            link = head_fields(self.files[file].get(80..).unwrap_or_default())?;
        }
        if chain[chain.len() - 1].0 > at.first {
            return Err("missing".into());
        }
        chain.reverse();
        self.chain(&chain)
    }

    fn chain(&mut self, chain: &[(u64, usize)]) -> Result<Outcome, String> {
        let mut log = Log::default();
        let mut at = At { generation: chain[0].0, position: 0, lsn: 0, epoch: 0, first: 0 };
        for (nth, &(generation, file)) in chain.iter().enumerate() {
            let bytes = self.files[file];
            let before = (nth > 0).then_some((at.generation, at.lsn));
            let last = at;
            at = At { generation, position: 0, ..at };
            let Some((header, body, _)) = self.head(&mut at, bytes, before)? else {
                chain[nth..].iter().for_each(|(_, file)| self.search(self.files[*file], 0));
                return match nth {
                    0 => Err("the oldest head is damaged".into()),
                    _ if self.attested > last.lsn => Err("damaged".into()),
                    _ => Ok(Outcome::Shorten(last.generation)),
                };
            };
            self.take(&mut log, &header, &body[24..])?;
            let stranger = loop {
                match self.batch(&mut at, bytes) {
                    Ok(Some((header, body))) => self.take(&mut log, &header, body)?,
                    Ok(None) => break false,
                    Err(()) => break true,
                }
            };
            let next = chain.get(nth + 1).and_then(|(next, file)| {
                let header = self.header(self.files[*file], 0).ok()?;
                Some(header.kind == 1 && header.generation == *next && header.lsn == at.lsn && header.epoch >= at.epoch)
            });
            if stranger {
                return Err("stranger".into());
            }
            if next == Some(true) {
                continue;
            }
            self.search(bytes, at.position);
            chain[nth + 1..].iter().for_each(|(_, file)| self.search(self.files[*file], 0));
            if self.attested > at.lsn {
                return Err(format!("damaged behind batch {}, attested is {}", at.lsn, self.attested));
            }
            if nth + 1 < chain.len() {
                return Ok(Outcome::Shorten(generation));
            }
        }
        log.last_lsn = at.lsn;
        for group in log.groups.values_mut() {
            if group.start != group.base.0 {
                return Err("hole".into());
            }
            group.hard.2 = group.hard.2.clamp(group.base.0, group.base.0 + group.entries.len() as u64);
        }
        Ok(Outcome::Log(log))
    }

    /// The head, if it is whole and continues what was `before`: a generation and its last batch.
    /// Gives the previous generation, too.
    fn head(&self, at: &mut At, bytes: &'a [u8], before: Option<(u64, u64)>) -> Result<Option<Linked<'a>>, String> {
        let Ok((header, body)) = self.block(at, bytes, 1) else { return Ok(None) };
        let link = head_fields(body)?;
        let fits = before.is_none_or(|before| before == (link, header.lsn));
        if !fits || u64_at(body, 16) != bytes.len() as u64 || header.first > at.generation {
            return Ok(None);
        }
        at.advance(&header);
        Ok(Some((header, body, link)))
    }

    /// The batch that follows; `Err`: a stranger's block.
    fn batch(&self, at: &mut At, bytes: &'a [u8]) -> Result<Option<(Header, &'a [u8])>, ()> {
        match self.block(at, bytes, 2) {
            Ok((header, body)) => {
                if header.lsn != at.lsn + 1 || header.durable > at.lsn || header.first > at.generation {
                    return Ok(None);
                }
                at.advance(&header);
                Ok(Some((header, body)))
            }
            Err(Not::Stranger) => Err(()),
            Err(Not::Block) => Ok(None),
        }
    }

    /// A whole block of this kind, of this generation and not of an earlier epoch.
    fn block(&self, at: &At, bytes: &'a [u8], kind: u16) -> Result<(Header, &'a [u8]), Not> {
        let header = self.header(bytes, at.position)?;
        let bytes = &bytes[at.position..];
        let body = &bytes[80..80 + header.body_len];
        let seed = crc(0, &[&bytes[16..48], &bytes[72..80]]);
        let good = crc(seed, &[body]) == u32_at(bytes, 12);
        let fits = header.kind == kind && header.generation == at.generation && header.epoch >= at.epoch;
        if good && fits { Ok((header, body)) } else { Err(Not::Block) }
    }

    /// The readable header at an offset.
    fn header(&self, file: &[u8], position: usize) -> Result<Header, Not> {
        let bytes = file.get(position..).filter(|rest| rest.len() >= 80).ok_or(Not::Block)?;
        if &bytes[..4] != b"RRBK" || crc(0, &[&bytes[..8], &bytes[12..80]]) != u32_at(bytes, 8) {
            return Err(Not::Block);
        }
        if u16_at(bytes, 4) != 1 || u64_at(bytes, 16) != self.id {
            return Err(Not::Stranger);
        }
        let header = Header {
            kind: u16_at(bytes, 6),
            generation: u64_at(bytes, 24),
            lsn: u64_at(bytes, 40),
            durable: u64_at(bytes, 48),
            first: u64_at(bytes, 56),
            body_len: u32_at(bytes, 64) as usize,
            sections: u32_at(bytes, 68),
            epoch: u64_at(bytes, 72),
        };
        let good = (1..=2).contains(&header.kind)
            && u64_at(bytes, 32) == position as u64
            && (1..u64::from(u32::MAX)).contains(&header.generation)
            && padded(header.body_len) <= bytes.len();
        if good { Ok(header) } else { Err(Not::Block) }
    }

    /// Looks for durable marks in what is not part of the log.
    fn search(&mut self, bytes: &[u8], mut position: usize) {
        while position < bytes.len() {
            match self.header(bytes, position) {
                Ok(header) => {
                    self.attested = self.attested.max(header.durable);
                    position += padded(header.body_len);
                }
                Err(_) => position += 4096,
            }
        }
    }

    fn take(&mut self, log: &mut Log, header: &Header, mut body: &[u8]) -> Result<(), String> {
        self.attested = self.attested.max(header.durable);
        let mut count = 0;
        while !body.is_empty() {
            let len = if body.len() < 32 { 0 } else { u32_at(body, 12) as usize };
            if len < 32 || len > body.len() {
                return Err("section length".into());
            }
            section(log, &body[..len]).ok_or("nonsense in a section")?;
            body = &body[len..];
            count += 1;
        }
        if count == header.sections { Ok(()) } else { Err("number of sections".into()) }
    }
}

impl At {
    fn advance(&mut self, header: &Header) {
        self.position += padded(header.body_len);
        (self.lsn, self.epoch, self.first) = (header.lsn, header.epoch, self.first.max(header.first));
    }
}

/// The previous generation.
fn head_fields(body: &[u8]) -> Result<u64, String> {
    if body.len() < 24 || u16_at(body, 0) != 1 {
        return Err("unknown checksum".into());
    }
    Ok(u64_at(body, 8))
}

/// Applies one section; nothing if it makes no sense.
fn section(log: &mut Log, bytes: &[u8]) -> Option<()> {
    let flags = u32_at(bytes, 8);
    if flags >= 128 {
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
    let mut lists: [Vec<u64>; 4] = Default::default();
    for (nth, list) in lists.iter_mut().enumerate() {
        for _ in 0..counts >> (16 * nth) & 0xffff {
            list.push(number(8)?);
        }
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
        if flags & 32 != 0 {
            (group.start, group.entries) = (base.0, Vec::new());
        }
        let gone = base.0.saturating_sub(group.start).min(group.entries.len() as u64);
        group.entries.drain(..usize::try_from(gone).unwrap());
        group.start = group.start.max(base.0);
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
    let last = group.start + group.entries.len() as u64;
    if after < group.start || after > last {
        (group.start, group.entries) = (after, Vec::new());
    }
    group.entries.truncate(usize::try_from(after - group.start).unwrap());
    for nth in 1..=u64::from(records) {
        let (entry, len) = record(rest, id).filter(|(entry, _)| entry.index == after + nth)?;
        group.entries.push(entry);
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

fn padded(body_len: usize) -> usize {
    (80 + body_len).next_multiple_of(4096)
}

fn crc(seed: u32, parts: &[&[u8]]) -> u32 {
    let mut hasher = Hasher::new_with_initial(seed);
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
