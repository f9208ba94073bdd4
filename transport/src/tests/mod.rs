//! Whole transports against a scripted world.

mod examples;
mod world;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ringraft_io::{Completion, DialError, Io, StreamId, Time};
use ringraft_raft::record::{self, GroupSeed};
use ringraft_raft::{Body, EntryId, EntryKind, GroupId, Index, Message, Payloads, PeerId, Term};

use crate::frame::{FrameKind, Header};
use crate::handshake::{HandshakeError, Refusal};
use crate::status::PeerError;
use crate::{ClusterId, Config, Members, PeerRefused, QueueLimits, SendOutcome, StreamKind, Transport};
use world::{Heard, World, config, judge, peer};

const MS: Duration = Duration::from_millis(1);

fn heartbeat(read: u64) -> Message {
    Message { from: peer(0), to: peer(1), term: Term(3), body: Body::Heartbeat { commit: Index(1), read } }
}

/// An append of entries `first ..` with these sizes, and its records, one piece each.
fn append(group: GroupId, first: u64, sizes: &[usize]) -> (Message, Vec<Bytes>) {
    let ids = (first..).map(|index| EntryId { term: Term(2), index: Index(index) });
    let runs = ids.zip(sizes).map(|(id, size)| {
        let mut run = BytesMut::new();
        record::encode(GroupSeed::of(group), id, EntryKind::Normal, &[&vec![0xa5; *size]], &mut run);
        run.freeze()
    });
    let prev = EntryId { term: Term(2), index: Index(first - 1) };
    let payloads = if group.0.is_multiple_of(2) { Payloads::Stripped } else { Payloads::All };
    let body = Body::Append { prev, last: Index(first - 1 + sizes.len() as u64), commit: Index(4), payloads };
    (Message { from: peer(0), to: peer(1), term: Term(3), body }, runs.collect())
}

impl World {
    fn send(&mut self, group: u64, message: &Message) -> SendOutcome {
        self.nodes[0].transport.send(GroupId(group), message, [])
    }

    fn send_append(&mut self, group: u64, first: u64, sizes: &[usize]) -> (SendOutcome, Heard) {
        let (message, runs) = append(GroupId(group), first, sizes);
        let heard = Heard::Append(GroupId(group), message, runs.concat());
        (self.nodes[0].transport.send(GroupId(group), &message, runs), heard)
    }
}

#[test]
fn everything_arrives_in_order_in_any_pieces() {
    for piece_max in [1, 5, 31, 100, 5000, 1 << 20] {
        let mut world = World::connected(2, |_| ());
        world.net.borrow_mut().piece_max = piece_max;
        let (mut appends, mut others) = (Vec::new(), Vec::new());
        for round in 0..5 {
            for group in 1..4_usize {
                let sizes = [[10, 20, 30][group - 1], 0, 3000, 8][..round].to_vec();
                let (group, round) = (group as u64, round as u64);
                let (outcome, heard) = world.send_append(group, 1 + round * 10, &sizes);
                assert_eq!(outcome, SendOutcome::Queued);
                appends.push(heard);
                assert_eq!(world.send(group, &heartbeat(round)), SendOutcome::Queued);
                others.push(Heard::Message(GroupId(group), heartbeat(round)));
                for size in [0, 3, 512, 513, 10_000] {
                    let payload = Bytes::from(vec![7; size]);
                    let outcome = world.nodes[0].transport.send_proposal(peer(1), GroupId(group), payload.clone());
                    assert_eq!(outcome, SendOutcome::Queued);
                    others.push(Heard::Proposal(GroupId(group), peer(0), payload.to_vec()));
                }
            }
            world.settle();
        }
        let (got_appends, got_others): (Vec<_>, Vec<_>) =
            world.heard(1).into_iter().partition(|heard| matches!(heard, Heard::Append(..)));
        assert_eq!(got_appends, appends, "pieces up to {piece_max}");
        assert_eq!(got_others, others, "pieces up to {piece_max}");
        assert_eq!(world.heard(0), []);
    }
}

