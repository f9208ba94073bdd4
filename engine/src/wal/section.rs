//! The layout of a section: what one group has to say in one block. Pure.
//!
//! A block's body is a sequence of sections. What one section says happens in the order of its parts; entries replace
//! everything from their first index on (a truncation is an overwriting). Little-endian:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | group |
//! | 8 | 4 | flags: 1 hard state, 2 base, 4 snapshot, 8 conf state, 16 auto leave, 32 reset, 64 entries, 128 witnesses |
//! | 12 | 4 | bytes of this section |
//! | 16 | 8 | after: the index before the first record; 0 without entries |
//! | 24 | 4 | records |
//! | 28 | 4 | zero |
//! | 32 | 24 | hard state: term, vote, commit (flag 1) |
//! | | 16 | base: index, term; entries up to it are forgotten, after a reset all others too (flags 2, 32) |
//! | | 16 | snapshot: index, term of the latest one (flag 4) |
//! | | 8 + 8 n | conf state: four counts of 16 bits, then voters, outgoing voters, learners, next learners (flag 8) |
//! | | 8 + 8 n | their number, then the witnesses among them (flag 128, with flag 8) |
//! | | | the run: records as `ringraft_raft::record` encodes them (flag 64) |
//!
//! Further flags, without bytes of their own: 256 the hard state is in doubt, 512 the end of the log is, 1024 the run
//! fills a hole (and replaces nothing behind it), 2048 nothing is in doubt any more.

use ringraft_raft::{ConfState, EntryId, GroupId, HardState, Index, PeerId, Term};

use super::block::{u32_at, u64_at};

/// Bytes before the parts.
pub(crate) const HEADER: usize = 32;
/// Members a conf state may name, all lists together.
pub const MEMBERS_MAX: usize = ringraft_raft::confchange::MEMBERS_MAX;
/// No index is higher: so that counting on never overflows.
pub(crate) const INDEX_MAX: u64 = u64::MAX / 2;
/// Bytes of all parts but the run.
pub(crate) const PARTS_MAX: usize = 24 + 16 + 16 + 16 + 8 * MEMBERS_MAX;

const HARD: u32 = 1;
const BASE: u32 = 2;
const SNAPSHOT: u32 = 4;
const CONF: u32 = 8;
const AUTO_LEAVE: u32 = 16;
const RESET: u32 = 32;
const ENTRIES: u32 = 64;
const WITNESSES: u32 = 128;
const DOUBT_HARD: u32 = 256;
const DOUBT_TAIL: u32 = 512;
const FILL: u32 = 1024;
const SOUND: u32 = 2048;
const DAMAGE: u32 = DOUBT_HARD | DOUBT_TAIL | FILL | SOUND;
const KNOWN: u32 = HARD | BASE | SNAPSHOT | CONF | AUTO_LEAVE | RESET | ENTRIES | WITNESSES | DAMAGE;

/// What a section says beside its entries.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) hard: Option<HardState>,
    pub(crate) base: Option<EntryId>,
    pub(crate) snapshot: Option<EntryId>,
    pub(crate) conf: Option<&'a ConfState>,
    pub(crate) reset: bool,
    pub(crate) doubt: Doubt,
    /// All doubts end here.
    pub(crate) sound: bool,
    /// The entries fill a hole.
    pub(crate) fill: bool,
}

/// What damage may have taken from a group beside its entries; part of every section of such a group.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Doubt {
    /// A later hard state.
    pub(crate) hard: bool,
    /// Later entries, or others in place of the last ones.
    pub(crate) tail: bool,
}

impl Parts<'_> {
    pub(crate) fn is_empty(&self) -> bool {
        let nothing = self.hard.is_none() && self.base.is_none() && self.snapshot.is_none() && self.conf.is_none();
        nothing && !self.reset && !self.sound
    }

    pub(crate) fn len(&self) -> usize {
        let some = |there: bool, bytes: usize| if there { bytes } else { 0 };
        some(self.hard.is_some(), 24)
            + some(self.base.is_some(), 16)
            + some(self.snapshot.is_some(), 16)
            + self.conf.map_or(0, |conf| 8 + 8 * conf.names() + some(!conf.witnesses.is_empty(), 8))
    }

    fn has_witnesses(&self) -> bool {
        self.conf.is_some_and(|conf| !conf.witnesses.is_empty())
    }
}

