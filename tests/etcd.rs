//! A member of ours in a cluster of real etcd servers. Skipped with a message where there is no etcd.

mod follow;
mod program;
mod relay;
mod servers;
