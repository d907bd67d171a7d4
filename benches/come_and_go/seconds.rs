//! How long reports took, second by second, beside the processor time that each node used meanwhile.

use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use playhead::device::Stats;
use tokio::task::JoinHandle;

use crate::support::process;

const SECOND: Duration = Duration::from_secs(1);

/// Takes how long reports took once a second.
pub(crate) struct Seconds {
    past: Arc<Mutex<Vec<Second>>>,
    stats: Arc<Stats>,
    pids: Arc<Mutex<Vec<i32>>>,
    task: JoinHandle<()>,
}

struct Second {
    took: Histogram<u64>,
    /// Of each process since it began, milliseconds.
    processor: Vec<u64>,
}

impl Seconds {
    /// From now on, beside these processes.
    pub(crate) fn begin(stats: Arc<Stats>, pids: Vec<i32>) -> Self {
        let _ = stats.take_latencies();
        let past = Arc::new(Mutex::new(vec![second(&stats, &pids)]));
        let pids = Arc::new(Mutex::new(pids));
        let task = tokio::spawn({
            let (stats, past, pids) = (stats.clone(), past.clone(), pids.clone());
            async move {
                loop {
                    tokio::time::sleep(SECOND).await;
                    let now = second(&stats, &pids.lock());
                    past.lock().push(now);
                }
            }
        });
        Self { past, stats, pids, task }
    }

    /// Beside these processes from now on.
    pub(crate) fn beside(&self, pids: Vec<i32>) {
        *self.pids.lock() = pids;
    }

    /// All together; with `print`, a line for each second.
    pub(crate) fn end(self, print: bool) -> Histogram<u64> {
        self.task.abort();
        let mut past = self.past.lock();
        past.push(second(&self.stats, &self.pids.lock()));
        let mut all = past[0].took.clone();
        for (number, pair) in past.windows(2).enumerate() {
            let Second { took, processor } = &pair[1];
            all.add(took).unwrap_or_else(|error| unreachable!("all have the same bounds: {error}"));
            let ms = |q| took.value_at_quantile(q) as f64 / 1e3;
            let used: Vec<u64> =
                processor.iter().zip(&pair[0].processor).map(|(now, then)| now.saturating_sub(*then)).collect();
            if print {
                let (count, p50, p99, most) = (took.len(), ms(0.5), ms(0.99), ms(1.0));
                println!(
                    "  {number:>3} s {count:>5} reports, p50 {p50:>8.2} p99 {p99:>8.2} most {most:>8.2} ms; processor ms {used:?}"
                );
            }
        }
        all
    }
}

fn second(stats: &Stats, pids: &[i32]) -> Second {
    Second { took: stats.take_latencies(), processor: pids.iter().map(|pid| process::cpu_us(*pid) / 1000).collect() }
}