/// A section as read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Section<'a> {
    pub(crate) group: GroupId,
    pub(crate) hard: Option<HardState>,
    pub(crate) base: Option<EntryId>,
    pub(crate) snapshot: Option<EntryId>,
    pub(crate) conf: Option<ConfState>,
    pub(crate) reset: bool,
    pub(crate) doubt: Doubt,
    pub(crate) sound: bool,
    pub(crate) entries: Option<Entries<'a>>,
    /// Bytes of the whole section.
    pub(crate) len: usize,
}

/// The entries of a section.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entries<'a> {
    pub(crate) after: Index,
    pub(crate) records: u32,
    /// They fill a hole.
    pub(crate) fill: bool,
    pub(crate) run: &'a [u8],
    /// Where the run begins, in bytes from the start of the section.
    pub(crate) offset: usize,
}

/// Why a section makes no sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SectionError {
    /// It ends too early, or behind the end of its block.
    #[error("section length")]
    Length,
    /// It says something this release does not know.
    #[error("unknown flags")]
    Flags,
    /// The number of sections is not what the block's header says.
    #[error("number of sections")]
    Count,
    /// A record in it is not a record, not in order or not what its checksum says.
    #[error("record of entry {0}")]
    Record(Index),
    /// An index that no log reaches.
    #[error("index {0} is beyond all logs")]
    Index(Index),
    /// More members than a membership may name, or witnesses announced and none named.
    #[error("number of members")]
    Members,
    /// It makes a group out of nothing.
    #[error("a section of an unknown group does not begin it")]
    Unknown,
}

/// Writes a section without its run at the beginning of `out`; gives the bytes written. The run follows there.
pub(crate) fn put(group: GroupId, parts: &Parts, entries: Option<(Index, u32, usize)>, out: &mut [u8]) -> usize {
    let (after, records, run_len) = entries.unwrap_or_default();
    let len = HEADER + parts.len();
    let flag = |there: bool, flag: u32| if there { flag } else { 0 };
    let flags = flag(parts.hard.is_some(), HARD)
        | flag(parts.base.is_some(), BASE)
        | flag(parts.snapshot.is_some(), SNAPSHOT)
        | flag(parts.conf.is_some(), CONF)
        | flag(parts.conf.is_some_and(|conf| conf.auto_leave), AUTO_LEAVE)
        | flag(parts.reset, RESET)
        | flag(entries.is_some(), ENTRIES)
        | flag(parts.has_witnesses(), WITNESSES)
        | flag(parts.doubt.hard, DOUBT_HARD)
        | flag(parts.doubt.tail, DOUBT_TAIL)
        | flag(parts.fill, FILL)
        | flag(parts.sound, SOUND);
    let mut out = Writer { out, at: 0 };
    out.u64(group.0);
    out.u32(flags);
    out.u32(u32::try_from(len + run_len).expect("bounded by the segment's size"));
    out.u64(after.0);
    out.u32(records);
    out.u32(0);
    if let Some(hard) = parts.hard {
        out.u64(hard.term.0);
        out.u64(hard.vote.0);
        out.u64(hard.commit.0);
    }
    for id in [parts.base, parts.snapshot].into_iter().flatten() {
        out.u64(id.index.0);
        out.u64(id.term.0);
    }
    if let Some(conf) = parts.conf {
        let lists = [&conf.voters, &conf.voters_outgoing, &conf.learners, &conf.learners_next];
        for list in lists {
            out.bytes(&u16::try_from(list.len()).expect("bounded by MEMBERS_MAX").to_le_bytes());
        }
        for peer in lists.into_iter().flatten() {
            out.u64(peer.0);
        }
        if parts.has_witnesses() {
            out.u64(conf.witnesses.len() as u64);
            conf.witnesses.iter().for_each(|peer| out.u64(peer.0));
        }
    }
    assert!(out.at == len, "section of {} bytes, {len} announced", out.at);
    len
}

