//! `ringraft bench`

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::local::LocalCluster;
use super::{Failure, print};
use crate::bench::cluster::RunDir;
use crate::bench::{self, BenchConfig, VALUE_SIZE_MIN};
use crate::config::units::parse_duration;
use crate::protocol::VALUE_SIZE_MAX;

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// Client addresses of a running cluster to load, separated by commas. Without it, three nodes are started on this
    /// machine, as processes of their own, with their data in a directory made here and removed at the end: the result
    /// depends on the disk under the current directory.
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',')]
    endpoints: Vec<String>,

    /// Closed-loop clients: each has one request outstanding.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    clients: u32,

    /// Connections that the clients share.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    conns: u32,

    /// Bytes of a value, at least 8.
    #[arg(long, default_value_t = 256)]
    value_size: u32,

    /// How long to write, such as 10s.
    #[arg(long, default_value = "10s")]
    duration: String,

    /// Keys in all, divided among the clients and written round and round.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    keys: u64,

    /// Whom to load: the leader (of a cluster with one group), or all nodes in turn, where followers forward.
    #[arg(long, default_value = "leader", value_parser = ["leader", "all"])]
    target: String,

    /// Write the result as JSON to FILE ("-": to standard output instead of the text).
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    #[command(flatten, next_help_heading = "The cluster that is started without --endpoints")]
    cluster: LocalCluster,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let value_size = usize::try_from(arguments.value_size)?;
    if !(VALUE_SIZE_MIN..=VALUE_SIZE_MAX).contains(&value_size) {
        return Err(format!("--value-size {value_size}: must be {VALUE_SIZE_MIN} to {VALUE_SIZE_MAX}").into());
    }
    let duration =
        parse_duration(&arguments.duration).map_err(|error| format!("--duration {}: {error}", arguments.duration))?;
    if duration < Duration::from_millis(100) {
        return Err(format!("--duration {}: must be at least 100ms", arguments.duration).into());
    }
    // The directory outlives the processes: fields and locals are dropped in reverse order.
    let (run_dir, cluster, io);
    let endpoints = if arguments.endpoints.is_empty() {
        io = arguments.cluster.io()?;
        run_dir = RunDir::create(&std::env::current_dir()?, &format!("ringraft-bench-{}", std::process::id()))?;
        super::dev::end_with_signal(run_dir.path().to_owned())?;
        cluster = arguments.cluster.start(run_dir.path(), io)?;
        cluster.endpoints()
    } else {
        io = arguments.cluster.io_of_load()?;
        arguments.endpoints.clone()
    };
    let report = bench::run(&BenchConfig {
        endpoints,
        clients: usize::try_from(arguments.clients)?,
        connections: usize::try_from(arguments.conns)?,
        value_size,
        duration,
        keys: arguments.keys,
        io,
        target_leader: arguments.target == "leader",
    })?;
    let json = serde_json::to_string(&report)?;
    match &arguments.json {
        Some(file) if file.as_os_str() == "-" => print(format!("{json}\n"))?,
        Some(file) => {
            std::fs::write(file, format!("{json}\n")).map_err(|error| format!("--json {}: {error}", file.display()))?;
            print(format!("{report}\n"))?;
        }
        None => print(format!("{report}\n"))?,
    }
    if report.lost > 0 {
        return Err(format!("{} acknowledged writes are lost", report.lost).into());
    }
    Ok(ExitCode::SUCCESS)
}
