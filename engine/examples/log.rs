//! A log in a directory: append durably from many threads, read, forget, and find it all again.

use ringraft_engine::Config;
use ringraft_engine::blocking::{Log, LogError};
use ringraft_raft::{GroupId, Index};

fn main() -> Result<(), LogError> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "example-log".into());
    let mut config = Config::new(dir, 1);
    config.segment_bytes = 4 << 20;
    config.record_bytes_max = 1 << 20;
    let log = Log::open(config.clone())?;

    // One group is one sequence of entries. Threads share it, and share the syncs: each call returns when its entries
    // are durable, and what arrives while one batch is being written forms the next.
    let group = log.group(GroupId(7))?;
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let group = &group;
            scope.spawn(move || {
                for n in 0..100 {
                    group.append(&[format!("{n} of {thread}")]).expect("the disk works");
                }
            });
        }
    });

    // Or without waiting for each: the results come in order.
    let pending: Vec<_> = (0..1000).map(|n| group.append_async(&[format!("entry {n}")])).collect();
    let last = pending.into_iter().try_fold(Index(0), |_, pending| pending.wait())?;
    println!("durable up to {last}, in {} batches", log.stats()?.written_batches);

    for entry in group.read(Index(last.0 - 2), last, u64::MAX)? {
        println!("{}: {}", entry.id.index, String::from_utf8_lossy(&entry.payload));
    }

    // What is of no more use is forgotten, and its segments are written again.
    group.compact(Index(last.0 - 10))?;
    log.close()?;

    // After a restart, or a power cut, it is all there.
    let log = Log::open(config)?;
    let (base, found) = log.group(GroupId(7))?.bounds();
    println!("found entries {} to {found}", base.next());
    assert_eq!((base, found), (Index(last.0 - 10), last));
    Ok(())
}
