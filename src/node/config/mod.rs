//! What an operator tells a node: one table of fields, read from a file, the environment and flags, in that order.
//!
//! **Contract.** [`load()`] gives a [`Config`] in which every field is sound, or *all* the mistakes at once, each naming the
//! field, where it was said, and what is accepted. Later sources win: defaults, then the file (TOML), then
//! `PLAYHEAD_...` variables, then flags. [`Config::dump`] prints what came out, as a file that gives the same again.
//!
//! **How.** A field is one line of the table in `fields`: its name gives the key in the file (`listen.client`), the variable
//! (`PLAYHEAD_LISTEN_CLIENT`) and the flag (`--listen-client`). `docs/configuration.md` has the same table, and a test holds
//! the two together.
//!
//! **Caveats.** Variables that begin with `PLAYHEAD_` but name no field are refused too, except those that tests and
//! scripts use (`PLAYHEAD_TEST_*`, `PLAYHEAD_REAL_HISTORY`, `PLAYHEAD_CONFIG`): a misspelt limit that is silently ignored is worse than a
//! node that doesn't start.

mod fields;
mod load;
#[cfg(test)]
mod tests;
mod values;

pub(crate) use fields::label as is_label;
pub use fields::{FIELDS, Field};
pub use load::{ConfigErrors, Mistake, Source, Sources, load};
pub use values::{Address, Config, LogFormat, ServerFiles, TlsFiles};