/// Reads the section that `body` begins with. Records are not looked at.
pub(crate) fn read(body: &[u8]) -> Result<Section<'_>, SectionError> {
    let header = body.get(..HEADER).ok_or(SectionError::Length)?;
    let flags = u32_at(header, 8);
    let has = |flag: u32| flags & flag != 0;
    if flags & !KNOWN != 0 || has(FILL) && !has(ENTRIES) || has(WITNESSES) && !has(CONF) {
        return Err(SectionError::Flags);
    }
    let len = u32_at(header, 12) as usize;
    let section = body.get(..len).filter(|section| section.len() >= HEADER).ok_or(SectionError::Length)?;
    let mut parts = Reader { bytes: section, at: HEADER };
    let hard = match has(HARD) {
        true => Some(HardState { term: Term(parts.u64()?), vote: PeerId(parts.u64()?), commit: Index(parts.u64()?) }),
        false => None,
    };
    let mut id = |there: bool| match there {
        true => Ok(Some(EntryId { index: Index(parts.u64()?), term: Term(parts.u64()?) })),
        false => Ok(None),
    };
    let (base, snapshot) = (id(has(BASE))?, id(has(SNAPSHOT))?);
    let conf = match has(CONF) {
        true => Some(parts.conf(has(AUTO_LEAVE), has(WITNESSES))?),
        false => None,
    };
    let offset = parts.at;
    let indexes = [hard.map(|hard| hard.commit), base.map(|id| id.index), snapshot.map(|id| id.index)];
    if let Some(index) = indexes.into_iter().flatten().find(|index| index.0 > INDEX_MAX) {
        return Err(SectionError::Index(index));
    }
    let run = &section[offset..];
    let (after, records, fill) = (Index(u64_at(header, 16)), u32_at(header, 24), has(FILL));
    let entries = has(ENTRIES).then_some(Entries { after, records, fill, run, offset });
    if entries.is_none() && !run.is_empty() {
        return Err(SectionError::Length);
    }
    Ok(Section {
        group: GroupId(u64_at(header, 0)),
        hard,
        base,
        snapshot,
        conf,
        reset: has(RESET),
        doubt: Doubt { hard: has(DOUBT_HARD), tail: has(DOUBT_TAIL) },
        sound: has(SOUND),
        entries,
        len,
    })
}

struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        self.out[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    fn u32(&mut self, number: u32) {
        self.bytes(&number.to_le_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn u64(&mut self) -> Result<u64, SectionError> {
        let number = self.bytes.get(self.at..self.at + 8).ok_or(SectionError::Length)?;
        self.at += 8;
        Ok(u64_at(number, 0))
    }

    fn list(&mut self, count: u64) -> Result<Vec<PeerId>, SectionError> {
        // No more is set aside than there are bytes for.
        (0..count).map(|_| self.u64().map(PeerId)).collect()
    }

    fn conf(&mut self, auto_leave: bool, witnesses: bool) -> Result<ConfState, SectionError> {
        let counts = self.u64()?;
        let mut list = |nth: u32| self.list(counts >> (16 * nth) & 0xffff);
        let (voters, voters_outgoing, learners, learners_next) = (list(0)?, list(1)?, list(2)?, list(3)?);
        let count = if witnesses { self.u64()? } else { 0 };
        if witnesses && count == 0 {
            return Err(SectionError::Members);
        }
        let witnesses = self.list(count)?;
        let conf = ConfState { voters, voters_outgoing, learners, learners_next, witnesses, auto_leave };
        if conf.names() > MEMBERS_MAX { Err(SectionError::Members) } else { Ok(conf) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf() -> ConfState {
        ConfState {
            voters: vec![PeerId(1), PeerId(2)],
            voters_outgoing: vec![PeerId(3)],
            learners: vec![],
            learners_next: vec![PeerId(4)],
            witnesses: vec![],
            auto_leave: true,
        }
    }

    #[test]
    fn every_combination_of_parts_survives() {
        let plain = conf();
        let with_witnesses = ConfState { witnesses: vec![PeerId(2), PeerId(3)], ..conf() };
        let id = EntryId { term: Term(3), index: Index(9) };
        for bits in 0..2048_u32 {
            let conf = if bits & 1024 == 0 { &plain } else { &with_witnesses };
            let parts = Parts {
                hard: (bits & 1 != 0).then_some(HardState { term: Term(5), vote: PeerId(2), commit: Index(8) }),
                base: (bits & 2 != 0).then_some(id),
                snapshot: (bits & 4 != 0).then_some(id),
                conf: (bits & 8 != 0).then_some(conf),
                reset: bits & 16 != 0,
                doubt: Doubt { hard: bits & 64 != 0, tail: bits & 128 != 0 },
                sound: bits & 256 != 0,
                fill: bits & 512 != 0 && bits & 32 != 0,
            };
            let entries = (bits & 32 != 0).then_some((Index(9), 2, 48));
            let mut out = vec![0; 1024];
            let at = put(GroupId(7), &parts, entries, &mut out);
            let section = read(&out).unwrap();
            assert_eq!(section.len, at + entries.map_or(0, |entries| entries.2));
            assert_eq!((section.group, section.hard), (GroupId(7), parts.hard));
            assert_eq!((section.base, section.snapshot), (parts.base, parts.snapshot));
            assert_eq!((section.conf.as_ref(), section.reset), (parts.conf, parts.reset));
            assert_eq!((section.doubt, section.sound), (parts.doubt, parts.sound));
            assert!(section.entries.is_none_or(|entries| entries.fill == parts.fill));
            assert_eq!(section.entries.map(|e| (e.after, e.records, e.run.len())), entries);
            for cut in 0..section.len {
                assert!(read(&out[..cut]).is_err(), "cut at {cut}");
            }
        }
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let mut out = vec![0; 1024];
        let conf = conf();
        let len = put(GroupId(7), &Parts { conf: Some(&conf), ..Parts::default() }, None, &mut out);
        for lie in [0_u32, 31, 40, u32::try_from(len).unwrap() + 8, u32::MAX] {
            let mut bad = out.clone();
            bad[12..16].copy_from_slice(&lie.to_le_bytes());
            assert_eq!(read(&bad), Err(SectionError::Length), "{lie}");
        }
        out[9] |= 4;
        assert_eq!(read(&out), Err(SectionError::Flags), "a hole filled with nothing");
        out[9] = 0;
        out[11] = 1;
        assert_eq!(read(&out), Err(SectionError::Flags));
        let conf = ConfState { witnesses: vec![PeerId(2)], ..conf };
        put(GroupId(7), &Parts { conf: Some(&conf), ..Parts::default() }, None, &mut out);
        let count = HEADER + 8 + 8 * 4;
        assert_eq!(u64_at(&out, count), 1);
        for lie in [2, 1 << 40, u64::MAX] {
            let mut bad = out.clone();
            bad[count..count + 8].copy_from_slice(&lie.to_le_bytes());
            assert_eq!(read(&bad), Err(SectionError::Length), "{lie} witnesses");
        }
        out[8] &= !8;
        assert_eq!(read(&out), Err(SectionError::Flags), "witnesses of nobody");
    }

    #[test]
    fn what_no_writer_says() {
        let at = |index: u64| EntryId { term: Term(1), index: Index(index) };
        let many = ConfState { voters: (1..=MEMBERS_MAX as u64 + 1).map(PeerId).collect(), ..ConfState::default() };
        let hard = HardState { commit: Index(INDEX_MAX + 1), ..HardState::default() };
        let beyond = SectionError::Index(Index(INDEX_MAX + 1));
        for (parts, error) in [
            (Parts { conf: Some(&many), ..Parts::default() }, SectionError::Members),
            (Parts { hard: Some(hard), ..Parts::default() }, beyond),
            (Parts { base: Some(at(INDEX_MAX + 1)), ..Parts::default() }, beyond),
            (Parts { snapshot: Some(at(INDEX_MAX + 1)), ..Parts::default() }, beyond),
        ] {
            let mut out = vec![0; HEADER + parts.len()];
            put(GroupId(7), &parts, None, &mut out);
            assert_eq!(read(&out), Err(error));
        }
        let highest = Parts { base: Some(at(INDEX_MAX)), ..Parts::default() };
        let mut out = vec![0; HEADER + highest.len()];
        put(GroupId(7), &highest, None, &mut out);
        assert_eq!(read(&out).map(|section| section.base), Ok(highest.base));
    }
}
