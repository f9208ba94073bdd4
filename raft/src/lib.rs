//! A sans-IO raft core: it decides, and never touches a payload.
//!
//! The core knows an entry as (index, term, kind, size). Payload bytes stay with the shell, which keeps them as runs of
//! encoded [records](record) in a log that answers the core's [`Storage`] questions; messages and [`Ready`] name ranges
//! of indexes, and the shell turns a range into bytes in the same turn.
//!
//! # The loop that drives raft
//!
//! Messages, ticks and proposals go in through [`Raft::step`], [`Raft::tick`] and [`Raft::propose`]; what is to be done
//! comes out through [`Raft::ready`], as often as the shell likes to take a turn:
//!
//! ```
//! use ringraft_raft::{Append, Index, Message, Raft, ReadState, Ready, Storage};
//!
//! trait Shell {
//!     fn send(&mut self, message: Message);                   // looks up the bytes of its range, never waits
//!     fn write(&mut self, append: &mut Append);               // begins a write, keeps ticket and after_sync beside it
//!     fn apply(&mut self, after: Index, upto: Index);         // in this order, once only
//!     fn serve(&mut self, read: ReadState);                   // once its index is applied
//!     fn give_up(&mut self, ready: &Ready);                   // tells who waits for what was lost with a role
//!     fn synced(&mut self) -> Option<Append>;                 // the oldest write, if it is durable
//! }
//!
//! fn turn(raft: &mut Raft<impl Storage>, ready: &mut Ready, shell: &mut impl Shell) {
//!     while let Some(mut append) = shell.synced() {
//!         raft.synced(append.ticket);
//!         for message in append.after_sync.hold() {           // what the write promised may leave now
//!             if message.to != raft.id() {
//!                 shell.send(message);
//!             } else if let Err(error) = raft.step(message, &[]) {
//!                 unreachable!("our own word: {error}");
//!             }
//!         }
//!     }
//!     if raft.has_ready() {
//!         raft.ready(ready);
//!         ready.messages.drain(..).for_each(|message| shell.send(message)); // beside the write, not after it
//!         ready.append.iter_mut().for_each(|append| shell.write(append));
//!         let (after, upto) = ready.committed;
//!         if after < upto {
//!             shell.apply(after, upto);
//!             raft.applied(upto);
//!         }
//!         ready.reads.drain(..).for_each(|read| shell.serve(read));
//!         shell.give_up(ready);
//!     }
//! }
//! ```
//!
//! Five rules for shells: writes become durable in the order in which they were handed out; what hangs on a write
//! leaves after it, and comes back through `step` if it is for ourselves; a range in a message is read before the next
//! step; entries that the core appends by itself are empty, and [`Raft::meta`] tells their kind; a membership change is
//! applied with [`Raft::apply_conf_change`] before `applied` says so.
//!
//! A shell with many groups need not tick every one of them: it asks [`Raft::ticks_until_due`] after a turn, puts the
//! group on a timer wheel, and before it steps anything else, or when the group is due, catches up with
//! [`Raft::advance`].
//!
//! # etcd
//!
//! Where our rules differ from those of etcd's raft, [`Config::compat`] gives etcd's, so that recordings of it replay
//! byte for byte (`tests/traces.rs`): every message when it is asked for, not merged with others; every append answered,
//! and every answer after a sync; no hand-over before a leader goes; nobody who stands in for voters that count on a vote
//! which is gone; refused changes of membership as empty entries, and those that do not fit found out when they are
//! applied; probes without entries as often as somebody asks; not a word on what a role leaves unfinished; snapshots that
//! do not name us ignored; lost tails not mended; reads of a lone voter, and under a lease, at once. What etcd logs comes
//! as [`Event`]s, if [`Raft::observe`] gave a listener; without one no event is even made.
//!
//! # Where it differs, and what shows it
//!
//! Twelve complaints that users of etcd's raft and its ports have, and what happens here, unless [`Config::compat`] says
//! otherwise. The last column names tests under `tests/`, or scripts under `testdata/`.
//!
//! | | complaint | here | where | shown by |
//! |---|---|---|---|---|
//! | 1 | A refused change of membership becomes an empty entry, and its proposer sees success. | Refused with a reason when it is proposed: one is pending, joint or not, or it does not fit the membership. | [`Raft::propose_conf_change`], [`Refused::ConfChange`] | `doors::every_reason_to_refuse`, `doors::changes_that_would_not_fit_are_refused_when_they_are_proposed` |
//! | 2 | "Proposal dropped", and nobody knows why. | A variant per reason at every door. | [`Refused`] | `doors::every_reason_to_refuse` |
//! | 3 | What a peer or a disk says ends the process: a change that cannot be applied, a commit index beyond the log, a bad hard state. | Errors; a member that lost its durable tail says where its log ends, and is sent it again. | [`StepError`], [`OpenError`], [`ConfChangeError`], [`Lost`] | `doors::what_a_member_can_start_from`, `doors::a_lost_tail_is_sent_again`, `hostile::nothing_a_peer_says_panics`, `cluster::losing_tails` |
//! | 4 | A lone voter answers reads before it has committed in its term. | It waits for its first commit, like everybody. | [`Raft::read_index`] | `alone.txt`, `joint_alone.txt` |
//! | 5 | A removed leader stays, or goes without handing over. | It hands over to the best voter, and steps down when that takes over, or after an election timeout. | [`Config::step_down_on_removal`] | `doors::a_leader_that_loses_its_vote_hands_over_first`, `cluster::changing_membership` |
//! | 6 | Probes without entries are not throttled; a full window whose answers are lost waits for a heartbeat. | One probe at a time, with or without entries, answered or until the next answered heartbeat. A full window is still tried with answered heartbeats alone: whoever answers none gets nothing more. | [`Progress::flow_paused`] | `doors::one_probe_at_a_time`, `doors::the_window` |
//! | 7 | A joint membership is left only when something is applied. | It is tried again after every election timeout, and so when a transfer that stood in the way has ended. | [`Raft::tick`] | `doors::a_joint_membership_is_left_though_nothing_is_applied` |
//! | 8 | Refusals wait for a sync, though they promise nothing. | They leave at once; so do acknowledgements of what is durable. | [`Append::after_sync`] | `doors::what_waits_for_the_sync`, `doors::acknowledgements_wait_for_their_term` |
//! | 9 | Windows are fixed for the group: nobody can say who gets how much. | A window per peer, to be set at any time, and closed. | [`Raft::set_peer_window`] | `doors::the_shell_says_how_much_a_peer_gets` |
//! | 10 | A transfer to a voter that has not applied its promotion is ignored there. | It is ignored, and told again with every heartbeat that the target answers, until the transfer's time is over. | [`Raft::transfer_leader`] | `doors::a_target_that_does_not_know_of_its_vote_yet_is_told_again`, `witness_changes.txt` |
//! | 11 | Deferred reads outlive a role, others vanish with it; nobody is told. | All are given up with the role, and told to whoever asked; so are entries that are not settled, and transfers. | [`Ready::reads_lost`], [`Ready::stepped_down`], [`Ready::transfers_ended`], [`Body::ReadIndexReject`] | `doors::what_a_leader_leaves_unfinished`, `doors::how_transfers_end`, `doors::a_read_that_is_not_taken_is_rejected_to_who_asked` |
//! | 12 | No witnesses, priorities, rest for idle groups, quorums of other sizes. | [Witnesses](witness), priorities, and groups that sleep until they are due. Heartbeats of many groups are merged by whoever sends frames. Quorums are majorities: of other sizes there are none. | [`witness`], [`Config::priority`], [`Raft::ticks_until_due`], [`Raft::shrink`] | `witness::two_and_a_witness`, `cluster::who_has_the_highest_priority_leads`, `ticks::a_member_that_sleeps_until_it_is_due_misses_nothing`, `cost::an_idle_member_of_three_takes_less_than_a_kibibyte` |

