//! `ringraft etcd-follow`

use std::io::{BufWriter, ErrorKind, IsTerminal, StdoutLock, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use ringraft_raft::{Index, Role};
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::Failure;
use super::io::IoFlag;
use crate::config::units::parse_duration;
use crate::etcd_follow::members::address_of;
use crate::etcd_follow::{Config, Follower, Output, Status, show};

/// Follow a real etcd cluster as one of its members, and print its log.
///
/// The cluster must know the member first. With etcd's own tools, on any machine:
///
///   etcdctl member add NAME --learner --peer-urls=http://HOST:PORT
///
/// and then here, with the same URL:
///
///   ringraft etcd-follow --peer http://ETCD:2380 --advertise http://HOST:PORT --data-dir DIR
///
/// A learner gets the whole log but has no vote. `etcdctl member promote ID` gives it one: from
/// then on the cluster counts on this program's disk. `etcdctl member remove ID` takes it out.
#[derive(clap::Args, Debug)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// Peer URL of a member of the cluster, such as http://10.0.0.1:2380. Several may be given; the first that answers
    /// tells who the others are.
    #[arg(long = "peer", value_name = "URL", required = true)]
    peers: Vec<String>,

    /// Where the members reach this one: the URL with which it was added.
    #[arg(long, value_name = "URL")]
    advertise: String,

    /// Where to listen, if it is not the address in --advertise.
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,

    /// Where the log is kept; made if it is missing. One member, one directory.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,

    /// The member's name in the cluster.
    #[arg(long, default_value = "ringraft")]
    name: String,

    /// Print entries from this index on. The log is kept from its beginning, whatever is printed.
    #[arg(long, value_name = "INDEX", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    from: u64,

    /// End when the entry with this index is printed.
    #[arg(long, value_name = "INDEX", conflicts_with = "once")]
    until: Option<u64>,

    /// End when everything is printed that was committed when the cluster was first reached: an export.
    #[arg(long)]
    once: bool,

    /// Print a line of JSON for each entry: index, term, type, and what it says. Keys and values are strings, or in hex
    /// under key_hex and value_hex if they are not UTF-8.
    #[arg(long)]
    json: bool,

    /// With --json: also the whole payload in hex, under data.
    #[arg(long, requires = "json")]
    raw: bool,

    /// Print no entries.
    #[arg(long, conflicts_with_all = ["json", "raw"])]
    silent: bool,

    /// etcd's --heartbeat-interval of the cluster. An election takes ten of them.
    #[arg(long, value_name = "TIME", default_value = "100ms")]
    heartbeat: String,

    /// etcd's --experimental-max-learners of the cluster.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    max_learners: usize,

    #[command(flatten)]
    io: IoFlag,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let tick = parse_duration(&arguments.heartbeat);
    let tick = tick.map_err(|error| format!("--heartbeat {}: {error}", arguments.heartbeat))?;
    if tick < Duration::from_millis(10) {
        return Err(format!("--heartbeat {}: must be at least 10ms", arguments.heartbeat).into());
    }
    let advertised = address_of(&arguments.advertise).map_err(|why| format!("--advertise {why}"))?;
    for peer in &arguments.peers {
        address_of(peer).map_err(|why| format!("--peer {why}"))?;
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    let follower = Follower::start(&Config {
        peers: arguments.peers.clone(),
        advertise: arguments.advertise.clone(),
        listen: resolve(arguments.listen.as_deref().unwrap_or(&advertised))?,
        data_dir: arguments.data_dir.clone(),
        name: arguments.name.clone(),
        after: Index(arguments.from - 1),
        tick,
        learners_max: arguments.max_learners,
        io: arguments.io.settle(1)?,
    })?;
    let mut printer = Printer::new(arguments);
    match follow(arguments, follower, &mut printer, &stop) {
        // Whoever read it has gone away: no failure of ours.
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error),
        Ok(()) => Ok(ExitCode::SUCCESS),
    }
}

/// How long the follower is waited for before progress is shown and signals are looked at.
const WAIT: Duration = Duration::from_millis(100);

