//! Bytes that are cut, too long, or any at all.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::super::appends::AppendWriter;
use super::super::chunks::{self, ChunkReader};
use super::super::dialect;
use super::super::http::{Answer, Request};
use super::super::raftpb::{Entry, Message};
use super::super::requests::Payload;
use super::super::streams::{StreamReader, StreamWriter};
use super::super::{Limits, WireError, messages, snapshots};
use super::{LOCAL, REMOTE, any_message, appends, entry, read_appends, read_messages};
use crate::StreamKind;

const KINDS: [StreamKind; 2] = [StreamKind::Message, StreamKind::Append];

const SMALL: Limits = Limits { message_bytes_max: 200, entries_max: 3 };

fn stream(kind: StreamKind, sent: &[Message]) -> Vec<u8> {
    let mut writer = StreamWriter::new(kind);
    let mut bytes = Vec::new();
    for message in sent {
        writer.push(message);
        bytes.extend_from_slice(&writer.take_chunk().unwrap());
    }
    assert_eq!(writer.take_chunk(), None);
    bytes.extend_from_slice(chunks::END);
    bytes
}

fn read_stream(kind: StreamKind, bytes: &[u8]) -> Result<Vec<Message>, WireError> {
    let mut reader = StreamReader::new(kind, REMOTE, LOCAL, Limits::default());
    let mut found = Vec::new();
    reader.push(bytes, |message| found.push(message))?;
    reader.end()?;
    Ok(found)
}

#[test]
fn every_cut_of_a_stream_is_an_error() {
    let sent = [
        Message::link_heartbeat(),
        Message {
            r#type: 3,
            to: LOCAL,
            from: REMOTE,
            term: 1,
            entries: vec![entry(1, 1, Some(b"a"))],
            ..Message::default()
        },
        Message {
            r#type: 3,
            to: LOCAL,
            from: REMOTE,
            term: 1,
            log_term: 1,
            index: 1,
            entries: vec![entry(2, 1, None), entry(3, 1, Some(b"b"))],
            ..Message::default()
        },
    ];
    for kind in KINDS {
        let bytes = stream(kind, &sent);
        assert_eq!(read_stream(kind, &bytes), Ok(sent.to_vec()));
        for cut in 0..bytes.len() {
            assert!(read_stream(kind, &bytes[..cut]).is_err(), "{kind:?} cut at {cut}");
        }
        let more = [&bytes[..], b"x"].concat();
        assert!(read_stream(kind, &more).is_err(), "{kind:?} goes on behind its end");
        // The body ends well, but its frames may not.
        let mut frames = BytesMut::new();
        ChunkReader::default().push(&bytes, &mut frames).unwrap();
        let ends: Vec<usize> = (1..=sent.len()).map(|count| frames_of(kind, &sent[..count])).collect();
        for cut in 1..=frames.len() {
            let body = [&chunks::chunk(&frames[..cut])[..], chunks::END].concat();
            let whole = ends.iter().position(|end| *end == cut).map(|last| sent[..=last].to_vec());
            assert_eq!(read_stream(kind, &body).ok(), whole, "{kind:?}: {cut} bytes of frames");
        }
    }
}

/// How many bytes the frames of these messages are.
fn frames_of(kind: StreamKind, sent: &[Message]) -> usize {
    let mut frames = BytesMut::new();
    ChunkReader::default().push(&stream(kind, sent), &mut frames).unwrap();
    frames.len()
}

proptest! {
    #[test]
    fn a_cut_message_is_an_error_or_waits(sent in any_message(), cut in any::<prop::sample::Index>()) {
        let mut bytes = BytesMut::new();
        messages::put(&sent, &mut bytes);
        let cut = cut.index(bytes.len());
        let limits = Limits::default();
        prop_assert_eq!(read_messages(&bytes[..cut], &limits), Ok((vec![], cut)), "a stream waits for the rest");

        let body = messages::body(&sent);
        let cut = cut.min(body.len() - 1);
        // A body that is cut between fields says what it still holds and nothing else; anywhere else it is no message.
        if let Ok(other) = messages::decode(body.slice(..cut), &limits) {
            prop_assert!(messages::body(&other).starts_with(&body[..cut]), "{other:?}");
        }
    }

    #[test]
    fn a_cut_of_appends_gives_no_message_too_many(sent in appends(), cut in any::<prop::sample::Index>()) {
        let (mut writer, mut bytes) = (AppendWriter::default(), BytesMut::new());
        let ends: Vec<usize> = sent.iter().map(|message| { writer.put(message, &mut bytes); bytes.len() }).collect();
        let cut = cut.index(bytes.len());
        let whole = ends.iter().filter(|end| **end <= cut).count();
        let between = cut == 0 || ends.contains(&cut);
        prop_assert_eq!(read_appends(&[&bytes[..cut]], Limits::default()), Ok((sent[..whole].to_vec(), between)));
    }

    #[test]
    fn any_bytes_end_in_an_error_at_worst(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_messages(&bytes, &SMALL);
        let _ = read_appends(&[&bytes], SMALL);
        let _ = snapshots::take(&mut BytesMut::from(&bytes[..]), &SMALL);
        let _ = ChunkReader::default().push(&bytes, &mut BytesMut::new());
        let _ = messages::decode(Bytes::from(bytes.clone()), &Limits::default()).map(dialect::decode);
        let _ = Payload::decode(&bytes);
        let _ = (Request::parse(&bytes).is_some(), Answer::parse(&bytes));
        for kind in KINDS {
            let _ = read_stream(kind, &bytes);
        }
    }

    #[test]
    fn any_frame_behind_a_sound_type_and_length(
        kind in 0..3_u8, len in 0..300_u64, bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let frame = [&[kind][..], &len.to_be_bytes(), &bytes].concat();
        let _ = read_appends(&[&frame], SMALL);
        let _ = read_messages(&frame[1..], &SMALL);
    }

    #[test]
    fn any_flipped_bit_of_a_message(sent in any_message(), bit in any::<prop::sample::Index>()) {
        let mut body = messages::body(&sent).to_vec();
        let bit = bit.index(body.len() * 8);
        body[bit / 8] ^= 1 << (bit % 8);
        let _ = messages::decode(Bytes::from(body), &SMALL).map(dialect::decode);
    }

    #[test]
    fn chunks_however_they_fall(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6),
        step in 1..30_usize,
    ) {
        let mut bytes = pieces.iter().flat_map(|piece| chunks::chunk(piece)).collect::<Vec<u8>>();
        bytes.extend_from_slice(chunks::END);
        let (mut reader, mut body) = (ChunkReader::default(), BytesMut::new());
        for piece in bytes.chunks(step) {
            prop_assert!(!reader.is_done());
            prop_assert_eq!(reader.push(piece, &mut body), Ok(piece.len()));
        }
        prop_assert!(reader.is_done());
        prop_assert_eq!(&body[..], pieces.concat());
        prop_assert_eq!(reader.push(b"the next one", &mut body), Ok(0), "what follows is not the body's");
    }
}

