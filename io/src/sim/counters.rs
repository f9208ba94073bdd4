//! How often each kind of fault has struck.

use std::fmt;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// How often each kind of fault (and of ordinary event) has happened in a world.
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl fmt::Display for Counters {
            /// The counters that are not zero, as `name=count`.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut gap = "";
                for (name, count) in [$((stringify!($name), self.$name)),*] {
                    if count > 0 {
                        write!(f, "{gap}{name}={count}")?;
                        gap = " ";
                    }
                }
                Ok(())
            }
        }
    };
}

counters! {
    /// Events handled.
    events,
    /// Turns taken.
    turns,
    /// Processes crashed.
    crashes,
    /// Processes restarted.
    restarts,
    /// Processes paused.
    pauses,
    /// Directions of links blocked.
    partitions,
    /// Directions of links healed.
    heals,
    /// Streams broken by the network.
    resets,
    /// Dials that failed for no reason.
    dials_failed,
    /// Dials that found nobody.
    dials_unanswered,
    /// Dials that ran out of time.
    dials_timed_out,
    /// Pieces delivered with a flipped bit.
    pieces_corrupted,
    /// Pieces of one byte cut from more.
    single_bytes,
    /// Sends that had to wait for room.
    sends_held_back,
    /// File transfers broken.
    transfers_broken,
    /// Writes lost whole at a crash.
    writes_lost,
    /// Writes kept whole at a crash, though unfinished.
    writes_kept,
    /// Writes kept in part at a crash.
    writes_torn,
    /// Writes failed with an error.
    writes_failed,
    /// Jobs cut off by a crash that had taken effect.
    jobs_kept,
    /// Jobs cut off by a crash before they took effect.
    jobs_lost,
    /// Files built aside that a crash damaged or removed.
    asides_damaged,
    /// Removed files that a crash brought back.
    files_returned,
    /// Requests refused because the disk was full.
    disk_full,
    /// Disks stalled.
    disk_stalls,
    /// Stretches of a disk corrupted at rest.
    disk_corruptions,
    /// Sectors made unreadable.
    sectors_spoilt,
    /// Disks wiped.
    disk_wipes,
}
