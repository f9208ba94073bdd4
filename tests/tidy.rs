//! Keeps the arrows between the crates, and the place where `unsafe` may stand.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The names under `[dependencies]` of a manifest.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(root().join(manifest)).expect(manifest);
    let table: toml::Table = text.parse().expect(manifest);
    table["dependencies"].as_table().expect("a table").keys().cloned().collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn arrows_between_crates() {
    let ours = |manifest: &str| -> BTreeSet<String> {
        dependencies(manifest).into_iter().filter(|name| name.starts_with("ringraft")).collect()
    };
    assert_eq!(ours("io/Cargo.toml"), set(&[]));
    assert_eq!(ours("raft/Cargo.toml"), set(&[]));
    assert_eq!(ours("transport/Cargo.toml"), set(&["ringraft-io", "ringraft-raft"]));
    assert_eq!(ours("engine/Cargo.toml"), set(&["ringraft-io", "ringraft-raft"]));
    let all = set(&["ringraft-engine", "ringraft-io", "ringraft-raft", "ringraft-transport"]);
    assert_eq!(ours("Cargo.toml"), all);
}

#[test]
fn raft_needs_nothing_of_the_world() {
    assert_eq!(dependencies("raft/Cargo.toml"), set(&["bytes", "crc32fast", "thiserror"]));
    for file in sources(&root().join("raft/src")) {
        let text = fs::read_to_string(&file).expect("readable");
        for word in ["std::time", "Instant", "SystemTime", "std::thread", "std::net", "std::fs", "println!", "rand::"] {
            assert!(!text.contains(word), "{} says {word}: the core has no clock, IO, threads or dice", file.display());
        }
    }
}

#[test]
fn the_kernel_is_behind_the_seam() {
    for manifest in ["Cargo.toml", "raft/Cargo.toml", "transport/Cargo.toml", "engine/Cargo.toml"] {
        for name in ["io-uring", "tokio-uring", "memmap2", "rustix", "socket2", "tokio"] {
            assert!(!dependencies(manifest).contains(name), "{manifest} depends on {name}: only io may");
        }
    }
}

#[test]
fn unsafe_stands_in_one_place() {
    let allowed = root().join("io/src/uring");
    for dir in ["src", "io/src", "raft/src", "transport/src", "engine/src"] {
        for file in sources(&root().join(dir)).into_iter().filter(|file| !file.starts_with(&allowed)) {
            let text = fs::read_to_string(&file).expect("readable");
            for (number, line) in (1..).zip(text.lines()) {
                let code = line.split("//").next().unwrap_or_default();
                let found = code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe");
                assert!(!found, "{}:{number}: unsafe stands in io/src/uring only", file.display());
            }
        }
    }
    for lib in ["src/lib.rs", "src/main.rs", "raft/src/lib.rs", "transport/src/lib.rs", "engine/src/lib.rs"] {
        let text = fs::read_to_string(root().join(lib)).expect("readable");
        assert!(text.contains("#![forbid(unsafe_code)]"), "{lib} must forbid unsafe code");
    }
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
    assert!(!found.is_empty(), "{} has no sources", dir.display());
    found
}
