//! Time: what passes with it, and what it makes due.

use crate::config::PRIORITY_MAX;
use crate::mutant::mutant;
use crate::raft::Raft;
use crate::ready::TransferEnd;
use crate::storage::Storage;
use crate::types::{PeerId, Role};

impl<S: Storage> Raft<S> {
    /// Time passes. How much a tick is, only the shell knows.
    pub fn tick(&mut self) {
        self.now += 1;
        self.count_stall(1);
        match self.role {
            Role::Leader => self.tick_leader(),
            Role::Follower | Role::PreCandidate | Role::Candidate => self.tick_follower(),
        }
    }

    /// So much time passes: as that many calls of [`Raft::tick`], at the cost of those at which something is due. A
    /// shell that lets a group sleep calls it before everything else that it tells the group.
    pub fn advance(&mut self, ticks: u32) {
        let mut left = ticks;
        while left > 0 {
            let due = self.ticks_until_due();
            if left < due {
                self.skip(left);
                return;
            }
            self.skip(due - 1);
            self.tick();
            left -= due;
        }
    }

    /// In how many ticks the next one does something by itself: an election, heartbeats, the check of the quorum, the
    /// end of a transfer, a hand-over because our disk hangs, another try to leave a joint membership. At least 1; `u32::MAX`: never, as things are.
    /// Whatever else happens to the group may change the answer.
    pub fn ticks_until_due(&self) -> u32 {
        if self.role != Role::Leader {
            let left = self.election_wait().saturating_sub(self.election_elapsed).max(1);
            return if self.campaigns_by_itself() { left } else { u32::MAX };
        }
        let heartbeat = self.config.heartbeat_ticks.saturating_sub(self.heartbeat_elapsed).max(1);
        let mut check = self.config.election_ticks.saturating_sub(self.election_elapsed).max(1);
        if self.has_unsynced() && self.transferee == PeerId::ZERO && !self.etcd() && self.is_outrun() {
            check = check.min(self.config.election_ticks.saturating_sub(self.stalled_ticks).max(1));
        }
        if self.has_peers() {
            heartbeat.min(check)
        } else if self.transferee != PeerId::ZERO || self.tracker.conf.auto_leave {
            check
        } else {
            u32::MAX
        }
    }

    fn campaigns_by_itself(&self) -> bool {
        self.is_promotable() && (self.config.priority > 0 || self.etcd())
    }

    /// Ticks without a leader until an election: those drawn, and more while others may go first.
    fn election_wait(&self) -> u32 {
        if !self.lets_others_first || self.etcd() {
            return self.election_timeout;
        }
        let steps = u32::from(PRIORITY_MAX.saturating_sub(self.config.priority));
        self.election_timeout.saturating_add(steps.saturating_mul(self.config.election_ticks))
    }

    /// Whether there is anybody to send heartbeats to.
    fn has_peers(&self) -> bool {
        self.tracker.iter().any(|(id, _)| id != self.config.id)
    }

    /// As that many ticks at which nothing is due.
    fn skip(&mut self, ticks: u32) {
        self.now += u64::from(ticks);
        self.count_stall(ticks);
        let wrap = |elapsed: u32, period: u32| {
            let sum = u64::from(elapsed) + u64::from(ticks);
            u32::try_from(sum % u64::from(period)).expect("below a period of 32 bits")
        };
        match self.role {
            // Only a leader without peers sleeps beyond the ends of its periods: nothing happens there.
            Role::Leader => {
                self.heartbeat_elapsed = wrap(self.heartbeat_elapsed, self.config.heartbeat_ticks);
                self.election_elapsed = wrap(self.election_elapsed, self.config.election_ticks);
            }
            _ => self.election_elapsed = self.election_elapsed.saturating_add(ticks),
        }
    }

    fn count_stall(&mut self, ticks: u32) {
        if self.has_unsynced() {
            self.stalled_ticks = self.stalled_ticks.saturating_add(ticks);
        } else if ticks > 0 {
            self.stalled_ticks = 0;
        }
    }

    fn tick_follower(&mut self) {
        self.election_elapsed = self.election_elapsed.saturating_add(1);
        if self.campaigns_by_itself() && self.election_elapsed >= self.election_wait() {
            self.election_elapsed = 0;
            // Others could elect us without our own vote, and would get a leader whose disk hangs.
            if !self.is_stalled() {
                self.campaign_if_able();
            }
        }
    }

    fn tick_leader(&mut self) {
        self.heartbeat_elapsed += 1;
        self.election_elapsed += 1;
        if self.election_elapsed >= self.config.election_ticks {
            self.election_elapsed = 0;
            if mutant!("deaf-leader-stays", false, self.config.check_quorum) {
                self.check_quorum();
            }
            if self.role == Role::Leader && self.must_step_down() {
                self.become_follower(self.term, PeerId::ZERO);
            } else if self.role == Role::Leader {
                self.end_transfer(TransferEnd::TimedOut);
                // etcd tries again only when something is applied.
                if !self.etcd() {
                    self.leave_joint_if_due();
                }
            }
        }
        if self.role == Role::Leader {
            self.leave_if_outrun();
        }
        if self.role == Role::Leader && self.heartbeat_elapsed >= self.config.heartbeat_ticks {
            self.heartbeat_elapsed = 0;
            if mutant!("no-heartbeats", false, self.has_peers()) {
                self.renew_lease();
                self.want_heartbeat();
            }
        }
    }
}
