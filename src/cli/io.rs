//! `--io`: which world this machine gives us.

use ringraft_io::{IoChoice, IoKind, WorldConfig};

use super::Failure;

/// Finds out for a process with so many shards; says so, once, if it is not what was hoped for.
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
