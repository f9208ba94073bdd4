//! What is known of a group's entries while its log is read: pieces, with holes between them. Pure.
//!
//! A log that is not damaged has one piece in the end. Before that there may be more: what is missing between them was
//! compacted or replaced further on.

use ringraft_raft::Index;

use crate::group::{Pins, Runs};
use crate::group_log::Meta;

/// Consecutive entries.
#[derive(Default, Debug)]
pub(crate) struct Piece {
    pub(crate) meta: Meta,
    pub(crate) runs: Runs,
    /// The last gap in the log before this piece was begun, if there was one.
    pub(crate) gap: Option<u32>,
}

/// The entries known of a group.
#[derive(Default, Debug)]
pub(crate) struct Pieces {
    /// The piece that is being continued.
    pub(crate) last: Piece,
    /// Those before it: not empty, in order, not adjacent.
    older: Vec<Piece>,
    /// Entries whose records cannot be read, in order: only what a footer says of them is known.
    pub(crate) unreadable: Vec<Unreadable>,
}

/// Entries `first..=last`, lost in this gap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Unreadable {
    pub(crate) first: Index,
    pub(crate) last: Index,
    pub(crate) gap: u32,
}

/// Segments are pinned once all is known.
pub(crate) struct Nobody;

impl Pins for Nobody {
    fn pin(&mut self, _: u32) {}
    fn unpin(&mut self, _: u32) {}
}

impl Piece {
    pub(crate) fn starting_after(start: Index, gap: Option<u32>) -> Piece {
        Piece { meta: Meta::starting_after(start), runs: Runs::default(), gap }
    }

    /// Takes the entries from `first` on.
    pub(crate) fn split_off(&mut self, first: Index) -> Piece {
        let runs = self.runs.split_off(first, &self.meta, &mut Nobody);
        Piece { runs, meta: self.meta.split_off(first), gap: self.gap }
    }

    fn append(&mut self, next: Piece) {
        self.meta.append(next.meta);
        self.runs.append(next.runs, &mut Nobody);
    }
}

impl Pieces {
    /// Forgets the entries from `first` on.
    pub(crate) fn truncate(&mut self, first: Index) {
        while self.last.meta.start() >= first.prev() {
            self.last = self.older.pop().unwrap_or_else(|| Piece::starting_after(first.prev(), self.last.gap));
            if self.last.meta.is_empty() {
                break;
            }
        }
        if first <= self.last.meta.last() {
            self.last.meta.replace_from(first);
            self.last.runs.truncate(first, &self.last.meta, &mut Nobody);
        }
        self.unreadable.retain(|range| range.first < first);
        if let Some(range) = self.unreadable.last_mut() {
            range.last = range.last.min(first.prev());
        }
    }

    /// Makes ready for entries from `first` on, which replace everything from there. `gap`: the last one so far.
    pub(crate) fn replace_from(&mut self, first: Index, gap: Option<u32>) {
        self.truncate(first);
        if self.last.meta.last().next() != first {
            self.begin(first, gap);
        }
    }

    /// Begins a piece that does not join the last one.
    fn begin(&mut self, first: Index, gap: Option<u32>) {
        let before = std::mem::replace(&mut self.last, Piece::starting_after(first.prev(), gap));
        if !before.meta.is_empty() {
            self.older.push(before);
        }
    }

    /// Forgets the entries up to `base`.
    pub(crate) fn forget_upto(&mut self, base: Index) {
        let gone = self.older.partition_point(|piece| piece.meta.last() <= base);
        self.older.drain(..gone);
        let front = self.older.first_mut().unwrap_or(&mut self.last);
        front.runs.forget_upto(base, &front.meta, &mut Nobody);
        front.meta.forget_upto(base);
        self.unreadable.retain(|range| range.last > base);
        if let Some(range) = self.unreadable.first_mut() {
            range.first = range.first.max(base.next());
        }
    }

    /// Forgets everything: the log begins behind `base`.
    pub(crate) fn reset(&mut self, base: Index) {
        *self = Pieces { last: Piece::starting_after(base, None), ..Pieces::default() };
    }

    /// Puts entries in their place and leaves all others as they are.
    pub(crate) fn fill(&mut self, entries: Piece) {
        let (before, last) = (entries.meta.start(), entries.meta.last());
        let mut pieces: Vec<Piece> = Vec::with_capacity(self.older.len() + 3);
        let mut put = |piece: Piece| match pieces.last_mut() {
            _ if piece.meta.is_empty() => {}
            Some(front) if front.meta.last() == piece.meta.start() => front.append(piece),
            _ => pieces.push(piece),
        };
        let empty = Piece::starting_after(last, entries.gap);
        let mut entries = Some(entries);
        for mut piece in self.older.drain(..).chain([std::mem::replace(&mut self.last, empty)]) {
            let mut back = Piece::default();
            if piece.meta.last() > last {
                let first = piece.meta.start().next().max(last.next());
                back = piece.split_off(first);
            }
            if piece.meta.last() > before && !piece.meta.is_empty() {
                let first = piece.meta.start().next().max(before.next());
                piece.split_off(first);
            }
            put(piece);
            if !back.meta.is_empty() {
                entries.take().into_iter().for_each(&mut put);
            }
            put(back);
        }
        entries.take().into_iter().for_each(&mut put);
        self.last = pieces.pop().expect("at least what was put in");
        self.older = pieces;
        let split = |range: &Unreadable| {
            let front = Unreadable { last: range.last.min(before), ..*range };
            let back = Unreadable { first: range.first.max(last.next()), ..*range };
            [front, back].into_iter().filter(|range| range.first <= range.last)
        };
        self.unreadable = self.unreadable.iter().flat_map(split).collect();
    }