#[test]
fn what_waits_for_a_send_leaves_in_one_frame() {
    let mut world = World::connected(2, |_| ());
    let before = world.nodes[0].transport.peer_status(peer(1)).unwrap().counters;
    world.net.borrow_mut().hold = true;
    for first in 1..=10 {
        let _ = world.send_append(first, 1, &[100, 100]);
        world.turn(0);
    }
    assert_eq!(world.net.borrow().sends.len(), 1, "one send in flight");
    world.release();
    world.settle();
    assert_eq!(world.net.borrow().sends.len(), 2, "the other nine together");
    let counters = world.nodes[0].transport.peer_status(peer(1)).unwrap().counters;
    assert_eq!((counters.sent_frames - before.sent_frames, counters.sent_messages), (2, 10));
    assert_eq!(world.heard(1).len(), 10);
    // A header piece before each group's runs, and the runs as they were given.
    assert_eq!(world.net.borrow().sends[1][..6], [80, 128, 128, 48, 128, 128]);
}

#[test]
fn a_send_is_bounded_in_bytes_and_pieces() {
    let mut world = World::connected(2, |config| config.send_size_max = 10_000);
    for group in 1..=20 {
        let _ = world.send_append(group, 1, &[976]);
    }
    let (_, big) = world.send_append(21, 1, &[50_000]);
    let _ = world.send_append(22, 1, &vec![8; crate::RUNS_MAX]);
    let _ = world.send_append(23, 1, &vec![8; 600]);
    let _ = world.send_append(24, 1, &vec![8; 600]);
    world.settle();
    let sizes: Vec<usize> = world.net.borrow().sends.iter().map(|send| send.iter().sum()).collect();
    assert_eq!(sizes[..3], [9 * 1048 + 32, 9 * 1048 + 32, 2 * 1048 + 32], "as many as fit");
    assert_eq!(sizes[3], 32 + 48 + 50_024, "one message may be larger");
    assert_eq!(world.net.borrow().sends[4].len(), 1023, "one message may fill a send");
    assert_eq!(sizes.len(), 7);
    let heard = world.heard(1);
    assert_eq!((heard.len(), &heard[20]), (24, &big));
    let many = vec![8; crate::RUNS_MAX + 1];
    assert_eq!(world.send_append(22, 1, &many).0, SendOutcome::TooLarge);
}

#[test]
fn many_small_messages_share_frames() {
    let mut world = World::connected(2, |_| ());
    for read in 0..4000 {
        assert_eq!(world.send(read, &heartbeat(read)), SendOutcome::Queued);
    }
    world.settle();
    let sends = world.net.borrow().sends.clone();
    assert_eq!(sends.len(), 2, "headers of one send are bounded: {sends:?}");
    assert!(sends.iter().all(|send| send.len() == 1));
    assert_eq!(world.heard(1).len(), 4000);
}

#[test]
fn a_full_queue_drops_and_says_so() {
    let limits = QueueLimits { messages_max: 3, bytes_max: 1000 };
    let mut world = World::connected(2, |config| config.message_queue = limits);
    world.net.borrow_mut().hold = true;
    assert_eq!(world.send(1, &heartbeat(0)), SendOutcome::Queued);
    world.turn(0);
    for read in 1..=3 {
        assert_eq!(world.send(1, &heartbeat(read)), SendOutcome::Queued);
    }
    assert_eq!(world.send(1, &heartbeat(4)), SendOutcome::Full);
    assert_eq!(world.send(1, &heartbeat(5)), SendOutcome::Full);
    world.turn(0);
    assert_eq!(world.heard(0), [Heard::Unreachable(peer(1))], "once a turn");
    assert_eq!(world.send_append(1, 1, &[10]).0, SendOutcome::Queued, "the other stream has its own queue");
    world.release();
    world.settle();
    assert_eq!(world.heard(1).len(), 5);
    assert_eq!(world.heard(0), []);
    assert_eq!(world.nodes[0].transport.peer_status(peer(1)).unwrap().counters.dropped_full, 2);
}

