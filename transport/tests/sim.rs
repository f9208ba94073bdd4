//! Transports over a simulated world: whatever the network does, what arrives was sent, and in the end all streams stand.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ringraft_io::sim::{ProcessId, SimIo, Step, World, WorldConfig};
use ringraft_io::{Acceptor, Completion, Io, ListenerKind, SendFile, ShardNo, Time, Token, Verdict};
use ringraft_raft::record::{self, GroupSeed};
use ringraft_raft::{Body, EntryId, EntryKind, GroupId, Index, Message, Payloads, PeerId, Term};
use ringraft_transport::{
    ClusterId, Config, Greeting, Inbound, Judge, JudgeConfig, Members, SendOutcome, SnapshotHead, Transport,
};

const NODES: u64 = 3;
const SHARDS: u16 = 2;
const CLUSTER: ClusterId = ClusterId(5);

struct Door(Judge);

impl Acceptor for Door {
    fn judge(&self, listener: ListenerKind, request: &[u8]) -> Verdict {
        assert_eq!(listener, ListenerKind::Peer);
        self.0.judge(request)
    }
}

fn door(node: u64) -> Arc<Door> {
    let members = Members::default();
    (1..=NODES).for_each(|peer| members.add(PeerId(peer)));
    let config = JudgeConfig {
        cluster: CLUSTER,
        node: PeerId(node),
        incarnation: node,
        snapshot_dirs: (0..SHARDS).map(|shard| PathBuf::from(format!("/d/{shard}"))).collect(),
        snapshot_size_max: 1 << 20,
    };
    Arc::new(Door(Judge::new(config, members)))
}

#[derive(Default)]
struct Ear {
    /// Everything said, as text.
    heard: Vec<String>,
    unreachable: u64,
}

impl Inbound for Ear {
    fn append(&mut self, group: GroupId, message: Message, records: &[u8]) {
        self.heard.push(format!("{group} {message:?} {}", crc32fast::hash(records)));
    }
    fn message(&mut self, group: GroupId, message: Message) {
        self.heard.push(format!("{group} {message:?}"));
    }
    fn proposal(&mut self, group: GroupId, from: PeerId, payload: &[u8]) {
        self.heard.push(format!("{group} {from} {}", crc32fast::hash(payload)));
    }
    fn unreachable(&mut self, _: PeerId) {
        self.unreachable += 1;
    }
}

struct Shard {
    process: ProcessId,
    node: u64,
    io: SimIo,
    transport: Transport,
    ear: Ear,
    left: Vec<Completion>,
}

impl Shard {
    fn turn(&mut self) {
        let mut out = Vec::new();
        self.io.turn(self.transport.next_deadline(), &mut out).unwrap();
        for completion in out {
            self.left.extend(self.transport.complete(&mut self.io, completion, &mut self.ear));
        }
        self.transport.report(&mut self.ear);
        self.transport.flush(&mut self.io);
    }
}

struct Cluster {
    world: World,
    shards: Vec<Shard>,
    sent: HashSet<String>,
}

impl Cluster {
    fn new(seed: u64, config: WorldConfig) -> Cluster {
        let world = World::new(seed, config);
        let mut shards = Vec::new();
        for node in 1..=NODES {
            let listeners = vec![(ListenerKind::Peer, format!("node{node}:1"))];
            let process = world.add_process(&format!("node{node}"), SHARDS, listeners, door(node));
            for shard in 0..SHARDS {
                let config = Config {
                    shard: ShardNo(shard),
                    shards: SHARDS,
                    token_base: 1 << 50,
                    ..Config::new(CLUSTER, PeerId(node), node)
                };
                let mut transport = Transport::new(config).unwrap();
                for peer in (1..=NODES).filter(|peer| *peer != node) {
                    transport.add_peer(PeerId(peer), &[format!("node{peer}:1")]).unwrap();
                }
                let io = world.io(process, ShardNo(shard));
                shards.push(Shard { process, node, io, transport, ear: Ear::default(), left: Vec::new() });
            }
        }
        Cluster { world, shards, sent: HashSet::new() }
    }

    fn run(&mut self, time: Duration) {
        let stop = self.world.random();
        self.world.schedule(self.world.now() + time, stop);
        while let Some(step) = self.world.next() {
            match step {
                Step::Shard { process, shard } => {
                    let own = |one: &&mut Shard| one.process == process && one.io.shard() == shard;
                    self.shards.iter_mut().find(own).unwrap().turn();
                }
                Step::Driver(token) if token == stop => return,
                Step::Driver(_) => {}
            }
        }
        panic!("the world has stopped");
    }

