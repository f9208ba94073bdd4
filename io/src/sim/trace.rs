//! The running hash over everything that happens: two runs of one seed are the same run if it is the same.

use crate::Time;

/// What is being noted. The order is part of the hash.
#[derive(Clone, Copy, Debug)]
pub(super) enum Note {
    Turn,
    Received,
    Sent,
    Closed,
    Accepted,
    Dialed,
    Written,
    JobDone,
    FileSent,
    FileReceived,
    Woken,
    AskSend,
    AskReceive,
    AskPause,
    AskClose,
    AskDial,
    AskSendFile,
    AskWrite,
    AskJob,
    Driver,
    Start,
    Crash,
    Pause,
    Partition,
    Reset,
    Disk,
}

/// The hash, and whether to print.
pub(super) struct Trace {
    hash: u64,
    print: bool,
}

impl Trace {
    pub(super) fn new(seed: u64, print: bool) -> Trace {
        Trace { hash: mix(BASIS, seed), print }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    /// Folds one event in.
    pub(super) fn note(&mut self, at: Time, note: Note, place: u64, a: u64, b: u64) {
        let mut hash = mix(self.hash, at.0 ^ ((note as u64) << 56));
        hash = mix(hash, place);
        hash = mix(hash, a);
        self.hash = mix(hash, b);
        if self.print {
            let (process, shard) = (place >> 16, place & 0xffff);
            eprintln!("{:>14} p{process}.{shard} {note:?} {a} {b:#x}", at.0);
        }
    }
}

/// A hash of bytes.
pub(super) fn hash_bytes(bytes: &[u8]) -> u64 {
    let mut chunks = bytes.chunks_exact(8);
    let mut hash = mix(BASIS, bytes.len() as u64);
    for chunk in &mut chunks {
        hash = mix(hash, u64::from_le_bytes(chunk.try_into().expect("chunks of 8 bytes")));
    }
    let mut last = [0; 8];
    last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    mix(hash, u64::from_le_bytes(last))
}

const BASIS: u64 = 0xcbf2_9ce4_8422_2325;

fn mix(hash: u64, value: u64) -> u64 {
    let x = (hash ^ value).wrapping_mul(0x9fb2_1c65_1e98_df25);
    x ^ (x >> 32)
}