fn follow(
    arguments: &Arguments,
    mut follower: Follower,
    printer: &mut Printer,
    stop: &AtomicBool,
) -> Result<(), Failure> {
    let mut last = Index(arguments.from - 1);
    while !stop.load(Ordering::Relaxed) {
        let end = match arguments.once {
            true => follower.status().frontier,
            false => arguments.until.map(Index),
        };
        if end.is_some_and(|end| last >= end) {
            break;
        }
        // What is there is printed at once; only then is it worth a flush.
        let output = match follower.next(Duration::ZERO)? {
            Some(output) => Some(output),
            None => {
                printer.flush()?;
                follower.next(WAIT)?
            }
        };
        if let Some(output) = output {
            last = match &output {
                Output::Entry(entry) => entry.id.index,
                Output::Snapshot { at, .. } => at.index,
            };
            printer.print(&output)?;
        }
        printer.progress(&follower, last);
    }
    printer.flush()?;
    Ok(())
}

fn resolve(address: &str) -> Result<SocketAddr, Failure> {
    let mut found = address.to_socket_addrs().map_err(|error| format!("--listen {address}: {error}"))?;
    Ok(found.next().ok_or_else(|| format!("--listen {address}: no such host; give an address of this machine"))?)
}

fn is_broken_pipe(error: &Failure) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// Entries go to standard output; how it goes, to standard error.
struct Printer {
    out: BufWriter<StdoutLock<'static>>,
    json: bool,
    raw: bool,
    silent: bool,
    bar: Option<ProgressBar>,
    shown: Instant,
    /// What was said last of where the member stands.
    stands: String,
}

impl Printer {
    fn new(arguments: &Arguments) -> Printer {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(ProgressStyle::with_template("{spinner} {msg}").expect("a sound template"));
            bar
        });
        Printer {
            out: BufWriter::new(std::io::stdout().lock()),
            json: arguments.json,
            raw: arguments.raw,
            silent: arguments.silent,
            bar,
            shown: Instant::now(),
            stands: String::new(),
        }
    }

    fn print(&mut self, output: &Output) -> std::io::Result<()> {
        if self.silent {
            return Ok(());
        }
        let line = match output {
            Output::Entry(entry) if self.json => show::json(entry, self.raw),
            Output::Entry(entry) => show::text(entry),
            Output::Snapshot { at, database } if self.json => {
                json!({"index": at.index.0, "term": at.term.0, "type": "snapshot", "database": database}).to_string()
            }
            Output::Snapshot { at, database } => {
                format!("{} {} snapshot database={}", at.index, at.term, database.display())
            }
        };
        writeln!(self.out, "{line}")
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }

    /// Says what is new, on a terminal also how far it is.
    fn progress(&mut self, follower: &Follower, last: Index) {
        if self.shown.elapsed() < WAIT {
            return;
        }
        self.shown = Instant::now();
        for notice in follower.notices() {
            self.say(&notice);
        }
        let status = follower.status();
        let stands = stands(&status);
        if stands != self.stands {
            self.say(&stands);
            self.stands = stands;
        }
        if let Some(bar) = &self.bar {
            bar.set_message(format!(
                "entry {last} of {}, {} streams, log durable up to {}",
                status.commit,
                status.streams.len(),
                status.durable
            ));
            bar.tick();
        }
    }

    fn say(&mut self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            // Nobody may be there to read it.
            None => drop(writeln!(std::io::stderr(), "{line}")),
        }
    }
}

/// Who and what the member is.
fn stands(status: &Status) -> String {
    let what = match (status.is_member, status.is_voter, status.role) {
        (_, _, Role::Leader) => "the leader, for a moment",
        (true, true, _) => "a voter",
        (true, false, _) => "a learner",
        (false, ..) => "not yet a member, as far as its log goes",
    };
    let leader = status.leader.map_or("no leader".to_owned(), |leader| format!("leader {:x}", leader.0));
    format!("member {:x} of cluster {:x}: {what}; term {}, {leader}", status.id, status.cluster, status.term)
}
