//! How long threads that others wait for run before another's turn comes: shorter while there is work besides, which may wait.
//!
//! Where processors are short, whoever is woken waits until those that run have had their turns. A short turn of its own lets a thread in
//! sooner: it gets no more of a processor than it would, and takes it from nobody for longer. It isn't for free, as there are more turns
//! then and fewer calls in each. So turns are short only while copies go over the processors that members need (decision 0026).
//!
//! Linux lets a thread choose the length of its turns, its slice, from 6.12 on (`sched_runtime` of `sched_setattr(2)`, and
//! `Documentation/scheduler/sched-eevdf.rst` there): 0.1 ms and more, where it is 0.7 ms and more else. Elsewhere, and where it is
//! refused, all stays as it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a short turn lasts, in nanoseconds.
#[cfg(target_os = "linux")]
const SHORT_NS: u64 = 200_000;

/// Whether those threads of one node that others wait for take short turns now. Clones are the same; by default turns are as usual for good.
#[derive(Clone, Debug, Default)]
pub struct Turns(Option<Arc<AtomicBool>>);

impl Turns {
    /// Of threads of this machine; as usual to begin with.
    pub fn of_threads() -> Self {
        Self(Some(Arc::default()))
    }

    /// From now on they are short, or as usual. Threads notice when they [look](Taker::look).
    pub fn set_short(&self, short: bool) {
        if let Some(now) = &self.0 {
            now.store(short, Ordering::Relaxed);
        }
    }

    /// Whether they are short.
    pub fn are_short(&self) -> bool {
        self.0.as_ref().is_some_and(|now| now.load(Ordering::Relaxed))
    }

    /// The part of a thread that has turns as usual so far.
    pub fn taker(&self) -> Taker {
        Taker { turns: self.clone(), short: false }
    }
}

/// A thread's part in the turns. To be used by one thread only. What somebody has chosen for the thread from without is lost when its turns
/// have been short.
#[derive(Debug)]
pub struct Taker {
    turns: Turns,
    short: bool,
}

impl Taker {
    /// Has the calling thread take such turns as it should now. Costs next to nothing where that has not changed.
    pub fn look(&mut self) {
        let short = self.turns.are_short();
        if std::mem::replace(&mut self.short, short) != short {
            choose(short);
        }
    }
}

/// Has the calling thread take no short turns, whoever has started it: threads begin with those of who starts them.
pub(crate) fn as_usual() {
    #[cfg(target_os = "linux")]
    if scheduled::slice() == Some(SHORT_NS) {
        choose(false);
    }
}

#[cfg(target_os = "linux")]
fn choose(short: bool) {
    if let Err(error) = scheduled::choose_slice(if short { SHORT_NS } else { scheduled::USUAL_SLICE }) {
        tracing::debug!(%error, "a thread could not choose the length of its turns");
    }
}

#[cfg(not(target_os = "linux"))]
fn choose(_short: bool) {}

/// How the system schedules the calling thread.
#[cfg(target_os = "linux")]
mod scheduled {
    use std::io;

    /// What says that a thread has no slice of its own choice.
    pub(super) const USUAL_SLICE: u64 = 0;

    /// `struct sched_attr` of `sched_setattr(2)`, as the kernel has had it from the beginning; it tells versions apart by their size.
    #[repr(C)]
    #[derive(Debug, Default)]
    pub(super) struct Attributes {
        size: u32,
        pub(super) policy: u32,
        flags: u64,
        pub(super) nice: i32,
        pub(super) priority: u32,
        /// Of a thread without a deadline: its slice in nanoseconds; 0 where the kernel knows none.
        pub(super) runtime: u64,
        deadline: u64,
        period: u64,
    }

    const SIZE: u32 = size_of::<Attributes>() as u32;
    const _: () = assert!(SIZE == 48);

    fn succeeded(answer: libc::c_long) -> io::Result<()> {
        if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    #[allow(unsafe_code, reason = "neither the standard library nor rustix has this call")]
    pub(super) fn attributes() -> io::Result<Attributes> {
        let mut attributes = Attributes { size: SIZE, ..Attributes::default() };
        // SAFETY: of the calling thread (0), into a struct of the size that is told, which outlives the call.
        succeeded(unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, SIZE, 0) })?;
        Ok(attributes)
    }

    /// Threads that share the processors by their niceness have slices; of others it is something else.
    fn has_slices(of: &Attributes) -> bool {
        [libc::SCHED_OTHER, libc::SCHED_BATCH].iter().any(|policy| u32::try_from(*policy) == Ok(of.policy))
    }

    /// The calling thread's slice, where it has one and the kernel tells it.
    pub(super) fn slice() -> Option<u64> {
        attributes().ok().filter(|of| has_slices(of) && of.runtime > 0).map(|of| of.runtime)
    }

    /// Leaves policy, priority and niceness as they are. A kernel that knows no slices takes no notice.
    #[allow(unsafe_code, reason = "neither the standard library nor rustix has this call")]
    pub(super) fn choose_slice(nanoseconds: u64) -> io::Result<()> {
        let now = attributes()?;
        if !has_slices(&now) {
            return Ok(());
        }
        let mut attributes = Attributes { size: SIZE, runtime: nanoseconds, ..now };
        // SAFETY: of the calling thread (0), from a struct of the size that it names, which outlives the call; the kernel may write the size
        // that it knows into it.
        succeeded(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw mut attributes, 0) })
    }
}

/// Whether the calling thread's turns are short; `None` where the system doesn't tell.
#[cfg(test)]
pub(crate) fn are_short_here() -> Option<bool> {
    #[cfg(target_os = "linux")]
    return scheduled::slice().map(|slice| slice == SHORT_NS);
    #[cfg(not(target_os = "linux"))]
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What nobody changes stays as it is.
    #[test]
    fn turns_are_as_usual_for_good_where_there_are_no_threads() {
        let none = Turns::default();
        none.set_short(true);
        assert!(!none.are_short());
        let turns = Turns::of_threads();
        let other = turns.clone();
        turns.set_short(true);
        assert!(other.are_short());
        turns.set_short(false);
        assert!(!other.are_short());
    }

    /// Where the kernel lets threads choose their slice: by 6.12, for those that share the processor by their niceness.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_that_looks_has_short_turns_while_they_are_and_is_otherwise_what_it_was() {
        let read = || scheduled::attributes().expect("was read before");
        let rest = |of: &scheduled::Attributes| (of.policy, of.nice, of.priority);
        let compare = || {
            let Some(usual) = scheduled::slice() else {
                return eprintln!("threads choose no slices here: {:?}", read());
            };
            let (turns, before) = (Turns::of_threads(), read());
            let mut taker = turns.taker();
            let mut looks = |short: bool, slice: u64| {
                turns.set_short(short);
                taker.look();
                let after = read();
                assert_eq!((rest(&after), after.runtime), (rest(&before), slice));
            };
            assert_ne!(usual, SHORT_NS);
            looks(false, usual);
            looks(true, SHORT_NS);
            let started = std::thread::spawn(move || {
                as_usual();
                read()
            });
            let started = started.join().expect("no panic");
            assert_eq!((rest(&started), started.runtime), (rest(&before), usual));
            looks(true, SHORT_NS);
            looks(false, usual);
        };
        std::thread::scope(|threads| threads.spawn(compare).join().expect("no panic"));
    }
}