#[test]
fn one_stream_helps_out_for_the_other() {
    for down in StreamKind::ALL {
        let mut world = World::connected(2, |_| ());
        world.cut(0, 1, down);
        world.settle();
        assert_eq!(world.heard(0), [Heard::Unreachable(peer(1))]);
        let (outcome, heard) = world.send_append(1, 1, &[10, 20]);
        assert_eq!((outcome, world.send(2, &heartbeat(1))), (SendOutcome::Queued, SendOutcome::Queued));
        world.settle();
        assert_eq!(world.heard(1), [heard, Heard::Message(GroupId(2), heartbeat(1))]);
        assert_eq!(world.net.borrow().sends.len(), 1);
        world.pass(60 * MS);
        assert!(world.nodes[0].transport.write_stream(peer(1), down).is_some(), "dialed again");
    }
}

#[test]
fn without_streams_nothing_is_kept() {
    let mut world = World::new(2, |_| ());
    assert_eq!(world.send(1, &heartbeat(1)), SendOutcome::Unconnected);
    assert_eq!(world.send_append(1, 1, &[10]).0, SendOutcome::Unconnected);
    world.settle();
    assert_eq!(world.heard(0), [Heard::Unreachable(peer(1))]);
    assert_eq!(world.heard(1), []);
    let stranger = Message { to: PeerId(9), ..heartbeat(1) };
    assert_eq!(world.send(1, &stranger), SendOutcome::UnknownPeer);
    let at = EntryId { term: Term(1), index: Index(5) };
    let snapshot = Message { body: Body::Snapshot { at, payloads: Payloads::All }, ..heartbeat(1) };
    assert_eq!(world.send(1, &snapshot), SendOutcome::NeedsSnapshotChannel);
    assert_eq!(world.nodes[0].transport.peer_status(peer(1)).unwrap().counters.dropped_unconnected, 2);
}

#[test]
fn a_wrong_bit_closes_one_stream_and_nothing_else() {
    for bit in (0..8 * 240).step_by(7) {
        let mut world = World::connected(2, |_| ());
        let _ = world.send_append(1, 1, &[64, 64]);
        world.net.borrow_mut().flip = Some(bit);
        world.net.borrow_mut().piece_max = 50;
        world.settle();
        assert_eq!(world.heard(1), [], "bit {bit}");
        let status = world.nodes[1].transport.peer_status(peer(0)).unwrap();
        assert!(matches!(status.last_error, Some((_, PeerError::Stream(_)))), "bit {bit}: {status:?}");
        assert_eq!((status.counters.bad_frames, status.counters.bad_bodies), (1, 0));
        assert_eq!(world.heard(0), [Heard::Unreachable(peer(1))]);
        assert!(world.nodes[0].transport.write_stream(peer(1), StreamKind::Message).is_some());
        world.pass(60 * MS);
        let (_, heard) = world.send_append(1, 1, &[64, 64]);
        world.settle();
        assert_eq!(world.heard(1), [heard], "bit {bit}");
    }
}

#[test]
fn a_sound_frame_that_says_nonsense_closes_its_stream() {
    let mut world = World::connected(2, |_| ());
    let link = world.nodes[0].transport.write_link(peer(1), StreamKind::Message);
    let body = [1; 24];
    let mut crc = crc32fast::Hasher::new_with_initial(link.seed());
    crc.update(&body);
    let (kind, body_crc) = (FrameKind::Message, crc.finalize());
    let header = Header { kind, body_len: 24, body_crc, number: 0, count: 1 };
    let frame = [&header.encode(link.seed())[..], &body].concat();
    let stream = world.nodes[0].transport.write_stream(peer(1), StreamKind::Message).unwrap();
    // Twice: what else came in that batch is not handed back as somebody else's.
    world.net.borrow_mut().inject(stream, true, frame.clone());
    world.net.borrow_mut().inject(stream, true, frame);
    world.settle();
    let status = world.nodes[1].transport.peer_status(peer(0)).unwrap();
    assert_eq!((status.counters.bad_frames, status.counters.bad_bodies), (0, 1));
    assert_eq!((status.reading, status.writing, status.active), (1, 2, true));
}

#[test]
fn a_reader_that_speaks_loses_its_stream() {
    let mut world = World::connected(2, |_| ());
    let stream = world.nodes[0].transport.write_stream(peer(1), StreamKind::Append).unwrap();
    world.net.borrow_mut().inject(stream, false, vec![0]);
    world.settle();
    let status = world.nodes[0].transport.peer_status(peer(1)).unwrap();
    assert_eq!(status.last_error.map(|(_, error)| error), Some(PeerError::ReaderSpoke));
    assert_eq!(status.writing, 1);
}

