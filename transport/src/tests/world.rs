//! A small scripted world: nodes joined by streams that cut, delay, flip and drop bytes as told.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use ringraft_io::{
    AlignedBuf, CloseReason, Completion, Dial, DialError, Dialed, FileId, FileInfo, Io, Job, LockError, SEND_BUFS_MAX,
    SendFile, ShardNo, StreamId, Time, Token, Verdict,
};
use ringraft_raft::{GroupId, Message, PeerId};

use crate::handshake::{Judge, JudgeConfig, Members};
use crate::{ClusterId, Config, Inbound, StreamKind, Transport};

pub(crate) const CLUSTER: ClusterId = ClusterId(0xc1);

/// What one side is told.
enum Event {
    Bytes(StreamId, Vec<u8>),
    Other(Completion),
}

struct Stream {
    node: usize,
    other: StreamId,
    /// Length of the send in flight.
    in_flight: Option<usize>,
}

pub(crate) struct Net {
    pub(crate) now: Time,
    judges: Vec<Option<Judge>>,
    streams: BTreeMap<StreamId, Stream>,
    inboxes: Vec<VecDeque<Event>>,
    next_stream: u64,
    dice: u64,
    /// Every dial: when, by whom, where to.
    pub(crate) dials: Vec<(Time, usize, String)>,
    /// Whether sends stay in flight, their bytes not delivered.
    pub(crate) hold: bool,
    held: Vec<(StreamId, Vec<u8>)>,
    /// Flip this bit (modulo its length) of the next send.
    pub(crate) flip: Option<usize>,
    /// Whether dials stay unanswered.
    pub(crate) hold_dials: bool,
    held_dials: Vec<(usize, Dial)>,
    /// Largest piece that bytes arrive in.
    pub(crate) piece_max: usize,
    /// The pieces of every send: how many and how long.
    pub(crate) sends: Vec<Vec<usize>>,
}

impl Net {
    fn roll(&mut self, below: usize) -> usize {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.dice >> 33).unwrap() % below
    }

    fn tell(&mut self, node: usize, completion: Completion) {
        self.inboxes[node].push_back(Event::Other(completion));
    }

    fn connect(&mut self, by: usize, dial: Dial) {
        let (token, refused) = (dial.token, Err(DialError::Io(io::ErrorKind::ConnectionRefused)));
        let to = dial.address.strip_prefix("node").and_then(|number| number.parse::<usize>().ok());
        let Some((to, judge)) = to.and_then(|to| Some((to, self.judges.get(to)?.as_ref()?))) else {
            return self.tell(by, Completion::Dialed { token, result: refused });
        };
        match judge.judge(&dial.request) {
            Verdict::Stream { response, greeting, .. } => {
                let (a, b) = (StreamId(self.next_stream), StreamId(self.next_stream + 1));
                self.next_stream += 2;
                self.streams.insert(a, Stream { node: by, other: b, in_flight: None });
                self.streams.insert(b, Stream { node: to, other: a, in_flight: None });
                self.tell(by, Completion::Dialed { token, result: Ok(Dialed { stream: a, response }) });
                self.tell(to, Completion::Accepted { stream: b, greeting });
            }
            Verdict::Refuse { response } => {
                self.tell(by, Completion::Dialed { token, result: Err(DialError::Refused(response)) });
            }
            Verdict::File { .. } => unreachable!("only streams are dialed"),
        }
    }

    fn arrive(&mut self, from: StreamId, mut bytes: Vec<u8>) {
        let Some(stream) = self.streams.get_mut(&from) else { return };
        let (sent, node, to) = (stream.in_flight.take().unwrap(), stream.node, stream.other);
        self.tell(node, Completion::Sent { stream: from, bytes: sent });
        let Some(node) = self.streams.get(&to).map(|stream| stream.node) else { return };
        while !bytes.is_empty() {
            let max = self.piece_max.min(bytes.len());
            let rest = bytes.split_off(1 + self.roll(max));
            self.inboxes[node].push_back(Event::Bytes(to, std::mem::replace(&mut bytes, rest)));
        }
    }

    /// How many streams end at a node.
    pub(crate) fn streams_of(&self, node: usize) -> usize {
        self.streams.values().filter(|stream| stream.node == node).count()
    }

    /// A node is not told what it would be told of a stream.
    pub(crate) fn drop_news_of(&mut self, node: usize, gone: StreamId) {
        self.inboxes[node].retain(|event| match event {
            Event::Bytes(stream, _) => *stream != gone,
            Event::Other(Completion::Closed { stream, .. } | Completion::Sent { stream, .. }) => *stream != gone,
            Event::Other(_) => true,
        });
    }

    fn release(&mut self) {
        (self.hold, self.hold_dials) = (false, false);
        for (stream, bytes) in std::mem::take(&mut self.held) {
            self.arrive(stream, bytes);
        }
        for (node, dial) in std::mem::take(&mut self.held_dials) {
            self.connect(node, dial);
        }
    }

    /// Bytes arrive from nowhere at the far end of a stream, or at this one.
    pub(crate) fn inject(&mut self, stream: StreamId, far: bool, bytes: Vec<u8>) {
        let stream = if far { self.streams[&stream].other } else { stream };
        let node = self.streams[&stream].node;
        self.inboxes[node].push_back(Event::Bytes(stream, bytes));
    }

    pub(crate) fn release_one_dial(&mut self) {
        let (node, dial) = self.held_dials.remove(0);
        self.connect(node, dial);
    }

    pub(crate) fn reseed(&mut self, seed: u64, piece_max: usize) {
        (self.dice, self.piece_max) = (seed, piece_max);
    }

    /// Two different nodes of so many.
    pub(crate) fn pair(&mut self, nodes: usize) -> (usize, usize) {
        let from = self.roll(nodes);
        (from, (from + 1 + self.roll(nodes - 1)) % nodes)
    }

    /// Ends a stream as the network does: both sides are told.
    fn cut(&mut self, stream: StreamId) {
        let Some(Stream { node, other, .. }) = self.streams.remove(&stream) else { return };
        self.tell(node, Completion::Closed { stream, reason: CloseReason::Error(io::ErrorKind::ConnectionReset) });
        self.cut(other);
    }
}

