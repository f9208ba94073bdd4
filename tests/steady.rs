//! What a turn takes from the allocator at a steady pace: nothing. Counted, not timed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ringraft::bench::cluster::RunDir;
use ringraft::client::{Client, ClientOptions};
use ringraft::kv::Kv;
use ringraft::node::{Board, NodeConfig, Post, Shard};
use ringraft::server::NodeAcceptor;
use ringraft_io::{Io, IoKind, ListenerKind, Seed, ShardNo, World, WorldConfig};
use ringraft_raft::PeerId;

use crate::process::{has_ring, run_dir};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: passes everything on to the system's allocator; the counter is a thread-local without a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Keys written round and round: the state has them all after the first round.
const KEYS: u64 = 512;

/// Writes under way at a time.
const WINDOW: usize = 64;

#[test]
fn a_turn_at_a_steady_pace_takes_no_memory() {
    let mut kinds = vec![IoKind::Portable];
    if has_ring() {
        kinds.push(IoKind::Uring);
    }
    for kind in kinds {
        let dir = run_dir(&format!("steady-{kind}"));
        let config = config(&dir);
        let mut world = WorldConfig::new(1);
        world.listeners = vec![(ListenerKind::Client, "127.0.0.1:0".parse().unwrap())];
        world.acceptor = Arc::new(NodeAcceptor::new(config.clone()));
        let mut world = World::start(kind, world).expect("a world");
        let address = world.listening()[0].1.to_string();
        match world.take_seeds().pop().unwrap() {
            Seed::Uring(seed) => check(kind, seed.into_io().expect("a ring"), config, address),
            Seed::Portable(seed) => check(kind, seed.into_io().expect("a shard"), config, address),
        }
    }
}

fn config(dir: &RunDir) -> Arc<NodeConfig> {
    let mut config = NodeConfig::new(5, PeerId(1), dir.path().to_owned());
    config.members = BTreeMap::from([(PeerId(1), vec!["127.0.0.1:1".to_owned()])]);
    config.segment_size = 16 << 20;
    config.cache_size_max = 4 << 20;
    Arc::new(config)
}

fn check(kind: IoKind, io: impl Io, config: Arc<NodeConfig>, address: String) {
    let post = Post::network(1, 16).pop().unwrap();
    let mut shard = Shard::open(io, config, ShardNo(0), post, Arc::new(Board::new(1)), |_| Kv::new()).expect("a shard");

    let done = Arc::new(AtomicBool::new(false));
    let client = std::thread::spawn({
        let done = done.clone();
        move || {
            let options = ClientOptions { request_timeout: std::time::Duration::from_secs(30), ..Default::default() };
            let client = Client::connect(&[address], options).expect("it listens");
            let mut pending = std::collections::VecDeque::new();
            for number in 0..60_000_u64 {
                let key = format!("key-{:06}", number % KEYS);
                pending.push_back(client.put(key.as_bytes(), &[7; 256]));
                if pending.len() >= WINDOW {
                    pending.pop_front().unwrap().wait().expect("written");
                }
            }
            done.store(true, Ordering::Release);
        }
    });
    let applied = |shard: &Shard<_, Kv>| shard.groups().next().unwrap().raft.applied_index().0;
    // The first writes fill the state and the pools; the last ones run dry.
    let mut counted: Option<Count> = None;
    while !done.load(Ordering::Acquire) {
        shard.turn().expect("it goes on");
        let entries = applied(&shard);
        if (20_000..55_000).contains(&entries) {
            let allocations = ALLOCATIONS.with(Cell::get);
            let count = counted.get_or_insert(Count { first: (allocations, entries), last: (0, 0), turns: 0 });
            count.last = (allocations, entries);
            count.turns += 1;
        }
    }
    client.join().expect("the client");
    let Count { first, last, turns } = counted.expect("tens of thousands of writes");
    let (allocations, entries) = (last.0 - first.0, last.1 - first.1);
    println!("{kind}: {allocations} allocations in {turns} turns with {entries} entries");
    assert!(entries > 30_000 && turns > 100);
    // Now and then a table of the log grows or a segment is changed: that depends on how much is written. What an entry
    // and a turn do takes nothing.
    assert!(allocations * 500 <= entries, "{allocations} allocations for {entries} entries");
}

/// Allocations and entries at the first and last turn looked at.
struct Count {
    first: (u64, u64),
    last: (u64, u64),
    turns: u64,
}
