//! `ringraft dev`

use std::path::PathBuf;
use std::process::ExitCode;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::local::LocalCluster;
use super::{Failure, print};
use crate::bench::cluster::RunDir;

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    #[command(flatten)]
    cluster: LocalCluster,

    /// Keep the data here (created if missing). Without it, a directory made in the current one and removed at the end.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let io = arguments.cluster.io()?;
    let temporary = match &arguments.dir {
        Some(dir) => {
            std::fs::create_dir_all(dir).map_err(|error| format!("--dir {}: {error}", dir.display()))?;
            None
        }
        None => Some(RunDir::create(&std::env::current_dir()?, &format!("ringraft-dev-{}", std::process::id()))?),
    };
    let dir = temporary.as_ref().map_or_else(|| arguments.dir.clone().unwrap_or_default(), |dir| dir.path().to_owned());
    let cluster = arguments.cluster.start(&dir, io)?;
    let endpoints = cluster.endpoints().join(",");
    print(format!(
        "{} nodes, data in {}\nendpoints {endpoints}\ntry: ringraft put --endpoints {endpoints} hello world\n",
        arguments.cluster.nodes,
        dir.display()
    ))?;
    // Runs until interrupted; the nodes and a temporary directory go with this scope.
    let _ = signals.forever().next();
    drop(cluster);
    drop(temporary);
    Ok(ExitCode::SUCCESS)
}

/// Removes `dir` and ends the process when it is interrupted; the nodes end with it.
pub(crate) fn end_with_signal(dir: PathBuf) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            // The nodes get the same signal from the terminal, or see their standard input close.
            let _ = std::fs::remove_dir_all(&dir);
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}
