//! Seeded mistakes in the core, each of which the fuzz of clusters must find: if one lives on, the promises lack one.
//!
//! `raft/mutants.sh` builds and runs this; with `--write` it also writes the table `raft/tests/MUTANTS.md`. It prints how
//! each was found and after how many seeds, and fails if one was not; `RINGRAFT_MUTANT=two-votes` tries that one alone.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::time::Instant;

use ringraft_raft::mutant;

use super::world::Spice;
use super::{number, run};

/// Name, and what is wrong.
const MUTANTS: &[(&str, &str)] = &[
    // Elections.
    ("two-votes", "a member votes for whoever asks, as often as asked"),
    ("vote-dropped-with-the-role", "a change of role forgets the vote of the same term"),
    ("vote-not-written", "a vote alone is not worth a write"),
    ("term-not-written", "a newer term alone is not worth a write"),
    ("vote-forgotten", "a restart forgets the vote"),
    ("term-forgotten", "a restart takes the term of the last entry for its own"),
    ("vote-before-sync", "a vote leaves before it is durable"),
    ("asks-before-sync", "a candidate asks before its term and log are durable"),
    ("own-vote-at-once", "a candidate counts its own vote before it is durable"),
    ("newer-by-term-alone", "votes look at the last term only, not at the length of the log"),
    ("newer-by-index-alone", "votes look at the length of the log only, not at the last term"),
    ("half-is-a-majority", "of an even number of voters, half is enough"),
    ("elected-by-one-half", "an election in a joint membership needs only its incoming half"),
    ("learners-elect", "votes of learners count"),
    ("learner-stands", "a learner stands for election by itself"),
    ("stands-in-for-nobody", "who has lost its vote does not stand in for voters that count on it"),
    ("stands-before-applying", "a member stands for election though a committed change of voters is not applied"),
    ("votes-within-a-lease", "a vote is given though the leader was heard of lately"),
    ("pre-vote-moves-terms", "a question whether one would vote moves the term"),
    ("old-terms-count", "answers and appends of older terms are taken for ones of this term"),
    ("deaf-to-leaders", "hearing the leader does not put off the next election"),
    ("no-heartbeats", "a leader sends no heartbeats"),
    ("deaf-leader-stays", "a leader that hears of no quorum goes on"),
    ("leads-without-a-disk", "a leader whose disk hangs does not hand over"),
    ("hand-over-unseen", "the target of a hand-over is told before it has everything"),
    // Replication.
    ("append-to-anything", "an append is taken without a look at the term of the entry before"),
    ("conflict-kept", "entries that conflict with the leader's are kept"),
    ("always-replaced", "an append replaces everything after it, also what matches"),
    ("ack-own-tail", "a short append vouches for a longer tail"),
    ("ack-before-sync", "an acknowledgement leaves before its entries are durable"),
    ("ack-before-its-term", "an acknowledgement leaves before its term is durable"),
    ("first-ack-says-all", "of several acknowledgements the first is kept, not the highest"),
    ("leader-counts-before-sync", "the leader counts its own entries before they are durable"),
    ("match-goes-back", "a late acknowledgement moves the match back"),
    ("match-what-was-sent", "an acknowledgement counts for all that was sent"),
    ("window-ignored", "appends leave beyond the window"),
    ("tail-without-limit", "proposals are taken beyond the limit of uncommitted bytes"),
    ("replaced-entries-not-written", "what replaces entries that are being written is not written"),
    ("sync-of-another-entry", "a write counts for an entry of another term at the same index"),
    ("sync-of-another-term", "a write counts that was asked for in an older term (A-B-A)"),
    ("snapshot-over-newer-log", "a snapshot is installed over a log that has committed more"),
    ("lost-tail-not-resent", "a leader takes the word of a member that lost its tail for an old one"),
    // Commits.
    ("commit-one-too-many", "one entry more than a quorum has is committed"),
    ("commit-of-an-older-term", "entries of older terms are committed by counting"),
    ("commit-by-one-half", "a commit in a joint membership needs only its incoming half"),
    ("learners-count-for-commits", "what learners have counts"),
    ("removed-leader-commits-alone", "a leader without a vote commits what it has itself"),
    ("commit-own-tail", "a follower commits beyond what an append names"),
    ("heartbeat-commits-unseen", "a heartbeat commits more than its receiver has acknowledged"),
    ("commit-goes-back", "the commit index follows the leader's down as well"),
    ("apply-before-sync", "entries are applied that are not durable here"),
    ("apply-without-limit", "entries are handed out beyond the limit of what may wait to be applied"),
    // Memberships.
    ("two-changes", "a change of membership is proposed while another is pending"),
    ("inherited-changes-forgotten", "a new leader does not mind changes that it inherited"),
    ("change-at-append", "a change of membership takes effect when it is appended"),
    ("many-voters-at-once", "any number of voters changes without a joint membership"),
    ("joint-without-outgoing", "a joint membership has no outgoing half"),
    ("leaves-joint-twice", "the leaving of a joint membership is proposed while it is pending"),
    ("never-leaves-joint", "a joint membership is never left by itself"),
    // Reads.
    ("read-without-quorum", "a read is answered without asking anybody"),
    ("read-before-own-commit", "a read is answered before the leader has committed in its term"),
    ("any-answer-confirms-reads", "any answer to any heartbeat confirms all reads"),
    ("lone-reads-wait", "a lone voter in a joint membership waits for others to confirm its reads"),
    ("lease-from-the-answer", "a lease is counted from the answers, not from the question"),
    ("lease-outlives-hand-over", "a lease goes on after a hand-over"),
    ("lease-forgotten", "a member that starts again forgets the lease it gave"),
];

