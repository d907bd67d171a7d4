//! What the process tells whoever supervises it, in the words of systemd's `sd_notify`: that it serves, what it does, that it
//! stops, that it needs longer, and, where a watchdog is asked for, that it answers.
//!
//! # Contract
//!
//! Without a supervisor nothing is sent. READY=1 is said when log and store are open and all listeners are served: the node can be
//! asked then. Whether it serves clients is more (it belongs to a cluster and knows it) and told by its health.
//!
//! # Caveats
//!
//! WATCHDOG=1 says that the groups' thread and the runtime that serves calls have answered just before. It says nothing of the
//! disk: a log that can't write ends the process by itself.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;

use super::core::{Inner, Node};

/// While the process starts or stops, it says so often that it needs longer.
const EXTEND_EVERY: Duration = Duration::from_secs(5);
/// How much longer, each time.
const EXTEND_BY: Duration = Duration::from_secs(20);
/// A start that takes longer than this is no long replay, and nobody asks for more time for it.
const START_MAX: Duration = Duration::from_secs(3_600);
/// How often the status is told, if it has changed.
const STATUS_EVERY: Duration = Duration::from_secs(2);
/// What stopping takes beside the drain: tasks, replicas, the log.
const STOP_BESIDE: Duration = Duration::from_secs(30);

/// How long the supervisor may take to read what it is told.
const TELL_MAX: Duration = Duration::from_secs(1);

type Send = dyn Fn(&[NotifyState<'_>]) -> std::io::Result<()> + std::marker::Send + Sync;

/// Whoever started the process and wants to hear of it. Cheap to clone.
#[derive(Clone)]
pub struct Supervisor {
    /// `None`: there is none.
    send: Option<Arc<Send>>,
    /// How long it waits for a sign of life.
    watchdog: Option<Duration>,
    /// It could not be told once, and that was said.
    deaf: Arc<AtomicBool>,
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor").field("there", &self.send.is_some()).field("watchdog", &self.watchdog).finish()
    }
}

impl Supervisor {
    /// Nobody.
    pub fn none() -> Self {
        Self { send: None, watchdog: None, deaf: Arc::default() }
    }

    /// One that is told by `send`, and that wants a sign of life within every `watchdog`.
    pub fn new(
        send: impl Fn(&[NotifyState<'_>]) -> std::io::Result<()> + std::marker::Send + Sync + 'static,
        watchdog: Option<Duration>,
    ) -> Self {
        let watchdog = watchdog.filter(|every| !every.is_zero());
        Self { send: Some(Arc::new(send)), watchdog, deaf: Arc::default() }
    }

    /// One that reads at this socket; `@name` is one of Linux's abstract ones.
    pub fn at(socket: OsString, watchdog: Option<Duration>) -> Self {
        Self::new(move |states| send_to(&socket, states), watchdog)
    }

    /// A supervisor that reads slowly keeps no thread of the runtime, and one that does not read keeps nobody for long.
    async fn tell(&self, states: impl FnOnce(&dyn Fn(&[NotifyState<'_>])) + std::marker::Send + 'static) {
        let Some(send) = self.send.clone() else { return };
        let deaf = self.deaf.clone();
        let telling = tokio::task::spawn_blocking(move || {
            states(&|told| match send(told) {
                Ok(()) => {}
                Err(error) if deaf.swap(true, Ordering::Relaxed) => {
                    tracing::debug!(%error, "the supervisor can't be told");
                }
                Err(error) => tracing::warn!(%error, "the supervisor can't be told; said once"),
            });
        });
        let _ = tokio::time::timeout(TELL_MAX, telling).await;
    }

    /// Does the work of starting; says meanwhile that it takes its time.
    pub async fn starting<T>(&self, work: impl Future<Output = T>) -> T {
        let extending = async {
            for _ in 0..START_MAX.as_secs() / EXTEND_EVERY.as_secs() {
                self.tell(|send| send(&[status("opening log and store"), longer(EXTEND_BY)])).await;
                tokio::time::sleep(EXTEND_EVERY).await;
            }
            std::future::pending().await
        };
        tokio::select! {
            done = work => done,
            () = extending => unreachable!("it waits for ever"),
        }
    }

    /// Says that the node serves, and from now on what it does and, where that is asked for, that it answers.
    pub async fn ready(&self, node: &Node) {
        if self.send.is_none() {
            return;
        }
        let text = node.inner.told();
        self.tell(move |send| send(&[NotifyState::Ready, status(&text)])).await;
        let (supervisor, inner) = (self.clone(), node.inner.clone());
        node.inner.spawn(async move { supervisor.follow(&inner).await });
    }

    async fn follow(&self, inner: &Inner) {
        let every = self.watchdog.map_or(STATUS_EVERY, |limit| (limit / 3).min(STATUS_EVERY));
        let mut last = String::new();
        loop {
            let text = inner.told();
            if text != last && !inner.is_leaving() {
                let told = text.clone();
                self.tell(move |send| send(&[status(&told)])).await;
                last = text;
            }
            if let Some(limit) = self.watchdog {
                // This task runs where calls are served; the groups have a thread of their own.
                let answered = tokio::time::timeout(limit / 3, inner.thread.run(async {})).await;
                match answered {
                    Ok(Some(())) => self.tell(|send| send(&[NotifyState::Watchdog])).await,
                    _ => tracing::warn!("the groups' thread doesn't answer: the watchdog is not told that all is well"),
                }
            }
            tokio::time::sleep(every).await;
        }
    }

    /// Says that the process stops, and how long that may take.
    pub async fn stopping(&self, drain: Duration) {
        let within = drain + STOP_BESIDE;
        let text = "handing leads over, then closing";
        self.tell(move |send| send(&[NotifyState::Stopping, status(text), longer(within)])).await;
    }
}

/// Sends a datagram; one that is not taken in time fails.
fn send_to(socket: &OsStr, states: &[NotifyState<'_>]) -> io::Result<()> {
    let message: String = states.iter().map(|state| format!("{state}\n")).collect();
    let from = UnixDatagram::unbound()?;
    from.set_write_timeout(Some(TELL_MAX))?;
    match socket.as_bytes().strip_prefix(b"@") {
        #[cfg(target_os = "linux")]
        Some(name) => {
            use std::os::linux::net::SocketAddrExt as _;
            from.connect_addr(&std::os::unix::net::SocketAddr::from_abstract_name(name)?)?;
        }
        _ => from.connect(socket)?,
    }
    from.send(message.as_bytes()).map(drop)
}

fn status(text: &str) -> NotifyState<'_> {
    NotifyState::Status(text)
}

fn longer(by: Duration) -> NotifyState<'static> {
    NotifyState::ExtendTimeoutUsec(u32::try_from(by.as_micros()).unwrap_or(u32::MAX))
}

impl Inner {
    /// What the node does, in a line.
    fn told(&self) -> String {
        let meta = self.meta.now.load();
        if meta.cluster.is_none() {
            return match self.charter() {
                Some(_) => "opening its replicas".to_string(),
                None => "belongs to no cluster yet".to_string(),
            };
        }
        let others = meta.nodes.len().saturating_sub(1);
        let (led, open, alive) = (self.shards.led_with_quorum().len(), self.shards.all().len(), self.ear.alive().len());
        format!("leading {led} of {open} replicas; {alive} of {others} other nodes alive")
    }
}
