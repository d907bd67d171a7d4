//! A local cluster of node processes on loopback, for demos, tests and benches.