#[test]
fn lengths_are_looked_at_first() {
    let too_long = |what, len, max| WireError::TooLong { what, len, max };
    let huge = u64::MAX.to_be_bytes();
    let (max, len) = (SMALL.message_bytes_max, u64::MAX);
    assert_eq!(read_messages(&huge, &SMALL), Err(too_long("message", len, max)));
    assert_eq!(read_appends(&[&[2], &huge], SMALL), Err(too_long("message", len, max)));
    assert_eq!(read_appends(&[&[1], &huge], SMALL), Err(WireError::TooManyEntries { max: 3 }));
    let count = 2_u64.to_be_bytes();
    assert_eq!(read_appends(&[&[1], &count, &huge], SMALL), Err(too_long("entry", len, max)));
    // The limit is on all entries of a frame together.
    let first = Entry { data: Some(Bytes::from(vec![7; 150])), ..Entry::default() };
    let first = prost::Message::encode_to_vec(&first);
    let (size, left) = ((first.len() as u64).to_be_bytes(), max - first.len());
    let second = read_appends(&[&[1], &count, &size, &first, &100_u64.to_be_bytes()], SMALL);
    assert_eq!(second, Err(too_long("entry", 100, left)));
    assert_eq!(read_appends(&[&[3]], SMALL), Err(WireError::FrameType(3)));
    // An entry without any field takes two bytes here and dozens in memory.
    let many = Bytes::from([0x3a, 0].repeat(4));
    assert_eq!(messages::decode(many, &SMALL), Err(WireError::TooManyEntries { max: 3 }));
    assert!(messages::decode(Bytes::from([0x3a, 0].repeat(3)), &SMALL).is_ok());
    assert!(matches!(messages::decode(Bytes::from(vec![0; 201]), &SMALL), Err(WireError::TooLong { .. })));
}

#[test]
fn an_index_has_an_end() {
    let last = Message { r#type: 3, to: LOCAL, from: REMOTE, term: 1, index: u64::MAX, ..Message::default() };
    let mut bytes = BytesMut::new();
    AppendWriter::default().put(&last, &mut bytes);
    let next = [&[1][..], &1_u64.to_be_bytes(), &0_u64.to_be_bytes(), &0_u64.to_be_bytes()].concat();
    assert_eq!(read_appends(&[&bytes, &next], SMALL), Err(WireError::Index));
    let run = Message { entries: vec![entry(0, 1, None)], ..last };
    assert!(dialect::decode(run).is_err());
}

#[test]
fn chunks_that_are_none() {
    for bytes in [
        &b"\r\n"[..],
        b"x\r\n",
        b"1x\r\na\r\n",
        b"1\nb",
        b"1\rb",
        b"1\r\nab",
        b"1\r\na\n",
        b"0000000000000001\r\n",
        b"-1\r\n",
        &[b"1;"[..].to_vec(), vec![b'e'; 300]].concat(),
        &[b"0\r\n"[..].to_vec(), vec![b'e'; 9000]].concat(),
    ] {
        let read = ChunkReader::default().push(bytes, &mut BytesMut::new());
        assert!(read.is_err(), "{}", String::from_utf8_lossy(&bytes[..bytes.len().min(20)]));
    }
    let (mut reader, mut body) = (ChunkReader::default(), BytesMut::new());
    reader.push(b"3;name=value\r\nabc\r\nA \r\n0123456789\r\n0\r\nLast: line\r\n\r\n", &mut body).unwrap();
    assert!(reader.is_done());
    assert_eq!(body, b"abc0123456789"[..]);
}
