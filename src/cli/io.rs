//! `--io`: which world this machine gives us.

use std::str::FromStr;

use ringraft_io::{IoChoice, IoKind, WorldConfig};

use super::Failure;

/// The flag of the commands that read no configuration file.
#[derive(clap::Args, Debug)]
pub(crate) struct IoFlag {
    /// How to talk to disk and network: 'uring' with io_uring, 'portable' without, 'auto' with io_uring where it is
    /// permitted, else without, after a warning that says why.
    #[arg(
        long,
        value_name = "auto|uring|portable",
        env = "RINGRAFT_IO",
        default_value_t,
        value_parser = IoChoice::from_str
    )]
    io: IoChoice,
}

impl IoFlag {
    /// As [`settle`].
    pub(crate) fn settle(&self, shards: u16) -> Result<IoKind, Failure> {
        settle(self.io, shards)
    }
}

/// Finds out for a process with so many shards; says so, in one line, if it is not what was hoped for.
pub(crate) fn settle(choice: IoChoice, shards: u16) -> Result<IoKind, Failure> {
    let settled = choice.settle(&WorldConfig::new(shards))?;
    if let Some(refusal) = settled.refusal {
        eprintln!("ringraft: warning: {refusal}; until then it goes without (--io portable does so without a warning)");
    }
    if let Some(capabilities) = settled.capabilities.filter(|it| it.lacks_something()) {
        eprintln!("ringraft: this kernel's io_uring lacks: {capabilities}");
    }
    Ok(settled.kind)
}
