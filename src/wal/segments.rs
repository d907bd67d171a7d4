//! Segment files: made, got ready ahead, recycled.
//!
//! A file has its segment's name only after its header is durable, and is written to only after its name is durable. An id
//! is never used twice, not even for a segment that a crash has left unused: checksums rest on that.

use std::io;
use std::sync::Arc;

use super::Place;
use super::config::Fatal;
use super::format::{BLOCK_BYTES, Seed, SegmentHeader, VERSION};
use super::front::SegmentFile;
use crate::fs::{File, Fs};

const SUFFIX: &str = ".seg";
const SPARE_PREFIX: &str = "spare-";

/// The file name of a segment.
pub(super) fn name_of(id: u64) -> String {
    format!("{id:016x}{SUFFIX}")
}

fn spare_name_of(id: u64) -> String {
    format!("{SPARE_PREFIX}{id:016x}{SUFFIX}")
}

/// What a file name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileName {
    /// A segment.
    Segment(u64),
    /// A file that waits to become a segment; it was one with this id, or was made for it.
    Spare(u64),
    /// Not ours.
    Other,
}

pub(super) fn parse_name(name: &str) -> FileName {
    let Some(stem) = name.strip_suffix(SUFFIX) else { return FileName::Other };
    let (spare, digits) = match stem.strip_prefix(SPARE_PREFIX) {
        Some(digits) => (true, digits),
        None => (false, stem),
    };
    let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if digits.len() != 16 || !digits.bytes().all(lower_hex) {
        return FileName::Other;
    }
    match u64::from_str_radix(digits, 16) {
        Ok(id) if spare => FileName::Spare(id),
        Ok(id) => FileName::Segment(id),
        Err(_) => FileName::Other,
    }
}

/// A segment in use.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) shared: Arc<SegmentFile>,
    pub(super) seed: Seed,
    /// Where the next batch goes.
    pub(super) end: u64,
    /// Up to here the file's blocks have been written at some time. Syncing a block that was only allocated costs the file
    /// system a journal commit, about twice the time.
    pub(super) written: u64,
}

impl Segment {
    pub(super) fn new(log_id: u64, id: u64, file: Arc<dyn File>, end: u64) -> Self {
        Self { shared: Arc::new(SegmentFile { id, file }), seed: Seed::new(log_id, id), end, written: end }
    }

    pub(super) fn id(&self) -> u64 {
        self.shared.id
    }

    pub(super) fn position(&self) -> Place {
        Place { segment: self.id(), offset: self.end }
    }
}

/// Why there is no new segment.
#[derive(Debug)]
pub(super) enum NoSegment {
    /// There is no room for it; nothing is lost yet.
    NoRoom(io::Error),
    /// A write or sync failed.
    Fatal(Fatal),
}

impl From<Fatal> for NoSegment {
    fn from(fatal: Fatal) -> Self {
        Self::Fatal(fatal)
    }
}

/// Shorthand for what to say when something fails.
pub(super) fn fatal(doing: &'static str) -> impl FnOnce(io::Error) -> Fatal {
    move |source| Fatal { doing, source }
}

/// Gives out segments and takes them back.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) fs: Arc<dyn Fs>,
    pub(super) log_id: u64,
    pub(super) segment_bytes: u64,
    pub(super) spares_max: usize,
    pub(super) spares: Vec<Spare>,
    pub(super) next_id: u64,
    /// The next segment, when it is there already.
    pub(super) ready: Option<Segment>,
    /// No longer part of the log, but somebody still reads it.
    pub(super) dying: Vec<(Arc<SegmentFile>, u64)>,
}

/// A file that waits to become a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spare {
    /// In its name.
    pub(super) id: u64,
    /// See [`Segment::written`]; 0 when it isn't known.
    pub(super) written: u64,
}

impl Pool {
    /// The next segment; empty, durable by name.
    pub(super) fn take(&mut self) -> Result<Segment, NoSegment> {
        match self.ready.take() {
            Some(segment) => Ok(segment),
            None => self.build(),
        }
    }