#[test]
fn a_second_stream_of_a_kind_replaces_the_first() {
    let mut world = World::connected(2, |_| ());
    world.net.borrow_mut().hold = true;
    let _ = world.send_append(1, 1, &[64]);
    world.turn(0);
    let _ = world.send_append(1, 2, &[64]);
    // The reader has lost its stream and dials again before the writer knows.
    let old = world.nodes[0].transport.write_stream(peer(1), StreamKind::Append).unwrap();
    let node = &mut world.nodes[1];
    node.transport.drop_read_stream(&mut node.io, peer(0), StreamKind::Append);
    world.net.borrow_mut().drop_news_of(0, old);
    let now = world.net.borrow().now;
    world.net.borrow_mut().now = now + 60 * MS;
    world.settle();
    assert_eq!(world.heard(0), [Heard::Unreachable(peer(1))]);
    assert_ne!(world.nodes[0].transport.write_stream(peer(1), StreamKind::Append), Some(old));
    let status = world.nodes[0].transport.peer_status(peer(1)).unwrap();
    assert_eq!((status.counters.replaced, status.counters.dropped_lost), (1, 2));
    world.release();
    let (_, heard) = world.send_append(1, 3, &[64]);
    world.settle();
    assert_eq!(world.heard(1), [heard]);
}

#[test]
fn a_restarted_peer_ends_the_streams_of_its_former_life() {
    let mut world = World::connected(2, |_| ());
    let both = StreamKind::ALL.map(|kind| world.nodes[0].transport.write_stream(peer(1), kind).unwrap());
    world.restart_silently(1, 999);
    world.net.borrow_mut().hold_dials = true;
    world.turn(1);
    world.net.borrow_mut().release_one_dial();
    world.turn(0);
    let transport = &world.nodes[0].transport;
    let now = StreamKind::ALL.map(|kind| transport.write_stream(peer(1), kind));
    assert!(now.iter().flatten().all(|stream| !both.contains(stream)), "{now:?}");
    assert_eq!(now.iter().flatten().count(), 1, "one has come, both have gone");
    assert_eq!(transport.peer_status(peer(1)).unwrap().incarnation, 999);
    world.release();
    world.pass(5000 * MS);
    assert!(world.nodes.iter().all(|node| node.transport.status().all(|status| status.active)));
}

#[test]
fn idle_links_stay_up_and_silent_ones_are_given_up() {
    let mut world = World::connected(2, |_| ());
    world.pass(60_000 * MS);
    assert_eq!(world.net.borrow().dials, [], "link heartbeats keep four streams up");
    let sends = world.net.borrow().sends.len();
    assert!((4 * 119..=4 * 121).contains(&sends), "{sends} heartbeats in a minute");
    // Nothing comes through any more, and nobody says so.
    world.net.borrow_mut().hold = true;
    world.pass(900 * MS);
    assert_eq!(world.net.borrow().dials, []);
    world.pass(700 * MS);
    let status = world.nodes[0].transport.peer_status(peer(1)).unwrap();
    assert_eq!(status.counters.silences, 2, "{status:?}");
    assert_eq!(world.net.borrow().dials.len(), 4);
    world.release();
    world.settle();
    assert!(world.nodes[0].transport.peer_status(peer(1)).unwrap().active);
}

#[test]
fn a_send_that_never_ends_costs_its_stream() {
    let mut world = World::connected(2, |config| config.link_heartbeats_missed_max = 1000);
    world.net.borrow_mut().hold = true;
    let _ = world.send_append(1, 1, &[64]);
    world.turn(0);
    world.pass(4999 * MS);
    assert_eq!(world.heard(0), []);
    world.pass(2 * MS);
    let status = world.nodes[0].transport.peer_status(peer(1)).unwrap();
    assert_eq!(status.last_error.map(|(_, error)| error), Some(PeerError::SendTimeout));
    assert_eq!(world.heard(0), [Heard::Unreachable(peer(1))]);
}