/// One node's door to the world.
pub(crate) struct NodeIo {
    net: Rc<RefCell<Net>>,
    me: usize,
}

impl Io for NodeIo {
    fn now(&self) -> Time {
        self.net.borrow().now
    }
    fn turn(&mut self, _: Option<Time>, _: &mut Vec<Completion>) -> io::Result<()> {
        unreachable!("the test turns the world")
    }
    fn send(&mut self, stream: StreamId, bufs: Vec<Bytes>) {
        assert!((1..=SEND_BUFS_MAX).contains(&bufs.len()), "{} pieces", bufs.len());
        assert!(bufs.iter().all(|buf| !buf.is_empty()), "an empty piece");
        let net = &mut *self.net.borrow_mut();
        net.sends.push(bufs.iter().map(Bytes::len).collect());
        let mut bytes = bufs.concat();
        if let Some(bit) = net.flip.take() {
            let bit = bit % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        // The network may have ended it without our knowing yet.
        let Some(open) = net.streams.get_mut(&stream) else { return };
        assert_eq!(open.node, self.me, "somebody else's stream");
        assert_eq!(open.in_flight.replace(bytes.len()), None, "two sends in flight");
        if net.hold { net.held.push((stream, bytes)) } else { net.arrive(stream, bytes) }
    }
    fn send_bufs(&mut self) -> Vec<Bytes> {
        Vec::new()
    }
    fn receive(&mut self, _: StreamId) {}
    fn pause(&mut self, _: StreamId) {}
    fn close(&mut self, stream: StreamId) {
        let net = &mut *self.net.borrow_mut();
        if let Some(Stream { node, other, .. }) = net.streams.remove(&stream) {
            assert_eq!(node, self.me, "somebody else's stream");
            if let Some(Stream { node, .. }) = net.streams.remove(&other) {
                net.tell(node, Completion::Closed { stream: other, reason: CloseReason::Eof });
            }
        }
    }
    fn dial(&mut self, dial: Dial) {
        let net = &mut *self.net.borrow_mut();
        net.dials.push((net.now, self.me, dial.address.clone()));
        if net.hold_dials { net.held_dials.push((self.me, dial)) } else { net.connect(self.me, dial) }
    }
    fn send_file(&mut self, _: SendFile) {
        unreachable!("the node sends files")
    }
    fn write(&mut self, _: FileId, _: u64, _: AlignedBuf, _: Token) {
        unreachable!("no disk")
    }
    fn job(&mut self, _: Job, _: Token) {
        unreachable!("no disk")
    }
    fn wake(&mut self, _: ShardNo) {
        unreachable!("no neighbours")
    }
    fn lock_dir(&mut self, _: &Path) -> Result<(), LockError> {
        unreachable!("no disk")
    }
    fn list(&mut self, _: &Path) -> io::Result<Vec<FileInfo>> {
        unreachable!("no disk")
    }
    fn open(&mut self, _: &Path) -> io::Result<FileId> {
        unreachable!("no disk")
    }
    fn create_zeroed(&mut self, _: &Path, _: u64) -> io::Result<FileId> {
        unreachable!("no disk")
    }
    fn read(&mut self, _: FileId, _: u64, _: usize) -> io::Result<AlignedBuf> {
        unreachable!("no disk")
    }
    fn map(&mut self, _: FileId) -> io::Result<Bytes> {
        unreachable!("no disk")
    }
    fn read_file(&mut self, _: &Path) -> io::Result<Bytes> {
        unreachable!("no disk")
    }
    fn write_file(&mut self, _: &Path, _: &[u8]) -> io::Result<()> {
        unreachable!("no disk")
    }
}

/// What arrived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Heard {
    Append(GroupId, Message, Vec<u8>),
    Message(GroupId, Message),
    Proposal(GroupId, PeerId, Vec<u8>),
    Unreachable(PeerId),
}

