//! The title row: all that is known of a profile and a title, and a directory of its history entries.
//!
//! The directory says when each entry began and ended and on which device, so that a play finds its entry by point reads.
//! The newest [`HOT_SPANS_MAX`] stand in the row itself; older ones are sealed into page rows of at most
//! [`PAGE_SPANS_MAX`], of which the row knows from when to when they reach. Where a span stands is of no consequence to any
//! answer: it depends on the order of imports, answers do not.

use minicbor::{Decode, Encode};

use super::ranges::Ranges;
use super::{Alternate, Outcome, ResumePoint, TitleState, TitleType};
use crate::ids::{DeviceId, TitleId};
use crate::time::{LogicalMs, WallMs};

/// The most spans in the title row itself.
pub(super) const HOT_SPANS_MAX: usize = 64;
/// How many of them are sealed at once.
const SEALED_SPANS: usize = 32;
/// The most spans in a page row.
pub(super) const PAGE_SPANS_MAX: usize = 128;
/// The most stretches that a run keeps.
const RUN_RANGES_MAX: usize = 64;

/// See the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct TitleRow {
    /// The play that ended last of those with a position.
    #[n(0)]
    pub(super) last: Option<Last>,
    #[n(1)]
    pub(super) alternate: Option<Alternate>,
    #[n(2)]
    pub(super) watched_at: Option<WallMs>,
    #[n(3)]
    pub(super) play_count: u32,
    /// What was really played by views since the title was last watched.
    #[n(4)]
    pub(super) run: Ranges<RUN_RANGES_MAX>,
    /// The newest part of the directory, by start.
    #[n(5)]
    pub(super) spans: Vec<Span>,
    /// The older parts.
    #[n(6)]
    pub(super) pages: Vec<PageRef>,
    /// The next page's number.
    #[n(7)]
    pub(super) page_next: u32,
}

/// A play that says where the title was left.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Last {
    #[n(0)]
    pub(super) end: WallMs,
    #[n(1)]
    pub(super) start: WallMs,
    /// When a view's play ended, in the shard's time; `None` for an imported one.
    #[n(2)]
    pub(super) logical: Option<LogicalMs>,
    #[n(3)]
    pub(super) device: DeviceId,
    #[n(4)]
    pub(super) position_ms: u64,
    #[n(5)]
    pub(super) duration_ms: Option<u64>,
    #[n(6)]
    pub(super) title_type: TitleType,
    #[n(7)]
    pub(super) outcome: Outcome,
    /// The rules give a resume point.
    #[n(8)]
    pub(super) resumable: bool,
}

impl Last {
    pub(super) fn point(&self) -> ResumePoint {
        ResumePoint {
            position_ms: self.position_ms,
            duration_ms: self.duration_ms,
            device: self.device.clone(),
            at: self.end,
        }
    }

    /// Whether this play is the later activity. Views compare by the shard's time, which no wrong calendar can turn; with
    /// and among imports only the calendar is left. Ties are broken by all the rest, so that order makes no difference.
    pub(super) fn is_later_than(&self, other: &Self) -> bool {
        if let (Some(own), Some(others)) = (self.logical, other.logical) {
            return own >= others;
        }
        let rank = |l: &'_ Self| (l.end, l.start, l.position_ms, l.duration_ms, l.title_type, l.outcome);
        (rank(self), &self.device) > (rank(other), &other.device)
    }
}

impl TitleRow {
    /// Where to resume.
    pub(super) fn resume(&self) -> Option<ResumePoint> {
        self.last.as_ref().filter(|l| l.resumable).map(Last::point)
    }

    /// What kind of thing the title is, as its latest play says.
    pub(super) fn title_type(&self) -> TitleType {
        self.last.as_ref().map_or(TitleType::Other, |l| l.title_type)
    }

    /// How it is shown at `now`.
    pub(super) fn show(&self, title: &TitleId, now: LogicalMs) -> TitleState {
        TitleState {
            title: title.clone(),
            title_type: self.title_type(),
            resume: self.resume(),
            last: self.last.as_ref().map(Last::point),
            alternate: self.alternate.clone().filter(|a| now < a.until),
            watched_at: self.watched_at,
            play_count: self.play_count,
        }
    }

