//! Formats of viewing histories that can be imported.
