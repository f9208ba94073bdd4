//! Configuration, checked at the door.

use crate::types::{Index, PeerId};

/// How a member behaves. Limits in bytes count encoded records ([`record::encoded_len`](crate::record::encoded_len)),
/// unless they say payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Own id; not 0, nor one of the two highest.
    pub id: PeerId,
    /// Ticks between heartbeats; at least 1.
    pub heartbeat_ticks: u32,
    /// Ticks without a leader before an election starts, at the least (it is drawn from once to twice this); more than
    /// `heartbeat_ticks`, ten times is the advice; at most [`ELECTION_TICKS_MAX`].
    pub election_ticks: u32,
    /// How soon this member asks to lead when a leader is lost, compared with the others: 1 to [`PRIORITY_MAX`], which
    /// is the default. For each step below, it waits `election_ticks` more, so that whoever has a higher priority and
    /// is up to date usually wins; it does so once after each leader, and once an election was seen all wait alike, so
    /// that a favourite who cannot win holds nobody up for long. 0: it never asks by itself, only when a leader hands
    /// over to it or the shell calls [`Raft::campaign`](crate::Raft::campaign); while only such members are up to date,
    /// nobody leads.
    ///
    /// This is safe because it only moves the moment at which an election starts. Who may be elected is decided by
    /// votes alone (one per member and term, none for a log that is behind), and these hold at any timing; leases are
    /// those of `election_ticks`, which stay what they are. With etcd's rules it has no effect.
    pub priority: u8,
    /// Whether this member's log keeps no payloads ([`crate::witness`]). A property of the log for all its life: a member
    /// that shall be something else starts anew with an empty one. The membership says the same of us, or we take no
    /// part. Not with etcd's rules.
    pub witness: bool,
    /// Seed of the election timeouts; any number, and another one for each member.
    pub seed: u64,
    /// Restart only: entries up to here are not handed out again. Within the log
    /// ([`OpenError::Applied`](crate::OpenError::Applied)); 0: the state machine is where the log begins.
    pub applied: Index,
    /// Most bytes of entries in one append message; one entry always goes, so that 0 is one at a time.
    pub message_size_max: u64,
    /// Most bytes of entries handed out for application and not yet reported applied; one entry always goes, so that 0 is
    /// one at a time.
    pub apply_size_max: u64,
    /// Most payload bytes in the leader's uncommitted tail; one proposal into an empty tail always goes, so that 0 is one
    /// at a time.
    pub uncommitted_size_max: u64,
    /// Most append messages in flight to one follower; at least 1. 2^32 and more: any number.
    pub inflight_count_max: usize,
    /// Most bytes in flight to one follower (one message may overshoot); at least `message_size_max`. 0 (if
    /// that is 0, too), 4 GiB and more: any number.
    pub inflight_size_max: u64,
    /// Whether a leader steps down that hears from no quorum for an election timeout (thesis 6.2).
    pub check_quorum: bool,
    /// Whether a candidate asks first whether it could win (thesis 9.6).
    pub pre_vote: bool,
    /// How linearizable reads are confirmed; by a lease only with `check_quorum`.
    pub read_policy: ReadPolicy,
    /// Most reads waiting for a quorum, or for the first commit of a new leader; at least 1. Each takes some 50 bytes.
    pub read_count_max: usize,
    /// Whether a leader steps down that finds itself without a vote once a change of membership is applied. First it
    /// hands leadership to the best voter, for at most an election timeout.
    pub step_down_on_removal: bool,
    /// Whether a leader refuses changes of membership that could not be applied to the membership of now. Without this,
    /// two of them can be under way at a time, and it is for the shell to see that their majorities meet.
    pub check_conf_changes: bool,
    /// Whose rules hold where ours differ from etcd's.
    pub compat: Compat,
    /// Whether a follower tells the shell to forward proposals to the leader, or refuses them.
    pub forward_proposals: bool,
}