#[derive(Default)]
pub(crate) struct Ear(pub(crate) Vec<Heard>);

impl Inbound for Ear {
    fn append(&mut self, group: GroupId, message: Message, records: &[u8]) {
        self.0.push(Heard::Append(group, message, records.to_vec()));
    }
    fn message(&mut self, group: GroupId, message: Message) {
        self.0.push(Heard::Message(group, message));
    }
    fn proposal(&mut self, group: GroupId, from: PeerId, payload: &[u8]) {
        self.0.push(Heard::Proposal(group, from, payload.to_vec()));
    }
    fn unreachable(&mut self, peer: PeerId) {
        self.0.push(Heard::Unreachable(peer));
    }
}

pub(crate) struct Node {
    pub(crate) io: NodeIo,
    pub(crate) transport: Transport,
    pub(crate) ear: Ear,
}

/// Node `n` is peer `n + 1` and lives at `node{n}`.
pub(crate) struct World {
    pub(crate) net: Rc<RefCell<Net>>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) members: Members,
}

pub(crate) fn peer(node: usize) -> PeerId {
    PeerId(node as u64 + 1)
}

pub(crate) fn config(node: usize) -> Config {
    Config { seed: 7, token_base: 1 << 40, ..Config::new(CLUSTER, peer(node), 100 + node as u64) }
}

pub(crate) fn judge(config: &Config, members: &Members) -> Judge {
    let judge = JudgeConfig {
        cluster: config.cluster,
        node: config.node,
        incarnation: config.incarnation,
        snapshot_dirs: vec![PathBuf::from("snapshots"); usize::from(config.shards)],
        snapshot_size_max: 1 << 30,
    };
    Judge::new(judge, members.clone())
}

impl World {
    /// Nodes that know each other and have not dialed yet.
    pub(crate) fn new(count: usize, change: impl Fn(&mut Config)) -> World {
        let net = Net {
            now: Time(1_000_000_000),
            judges: Vec::new(),
            streams: BTreeMap::new(),
            inboxes: (0..count).map(|_| VecDeque::new()).collect(),
            next_stream: 1,
            dice: 1,
            dials: Vec::new(),
            hold: false,
            held: Vec::new(),
            flip: None,
            hold_dials: false,
            held_dials: Vec::new(),
            piece_max: 1 << 16,
            sends: Vec::new(),
        };
        let mut world = World { net: Rc::new(RefCell::new(net)), nodes: Vec::new(), members: Members::default() };
        for me in 0..count {
            world.members.add(peer(me));
            let mut config = config(me);
            change(&mut config);
            world.net.borrow_mut().judges.push(Some(judge(&config, &world.members)));
            let mut transport = Transport::new(config).unwrap();
            for other in (0..count).filter(|other| *other != me) {
                transport.add_peer(peer(other), &[format!("node{other}")]).unwrap();
            }
            let io = NodeIo { net: world.net.clone(), me };
            world.nodes.push(Node { io, transport, ear: Ear::default() });
        }
        world
    }