#![forbid(unsafe_code)]

mod bootstrap;
pub mod confchange;
pub mod config;
mod election;
pub mod error;
pub mod event;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod handover;
pub mod inflights;
mod lease;
mod log;
pub mod message;
#[cfg(not(ringraft_mutants))]
mod mutant;
#[cfg(ringraft_mutants)]
pub mod mutant;
mod outbox;
pub mod progress;
pub mod quorum;
mod raft;
mod read_only;
pub mod ready;
pub mod record;
mod replication;
mod status;
pub mod storage;
mod tick;
pub mod tracker;
pub mod types;
mod unstable;
pub mod witness;

pub use confchange::{ConfChange, ConfChangeError, ConfChangeOp, Transition};
pub use config::{Compat, Config, ConfigError, ELECTION_TICKS_MAX, PRIORITY_MAX, ReadPolicy};
pub use error::{OpenError, Refused, StepError};
pub use event::{Event, Observer};
pub use message::{Body, Message, Payloads};
pub use progress::{Progress, ProgressState};
pub use raft::{Lost, Proposed, Raft, Stepped};
pub use ready::{AfterSync, Append, ReadState, Ready, SteppedDown, SyncTicket, TransferEnd, TransferEnded};
pub use status::Status;
pub use storage::{Sizes, Storage, StorageError};
pub use types::{
    ConfState, EntryId, EntryKind, EntryMeta, GroupId, HardState, Index, PeerId, ReadId, Role, SoftState, Term,
};