    /// A play ended: it may be the latest. Says whether it is.
    pub(super) fn play_ended(&mut self, play: Last) -> bool {
        let later = self.last.as_ref().is_none_or(|last| play.is_later_than(last));
        if later {
            self.last = Some(play);
        }
        later
    }

    /// The page where a span that begins at `start` should stand; `None`: in the row itself.
    pub(super) fn page_for(&self, start: WallMs) -> Option<u32> {
        if self.spans.first().is_none_or(|first| start >= first.start) && !self.spans.is_empty() {
            return None;
        }
        let before = self.pages.iter().filter(|p| p.from <= start).max_by_key(|p| (p.from, p.id));
        let page = before.or_else(|| self.pages.iter().min_by_key(|p| (p.from, p.id)))?;
        Some(page.id)
    }

    /// The pages that reach into `[from, to]`.
    pub(super) fn pages_within(&self, from: WallMs, to: WallMs) -> impl Iterator<Item = u32> {
        self.pages.iter().filter(move |p| p.from <= to && p.to >= from).map(|p| p.id)
    }

    /// Moves the oldest spans out when there are too many: a new page.
    pub(super) fn seal(&mut self) -> Option<(u32, Page)> {
        if self.spans.len() <= HOT_SPANS_MAX {
            return None;
        }
        let page = Page { spans: self.spans.drain(..SEALED_SPANS).collect() };
        Some((self.add_page(&page), page))
    }

    /// Makes room for a page.
    pub(super) fn add_page(&mut self, page: &Page) -> u32 {
        let id = self.page_next;
        self.page_next += 1;
        let (from, to) = page.reach();
        self.pages.push(PageRef { id, from, to });
        id
    }

    /// A page has changed, or is empty and gone.
    pub(super) fn page_changed(&mut self, id: u32, page: &Page) {
        let (from, to) = page.reach();
        if page.spans.is_empty() {
            self.pages.retain(|p| p.id != id);
        } else if let Some(known) = self.pages.iter_mut().find(|p| p.id == id) {
            (known.from, known.to) = (from, to);
        } else {
            self.pages.push(PageRef { id, from, to });
        }
    }
}

/// When and where a history entry was.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub(super) struct Span {
    #[n(0)]
    pub(super) start: WallMs,
    /// From start to end, in ms.
    #[n(1)]
    pub(super) len_ms: u64,
    #[n(2)]
    pub(super) device: DeviceId,
}

impl Span {
    pub(super) fn end(&self) -> WallMs {
        self.start.plus(self.len_ms)
    }

    /// Whether a play of the device from `start` to `end` belongs to the entry.
    pub(super) fn takes(&self, device: &DeviceId, start: WallMs, end: WallMs, gap_ms: u64) -> bool {
        self.device == *device && self.start <= end.plus(gap_ms) && start <= self.end().plus(gap_ms)
    }
}

/// Puts a span in its place.
pub(super) fn insert_span(spans: &mut Vec<Span>, span: Span) {
    let at = spans.partition_point(|s| *s < span);
    spans.insert(at, span);
}

/// Where a page is and how far it reaches.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct PageRef {
    #[n(0)]
    pub(super) id: u32,
    /// The earliest start in it.
    #[n(1)]
    pub(super) from: WallMs,
    /// The latest end in it.
    #[n(2)]
    pub(super) to: WallMs,
}

/// A page row: an older part of a title's directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct Page {
    /// By start.
    #[n(0)]
    pub(super) spans: Vec<Span>,
}

impl Page {
    fn reach(&self) -> (WallMs, WallMs) {
        let from = self.spans.first().map_or(WallMs(0), |s| s.start);
        (from, self.spans.iter().map(Span::end).max().unwrap_or_default())
    }

    /// Moves the newer half out when there is too much.
    pub(super) fn split(&mut self) -> Option<Self> {
        (self.spans.len() > PAGE_SPANS_MAX).then(|| Self { spans: self.spans.split_off(PAGE_SPANS_MAX / 2) })
    }
}