#[test]
fn dials_back_off_and_go_through_the_addresses() {
    let mut world = World::new(2, |_| ());
    world.set_judge(1, None);
    let addresses = ["gone:1", "node1", "gone:2"].map(String::from);
    world.nodes[0].transport.update_peer(peer(1), &addresses).unwrap();
    world.nodes[1].transport = Transport::new(config(1)).unwrap();
    world.pass(20_000 * MS);
    let dials = world.net.borrow().dials.clone();
    let append: Vec<_> = dials.iter().step_by(2).collect();
    assert!(dials.len() > 20 && dials.len() < 60, "{} dials", dials.len());
    assert_eq!(append[0].0, Time(1_000_000_000), "the first at once");
    for address in &addresses {
        assert!(dials.iter().any(|(_, _, dialed)| dialed == address), "{address}");
    }
    let last = dials[dials.len() - 3].0.since(dials[0].0);
    assert!(last > Duration::from_secs(17), "{last:?}");
    let error = world.nodes[0].transport.peer_status(peer(1)).unwrap().last_error.unwrap().1;
    assert_eq!(error, PeerError::Dial(DialError::Io(std::io::ErrorKind::ConnectionRefused)));
    // Someone answers: within the longest back-off for each address, the streams are there.
    world.nodes[1].transport.add_peer(peer(0), &["node0".to_owned()]).unwrap();
    let judge = judge(&config(1), &world.members);
    world.set_judge(1, Some(judge));
    world.pass(7000 * MS);
    assert!(world.nodes.iter().all(|node| node.transport.peer_status(peer(1)).is_none_or(|status| status.active)));
}

#[test]
fn who_is_not_welcome_is_told_why() {
    let refused = |refusal| PeerError::Handshake(HandshakeError::Refused(refusal));
    let empty = Members::default();
    let gone = Members::default();
    gone.remove(peer(0));
    let all = Members::default();
    all.add(peer(0));
    let other_node = HandshakeError::Node { expected: peer(1), got: peer(2) };
    for (name, members, change, error) in [
        ("cluster", &all, (|c| c.cluster = ClusterId(9)) as fn(&mut Config), refused(Refusal::ClusterMismatch)),
        ("unknown", &empty, |_| (), refused(Refusal::SenderNotFound)),
        ("removed", &gone, |_| (), refused(Refusal::Removed)),
        ("to", &all, |c| c.node = peer(2), refused(Refusal::ToMismatch)),
        ("shards", &all, |c| c.shards = 2, refused(Refusal::ShardCountMismatch)),
    ] {
        let mut world = World::new(2, |_| ());
        let mut config = config(1);
        change(&mut config);
        world.set_judge(1, Some(judge(&config, members)));
        world.settle();
        let status = world.nodes[0].transport.peer_status(peer(1)).unwrap();
        assert_eq!(status.last_error.map(|(_, error)| error), Some(error), "{name}");
        assert!(!status.active);
        assert_eq!(status.counters.dials_failed, 2);
    }
    assert_eq!(other_node.to_string(), "node 3 lives there instead of 2");
}

#[test]
fn a_removed_peer_leaves_nothing_behind() {
    let mut world = World::connected(2, |_| ());
    world.net.borrow_mut().hold = true;
    let _ = world.send_append(1, 1, &[64]);
    world.turn(0);
    let node = &mut world.nodes[0];
    assert!(node.transport.remove_peer(&mut node.io, peer(1)));
    assert!(!node.transport.remove_peer(&mut node.io, peer(1)));
    assert_eq!((node.transport.next_deadline(), node.transport.status().count()), (None, 0));
    world.members.remove(peer(1));
    world.release();
    world.settle();
    assert_eq!(world.net.borrow().streams_of(0), 0);
    world.pass(100 * MS);
    let error = world.nodes[1].transport.peer_status(peer(0)).unwrap().last_error.unwrap().1;
    assert_eq!(error, PeerError::Handshake(HandshakeError::Refused(Refusal::Removed)));
}

#[test]
fn a_dial_that_comes_too_late_is_closed() {
    let mut world = World::new(2, |_| ());
    world.net.borrow_mut().hold_dials = true;
    world.turn(0);
    let node = &mut world.nodes[0];
    node.transport.remove_peer(&mut node.io, peer(1));
    world.release();
    world.settle();
    assert_eq!(world.net.borrow().streams_of(0), 0);
}

