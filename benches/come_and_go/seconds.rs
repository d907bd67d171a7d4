//! How long reports took, second by second, beside the processor time that each node used meanwhile, and what the machine had left.

use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use playhead::device::Stats;
use tokio::task::JoinHandle;

use crate::disk::Disk;
use crate::support::process;

const SECOND: Duration = Duration::from_secs(1);

/// Per cent of a second's processor time up to which it still counts as the nodes' own.
const STOLEN_MAX: u64 = 5;

/// What some seconds have come to.
pub(crate) struct Took {
    /// How long reports took.
    pub(crate) reports: Histogram<u64>,
    /// Of the seconds in which, and before which, other machines had next to nothing of the processors' time.
    pub(crate) own: Histogram<u64>,
    /// How many such seconds there were, and how many at all.
    pub(crate) own_seconds: (usize, usize),
    /// How long the machine's disk took to sync.
    pub(crate) syncs: Histogram<u64>,
}

/// Takes how long reports took once a second.
pub(crate) struct Seconds {
    past: Arc<Mutex<Vec<Second>>>,
    stats: Arc<Stats>,
    disk: Arc<Disk>,
    pids: Arc<Mutex<Vec<i32>>>,
    task: JoinHandle<()>,
}

struct Second {
    took: Histogram<u64>,
    /// Syncs of the machine's disk.
    disk: Histogram<u64>,
    /// Of each process since it began, milliseconds.
    processor: Vec<u64>,
    machine: Machine,
}

/// Time of all processors since the machine began, in ticks.
#[derive(Clone, Copy, Default)]
struct Machine {
    idle: u64,
    /// Another machine had the processor.
    stolen: u64,
    all: u64,
}

impl Machine {
    fn now() -> Self {
        let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        // user nice system idle iowait irq softirq steal: proc_stat(5).
        let fields: Vec<u64> =
            stat.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8).flat_map(str::parse).collect();
        match fields[..] {
            [.., idle, wait, _, _, stolen] => Self { idle: idle + wait, stolen, all: fields.iter().sum() },
            _ => Self::default(),
        }
    }

    /// Per cent of the time since then that nobody used, and that others took, each rounded up.
    fn since(self, then: Self) -> (u64, u64) {
        let all = self.all.saturating_sub(then.all).max(1);
        let of = |now: u64, then: u64| (now.saturating_sub(then) * 100).div_ceil(all);
        (of(self.idle, then.idle), of(self.stolen, then.stolen))
    }
}

impl Seconds {
    /// From now on, beside these processes.
    pub(crate) fn begin(stats: Arc<Stats>, disk: &Arc<Disk>, pids: Vec<i32>) -> Self {
        let (_, _) = (stats.take_latencies(), disk.take());
        let disk = disk.clone();
        let past = Arc::new(Mutex::new(vec![second(&stats, &disk, &pids)]));
        let pids = Arc::new(Mutex::new(pids));
        let task = tokio::spawn({
            let (stats, disk, past, pids) = (stats.clone(), disk.clone(), past.clone(), pids.clone());
            async move {
                loop {
                    tokio::time::sleep(SECOND).await;
                    let now = second(&stats, &disk, &pids.lock());
                    past.lock().push(now);
                }
            }
        });
        Self { past, stats, disk, pids, task }
    }

    /// Beside these processes from now on.
    pub(crate) fn beside(&self, pids: Vec<i32>) {
        *self.pids.lock() = pids;
    }

    /// All together; with `print`, a line for each second.
    pub(crate) fn end(self, print: bool) -> Took {
        self.task.abort();
        let mut past = self.past.lock();
        past.push(second(&self.stats, &self.disk, &self.pids.lock()));
        let mut own = past[0].took.clone();
        own.reset();
        let (reports, syncs) = (past[0].took.clone(), past[0].disk.clone());
        let mut all = Took { reports, own, own_seconds: (0, past.len() - 1), syncs };
        // What was due in a second that others took comes late in the next.
        let mut stolen_before = 0;
        for (number, pair) in past.windows(2).enumerate() {
            let Second { took, disk, processor, machine } = &pair[1];
            let (idle, stolen) = machine.since(pair[0].machine);
            let mut added = all.reports.add(took).and_then(|()| all.syncs.add(disk));
            if stolen.max(stolen_before) <= STOLEN_MAX {
                added = added.and_then(|()| all.own.add(took));
                all.own_seconds.0 += 1;
            }
            stolen_before = stolen;
            added.unwrap_or_else(|error| unreachable!("all have the same bounds: {error}"));
            let ms = |q| took.value_at_quantile(q) as f64 / 1e3;
            let used: Vec<u64> =
                processor.iter().zip(&pair[0].processor).map(|(now, then)| now.saturating_sub(*then)).collect();
            if print {
                let (count, p50, p99, most) = (took.len(), ms(0.5), ms(0.99), ms(1.0));
                let sync = disk.max() as f64 / 1e3;
                println!(
                    "  {number:>3} s {count:>5} reports, p50 {p50:>8.2} p99 {p99:>8.2} most {most:>8.2} ms; sync {sync:>6.1} ms, idle {idle:>2} % stolen {stolen:>2} %, nodes' ms {used:?}"
                );
            }
        }
        all
    }
}

fn second(stats: &Stats, disk: &Disk, pids: &[i32]) -> Second {
    let processor = pids.iter().map(|pid| process::cpu_us(*pid) / 1000).collect();
    Second { took: stats.take_latencies(), disk: disk.take(), processor, machine: Machine::now() }
}
