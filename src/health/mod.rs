//! Deciding from the nodes' pulses who is alive, suspect or dead.
