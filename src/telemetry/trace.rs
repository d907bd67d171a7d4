//! The id under which one client's call is told in every node's log lines.
//!
//! It comes from the client's `x-request-id` metadata, or is made at the first node, and travels in forward frames. It is for
//! people: exactly-once rests on `RequestId`, not on this.

use std::fmt;

/// The metadata key in which clients may give one, and in which every answer tells it.
pub const METADATA_KEY: &str = "x-request-id";
/// The most bytes of one that a client gives; the rest is cut.
pub const TRACE_BYTES_MAX: usize = 64;

/// One call's id in log lines: up to 64 printable ASCII characters.
#[derive(Clone, Debug, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(transparent)]
pub struct TraceId(#[n(0)] Box<str>);

impl TraceId {
    /// Takes what a client gave, as far as it is printable and short; what is not is left out.
    pub fn from_client(text: &str) -> Option<Self> {
        let kept: String = text.chars().filter(char::is_ascii_graphic).take(TRACE_BYTES_MAX).collect();
        (!kept.is_empty()).then(|| Self(kept.into()))
    }

    /// One from a random number.
    pub fn from_random(number: u64) -> Self {
        Self(format!("{number:016x}").into())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_give_is_kept_printable_and_short() {
        assert_eq!(TraceId::from_client("a b\n\u{e9}c").map(|t| t.to_string()), Some("abc".to_string()));
        assert_eq!(TraceId::from_client("\n\t "), None);
        assert_eq!(TraceId::from_client(&"x".repeat(1000)).map(|t| t.as_str().len()), Some(TRACE_BYTES_MAX));
    }
}