    /// Nodes with all their streams.
    pub(crate) fn connected(count: usize, change: impl Fn(&mut Config)) -> World {
        let mut world = World::new(count, change);
        world.settle();
        assert!(world.nodes.iter().all(|node| node.transport.status().all(|status| status.active)));
        world.net.borrow_mut().dials.clear();
        world.net.borrow_mut().sends.clear();
        world
    }

    /// One turn of one node: what is in its inbox as one batch, then a flush.
    pub(crate) fn turn(&mut self, node: usize) -> bool {
        let batch = std::mem::take(&mut self.net.borrow_mut().inboxes[node]);
        let busy = !batch.is_empty();
        let Node { io, transport, ear } = &mut self.nodes[node];
        for event in batch {
            match event {
                Event::Bytes(stream, bytes) => {
                    transport.received(io, stream, &bytes, ear);
                }
                Event::Other(completion) => {
                    let left = transport.complete(io, completion, ear);
                    assert!(left.is_none(), "not taken: {left:?}");
                }
            }
        }
        transport.report(ear);
        transport.flush(io);
        busy
    }

    /// Turns until nothing happens at this moment.
    pub(crate) fn settle(&mut self) {
        for _ in 0..1000 {
            let busy = (0..self.nodes.len()).fold(false, |busy, node| self.turn(node) | busy);
            if !busy && self.net.borrow().inboxes.iter().all(VecDeque::is_empty) {
                return;
            }
        }
        panic!("the world does not settle");
    }

    /// Lets time pass, from deadline to deadline.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.net.borrow().now + time;
        for _ in 0..100_000 {
            let now = self.net.borrow().now;
            let next = self.nodes.iter().filter_map(|node| node.transport.next_deadline()).min();
            let next = next.unwrap_or(end).clamp(now, end);
            self.net.borrow_mut().now = next;
            self.settle();
            if next == end {
                return;
            }
        }
        panic!("deadlines that never pass");
    }

    /// Delivers what was held back.
    pub(crate) fn release(&mut self) {
        self.net.borrow_mut().release();
    }

    /// Ends the stream of this kind that `from` writes and `to` reads.
    pub(crate) fn cut(&mut self, from: usize, to: usize, kind: StreamKind) {
        let stream = self.nodes[from].transport.write_stream(peer(to), kind).unwrap();
        self.net.borrow_mut().cut(stream);
    }

    /// Nobody answers at a node any more, or somebody does again.
    pub(crate) fn set_judge(&mut self, node: usize, judge: Option<Judge>) {
        self.net.borrow_mut().judges[node] = judge;
    }

    /// A node dies and starts again; nobody is told, and its streams lead nowhere.
    pub(crate) fn restart_silently(&mut self, node: usize, incarnation: u64) {
        let config = Config { incarnation, ..config(node) };
        let mut transport = Transport::new(config.clone()).unwrap();
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            transport.add_peer(peer(other), &[format!("node{other}")]).unwrap();
        }
        self.nodes[node].transport = transport;
        let net = &mut *self.net.borrow_mut();
        net.judges[node] = Some(judge(&config, &self.members));
        net.inboxes[node].clear();
        net.streams.retain(|_, stream| stream.node != node);
    }

    /// Now and then something breaks.
    pub(crate) fn fault(&mut self) {
        let net = &mut *self.net.borrow_mut();
        match net.roll(12) {
            0 => net.flip = Some(net.roll(1 << 20)),
            1 => {
                let nth = net.roll(net.streams.len().max(1));
                if let Some(stream) = net.streams.keys().nth(nth).copied() {
                    net.cut(stream);
                }
            }
            2 => net.hold = true,
            3 => net.hold_dials = true,
            4..7 => net.release(),
            _ => {}
        }
    }

    pub(crate) fn heard(&mut self, node: usize) -> Vec<Heard> {
        std::mem::take(&mut self.nodes[node].ear.0)
    }
}
