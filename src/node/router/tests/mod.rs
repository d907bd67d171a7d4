//! The router between real nodes, or a node and one that does as the test says.

mod accepted;
mod again;
mod modes;
mod named;
