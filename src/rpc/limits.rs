//! What the services take, and for how long they work on it.

use std::time::Duration;

/// The bounds of the services.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a call may take whose caller doesn't say. Default: 5 s.
    pub deadline: Duration,
    /// How long a call may take at most. Default: 30 s.
    pub deadline_max: Duration,
    /// Single calls at work at a time on a listener, counted from before their bodies are read; more are refused with OVERLOADED, and
    /// the last of them are kept for what is more important. Default: 4,096.
    pub calls: usize,
    /// Messages of one progress stream at work at a time; then the stream is not read. Default: 32.
    pub stream_messages: usize,
    /// Reports of all progress streams at work at a time; messages beyond are refused with OVERLOADED. Default: 200,000.
    pub stream_reports: usize,
    /// How long a message of a progress stream may take: then its answer tells of each report what is known, so that reports
    /// of a shard without a leader hold up the others no longer than this. Default: 1 s.
    pub stream_deadline: Duration,
    /// Progress streams open at a time. Default: 1,024.
    pub streams: usize,
    /// HTTP/2 streams of one connection at a time. Default: 1,024.
    pub connection_streams: u32,
    /// Bytes of one message, either way. Default: 4 MiB, which is what clients take as a rule.
    pub message_bytes: usize,
    /// How long stopping waits for what is at work. Default: 5 s.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(5),
            deadline_max: Duration::from_secs(30),
            calls: 4_096,
            stream_messages: 32,
            stream_reports: 200_000,
            stream_deadline: Duration::from_secs(1),
            streams: 1_024,
            connection_streams: 1_024,
            message_bytes: crate::proto::MESSAGE_BYTES_MAX,
            grace: Duration::from_secs(5),
        }
    }
}

/// How much of its time a call leaves for its answer to travel.
const MARGIN_MAX: Duration = Duration::from_millis(100);

impl Limits {
    /// How long to work on a call: what the caller's `grpc-timeout` says, less a twentieth (at most 100 ms) for the answer's
    /// way back.
    pub(super) fn timeout(&self, metadata: &tonic::metadata::MetadataMap) -> Duration {
        let asked = metadata.get("grpc-timeout").and_then(|v| v.to_str().ok()).and_then(parse_timeout);
        let whole = asked.unwrap_or(self.deadline).min(self.deadline_max);
        whole.saturating_sub((whole / 20).min(MARGIN_MAX))
    }
}

/// `grpc-timeout`: at most 8 digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3_600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeout(text: &str) -> Duration {
        let mut metadata = tonic::metadata::MetadataMap::new();
        metadata.insert("grpc-timeout", text.parse().unwrap());
        Limits::default().timeout(&metadata)
    }

    #[test]
    fn a_call_ends_a_little_before_its_caller_gives_up() {
        assert_eq!(timeout("1S"), Duration::from_millis(950));
        assert_eq!(timeout("200m"), Duration::from_millis(190));
        assert_eq!(timeout("9H"), Duration::from_millis(29_900));
        for nonsense in ["", "S", "-1S", "1", "123456789S", "1x", "é"] {
            assert_eq!(parse_timeout(nonsense), None, "{nonsense}");
        }
    }
}