/// How linearizable reads are confirmed (thesis 6.4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum ReadPolicy {
    /// By a round of heartbeats to a quorum.
    #[default]
    Quorum,
    /// By a lease that rounds of heartbeats renew; without one, as [`ReadPolicy::Quorum`]. Trusts that no two clocks drift
    /// apart by more than a tenth in an election timeout, and that every member has this policy and the same
    /// `election_ticks`; needs `check_quorum`.
    Lease,
}

/// Whose rules hold where ours differ from etcd's raft (commit `cdfbeed`): the moments of sending, what waits for a
/// sync, what is refused and what becomes an empty entry. For replaying recordings of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Compat {
    /// Ours.
    #[default]
    Off,
    /// etcd's. Messages are queued as they are asked for: the shell takes them with
    /// [`Raft::take_messages`](crate::Raft::take_messages) after every call, while the ranges in them are as they were.
    Etcd {
        /// Whether the shell works as with etcd's `AsyncStorageWrites`. If not, it makes every write durable before it
        /// does anything else with a Ready, so that entries may be applied that are not known to be durable.
        async_storage_writes: bool,
    },
}

/// The most [`Config::election_ticks`]: so that no sum of timeouts overflows.
pub const ELECTION_TICKS_MAX: u32 = 1 << 24;

/// The highest [`Config::priority`].
pub const PRIORITY_MAX: u8 = 4;

