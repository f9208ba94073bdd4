//! What the codecs promise: etcd's own bytes, and patience with any others.

mod dialect;
mod heads;
mod hostile;
mod vectors;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::appends::{AppendReader, AppendWriter};
use super::raftpb::{self, Entry, Message};
use super::{Limits, WireError, messages};

/// The ids of the two ends in all tests.
const REMOTE: u64 = 1;
const LOCAL: u64 = 2;

fn entry(index: u64, term: u64, data: Option<&'static [u8]>) -> Entry {
    Entry { r#type: 0, term, index, data: data.map(Bytes::from_static) }
}

/// Any message that can be said, sensible or not, from one end to the other.
fn any_message() -> impl Strategy<Value = Message> {
    let data = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from));
    // Small numbers make appends continue each other.
    let number = || prop_oneof![0..4_u64, any::<u64>()];
    let entry = (0..3_i32, number(), number(), data());
    let entry = entry.prop_map(|(r#type, term, index, data)| Entry { r#type, term, index, data });
    let ids = || proptest::collection::vec(any::<u64>(), 0..3);
    let conf = (ids(), ids(), ids(), ids(), any::<bool>());
    let snapshot = (data(), conf, number(), number()).prop_map(|(data, conf, index, term)| {
        let (voters, learners, voters_outgoing, learners_next, auto_leave) = conf;
        let conf_state = raftpb::ConfState { voters, learners, voters_outgoing, learners_next, auto_leave };
        raftpb::Snapshot { data, metadata: raftpb::SnapshotMetadata { conf_state, index, term } }
    });
    let snapshot = prop_oneof![9 => Just(raftpb::Snapshot::default()), 1 => snapshot];
    let head = (prop_oneof![Just(3), 0..24_i32], number(), number(), number(), number());
    let tail = (any::<bool>(), number(), data(), proptest::option::of(number()));
    let entries = prop_oneof![
        // A run, as appends have it.
        (0..4_u64, 0..5_u64, 0..3_u64).prop_map(|(first, count, term)| {
            (first..first + count).map(|index| Entry { term, index, ..Entry::default() }).collect()
        }),
        proptest::collection::vec(entry, 0..4),
    ];
    (head, entries, snapshot, tail).prop_map(|(head, entries, snapshot, tail)| {
        let (r#type, term, log_term, index, commit) = head;
        let (reject, reject_hint, context, vote) = tail;
        let (to, from) = (LOCAL, REMOTE);
        Message {
            r#type,
            to,
            from,
            term,
            log_term,
            index,
            entries,
            commit,
            snapshot,
            reject,
            reject_hint,
            context,
            vote,
        }
    })
}

/// Appends as a leader sends them: runs, some of them continued, some begun anew.
fn appends() -> impl Strategy<Value = Vec<Message>> {
    let step = (0..3_u64, 0..4_u64, any::<bool>(), 0..9_u64);
    proptest::collection::vec(step, 1..12).prop_map(|steps| {
        let (mut term, mut index, mut log_term) = (1, 0, 0);
        let mut out = Vec::new();
        for (rise, count, back, commit) in steps {
            if rise == 2 {
                term += 1;
            }
            if back {
                index /= 2;
            }
            let entries: Vec<_> =
                (index + 1..=index + count).map(|index| Entry { term, index, ..Entry::default() }).collect();
            let (to, from) = (LOCAL, REMOTE);
            let message = Message { r#type: 3, to, from, term, log_term, index, commit, ..Message::default() };
            index += count;
            if count > 0 {
                log_term = term;
            }
            out.push(Message { entries, ..message });
        }
        out
    })
}

fn read_messages(bytes: &[u8], limits: &Limits) -> Result<(Vec<Message>, usize), WireError> {
    let mut input = BytesMut::from(bytes);
    let mut found = Vec::new();
    while let Some(message) = messages::take(&mut input, limits)? {
        found.push(message);
    }
    Ok((found, input.len()))
}

fn read_appends(pieces: &[&[u8]], limits: Limits) -> Result<(Vec<Message>, bool), WireError> {
    let mut reader = AppendReader::new(REMOTE, LOCAL, limits);
    let (mut input, mut found) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        while let Some(message) = reader.take(&mut input)? {
            found.push(message);
        }
    }
    Ok((found, reader.is_between_frames() && input.is_empty()))
}

proptest! {
    #[test]
    fn messages_round_trip(sent in proptest::collection::vec(any_message(), 0..4)) {
        let mut bytes = BytesMut::new();
        sent.iter().for_each(|message| messages::put(message, &mut bytes));
        let (found, rest) = read_messages(&bytes, &Limits::default()).unwrap();
        prop_assert_eq!((&found, rest), (&sent, 0));
        for message in sent {
            prop_assert_eq!(messages::decode(messages::body(&message), &Limits::default()), Ok(message));
        }
    }

    #[test]
    fn appends_round_trip(
        sent in prop_oneof![appends(), proptest::collection::vec(any_message(), 0..6)],
        cuts in proptest::collection::vec(1..50_usize, 0..20),
    ) {
        let (mut writer, mut bytes) = (AppendWriter::default(), BytesMut::new());
        sent.iter().for_each(|message| writer.put(message, &mut bytes));
        // However the bytes fall.
        let (mut pieces, mut rest) = (Vec::new(), &bytes[..]);
        for cut in cuts {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        pieces.push(rest);
        prop_assert_eq!(read_appends(&pieces, Limits::default()), Ok((sent, true)));
    }
}

#[test]
fn most_appends_are_short() {
    let (mut writer, mut bytes) = (AppendWriter::default(), BytesMut::new());
    let append = |index, term, log_term, entries: &[Entry]| Message {
        r#type: 3,
        to: LOCAL,
        from: REMOTE,
        term,
        log_term,
        index,
        entries: entries.to_vec(),
        ..Message::default()
    };
    for (message, kind, why) in [
        (append(4, 5, 5, &[]), 2, "the first one"),
        (append(4, 5, 5, &[entry(5, 5, None)]), 1, "the next one"),
        (append(5, 5, 5, &[]), 1, "a commit"),
        (append(4, 5, 5, &[entry(5, 5, None)]), 2, "one that goes back"),
        (append(5, 6, 5, &[entry(6, 6, None)]), 2, "the first one of a term"),
        (append(6, 6, 6, &[entry(8, 6, None)]), 2, "no run, which a short frame is not checked for"),
    ] {
        bytes.clear();
        writer.put(&message, &mut bytes);
        assert_eq!(bytes[0], kind, "{why}");
    }
}
