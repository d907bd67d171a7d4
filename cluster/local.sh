#!/usr/bin/env bash
# A cluster of processes on this machine: builds the programs once, then `clusterctl local` does the rest.
#
#   ./cluster/local.sh demo [--for 60s]     three nodes, a history, devices, live; stops everything at the end
#   ./cluster/local.sh up [--nodes N]       start a cluster and leave it running
#   ./cluster/local.sh status|down|wipe     look at it, stop it, remove its data
#   ./cluster/local.sh kill|start|restart NAME
#   eval "$(./cluster/local.sh env)"        where it is, for clusterctl and other programs
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
programs="${CARGO_TARGET_DIR:-target}/release"
quiet=--quiet
if [ ! -x "$programs/clusterctl" ] || [ ! -x "$programs/playhead" ]; then
  echo "building the programs, once: this takes some minutes" >&2
  quiet=
fi
# What cargo says goes to standard error, so that `env` can be evaluated.
cargo build --release --locked $quiet --bins 1>&2
exec "$programs/clusterctl" local "$@"
