//! The client library: knows only the protocol buffers, never the node's own types.
