//! `clusterctl`: asks a cluster, imports histories, and runs local clusters. Everything is in [`playhead::ctl`].

use std::process::ExitCode;
use std::sync::Arc;

use playhead::ambient::{SystemClock, random_u64};
use playhead::ctl;

/// docs/decisions/0006-mimalloc.md
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ctl::main(std::env::args_os(), Arc::new(SystemClock::new()), random_u64())
}