    /// All pieces in order; only the last one may be empty.
    pub(crate) fn into_pieces(self) -> impl Iterator<Item = Piece> {
        self.older.into_iter().chain([self.last])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::group::Run;
    use proptest::prelude::*;
    use ringraft_raft::record::encoded_len;
    use ringraft_raft::{EntryId, Term};

    /// Index: term, payload length, offset in its segment.
    type Model = BTreeMap<u64, (u64, u32, u32)>;

    #[derive(Clone, Debug)]
    enum Step {
        Entries { first: u64, terms: Vec<u64>, fill: bool },
        Truncate(u64),
        Forget(u64),
        Reset(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let entries = (1..30_u64, prop::collection::vec(1..4_u64, 1..6), any::<bool>());
        prop_oneof![
            8 => entries.prop_map(|(first, terms, fill)| Step::Entries { first, terms, fill }),
            1 => (1..30_u64).prop_map(Step::Truncate),
            1 => (0..30_u64).prop_map(Step::Forget),
            1 => (0..30_u64).prop_map(Step::Reset),
        ]
    }

    fn entries(pieces: &mut Pieces, model: &mut Model, first: u64, terms: &[u64], fill: bool, offset: &mut u32) {
        let begin = Index(first);
        let mut piece = Piece::starting_after(begin.prev(), None);
        let mut at = *offset;
        let mut put = Model::new();
        for (index, term) in (first..).zip(terms) {
            let len = u32::try_from(index % 3 * 8).unwrap();
            piece.meta.push_words(EntryId { index: Index(index), term: Term(*term) }, std::iter::once(len));
            put.insert(index, (*term, len, at));
            at += u32::try_from(encoded_len(len as usize)).unwrap();
        }
        let last = piece.meta.last();
        piece.runs.push(Run { first: begin, segment: 1, offset: *offset, len: at - *offset }, last, None, &mut Nobody);
        *offset = at;
        if fill {
            pieces.fill(piece);
        } else {
            pieces.replace_from(begin, None);
            pieces.last.append(piece);
            model.split_off(&first);
        }
        model.extend(put);
    }

    /// Every entry where the model has it.
    fn check(pieces: &Pieces, model: &Model) {
        let mut found = Model::new();
        let mut before = None;
        for piece in pieces.older.iter().chain([&pieces.last]) {
            assert!(before.is_none_or(|last| last < piece.meta.start() || piece.meta.is_empty()), "adjacent pieces");
            before = Some(piece.meta.last());
            let mut index = piece.meta.start().next();
            for (run, end) in piece.runs.iter().enumerate().map(|(at, run)| (run, piece.runs.end(at))) {
                assert_eq!(run.first, index);
                let mut offset = run.offset;
                while index < end {
                    let meta = piece.meta.meta(index);
                    found.insert(index.0, (meta.term.0, meta.size, offset));
                    offset += u32::try_from(piece.meta.encoded_len(index)).unwrap();
                    index = index.next();
                }
                assert_eq!(offset, run.offset + run.len);
            }
            assert_eq!(index, piece.meta.last().next());
        }
        assert_eq!(&found, model);
    }

    proptest! {
        #[test]
        fn as_entries_one_by_one(steps in prop::collection::vec(step(), 1..40)) {
            let (mut pieces, mut model, mut offset) = (Pieces::default(), Model::new(), 0);
            let mut base = 0;
            for step in steps {
                match step {
                    Step::Entries { first, terms, fill } => {
                        let first = first.max(base + 1);
                        entries(&mut pieces, &mut model, first, &terms, fill, &mut offset);
                    }
                    Step::Truncate(first) => {
                        let first = first.max(base + 1);
                        pieces.truncate(Index(first));
                        model.split_off(&first);
                    }
                    Step::Forget(upto) => {
                        base = base.max(upto);
                        pieces.forget_upto(Index(base));
                        model = model.split_off(&(base + 1));
                    }
                    Step::Reset(upto) => {
                        base = base.max(upto);
                        pieces.reset(Index(base));
                        model.clear();
                    }
                }
                check(&pieces, &model);
            }
        }
    }

    #[test]
    fn what_is_filled_or_forgotten_is_not_unreadable() {
        let range = |first, last| Unreadable { first: Index(first), last: Index(last), gap: 0 };
        let mut offset = 0;
        let mut made = |fill: &[(u64, usize)]| {
            let (mut pieces, mut model) = (Pieces::default(), Model::new());
            entries(&mut pieces, &mut model, 1, &[1; 20], false, &mut offset);
            pieces.unreadable = vec![range(3, 6), range(10, 12)];
            for (first, count) in fill {
                entries(&mut pieces, &mut model, *first, &vec![1; *count], true, &mut offset);
            }
            pieces
        };
        assert_eq!(made(&[(4, 1)]).unreadable, [range(3, 3), range(5, 6), range(10, 12)]);
        assert_eq!(made(&[(1, 10)]).unreadable, [range(11, 12)]);
        assert_eq!(made(&[(3, 2), (5, 8)]).unreadable, []);
        let mut pieces = made(&[]);
        pieces.truncate(Index(11));
        assert_eq!(pieces.unreadable, [range(3, 6), range(10, 10)]);
        pieces.truncate(Index(3));
        assert_eq!(pieces.unreadable, []);
        let mut pieces = made(&[]);
        pieces.forget_upto(Index(5));
        assert_eq!(pieces.unreadable, [range(6, 6), range(10, 12)]);
        pieces.forget_upto(Index(11));
        assert_eq!(pieces.unreadable, [range(12, 12)]);
    }
}
