//! What came of it, as a table.

/// A fault, over all rounds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    pub(crate) fault: String,
    pub(crate) times: u64,
    pub(crate) acknowledged: u64,
    pub(crate) lost: u64,
    pub(crate) contradictions: u64,
    pub(crate) accepted: u64,
    pub(crate) accepted_lost: u64,
    /// The longest time without a write of any shard concerned, and the middle one of the shards, milliseconds.
    pub(crate) gap_ms: u64,
    pub(crate) gap_middle_ms: u64,
    /// Stale reads that were answered while the fault lasted, and all that were asked.
    pub(crate) stale: u64,
    pub(crate) stale_asked: u64,
    /// From the end of the fault until all is well, milliseconds: the longest.
    pub(crate) healed_ms: u64,
    pub(crate) unknown: u64,
    /// What else is to be told.
    pub(crate) note: String,
    /// Why it is not as it should be.
    pub(crate) bad: Vec<String>,
}

impl Row {
    /// Takes in another round.
    pub(crate) fn add(&mut self, other: Self) {
        self.times += other.times;
        self.acknowledged += other.acknowledged;
        self.lost += other.lost;
        self.contradictions += other.contradictions;
        self.accepted += other.accepted;
        self.accepted_lost += other.accepted_lost;
        self.gap_ms = self.gap_ms.max(other.gap_ms);
        self.gap_middle_ms = self.gap_middle_ms.max(other.gap_middle_ms);
        self.stale += other.stale;
        self.stale_asked += other.stale_asked;
        self.healed_ms = self.healed_ms.max(other.healed_ms);
        self.unknown += other.unknown;
        if !other.note.is_empty() {
            self.note = other.note;
        }
        self.bad.extend(other.bad);
    }
}

fn seconds(ms: u64) -> String {
    if ms < 1000 {
        return format!("{ms} ms");
    }
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}

const HEADS: [&str; 12] = [
    "FAULT",
    "TIMES",
    "ACKED",
    "LOST",
    "WRONG",
    "ACCEPTED",
    "LOST",
    "GAP",
    "MIDDLE",
    "STALE READS",
    "UNKNOWN",
    "HEALED",
];

pub(crate) fn print(rows: &[Row]) -> String {
    let lines = rows.iter().map(|row| {
        [
            row.fault.clone(),
            row.times.to_string(),
            row.acknowledged.to_string(),
            row.lost.to_string(),
            row.contradictions.to_string(),
            row.accepted.to_string(),
            row.accepted_lost.to_string(),
            seconds(row.gap_ms),
            seconds(row.gap_middle_ms),
            format!("{} of {}", row.stale, row.stale_asked),
            row.unknown.to_string(),
            seconds(row.healed_ms),
        ]
    });
    let all: Vec<[String; 12]> = std::iter::once(HEADS.map(String::from)).chain(lines).collect();
    let width = |column: usize| all.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..12).map(width).collect();
    let mut text = String::new();
    let notes = std::iter::once("").chain(rows.iter().map(|row| row.note.as_str()));
    for (line, note) in all.iter().zip(notes) {
        for (n, cell) in line.iter().enumerate() {
            let width = widths[n];
            text.push_str(&if n == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") });
        }
        text.push_str(&if note.is_empty() { "\n".to_string() } else { format!("  {note}\n") });
    }
    text
}
