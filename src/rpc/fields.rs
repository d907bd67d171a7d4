//! Checks the fields of a request and collects everything that is wrong with them.

use std::fmt::Display;

use prost_types::Timestamp;

use super::fault::{Fault, Violation};
use crate::ids::InvalidId;
use crate::time::WallMs;
use crate::view::MEDIA_MS_MAX;

/// The most violations that are told one by one.
const TOLD_MAX: usize = 32;
/// The last moment that is accepted: the end of the year 9999, in seconds since 1970.
const SECONDS_MAX: i64 = 253_402_300_799;

/// What is wrong with the fields of a request, so far. Every check gives the value, or `None` after noting why not; what was
/// built of values counts only after [`Fields::finish`].
#[derive(Debug, Default)]
pub(super) struct Fields {
    violations: Vec<Violation>,
    more: usize,
}

/// The path of a field: a name, or a name within an item of a list or within a message. Written out only when it is wrong.
#[derive(Clone, Copy, Debug)]
pub(super) enum Path<'a> {
    Field(&'a str),
    In(&'a Path<'a>, &'a str),
    At(&'a Path<'a>, usize),
}

impl Display for Path<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Field(name) => f.write_str(name),
            Self::In(path, name) => write!(f, "{path}.{name}"),
            Self::At(path, index) => write!(f, "{path}[{index}]"),
        }
    }
}

impl<'a> From<&'a str> for Path<'a> {
    fn from(name: &'a str) -> Self {
        Self::Field(name)
    }
}

impl Fields {
    /// Notes that a field is wrong.
    pub(super) fn bad<'a>(&mut self, path: impl Into<Path<'a>>, description: impl Into<String>) {
        if self.violations.len() < TOLD_MAX {
            let (field, description) = (path.into().to_string(), description.into());
            self.violations.push(Violation { field, description });
        } else {
            self.more += 1;
        }
    }

    /// The request is well-formed, or here is all that is wrong with it.
    pub(super) fn finish(self) -> Result<(), Fault> {
        if self.violations.is_empty() { Ok(()) } else { Err(Fault::fields(self.violations, self.more)) }
    }

    /// `value`, if there was nothing wrong; it is there then.
    pub(super) fn with<T>(self, value: Option<T>) -> Result<T, Fault> {
        self.finish()?;
        value.ok_or_else(|| Fault::internal("a value is missing, and no field is to blame"))
    }

    /// An id.
    pub(super) fn id<'a, T>(
        &mut self,
        path: impl Into<Path<'a>>,
        text: String,
        new: impl FnOnce(String) -> Result<T, InvalidId>,
    ) -> Option<T> {
        new(text).map_err(|e| self.bad(path, e.to_string())).ok()
    }

    /// An id that may be left out.
    pub(super) fn id_or_none<'a, T>(
        &mut self,
        path: impl Into<Path<'a>>,
        text: String,
        new: impl FnOnce(String) -> Result<T, InvalidId>,
    ) -> Option<T> {
        if text.is_empty() { None } else { self.id(path, text, new) }
    }

    /// A position or length in milliseconds, from `min` to 30 days.
    pub(super) fn ms<'a>(&mut self, path: impl Into<Path<'a>>, value: i64, min: u64) -> Option<u64> {
        let fits = u64::try_from(value).ok().filter(|ms| (min..=MEDIA_MS_MAX).contains(ms));
        if fits.is_none() {
            self.bad(path, format!("is {value}: {min} to {MEDIA_MS_MAX} milliseconds are accepted"));
        }
        fits
    }

    /// The same, of a field that may be left out.
    pub(super) fn ms_or_none<'a>(&mut self, path: impl Into<Path<'a>>, value: Option<i64>, min: u64) -> Option<u64> {
        self.ms(path, value?, min)
    }

    /// A number within bounds; 0 stands for `default`.
    pub(super) fn number<'a>(
        &mut self,
        path: impl Into<Path<'a>>,
        value: i64,
        bounds: (u32, u32),
        default: u32,
    ) -> u32 {
        if value == 0 {
            return default;
        }
        let fits = u32::try_from(value).ok().filter(|n| (bounds.0..=bounds.1).contains(n));
        fits.unwrap_or_else(|| {
            self.bad(path, format!("is {value}: {} to {} are accepted, and 0 for {default}", bounds.0, bounds.1));
            default
        })
    }

    /// How many items a list may have.
    pub(super) fn count<'a>(&mut self, path: impl Into<Path<'a>>, got: usize, min: usize, max: usize) -> bool {
        let fits = (min..=max).contains(&got);
        if !fits {
            self.bad(path, format!("has {got} items: {min} to {max} are accepted"));
        }
        fits
    }

    /// A value of an enumeration.
    pub(super) fn choice<'a, E: TryFrom<i32>>(
        &mut self,
        path: impl Into<Path<'a>>,
        value: i32,
        accepted: &str,
    ) -> Option<E> {
        let known = E::try_from(value).ok();
        if known.is_none() {
            self.bad(path, format!("is {value}: {accepted} is accepted"));
        }
        known
    }

    /// A point in time.
    pub(super) fn time<'a>(&mut self, path: impl Into<Path<'a>>, time: Timestamp) -> Option<WallMs> {
        let fits = (0..=SECONDS_MAX).contains(&time.seconds) && (0..1_000_000_000).contains(&time.nanos);
        if !fits {
            self.bad(path, "is no time between 1970-01-01T00:00:00Z and 9999-12-31T23:59:59Z");
            return None;
        }
        let (seconds, nanos) = (u64::try_from(time.seconds).ok()?, u64::try_from(time.nanos).ok()?);
        Some(WallMs(seconds * 1_000 + nanos / 1_000_000))
    }

    /// A point in time that may be left out.
    pub(super) fn time_or_none<'a>(&mut self, path: impl Into<Path<'a>>, time: Option<Timestamp>) -> Option<WallMs> {
        self.time(path, time?)
    }

    /// A message that must be there.
    pub(super) fn required<'a, T>(&mut self, path: impl Into<Path<'a>>, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.bad(path, "is missing");
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::AccountId;
    use tonic::{Code, Status};
    use tonic_types::StatusExt as _;

    #[test]
    fn every_wrong_field_is_told_by_its_path() {
        let mut fields = Fields::default();
        let plays = Path::from("plays");
        let play = Path::At(&plays, 3);
        fields.id("account_id", String::new(), AccountId::new);
        fields.ms(Path::In(&play, "elapsed_ms"), -1, 0);
        fields.time("start_time_min", Timestamp { seconds: -5, nanos: 0 });
        let status = Status::from(fields.finish().unwrap_err());
        assert_eq!(status.code(), Code::InvalidArgument);
        let bad = status.get_details_bad_request().unwrap();
        let told: Vec<&str> = bad.field_violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(told, ["account_id", "plays[3].elapsed_ms", "start_time_min"]);
        assert_eq!(status.get_details_error_info().unwrap().reason, "BAD_FIELD");
    }

    #[test]
    fn thousands_of_wrong_fields_are_counted_and_fit_into_trailers() {
        let mut fields = Fields::default();
        let plays = Path::from("plays");
        for i in 0..5_000 {
            fields.ms(Path::In(&Path::At(&plays, i), "elapsed_ms"), i64::MIN, 0);
        }
        let status = Status::from(fields.finish().unwrap_err());
        assert!(status.details().len() < 5_000, "{}", status.details().len());
        assert!(status.message().len() < 1_100);
    }
}