#[test]
fn what_is_not_ours_is_given_back() {
    let mut world = World::connected(2, |_| ());
    let node = &mut world.nodes[0];
    let others = [
        Completion::Woken,
        Completion::Sent { stream: StreamId(12345), bytes: 1 },
        Completion::Accepted { stream: StreamId(12345), greeting: Bytes::from_static(b"a client") },
        Completion::Dialed { token: ringraft_io::Token(1), result: Err(DialError::Garbage) },
    ];
    for completion in others {
        let name = format!("{completion:?}");
        let back = node.transport.complete(&mut node.io, completion, &mut node.ear);
        assert_eq!(back.map(|back| format!("{back:?}")), Some(name));
    }
}

#[test]
fn peers_are_checked_at_the_door() {
    let mut transport = Transport::new(config(0)).unwrap();
    let good = ["host:1".to_owned()];
    assert_eq!(transport.add_peer(peer(0), &good), Err(PeerRefused::Itself(peer(0))));
    assert_eq!(transport.add_peer(peer(1), &[]), Err(PeerRefused::NoAddress(peer(1))));
    for bad in ["", "a b:1", "a:1\r\nX: y", &"x".repeat(256)] {
        let refused = transport.add_peer(peer(1), &[bad.to_owned()]);
        assert_eq!(refused, Err(PeerRefused::BadAddress { peer: peer(1), address: bad.to_owned() }));
    }
    assert_eq!(transport.update_peer(peer(1), &good), Err(PeerRefused::Unknown(peer(1))));
    assert_eq!(transport.add_peer(peer(1), &good), Ok(()));
    assert_eq!(transport.add_peer(peer(1), &good), Err(PeerRefused::Exists(peer(1))));
}

#[test]
fn three_nodes_under_random_faults_deliver_nothing_wrong() {
    for seed in 0..40_u64 {
        let mut world = World::connected(3, |_| ());
        world.net.borrow_mut().reseed(seed, 300);
        let mut sent = vec![Vec::new(); 3];
        for step in 0..200_u64 {
            let (from, to) = world.net.borrow_mut().pair(3);
            let mut message = heartbeat(step);
            (message.from, message.to) = (peer(from), peer(to));
            if world.nodes[from].transport.send(GroupId(1), &message, []) == SendOutcome::Queued {
                sent[to].push(Heard::Message(GroupId(1), message));
            }
            let (mut message, runs) = append(GroupId(2), 1 + step, &[20, 0, 300]);
            (message.from, message.to) = (peer(from), peer(to));
            let heard = Heard::Append(GroupId(2), message, runs.concat());
            if world.nodes[from].transport.send(GroupId(2), &message, runs) == SendOutcome::Queued {
                sent[to].push(heard);
            }
            world.fault();
            world.pass(3 * MS);
        }
        world.release();
        world.net.borrow_mut().flip = None;
        world.pass(10_000 * MS);
        for (node, sent) in sent.iter().enumerate() {
            assert!(world.nodes[node].transport.status().all(|status| status.active), "seed {seed}");
            let mut rest = sent.clone();
            for heard in world.heard(node).into_iter().filter(|heard| !matches!(heard, Heard::Unreachable(_))) {
                let at = rest.iter().position(|one| *one == heard).unwrap_or_else(|| panic!("seed {seed}: {heard:?}"));
                rest.swap_remove(at);
            }
            assert!(rest.len() < sent.len() / 2, "seed {seed}: {} of {} lost", rest.len(), sent.len());
        }
    }
}

#[test]
fn header_memory_is_used_again() {
    let mut world = World::connected(2, |_| ());
    let mut places = std::collections::BTreeSet::new();
    for round in 0..50 {
        let _ = world.send_append(1, 1 + round, &[100]);
        world.settle();
        places.insert(world.nodes[0].transport.head_place(peer(1), StreamKind::Append));
    }
    assert_eq!(places.len(), 1, "the same memory for every send");
    assert!(world.nodes[0].io.now() > Time(0));
}