    /// Gets the next segment ready, so that taking it costs nothing and can't fail.
    pub(super) fn prepare(&mut self) -> Result<(), NoSegment> {
        if self.ready.is_none() {
            self.ready = Some(self.build()?);
        }
        Ok(())
    }

    fn build(&mut self) -> Result<Segment, NoSegment> {
        let id = self.next_id;
        self.next_id += 1;
        let (spare, file) = match self.spares.pop() {
            Some(spare) => (spare, self.fs.open(&spare_name_of(spare.id)).map_err(fatal("open a spare segment"))?),
            None => (Spare { id, written: 0 }, self.fs.create(&spare_name_of(id)).map_err(NoSegment::NoRoom)?),
        };
        let written = spare.written.max(BLOCK_BYTES);
        let spare = spare_name_of(spare.id);
        if let Err(e) = file.preallocate(self.segment_bytes) {
            self.fs.remove(&spare).map_err(fatal("remove a segment that there is no room for"))?;
            return Err(NoSegment::NoRoom(e));
        }
        let header = SegmentHeader { version: VERSION, segment: id, log_id: self.log_id };
        file.write_at(0, &header.encode()).map_err(fatal("write a segment header"))?;
        file.fdatasync().map_err(fatal("sync a segment header"))?;
        self.fs.rename(&spare, &name_of(id)).map_err(fatal("name a segment"))?;
        self.fs.sync_dir().map_err(fatal("sync the name of a segment"))?;
        Ok(Segment { written, ..Segment::new(self.log_id, id, file, BLOCK_BYTES) })
    }

    /// Takes back a segment that the log's durable state no longer needs.
    pub(super) fn recycle(&mut self, segment: Segment) -> Result<(), Fatal> {
        self.dying.push((segment.shared, segment.written));
        self.bury()
    }

    /// Recycles what nobody reads any more.
    pub(super) fn bury(&mut self) -> Result<(), Fatal> {
        let mut at = 0;
        while at < self.dying.len() {
            // Readers get their hold from the table of segments in use, which this one has left: the count only falls.
            if Arc::strong_count(&self.dying[at].0) > 1 {
                at += 1;
                continue;
            }
            let (segment, written) = self.dying.swap_remove(at);
            self.recycle_unused(segment.id, written)?;
        }
        Ok(())
    }

    /// Makes a spare of a segment's file that nobody has open, or removes it when there are enough.
    pub(super) fn recycle_unused(&mut self, id: u64, written: u64) -> Result<(), Fatal> {
        if self.spares.len() < self.spares_max && self.spares.iter().all(|spare| spare.id != id) {
            self.fs.rename(&name_of(id), &spare_name_of(id)).map_err(fatal("recycle a segment"))?;
            self.spares.push(Spare { id, written });
            return Ok(());
        }
        self.fs.remove(&name_of(id)).map_err(fatal("remove a segment"))
    }

    /// Removes the spares that are too many.
    pub(super) fn drop_spares(&mut self) -> Result<(), Fatal> {
        while self.spares.len() > self.spares_max {
            let Some(spare) = self.spares.pop() else { break };
            self.fs.remove(&spare_name_of(spare.id)).map_err(fatal("remove a spare segment"))?;
        }
        Ok(())
    }

    /// Segments that can be used without asking the disk for room.
    pub(super) fn spare_count(&self) -> usize {
        self.spares.len() + usize::from(self.ready.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_segments_from_spares_and_from_what_is_not_ours() {
        assert_eq!(parse_name(&name_of(0x1f)), FileName::Segment(0x1f));
        assert_eq!(parse_name(&spare_name_of(u64::MAX)), FileName::Spare(u64::MAX));
        for name in ["", ".seg", "1.seg", "000000000000001F.seg", "+00000000000001f.seg", "spare-.seg", "node.new"] {
            assert_eq!(parse_name(name), FileName::Other, "{name}");
        }
    }
}
