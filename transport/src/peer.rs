//! One peer as a state machine: four streams, which to pick, when to dial. Pure: it is told what happened and when, and
//! says what to do.

use std::time::Duration;

use ringraft_io::{StreamId, Time};
use ringraft_raft::PeerId;

use crate::config::Config;
use crate::frame::{Link, StreamKind};
use crate::handshake::Request;
use crate::reader::StreamReader;
use crate::status::{Counters, PeerError, PeerStatus};
use crate::writer::StreamWriter;

/// A peer: what we read from it, what we write to it.
pub(crate) struct Peer {
    pub(crate) id: PeerId,
    addresses: Vec<String>,
    /// The address to dial next.
    address: usize,
    pub(crate) readers: [ReadSide; 2],
    pub(crate) writers: [Option<StreamWriter>; 2],
    pub(crate) counters: Counters,
    /// Something sent to it was lost, and the node was not told yet.
    pub(crate) unreachable: bool,
    /// Of its process, as last heard.
    incarnation: u64,
    /// Of the process that reads the streams we write.
    reader_incarnation: u64,
    active: bool,
    since: Time,
    last_error: Option<(Time, PeerError)>,
}

/// One stream that we dial and read.
pub(crate) struct ReadSide {
    pub(crate) state: ReadState,
    /// Dials since a frame was last heard.
    attempts: u32,
    dialed_before: bool,
}

pub(crate) enum ReadState {
    /// Dial then.
    Waiting { at: Time },
    /// A dial is in flight.
    Dialing { token: u64, address: usize, request: Request },
    /// Connected.
    Reading { stream: StreamId, link: Link, reader: StreamReader, heard: Time },
}

impl ReadSide {
    fn new(now: Time) -> ReadSide {
        ReadSide { state: ReadState::Waiting { at: now }, attempts: 0, dialed_before: false }
    }

    pub(crate) fn stream(&self) -> Option<StreamId> {
        match self.state {
            ReadState::Reading { stream, .. } => Some(stream),
            ReadState::Waiting { .. } | ReadState::Dialing { .. } => None,
        }
    }
}

/// Something that is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Due {
    Dial,
    /// The reader has heard nothing for too long.
    Silent,
    /// The writer has said nothing for too long.
    LinkHeartbeat,
    /// The writer's send has taken too long.
    SendTimeout,
}

impl Peer {
    pub(crate) fn new(id: PeerId, addresses: Vec<String>, now: Time) -> Peer {
        Peer {
            id,
            addresses,
            address: 0,
            readers: [ReadSide::new(now), ReadSide::new(now)],
            writers: [None, None],
            counters: Counters::default(),
            unreachable: false,
            incarnation: 0,
            reader_incarnation: 0,
            active: false,
            since: now,
            last_error: None,
        }
    }

    /// Uses other addresses from the next dial on, which comes at once where one is waited for.
    pub(crate) fn set_addresses(&mut self, addresses: Vec<String>, now: Time) {
        if self.addresses == addresses {
            return;
        }
        (self.addresses, self.address) = (addresses, 0);
        for side in &mut self.readers {
            side.attempts = 0;
            if let ReadState::Waiting { at } = &mut side.state {
                *at = now;
            }
        }
    }

    /// The stream for something of this kind: its own, else the other one.
    pub(crate) fn pick(&mut self, kind: StreamKind) -> Option<&mut StreamWriter> {
        let kind = if self.writers[kind.slot()].is_some() { kind } else { kind.other() };
        self.writers[kind.slot()].as_mut()
    }

    /// The address to dial now, and its place in the list.
    pub(crate) fn address(&self) -> (usize, &str) {
        (self.address, &self.addresses[self.address])
    }

    pub(crate) fn dialing(&mut self, kind: StreamKind, token: u64, request: Request) {
        let address = self.address;
        let side = &mut self.readers[kind.slot()];
        assert!(matches!(side.state, ReadState::Waiting { .. }), "one dial at a time");
        side.state = ReadState::Dialing { token, address, request };
        self.counters.redials += u64::from(side.dialed_before);
        side.dialed_before = true;
    }

    /// A stream to read is there.
    pub(crate) fn dialed(&mut self, stream: StreamId, link: Link, incarnation: u64, now: Time) {
        let reader = StreamReader::new(&link);
        self.readers[link.kind.slot()].state = ReadState::Reading { stream, link, reader, heard: now };
        self.incarnation = incarnation;
        self.note_active(now);
    }

    /// A dial led to nothing. The next one goes to the next address, unless another stream has moved on already.
    pub(crate) fn dial_failed(&mut self, kind: StreamKind, error: PeerError, now: Time, config: &Config, dice: u64) {
        if let ReadState::Dialing { address, .. } = self.readers[kind.slot()].state
            && address == self.address
        {
            self.address = (self.address + 1) % self.addresses.len();
        }
        self.counters.dials_failed += 1;
        self.read_lost(kind, error, now, config, dice);
    }

    /// A stream to read is gone, or never came: dial again after a while.
    pub(crate) fn read_lost(&mut self, kind: StreamKind, error: PeerError, now: Time, config: &Config, dice: u64) {
        let side = &mut self.readers[kind.slot()];
        let wait = backoff(side.attempts, config.backoff_min, config.backoff_max, dice);
        side.attempts = side.attempts.saturating_add(1);
        side.state = ReadState::Waiting { at: now + wait };
        self.note_error(error, now);
    }

