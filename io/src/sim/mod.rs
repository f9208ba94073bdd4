//! `Io` on a seeded, simulated world.
