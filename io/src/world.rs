//! Which of the worlds on the real machine a process runs in: asked for, or found out.

use std::fmt;
use std::str::FromStr;

use crate::portable::{PortableSeed, PortableWorld};
use crate::uring::{self, Capabilities, UringSeed, UringWorld};
use crate::{HostWorld, ShardNo, WorldConfig, WorldError};

/// Which world is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IoChoice {
    /// io_uring where it can be had, else without.
    #[default]
    Auto,
    /// io_uring or nothing.
    Uring,
    /// Without io_uring.
    Portable,
}

/// A world on the real machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoKind {
    /// [`uring`](crate::uring).
    Uring,
    /// [`portable`](crate::portable).
    Portable,
}

/// What a choice comes to on this machine.
#[derive(Debug)]
pub struct Settled {
    /// The world to start.
    pub kind: IoKind,
    /// Why it is not io_uring although that was tried; to be told once.
    pub refusal: Option<WorldError>,
    /// What this kernel's io_uring offers, if it was tried and can be had.
    pub capabilities: Option<Capabilities>,
}

impl IoChoice {
    /// Finds out what a world like `config` can be: sets up the rings of all its shards, and takes them down again.
    ///
    /// # Errors
    /// Of [`IoChoice::Uring`], one line that names the cause and the cure; of [`IoChoice::Auto`], only what would keep
    /// the other world from starting as well, such as a lack of descriptors.
    pub fn settle(self, config: &WorldConfig) -> Result<Settled, WorldError> {
        let tried = match self {
            IoChoice::Portable => {
                return Ok(Settled { kind: IoKind::Portable, refusal: None, capabilities: None });
            }
            IoChoice::Auto | IoChoice::Uring => uring::rehearse(&config.clone().into()),
        };
        match tried {
            Ok(capabilities) => Ok(Settled { kind: IoKind::Uring, refusal: None, capabilities: Some(capabilities) }),
            Err(error) if self == IoChoice::Auto && error.is_about_rings() => {
                Ok(Settled { kind: IoKind::Portable, refusal: Some(error), capabilities: None })
            }
            Err(error) => Err(error),
        }
    }
}

impl FromStr for IoChoice {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<IoChoice, &'static str> {
        match text {
            "auto" => Ok(IoChoice::Auto),
            "uring" => Ok(IoChoice::Uring),
            "portable" => Ok(IoChoice::Portable),
            _ => Err("must be auto, uring or portable"),
        }
    }
}

impl fmt::Display for IoChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            IoChoice::Auto => "auto",
            IoChoice::Uring => "uring",
            IoChoice::Portable => "portable",
        })
    }
}

impl From<IoKind> for IoChoice {
    fn from(kind: IoKind) -> IoChoice {
        match kind {
            IoKind::Uring => IoChoice::Uring,
            IoKind::Portable => IoChoice::Portable,
        }
    }
}

impl fmt::Display for IoKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IoChoice::from(*self).fmt(f)
    }
}

/// A running world of either kind.
pub type World = HostWorld<Seed>;

/// What a shard's own thread turns into its [`Io`](crate::Io), by the `into_io` of what is inside.
#[derive(Debug)]
pub enum Seed {
    /// With io_uring.
    Uring(UringSeed),
    /// Without.
    Portable(PortableSeed),
}

impl World {
    /// Binds the listeners and starts the control thread.
    ///
    /// # Errors
    /// As [`UringWorld::start`] and [`PortableWorld::start`].
    ///
    /// # Panics
    /// If the configuration has no shards.
    pub fn start(kind: IoKind, config: WorldConfig) -> Result<World, WorldError> {
        Ok(match kind {
            IoKind::Uring => UringWorld::start(config.into())?.map(Seed::Uring),
            IoKind::Portable => PortableWorld::start(config)?.map(Seed::Portable),
        })
    }
}

impl Seed {
    /// Whose seed it is.
    #[must_use]
    pub fn shard(&self) -> ShardNo {
        match self {
            Seed::Uring(seed) => seed.shard(),
            Seed::Portable(seed) => seed.shard(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_written_as_they_are_read() {
        for choice in [IoChoice::Auto, IoChoice::Uring, IoChoice::Portable] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        assert_eq!("epoll".parse::<IoChoice>(), Err("must be auto, uring or portable"));
    }

    #[test]
    fn without_io_uring_nothing_is_tried() {
        let settled = IoChoice::Portable.settle(&WorldConfig::new(1)).expect("it always can be had");
        assert_eq!((settled.kind, settled.capabilities), (IoKind::Portable, None));
        assert!(settled.refusal.is_none());
    }
}