    /// Frames arrived: the stream works, so the next back-off starts small.
    pub(crate) fn heard_frames(&mut self, kind: StreamKind) {
        self.readers[kind.slot()].attempts = 0;
    }

    /// A stream to write is there. Gives the ones that it ends: the one it replaces, and those of an earlier process.
    pub(crate) fn attach(&mut self, writer: StreamWriter, incarnation: u64, now: Time) -> Vec<StreamId> {
        let mut ended = Vec::new();
        let slot = writer.link.kind.slot();
        let anew = self.reader_incarnation != incarnation;
        for old in 0..self.writers.len() {
            if old != slot && !anew {
                continue;
            }
            if let Some(writer) = self.writers[old].take() {
                let error = if anew { PeerError::EarlierProcess } else { PeerError::Replaced };
                self.counters.replaced += 1;
                self.unreachable |= !writer.is_idle();
                ended.push(writer.stream);
                self.discard(&writer);
                self.note_error(error, now);
            }
        }
        self.writers[slot] = Some(writer);
        (self.incarnation, self.reader_incarnation) = (incarnation, incarnation);
        self.note_active(now);
        ended
    }

    /// A stream to write is gone, and what was in it with it.
    pub(crate) fn write_lost(&mut self, kind: StreamKind, error: PeerError, now: Time) {
        let writer = self.writers[kind.slot()].take().expect("a writer is lost once");
        // Even what the network took may never have arrived.
        self.unreachable = true;
        self.discard(&writer);
        self.note_error(error, now);
    }

    fn discard(&mut self, writer: &StreamWriter) {
        self.counters.dropped_lost += writer.queue().len() as u64 + writer.in_flight_messages();
    }

    /// What is next due on the stream of this kind that we read, and when.
    pub(crate) fn read_due(&self, kind: StreamKind, config: &Config) -> Option<(Time, Due)> {
        match self.readers[kind.slot()].state {
            ReadState::Waiting { at } => Some((at, Due::Dial)),
            // The dial has a time limit of its own.
            ReadState::Dialing { .. } => None,
            ReadState::Reading { heard, .. } => Some((heard + config.silence_max(), Due::Silent)),
        }
    }

    /// What is next due on the stream of this kind that we write, and when.
    pub(crate) fn write_due(&self, kind: StreamKind, config: &Config) -> Option<(Time, Due)> {
        let writer = self.writers[kind.slot()].as_ref()?;
        Some(match writer.in_flight_since() {
            Some(since) => (since + config.send_timeout, Due::SendTimeout),
            None => (writer.last_send() + config.link_heartbeat, Due::LinkHeartbeat),
        })
    }

    fn note_error(&mut self, error: PeerError, now: Time) {
        self.last_error = Some((now, error));
        self.note_active(now);
    }

    fn note_active(&mut self, now: Time) {
        let to = self.writers.iter().any(Option::is_some);
        let back = self.readers.iter().any(|side| side.stream().is_some());
        if self.active != (to && back) {
            self.active = to && back;
            self.since = now;
        }
    }

    /// Every stream there is.
    pub(crate) fn streams(&self) -> impl Iterator<Item = StreamId> {
        let read = self.readers.iter().filter_map(ReadSide::stream);
        read.chain(self.writers.iter().flatten().map(|writer| writer.stream))
    }

    pub(crate) fn status(&self) -> PeerStatus {
        let queues = || self.writers.iter().flatten().map(StreamWriter::queue);
        PeerStatus {
            peer: self.id,
            active: self.active,
            since: self.since,
            reading: self.readers.iter().filter(|side| side.stream().is_some()).count(),
            writing: self.writers.iter().flatten().count(),
            incarnation: self.incarnation,
            queued: queues().map(|queue| queue.len()).sum(),
            queued_bytes: queues().map(|queue| queue.bytes()).sum(),
            last_error: self.last_error.clone(),
            counters: self.counters,
        }
    }
}

/// How long to wait before attempt number `attempts` + 2: `min` doubled as often, at most `max`, of which `dice` leaves
/// something between a half and the whole.
fn backoff(attempts: u32, min: Duration, max: Duration, dice: u64) -> Duration {
    let whole = min.saturating_mul(1_u32.checked_shl(attempts).unwrap_or(u32::MAX)).min(max);
    let half = u64::try_from(whole.as_nanos() / 2).unwrap_or(u64::MAX / 2);
    Duration::from_nanos(half + dice % (half + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_to_its_limit() {
        let (min, max) = (Duration::from_millis(50), Duration::from_secs(2));
        for (attempts, whole) in
            [(0, 50), (1, 100), (2, 200), (5, 1600), (6, 2000), (31, 2000), (32, 2000), (900, 2000)]
        {
            let whole = Duration::from_millis(whole);
            for dice in [0, 1, 12_345_678_901, u64::MAX / 3, u64::MAX] {
                let wait = backoff(attempts, min, max, dice);
                assert!((whole / 2..=whole).contains(&wait), "attempt {attempts}: {wait:?}");
            }
            assert_eq!(backoff(attempts, min, max, 0), whole / 2);
        }
    }
}