impl Config {
    /// Defaults for member `id`: 10 and 1 ticks, 1 MiB messages, 256 messages and 16 MiB in flight, PreVote and
    /// CheckQuorum on.
    #[must_use]
    pub fn new(id: PeerId) -> Config {
        Config {
            id,
            heartbeat_ticks: 1,
            election_ticks: 10,
            priority: PRIORITY_MAX,
            witness: false,
            seed: id.0,
            applied: Index::ZERO,
            message_size_max: 1 << 20,
            apply_size_max: 64 << 20,
            uncommitted_size_max: 64 << 20,
            inflight_count_max: 256,
            inflight_size_max: 16 << 20,
            check_quorum: true,
            pre_vote: true,
            read_policy: ReadPolicy::Quorum,
            read_count_max: 1 << 16,
            step_down_on_removal: true,
            check_conf_changes: true,
            compat: Compat::Off,
            forward_proposals: true,
        }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// One per rule that is broken; the first is reported.
    pub fn check(&self) -> Result<(), ConfigError> {
        match self.rules().into_iter().find(|(holds, ..)| !holds) {
            Some((_, field, rule)) => Err(ConfigError { field, rule }),
            None => Ok(()),
        }
    }

    /// Whether it holds, whose it is, and what it is.
    fn rules(&self) -> [(bool, &'static str, &'static str); 11] {
        [
            (self.id != PeerId::ZERO, "id", "must not be 0"),
            (self.id.0 < u64::MAX - 1, "id", "is reserved"),
            (self.heartbeat_ticks >= 1, "heartbeat_ticks", "must be at least 1"),
            (self.election_ticks > self.heartbeat_ticks, "election_ticks", "must be more than heartbeat_ticks"),
            (self.election_ticks <= ELECTION_TICKS_MAX, "election_ticks", "must be at most 2^24"),
            (self.priority <= PRIORITY_MAX, "priority", "must be at most 4"),
            (!self.witness || self.compat == Compat::Off, "witness", "is not possible with etcd's rules"),
            (self.inflight_count_max >= 1, "inflight_count_max", "must be at least 1"),
            (self.inflight_size_max >= self.message_size_max, "inflight_size_max", "must be at least message_size_max"),
            (self.read_count_max >= 1, "read_count_max", "must be at least 1"),
            (
                self.read_policy == ReadPolicy::Quorum || self.check_quorum,
                "read_policy",
                "may be Lease only with check_quorum",
            ),
        ]
    }
}

/// A field of [`Config`] that breaks its rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("raft configuration: {field} {rule}")]
pub struct ConfigError {
    /// Which.
    pub field: &'static str,
    /// What it must be.
    pub rule: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A new field does not compile until it is named here: has it a rule, and if not, is it sound at both its ends?
    #[test]
    fn every_rule_is_met() {
        let good = Config::new(PeerId(1));
        let mut met = Vec::new();
        let mut broken = |change: &dyn Fn(&mut Config), field: &'static str, rule: &'static str| {
            let mut config = good.clone();
            change(&mut config);
            assert_eq!(config.check(), Err(ConfigError { field, rule }));
            met.push((field, rule));
        };
        let sound = |change: &dyn Fn(&mut Config)| {
            let mut config = good.clone();
            change(&mut config);
            assert_eq!(config.check(), Ok(()), "{config:?}");
        };
        let etcd = Compat::Etcd { async_storage_writes: true };
        let Config {
            id: _,
            heartbeat_ticks: _,
            election_ticks: _,
            priority: _,
            witness: _,
            seed: _,
            applied: _,
            message_size_max: _,
            apply_size_max: _,
            uncommitted_size_max: _,
            inflight_count_max: _,
            inflight_size_max: _,
            check_quorum: _,
            pre_vote: _,
            read_policy: _,
            read_count_max: _,
            step_down_on_removal: _,
            check_conf_changes: _,
            compat: _,
            forward_proposals: _,
        } = good;
        broken(&|it| it.id = PeerId(0), "id", "must not be 0");
        broken(&|it| it.id = PeerId(u64::MAX - 1), "id", "is reserved");
        sound(&|it| it.id = PeerId(u64::MAX - 2));
        broken(&|it| it.heartbeat_ticks = 0, "heartbeat_ticks", "must be at least 1");
        broken(&|it| it.heartbeat_ticks = 10, "election_ticks", "must be more than heartbeat_ticks");
        broken(&|it| it.election_ticks = ELECTION_TICKS_MAX + 1, "election_ticks", "must be at most 2^24");
        sound(&|it| (it.election_ticks, it.heartbeat_ticks) = (ELECTION_TICKS_MAX, ELECTION_TICKS_MAX - 1));
        broken(&|it| it.priority = 5, "priority", "must be at most 4");
        (0..=PRIORITY_MAX).for_each(|priority| sound(&|it| it.priority = priority));
        broken(&|it| (it.witness, it.compat) = (true, etcd), "witness", "is not possible with etcd's rules");
        sound(&|it| it.witness = true);
        sound(&|it| it.compat = etcd);
        broken(&|it| it.inflight_count_max = 0, "inflight_count_max", "must be at least 1");
        sound(&|it| it.inflight_count_max = usize::MAX);
        broken(
            &|it| it.inflight_size_max = it.message_size_max - 1,
            "inflight_size_max",
            "must be at least message_size_max",
        );
        sound(&|it| it.inflight_size_max = it.message_size_max);
        sound(&|it| (it.inflight_size_max, it.message_size_max) = (u64::MAX, u64::MAX));
        sound(&|it| (it.inflight_size_max, it.message_size_max) = (0, 0));
        broken(&|it| it.read_count_max = 0, "read_count_max", "must be at least 1");
        sound(&|it| it.read_count_max = usize::MAX);
        broken(
            &|it| (it.read_policy, it.check_quorum) = (ReadPolicy::Lease, false),
            "read_policy",
            "may be Lease only with check_quorum",
        );
        sound(&|it| it.read_policy = ReadPolicy::Lease);
        sound(&|it| it.check_quorum = false);
        for number in [0, u64::MAX] {
            sound(&|it| it.seed = number);
            sound(&|it| it.apply_size_max = number);
            sound(&|it| it.uncommitted_size_max = number);
            // Against the log, when it is opened.
            sound(&|it| it.applied = Index(number));
        }
        for switch in [false, true] {
            sound(&|it| it.pre_vote = switch);
            sound(&|it| it.step_down_on_removal = switch);
            sound(&|it| it.check_conf_changes = switch);
            sound(&|it| it.forward_proposals = switch);
        }
        let mut all: Vec<_> = good.rules().iter().map(|(_, field, rule)| (*field, *rule)).collect();
        all.sort_unstable();
        met.sort_unstable();
        assert_eq!(met, all, "every rule, once");
    }
}