/// Head of the table.
const HEAD: &str = "\
# Mutants of the raft core

Seeded mistakes (`mutant!` in `raft/src`), and how the fuzz of clusters finds them: after how many seeds, each some 3,000
events and a calm end, in which kind of run, and what the assertion says. Written by `raft/mutants.sh --write`.

| mutant | what is wrong | seeds | run | found by |
|---|---|---|---|---|
";

/// Kinds of runs in turn; changes of membership come up most, for most can go wrong there.
const SPICES: [Spice; 8] = [
    Spice::Nothing,
    Spice::ConfChanges,
    Spice::Losses,
    Spice::ConfChanges,
    Spice::Stalls,
    Spice::Leases,
    Spice::ConfChanges,
    Spice::Etcd,
];

/// Runs before a mutant counts as not found.
const SEEDS_MAX: u64 = 6000;

/// Letters kept of what a failing assertion says.
const SAID_MAX: usize = 90;

thread_local! {
    static SAID: RefCell<String> = const { RefCell::new(String::new()) };
}

/// How a mutant was found.
struct Found {
    seeds: u64,
    spice: Spice,
    seconds: f64,
    said: String,
}

fn hunt(name: &str) -> Result<Found, String> {
    let begin = Instant::now();
    let mut reached = 0;
    for seed in 0..number("RINGRAFT_MUTANT_SEEDS").unwrap_or(SEEDS_MAX) {
        let spice = SPICES[usize::try_from(seed).unwrap() % SPICES.len()];
        mutant::switch_on(name);
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| run(90_000 + seed, spice, 3000)));
        reached += u64::from(mutant::is_reached());
        if result.is_err() {
            let said = SAID.take();
            return Ok(Found { seeds: seed + 1, spice, seconds: begin.elapsed().as_secs_f64(), said });
        }
    }
    Err(format!("{name} lives on after all seeds, {reached} of which came by it"))
}

/// Names of the mutants in the sources.
fn names_in_sources() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = std::fs::read_dir(folder).unwrap().map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
    let mut names: Vec<String> = files
        .flat_map(|text| text.split("mutant!(").skip(1).map(String::from).collect::<Vec<_>>())
        .filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next().map(String::from))
        .filter(|name| name != "name")
        .collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn mutants_are_found() {
    let mut listed: Vec<_> = MUTANTS.iter().map(|(name, _)| (*name).to_string()).collect();
    listed.sort();
    assert_eq!(listed, names_in_sources(), "every mutant in the sources is listed, and no other");
    std::panic::set_hook(Box::new(|info| {
        let text = info.payload_as_str().unwrap_or("a panic").lines().next().unwrap_or_default();
        let text = text.strip_prefix("assertion `left == right` failed: ").unwrap_or(text);
        SAID.set(text.chars().take(SAID_MAX).collect());
    }));
    let only = std::env::var("RINGRAFT_MUTANT").ok();
    let mut table = String::from(HEAD);
    let (mut missed, begin) = (Vec::new(), Instant::now());
    for (name, wrong) in MUTANTS.iter().filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name)) {
        match hunt(name) {
            Ok(Found { seeds, spice, seconds, said }) => {
                println!("{name:32} {seeds:5} seeds {seconds:6.2} s  {spice:?}: {said}");
                let said = said.replace('|', "\\|");
                writeln!(table, "| `{name}` | {wrong} | {seeds} | {spice:?} | {said} |").unwrap();
            }
            Err(why) => {
                println!("{why}");
                missed.push(why);
            }
        }
    }
    mutant::switch_on("");
    drop(std::panic::take_hook());
    println!("{} mutants, {} not found, {:.0} s", MUTANTS.len(), missed.len(), begin.elapsed().as_secs_f64());
    if let Some(path) = std::env::var_os("RINGRAFT_MUTANTS_TABLE") {
        std::fs::write(path, table).unwrap();
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}
