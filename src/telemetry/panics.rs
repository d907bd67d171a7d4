//! What a panic does.

use std::panic::PanicHookInfo;

/// Threads (by the beginning of their names) without which the node must not go on.
const VITAL: &[&str] = &["raft", "wal"];

/// Logs every panic at ERROR, with its thread and place; ends the process when the thread is vital.
///
/// The store's threads are not vital: opening damaged data panics inside sled, is caught there, and retires a replica.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(thread = name, place, message = message(info), "a panic");
        if VITAL.iter().any(|prefix| name.starts_with(prefix)) {
            tracing::error!(
                thread = name,
                "the node can't go on without this thread: it ends here, and others take over"
            );
            std::process::abort();
        }
    }));
}

fn message(info: &PanicHookInfo<'_>) -> String {
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_string());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "(no message)".to_string())
}
