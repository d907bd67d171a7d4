//! Asking before something is changed.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use super::context::Context;
use super::exit::Failure;
use super::text::harmless;

/// The most of an answer that is looked at.
const ANSWER_BYTES_MAX: u64 = 64;

/// The same surroundings, with the whole of `--timeout` left, to go on with if it may: with `--yes`, or when the person at the terminal says so. `what` tells what will be done, as a
/// sentence without its full stop. Without a terminal nobody can be asked, and nothing is changed.
pub(super) async fn permission(context: &Context, what: &str) -> Result<Context, Failure> {
    let what = harmless(what);
    if context.yes {
        return Ok(context.clone());
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Failure::Usage(format!("{what}: nobody is there to be asked, so nothing was changed; add --yes")));
    }
    let asking = tokio::task::spawn_blocking(move || question(&what));
    match asking.await.map_err(Failure::error)?? {
        true => Ok(context.again()),
        false => Err(Failure::error("nothing was changed")),
    }
}

fn question(what: &str) -> io::Result<bool> {
    let mut terminal = io::stderr().lock();
    write!(terminal, "{what}. Go on? [y/N] ")?;
    terminal.flush()?;
    let mut answer = Vec::new();
    io::Read::take(io::stdin().lock(), ANSWER_BYTES_MAX).read_until(b'\n', &mut answer)?;
    Ok(is_yes(&String::from_utf8_lossy(&answer)))
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::is_yes;

    #[test]
    fn only_a_clear_yes_is_one() {
        assert!(["y\n", "Y", " yes \n", "YES"].into_iter().all(is_yes));
        assert!(!["", "\n", "n", "no", "yess", "j", "y y"].into_iter().any(is_yes));
    }
}
