//! Bits that flip on a disk at rest, below the durable mark: the replica is silent until its peers have repaired it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ringraft_io::ShardNo;
use ringraft_io::sim::{ProcessId, Rng, World, WorldConfig};

use super::client::SimClient;
use super::cluster::Cluster;

/// A block of a log, as far as its header says.
struct Block {
    path: PathBuf,
    at: usize,
    len: usize,
    is_batch: bool,
    lsn: u64,
    durable: u64,
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The blocks in the files of one log.
fn blocks(world: &World, node: ProcessId, dir: &Path) -> Vec<Block> {
    let mut blocks = Vec::new();
    let is_segment = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("seg-"));
    for path in world.files(node).into_iter().filter(|path| path.parent() == Some(dir) && is_segment(path)) {
        let bytes = world.file(node, &path).expect("it is listed");
        for at in (0..bytes.len()).step_by(4096) {
            let block = &bytes[at..];
            if block.len() >= 4096 && &block[..4] == b"RRBK" && u64_at(block, 32) == at as u64 {
                let len = 80 + u32::from_le_bytes(block[64..68].try_into().expect("four bytes")) as usize;
                let (lsn, durable) = (u64_at(block, 40), u64_at(block, 48));
                let (len, is_batch) = (len.min(block.len()), block[6] == 2);
                blocks.push(Block { path: path.clone(), at, len, is_batch, lsn, durable });
            }
        }
    }
    blocks
}

/// Flips some bits, each in a block that other blocks say was durable; how many.
pub(crate) fn flip(world: &World, node: ProcessId, rng: &mut Rng) -> u64 {
    let mut dirs: Vec<PathBuf> =
        world.files(node).iter().filter_map(|path| path.parent()).map(Path::to_owned).collect();
    dirs.sort_unstable();
    dirs.dedup();
    let mut flipped = 0;
    for dir in dirs {
        let blocks = blocks(world, node, &dir);
        let mark = blocks.iter().map(|block| block.durable).max().unwrap_or_default();
        // Those that carry the mark have higher numbers. A head comes behind the batch whose number it has, and counts as
        // durable only if whole batches behind it say so: the one with the highest mark may be torn.
        let old = |block: &&Block| block.lsn + 4 <= mark || block.lsn <= mark && block.is_batch;
        let old: Vec<&Block> = blocks.iter().filter(old).collect();
        let times = rng.between(1, 3);
        for _ in 0..times {
            // A log of one head and few batches could be lost as a whole with several: then it is refused.
            let some: Vec<&&Block> = old.iter().filter(|block| block.is_batch || times == 1).collect();
            if some.is_empty() {
                continue;
            }
            let block = some[rng.index(some.len())];
            let mut bytes = world.file(node, &block.path).expect("it was read").to_vec();
            bytes[block.at + rng.index(block.len)] ^= 1 << rng.below(8);
            world.set_file(node, &block.path, &bytes);
            flipped += 1;
        }
    }
    flipped
}

#[test]
fn a_rotten_replica_is_repaired_while_the_others_serve() {
    let mut mended = 0;
    for seed in 0..20 {
        let (world, mut rng) = (World::new(seed, WorldConfig::default()), Rng::new(seed));
        let mut cluster = Cluster::new(&world, &mut rng, 3, 1, 2);
        for node in cluster.processes.clone() {
            cluster.open(node).expect("it opens");
        }
        let process = world.add_client("client", 1);
        let io = world.io(process, ShardNo(0));
        let mut client = SimClient::new(io, rng.fork(), 1, cluster.client_endpoints(), cluster.groups, 30);
        cluster.run(Some(&mut client), Duration::from_secs(10));
        let node = cluster.processes[rng.index(3)];
        cluster.crash(node);
        assert!(flip(&world, node, &mut rng) > 0);
        cluster.restart(node, rng.bits()).expect("it opens with holes");
        mended += u64::from(cluster.is_mending(node));
        let known = client.known();
        cluster.run(Some(&mut client), Duration::from_secs(20));
        assert!(client.known() > known + 20, "seed {seed}: {} operations after {known}", client.known());
        client.resting = true;
        cluster.run(Some(&mut client), Duration::from_secs(10));
        assert!(!cluster.is_mending(node), "seed {seed}: it is not mended");
        cluster.settled().unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        cluster.logs_match().unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        // Mended for good.
        cluster.crash(node);
        cluster.restart(node, rng.bits()).expect("it opens");
        assert!(!cluster.is_mending(node), "seed {seed}: it is in doubt again");
        // And it counts again: without one of the others the two go on.
        let other = cluster.processes.iter().find(|other| **other != node).copied().expect("three");
        cluster.crash(other);
        client.resting = false;
        let known = client.known();
        cluster.run(Some(&mut client), Duration::from_secs(20));
        assert!(client.known() > known + 20, "seed {seed}: {} operations after {known}", client.known());
    }
    assert!(mended > 10, "only {mended} of 20 had lost something");
}

#[test]
fn a_lone_node_that_has_lost_something_stays_closed() {
    let (world, mut rng) = (World::new(1, WorldConfig::default()), Rng::new(1));
    let mut cluster = Cluster::new(&world, &mut rng, 1, 1, 1);
    let node = cluster.processes[0];
    cluster.open(node).expect("it opens");
    let process = world.add_client("client", 1);
    let io = world.io(process, ShardNo(0));
    let mut client = SimClient::new(io, rng.fork(), 1, cluster.client_endpoints(), 1, 30);
    cluster.run(Some(&mut client), Duration::from_secs(10));
    cluster.crash(node);
    let dir = PathBuf::from("/data/shard-0");
    let mut blocks = blocks(&world, node, &dir);
    let mark = blocks.iter().map(|block| block.durable).max().expect("it has written");
    blocks.retain(|block| block.lsn + 2 == mark);
    let Block { path, at, len, .. } = &blocks[0];
    let mut bytes = world.file(node, path).expect("it was read").to_vec();
    bytes[at + len - 1] ^= 1;
    world.set_file(node, path, &bytes);
    for _ in 0..2 {
        let error = cluster.restart(node, rng.bits()).expect_err("nobody can repair it");
        let place = format!("{} at {at}", path.display());
        assert!(error.contains("group 0: entries ") && error.contains(&place), "{error}");
        assert!(!error.contains('\n'), "{error}");
        world.crash(node);
    }
}