    /// One shard says something of every kind to one peer.
    fn say(&mut self, n: u64) {
        let at = usize::try_from(self.world.random()).unwrap() % self.shards.len();
        let shard = &mut self.shards[at];
        let (from, to) = (PeerId(shard.node), PeerId(shard.node % NODES + 1));
        let group = GroupId(n % 5);
        let mut run = BytesMut::new();
        for index in n + 1..=n + 3 {
            let id = EntryId { term: Term(1), index: Index(index) };
            let payload = vec![1; usize::try_from(n * 97 % 9000).unwrap()];
            record::encode(GroupSeed::of(group), id, EntryKind::Normal, &[&payload], &mut run);
        }
        let run = run.freeze();
        let prev = EntryId { term: Term(1), index: Index(n) };
        let append = Body::Append { prev, last: Index(n + 3), commit: Index(0), payloads: Payloads::All };
        let append = Message { from, to, term: Term(2), body: append };
        let beat = Message { body: Body::Heartbeat { commit: Index(n), read: n }, ..append };
        let payload = Bytes::from(vec![2; usize::try_from(n * 31 % 3000).unwrap()]);
        self.sent.insert(format!("{group} {append:?} {}", crc32fast::hash(&run)));
        self.sent.insert(format!("{group} {beat:?}"));
        self.sent.insert(format!("{group} {from} {}", crc32fast::hash(&payload)));
        let _ = shard.transport.send(group, &append, [run.slice(..40), run.slice(40..)]);
        let _ = shard.transport.send(group, &beat, []);
        let _ = shard.transport.send_proposal(to, group, payload);
        let (process, no) = (shard.process, shard.io.shard());
        self.world.poke(process, no);
    }

    fn active(&self) -> bool {
        let mut all = self.shards.iter().flat_map(|shard| shard.transport.status());
        all.all(|status| status.active && status.reading == 2 && status.writing == 2)
    }

    fn heard(&mut self) -> u64 {
        let mut count = 0;
        for shard in &mut self.shards {
            for heard in shard.ear.heard.drain(..) {
                assert!(self.sent.contains(&heard), "never sent: {heard}");
                count += 1;
            }
        }
        count
    }
}

#[test]
fn a_calm_world_loses_nothing() {
    let mut cluster = Cluster::new(1, WorldConfig::default());
    cluster.run(Duration::from_secs(1));
    assert!(cluster.active());
    for n in 0..300 {
        cluster.say(n);
        cluster.run(Duration::from_millis(1));
    }
    cluster.run(Duration::from_secs(30));
    assert!(cluster.active());
    assert_eq!(cluster.heard(), 900);
    for shard in &cluster.shards {
        assert_eq!(shard.ear.unreachable, 0);
        assert!(shard.left.is_empty());
        assert!(shard.transport.status().all(|status| status.counters.redials == 0));
    }
}

#[test]
fn a_rough_world_delivers_nothing_wrong() {
    let seeds = std::env::var("SEEDS").map_or(30, |seeds| seeds.parse().expect("a number"));
    for seed in 0..seeds {
        let mut rng = World::new(seed, WorldConfig::default()).fork_rng();
        let mut cluster = Cluster::new(seed, WorldConfig::rough(&mut rng));
        let mut heard = 0;
        for n in 0..200 {
            cluster.say(n);
            cluster.run(Duration::from_millis(5));
            let (a, b) = (cluster.shards[0].process, cluster.shards[2].process);
            match n {
                40 => cluster.world.reset(a, b),
                60 => cluster.world.partition(a, b, true),
                90 => cluster.world.partition_both(a, b, true),
                150 => cluster.world.heal_all(),
                _ => {}
            }
            heard += cluster.heard();
        }
        cluster.world.heal_all();
        cluster.world.configure(|config| *config = WorldConfig::default());
        cluster.run(Duration::from_secs(20));
        assert!(cluster.active(), "seed {seed}: {:#?}", cluster.shards[0].transport.status().collect::<Vec<_>>());
        heard += cluster.heard();
        assert!(heard > 200, "seed {seed}: {heard} of 600");
    }
}

#[test]
fn a_snapshot_arrives_with_its_message() {
    let mut cluster = Cluster::new(3, WorldConfig::default());
    cluster.run(Duration::from_millis(100));
    let content = vec![7; 100_000];
    let path = Path::new("/d/1/mine.snap");
    cluster.world.set_file(cluster.shards[1].process, path, &content);
    let at = EntryId { term: Term(3), index: Index(70) };
    let asked = Body::Snapshot { at: EntryId { index: Index(60), ..at }, payloads: Payloads::All };
    let message = Message { from: PeerId(1), to: PeerId(2), term: Term(4), body: asked };
    let shard = &mut cluster.shards[1];
    assert_eq!(shard.transport.send(GroupId(9), &message, []), SendOutcome::NeedsSnapshotChannel);
    let dial = shard.transport.snapshot_dial(GroupId(9), &message, at, 100_000).unwrap();
    let (token, timeout) = (Token(1), Duration::from_secs(5));
    let (address, request) = (dial.address, dial.request);
    shard.io.send_file(SendFile { token, address, request, path: path.to_owned(), timeout });
    cluster.world.poke(cluster.shards[1].process, ShardNo(1));
    cluster.run(Duration::from_secs(5));
    assert!(matches!(cluster.shards[1].left[..], [Completion::FileSent { token: Token(1), result: Ok(()) }]));
    let receiver = &cluster.shards[3];
    let [Completion::FileReceived { greeting, path }] = &receiver.left[..] else { panic!("{:?}", receiver.left) };
    let head = SnapshotHead { group: GroupId(9), term: Term(4), at, size: 100_000 };
    let want = Greeting::Snapshot { shard: ShardNo(1), from: PeerId(1), head };
    assert_eq!(Greeting::decode(greeting), Some(want));
    assert_eq!(cluster.world.file(receiver.process, path).unwrap(), content);
    assert!(cluster.world.now() > Time(0));
}
