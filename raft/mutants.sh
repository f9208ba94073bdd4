#!/usr/bin/env bash
# Runs the fuzz of clusters against every seeded mistake of the raft core: prints each with the seeds and seconds it took
# to find it, and fails if one is not found. With --write it also writes raft/tests/MUTANTS.md.
#   raft/mutants.sh                           all of them, half a minute after the build
#   RINGRAFT_MUTANT=two-votes raft/mutants.sh one
set -euo pipefail
cd "$(dirname "$0")/.."
# A target folder of its own: the flag would have everything else built anew.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/mutants" RUSTFLAGS="--cfg ringraft_mutants" RUST_BACKTRACE=0
if [[ "${1:-}" == --write ]]; then
    export RINGRAFT_MUTANTS_TABLE="$PWD/raft/tests/MUTANTS.md"
fi
exec cargo test --quiet -p ringraft-raft --test cluster mutants -- --nocapture
