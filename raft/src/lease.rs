//! Leases: how long a leader may trust that nobody else leads, without asking anybody (thesis 6.4.1).
//!
//! Who has heard a leader elects nobody else for an election timeout. So a leader is alone for that long after it *sent* a
//! heartbeat that a quorum has answered; when the answers arrived says nothing, for they may have been long on their way.
//! Every round of heartbeats therefore asks for a read that nobody waits for, and the quorum that confirms it renews the
//! lease from when it was asked for. Without a lease reads wait for a quorum, as with [`ReadPolicy::Quorum`].
//!
//! Three things would break the word of those who gave it. A hand-over makes the target ask for votes in spite of it: once
//! the target was told, however late it hears of it, there is no lease in this term. A member that starts again has
//! forgotten what it gave: it votes for nobody for an election timeout. And a shell that starts an election by hand is
//! refused as long as a leader may count on us.
//!
//! (With etcd a leader answers at once until it finds at the end of a period that it heard of no quorum in all of it:
//! another one may have been elected by then.)

use crate::config::ReadPolicy;
use crate::mutant::mutant;
use crate::raft::Raft;
use crate::read_only::ReadRequest;
use crate::storage::Storage;
use crate::types::{PeerId, ReadId};

impl<S: Storage> Raft<S> {
    /// Whether reads trust leases, and we follow rules under which they may.
    pub(crate) fn trusts_leases(&self) -> bool {
        self.config.read_policy == ReadPolicy::Lease && !self.etcd()
    }

    /// Whether nobody else can have been elected until now.
    pub(crate) fn holds_lease(&self) -> bool {
        self.trusts_leases() && !self.lease_broken && self.now < self.lease_until
    }

    /// A round of heartbeats begins.
    pub(crate) fn renew_lease(&mut self) {
        if self.trusts_leases() && !self.lease_broken {
            self.wait_for_quorum(ReadRequest { from: PeerId::ZERO, id: ReadId::ZERO });
        }
    }

    /// A quorum has confirmed what was asked for then.
    pub(crate) fn extend_lease(&mut self, asked: u64) {
        let election = u64::from(self.config.election_ticks);
        // A tick that we count may have been about to come when we asked, and clocks drift: a tenth of the timeout.
        let ticks = election - 1 - election / 10;
        self.lease_until = self.lease_until.max(mutant!("lease-from-the-answer", self.now, asked) + ticks);
    }

    /// Whether we may have given a lease before we started, and forgotten it.
    pub(crate) fn may_have_given_lease(&self) -> bool {
        let lately = mutant!("lease-forgotten", false, self.now < u64::from(self.config.election_ticks));
        self.trusts_leases() && lately
    }
}
