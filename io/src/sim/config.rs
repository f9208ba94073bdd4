//! What a world is like: delays, sizes and the chances of faults.

use std::time::Duration;

use super::Rng;

/// A random delay: uniform between two bounds, and now and then far longer.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Delay {
    /// Shortest, in nanoseconds.
    pub min_ns: u64,
    /// Longest of the usual ones, in nanoseconds.
    pub max_ns: u64,
    /// Longest of the unusual ones, in nanoseconds.
    pub tail_ns: u64,
    /// How often a delay is an unusual one.
    pub tail_chance: f64,
}

impl Delay {
    /// Uniform, both bounds included, in microseconds.
    #[must_use]
    pub const fn micros(min: u64, max: u64) -> Delay {
        Delay { min_ns: min * 1000, max_ns: max * 1000, tail_ns: max * 1000, tail_chance: 0.0 }
    }

    /// The same, but with probability `chance` somewhere up to `tail` microseconds.
    #[must_use]
    pub const fn with_tail(self, tail: u64, chance: f64) -> Delay {
        Delay { tail_ns: tail * 1000, tail_chance: chance, ..self }
    }

    pub(super) fn draw(&self, rng: &mut Rng) -> Duration {
        let ns = if rng.chance(self.tail_chance) {
            rng.between(self.max_ns, self.tail_ns.max(self.max_ns))
        } else {
            rng.between(self.min_ns, self.max_ns)
        };
        Duration::from_nanos(ns)
    }
}

/// What a [`World`](super::World) is like. The default is a healthy data centre without faults of its own; crashes,
/// pauses and partitions always come from the driver.
#[derive(Clone, Debug)]
pub struct WorldConfig {
    /// How long a turn keeps its shard busy; what arrives meanwhile forms the next batch. At least 1 ns.
    pub turn_cost: Delay,
    /// From one shard to another of its process.
    pub wake_delay: Delay,

    /// One way across the network.
    pub net_delay: Delay,
    /// Between asking for a send and [`Completion::Sent`](crate::Completion::Sent), while there is room.
    pub sent_delay: Delay,
    /// Between two pieces of one stream.
    pub piece_gap: Delay,
    /// Largest piece in which bytes arrive.
    pub piece_size_max: usize,
    /// How often a piece is a single byte.
    pub one_byte_chance: f64,
    /// Bytes a stream holds in one direction before a send has to wait.
    pub socket_buffer_size: usize,
    /// Bytes that may have arrived at a receiver without having been handed out.
    pub receive_window_size: usize,
    /// Between attempts while a direction is blocked, and after it heals.
    pub retry_delay: Delay,
    /// Until the remote side of a stream hears of a crash.
    pub crash_notice_delay: Delay,
    /// How often a send breaks its stream.
    pub reset_chance: f64,
    /// How often a dial fails for no reason.
    pub dial_failure_chance: f64,
    /// How often a piece arrives with one bit flipped.
    pub corrupt_chance: f64,
    /// Streams survive partitions shorter than this.
    pub partition_reset_after: Duration,
    /// How often a stream breaks when a longer partition heals.
    pub partition_reset_chance: f64,
    /// Bytes of a file transferred per step.
    pub file_piece_size: usize,
    /// Between two steps of a file transfer.
    pub file_piece_gap: Delay,
    /// How often a step of a file transfer breaks its connection.
    pub file_reset_chance: f64,

    /// A durable write.
    pub disk_delay: Delay,
    /// A job of the helper.
    pub job_delay: Delay,
    /// How often a durable write fails.
    pub write_error_chance: f64,
    /// How often a removed file is back after a crash, if nothing has synced its directory since.
    pub removed_returns_chance: f64,

    /// Print every event to the standard error output.
    pub trace: bool,
}

impl Default for WorldConfig {
    fn default() -> WorldConfig {
        WorldConfig {
            turn_cost: Delay::micros(1, 10),
            wake_delay: Delay::micros(1, 5),
            net_delay: Delay::micros(20, 200),
            sent_delay: Delay::micros(1, 20),
            piece_gap: Delay::micros(0, 5),
            piece_size_max: 64 * 1024,
            one_byte_chance: 0.0,
            socket_buffer_size: 256 * 1024,
            receive_window_size: 128 * 1024,
            retry_delay: Delay::micros(1_000, 50_000),
            crash_notice_delay: Delay::micros(50, 5_000),
            reset_chance: 0.0,
            dial_failure_chance: 0.0,
            corrupt_chance: 0.0,
            partition_reset_after: Duration::from_secs(5),
            partition_reset_chance: 0.5,
            file_piece_size: 256 * 1024,
            file_piece_gap: Delay::micros(50, 500),
            file_reset_chance: 0.0,
            disk_delay: Delay::micros(50, 500),
            job_delay: Delay::micros(100, 5_000),
            write_error_chance: 0.0,
            removed_returns_chance: 0.5,
            trace: false,
        }
    }
}

impl WorldConfig {
    /// A rough world whose roughness is itself drawn, so that some seeds meet one kind of fault often and the others
    /// not at all. Never corrupts bytes and never fails a write: those are for the test that expects them.
    #[must_use]
    pub fn rough(rng: &mut Rng) -> WorldConfig {
        let mut config = WorldConfig::default();
        let some =
            |rng: &mut Rng, most: f64| if rng.chance(0.5) { most * rng.between(1, 100) as f64 / 100.0 } else { 0.0 };
        config.net_delay = Delay::micros(10, rng.between(20, 2_000)).with_tail(100_000, some(rng, 0.02));
        config.piece_gap = Delay::micros(0, rng.between(0, 50));
        config.piece_size_max = 1 << rng.between(4, 17);
        config.one_byte_chance = some(rng, 0.3);
        config.socket_buffer_size = 1 << rng.between(12, 19);
        config.receive_window_size = 1 << rng.between(11, 18);
        config.sent_delay = Delay::micros(0, rng.between(1, 500)).with_tail(20_000, some(rng, 0.02));
        config.crash_notice_delay = Delay::micros(50, 5_000).with_tail(2_000_000, some(rng, 0.3));
        config.reset_chance = some(rng, 0.002);
        config.dial_failure_chance = some(rng, 0.3);
        config.partition_reset_after = Duration::from_millis(rng.between(0, 5_000));
        config.partition_reset_chance = some(rng, 1.0);
        config.file_reset_chance = some(rng, 0.05);
        config.disk_delay = Delay::micros(20, rng.between(50, 3_000)).with_tail(200_000, some(rng, 0.02));
        config.job_delay = Delay::micros(50, rng.between(100, 20_000)).with_tail(500_000, some(rng, 0.05));
        config.turn_cost = Delay::micros(1, rng.between(1, 100)).with_tail(20_000, some(rng, 0.005));
        config
    }
}
