//! Whole transports against a scripted world.
