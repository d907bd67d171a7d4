//! What a shard can be told: commands, and the envelope that carries one through the log.
//!
//! Every variant and field has a number that is never used for anything else; a field may be added at the end. A replica
//! that meets a command which it doesn't know must stop ([`DecodeError::Unknown`]), not skip it.

use minicbor::{Decode, Encode};
use xxhash_rust::xxh3::xxh3_64;

use super::{HandOff, Settings, Stretch};
use crate::ids::{AccountId, DeviceId, ProfileId, RequestId, TitleId, ViewId};
use crate::time::{LogicalMs, WallMs};
use crate::versions::{ClusterVersion, Feature, Spoken};

/// The newest version of commands that this build reads. Each command is written as the version that brought it.
///
/// 2 (2026-11): the oldest that is read. 3 (2026-11): [`Command::Adopt`]. 4 (2026-11): [`AccountCommand::HandOff`],
/// [`StreamPolicy::fail_closed`], [`Command::Stretch`].
pub const COMMAND_VERSION: u16 = Spoken::BUILD.newest.formats().commands;
/// The oldest that it reads: what earlier ones gave came about by other rules.
pub const COMMAND_VERSION_MIN: u16 = 2;
/// The most plays in one [`ImportHistory`].
pub const IMPORT_PLAYS_MAX: usize = 1000;
/// The most played ranges in one report.
pub const PLAYED_RANGES_MAX: usize = 16;
/// The longest runtime, position and play that is accepted: 30 days.
pub const MEDIA_MS_MAX: u64 = 30 * 24 * 3600 * 1000;

/// Who sends a command. Roles come later; until then everybody is anonymous.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub enum Caller {
    /// Nobody in particular.
    #[default]
    #[n(0)]
    Anonymous,
}

/// A command with all that the log must know about it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Envelope {
    /// The version of commands that brought this one, up to [`COMMAND_VERSION`].
    #[n(0)]
    pub version: u16,
    /// The same over all retries of one request; `None` for what is idempotent by itself (progress, ticks).
    #[n(1)]
    pub request_id: Option<RequestId>,
    /// Who sends it.
    #[n(3)]
    pub caller: Caller,
    /// The cluster that took it in, where that is another one (region links, later).
    #[n(4)]
    pub origin: Option<Box<str>>,
    /// What to do.
    #[n(5)]
    pub command: Command,
    /// When the request was sent for the first time. One older than what the account's window of request ids remembers is
    /// refused. `None`: this is the first time, so that it can't have been done before.
    #[n(6)]
    pub first_sent: Option<FirstSent>,
}

/// When a request that comes again was sent for the first time.
///
/// Clocks of different machines don't agree, so no calendar is asked: on its way a request carries its age, which every
/// machine takes by its own monotonic clock; the leader counts it back from the shard's logical time and puts the result into
/// the log. Logical time never runs faster than monotonic time, so the result is never too late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum FirstSent {
    /// So long ago, in milliseconds: between sender and leader.
    #[n(0)]
    AgoMs(#[n(0)] u64),
    /// Not later than this: in the log.
    #[n(1)]
    At(#[n(0)] LogicalMs),
}

impl FirstSent {
    /// How long an attempt may be on its way after its age was taken. A retry is dated so much earlier; at worst one that was
    /// never done is refused as too old.
    pub const TRANSIT_MS_MAX: u64 = 60_000;

    /// As the log has it, given the leader's time.
    pub fn dated(self, now: LogicalMs) -> Self {
        match self {
            Self::AgoMs(ago) => Self::At(LogicalMs(now.0.saturating_sub(ago).saturating_sub(Self::TRANSIT_MS_MAX))),
            Self::At(at) => Self::At(at),
        }
    }

    /// The latest that it can be. An age that no leader has dated says nothing: it may be long ago.
    pub(super) fn latest(self) -> LogicalMs {
        match self {
            Self::AgoMs(_) => LogicalMs(0),
            Self::At(at) => at,
        }
    }
}

impl Envelope {
    /// An account's command under a request id, new now.
    pub fn request(request_id: RequestId, account: AccountId, command: AccountCommand) -> Self {
        Self { request_id: Some(request_id), ..Self::plain(Command::Account(account, command)) }
    }

    /// A command without a request id: progress, ticks, settings.
    pub fn plain(command: Command) -> Self {
        Self {
            version: command.needs().formats().commands,
            request_id: None,
            caller: Caller::Anonymous,
            origin: None,
            command,
            first_sent: None,
        }
    }

    /// The account that the command is about, `None` for a whole shard's command.
    pub fn account(&self) -> Option<&AccountId> {
        match &self.command {
            Command::Account(account, _) => Some(account),
            Command::Tick | Command::UpdateSettings(_) | Command::Adopt(_) | Command::Stretch(_) => None,
        }
    }

    /// Whether it may stand in the log of a shard that has adopted `shard`: what the shard's leader asks before it proposes, and what
    /// every replica asks when it applies. To adopt is how a shard gets on, so that is always permitted.
    pub fn is_permitted_at(&self, shard: ClusterVersion) -> bool {
        let newer = self.version > shard.formats().commands || self.command.needs() > shard;
        matches!(self.command, Command::Adopt(_)) || !newer
    }

    /// Whether a build that speaks up to `known` can apply it; else it must stop, as at any command that it doesn't know.
    pub(super) fn understood_by(&self, known: ClusterVersion) -> Result<(), DecodeError> {
        let commands = known.formats().commands;
        if self.version > commands {
            return Err(DecodeError::Unknown { version: Some(self.version), known: commands });
        }
        match self.command {
            Command::Adopt(version) if version > known => Err(DecodeError::Rules { version, known }),
            _ => Ok(()),
        }
    }

    /// Appends the envelope's bytes to `out`.
    pub fn encode_to(&self, out: &mut Vec<u8>) {
        minicbor::encode(self, out).expect("writing to a Vec cannot fail");
    }

    /// The envelope's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("writing to a Vec cannot fail")
    }

    /// Reads an envelope. Both errors are deterministic and must stop the replica that meets them in its log.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut decoder = minicbor::Decoder::new(bytes);
        let version = Self::peek_version(bytes);
        if version.is_some_and(|v| !(COMMAND_VERSION_MIN..=COMMAND_VERSION).contains(&v)) {
            return Err(DecodeError::Unknown { version, known: COMMAND_VERSION });
        }
        match decoder.decode() {
            Ok(envelope) => Ok(envelope),
            Err(e) if e.is_unknown_variant() => Err(DecodeError::Unknown { version, known: COMMAND_VERSION }),
            Err(e) => Err(DecodeError::Damaged(e.to_string())),
        }
    }

    fn peek_version(bytes: &[u8]) -> Option<u16> {
        let mut decoder = minicbor::Decoder::new(bytes);
        decoder.array().ok()?;
        decoder.u16().ok()
    }
}

/// Why bytes are no command that this build can apply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A newer build's command, or part of one. The replica must stop and be upgraded.
    #[error("unknown command (version {version:?}; this build knows up to {known}): the replica needs a newer build")]
    Unknown {
        /// The version in the envelope, where that could be read.
        version: Option<u16>,
        /// The newest version that this build knows.
        known: u16,
    },
    /// The shard goes on by rules that this build doesn't have. The replica must stop and be upgraded.
    #[error("the shard adopts version {version}, and this build speaks up to {known}: the replica needs a newer build")]
    Rules {
        /// The adopted version.
        version: ClusterVersion,
        /// The newest that is spoken.
        known: ClusterVersion,
    },
    /// Not a command at all.
    #[error("damaged command: {0}")]
    Damaged(String),
}

/// What a shard can be told.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Command {
    /// Expire what is due. Proposed by the leader when [`State::next_due`](super::State::next_due) has passed.
    #[n(0)]
    Tick,
    /// The rules' figures change.
    #[n(1)]
    UpdateSettings(#[n(0)] Settings),
    /// Something about one account.
    #[n(2)]
    Account(#[n(0)] AccountId, #[n(1)] AccountCommand),
    /// From here on the shard works by this version's rules and formats, if it doesn't yet by a newer one's. Proposed by the
    /// shard's leader when the cluster's version is above the shard's.
    #[n(3)]
    Adopt(#[n(0)] ClusterVersion),
    /// From here on devices are told to report so much more seldom. Proposed by the leader as it comes nearer to its capacity.
    #[n(4)]
    Stretch(#[n(0)] Stretch),
}

impl Command {
    /// The cluster version that brought it: the one place where commands are gated.
    pub const fn needs(&self) -> ClusterVersion {
        match self {
            Self::Adopt(_) => Feature::ShardVersions.since(),
            Self::Account(_, AccountCommand::HandOff(_))
            | Self::Account(_, AccountCommand::UpdateStreamPolicy(StreamPolicy { fail_closed: true, .. }))
            | Self::UpdateSettings(Settings { policy: StreamPolicy { fail_closed: true, .. }, .. }) => {
                Feature::Hints.since()
            }
            Self::Tick | Self::UpdateSettings(_) | Self::Account(..) => ClusterVersion::FIRST,
            Self::Stretch(_) => Feature::Stretch.since(),
        }
    }
}

/// What can be told about one account.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum AccountCommand {
    /// A device wants to play: admission and start in one step.
    #[n(0)]
    StartView(#[n(0)] StartView),
    /// A device still plays.
    #[n(1)]
    ReportProgress(#[n(0)] ReportProgress),
    /// A device ends its own view, perhaps to go on with the next title.
    #[n(2)]
    StopView(#[n(0)] StopView),
    /// Somebody ends another device's view.
    #[n(3)]
    EndView(#[n(0)] EndView),
    /// Past plays with their own times.
    #[n(4)]
    ImportHistory(#[n(0)] ImportHistory),
    /// The account's stream limit changes.
    #[n(5)]
    UpdateStreamPolicy(#[n(0)] StreamPolicy),
    /// What a node took in while the shard had no leader.
    #[n(6)]
    HandOff(#[n(0)] HandOff),
}

impl AccountCommand {
    /// Tells the commands of one request id apart.
    pub fn fingerprint(&self) -> u64 {
        xxh3_64(&minicbor::to_vec(self).expect("writing to a Vec cannot fail"))
    }
}

/// What kind of thing a title is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum TitleType {
    /// Neither of the others, or not told.
    #[default]
    #[n(0)]
    Other,
    /// A film.
    #[n(1)]
    Film,
    /// An episode of a series.
    #[n(2)]
    Episode,
}

/// What kind of playback a view is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum ViewKind {
    /// An ordinary one: takes a stream, moves the resume point, stands in the history.
    #[default]
    #[n(0)]
    Full,
    /// A trailer or the like: takes no stream, leaves no trace in rows or history.
    #[n(1)]
    Preview,
    /// A live broadcast: takes a stream, stands in the history, has no resume point.
    #[n(2)]
    Live,
    /// A downloaded title: takes no stream, otherwise as [`Self::Full`].
    #[n(3)]
    Offline,
}

impl ViewKind {
    /// Whether such a view counts against the account's stream limit.
    pub fn takes_a_stream(self) -> bool {
        matches!(self, Self::Full | Self::Live)
    }

    /// Whether its plays move resume points and conclude titles as watched.
    pub fn moves_resume_points(self) -> bool {
        matches!(self, Self::Full | Self::Offline)
    }
}

/// What to do when the account's stream limit is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub enum OnLimit {
    /// Refuse, and name the views in the way.
    #[default]
    #[n(0)]
    Reject,
    /// End the view that started first.
    #[n(1)]
    EndOldest,
    /// End this view.
    #[n(2)]
    EndNamed(#[n(0)] ViewId),
}

/// What is played: the title and what the caller knows about it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Media {
    /// The title.
    #[n(0)]
    pub title: TitleId,
    /// What kind of thing it is.
    #[n(1)]
    pub title_type: TitleType,
    /// Its runtime in ms, 1 to [`MEDIA_MS_MAX`]; `None` when not known.
    #[n(2)]
    pub duration_ms: Option<u64>,
    /// Where its credits begin, in ms, at most its runtime; `None` when not known.
    #[n(3)]
    pub credits_ms: Option<u64>,
}

/// See [`AccountCommand::StartView`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StartView {
    /// Chosen by the client, unique within the account. Starting it again is the same start.
    #[n(0)]
    pub view: ViewId,
    /// Who watches.
    #[n(1)]
    pub profile: ProfileId,
    /// On what. A device plays one thing at a time: its other view, if any, is replaced.
    #[n(2)]
    pub device: DeviceId,
    /// What.
    #[n(3)]
    pub media: Media,
    /// What kind of playback.
    #[n(4)]
    pub kind: ViewKind,
    /// Where it begins, in ms; `None`: at the resume point, else at 0.
    #[n(5)]
    pub position_ms: Option<u64>,
    /// What to do when the limit is reached.
    #[n(6)]
    pub on_limit: OnLimit,
}

/// What the player does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum PlayState {
    /// It plays.
    #[default]
    #[n(0)]
    Playing,
    /// The member paused it.
    #[n(1)]
    Paused,
    /// It waits for data.
    #[n(2)]
    Buffering,
}

/// A stretch of a title that was really played, in ms of the title: `from` up to but not including `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Played {
    /// Where it begins.
    #[n(0)]
    pub from_ms: u64,
    /// Where it ends: after `from_ms`.
    #[n(1)]
    pub to_ms: u64,
}

/// See [`AccountCommand::ReportProgress`]. Idempotent by `sequence`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ReportProgress {
    /// The view.
    #[n(0)]
    pub view: ViewId,
    /// Grows with each report of the view, from 1. A report that isn't newer than the newest doesn't move the position.
    #[n(1)]
    pub sequence: u64,
    /// Where the view is, in ms; `None` when the player doesn't know.
    #[n(2)]
    pub position_ms: Option<u64>,
    /// What the player does.
    #[n(3)]
    pub state: PlayState,
    /// Stretches really played since the last report, without advertisements, at most [`PLAYED_RANGES_MAX`]. Where there
    /// are none, they are concluded from the positions.
    #[n(4)]
    pub played: Vec<Played>,
    /// Whether the position was reached by a seek: then a 0 is a position, and nothing is concluded about what was played.
    #[n(5)]
    pub seeked: bool,
}

/// See [`AccountCommand::StopView`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StopView {
    /// The view.
    #[n(0)]
    pub view: ViewId,
    /// As in [`ReportProgress`]; `None`: newer than all reports.
    #[n(1)]
    pub sequence: Option<u64>,
    /// Where it was left, in ms; `None`: where it was last reported.
    #[n(2)]
    pub position_ms: Option<u64>,
    /// As in [`ReportProgress`].
    #[n(3)]
    pub played: Vec<Played>,
    /// Playback failed: nothing changes but the view's end.
    #[n(4)]
    pub failed: bool,
    /// What the same profile and device go on with, in the same stream.
    #[n(5)]
    pub next: Option<NextView>,
}

/// The view that follows a stopped one.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NextView {
    /// Its id, another one than the stopped view's.
    #[n(0)]
    pub view: ViewId,
    /// What is played.
    #[n(1)]
    pub media: Media,
    /// Where it begins, in ms; `None`: at the resume point, else at 0.
    #[n(2)]
    pub position_ms: Option<u64>,
}

/// See [`AccountCommand::EndView`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct EndView {
    /// The view to end.
    #[n(0)]
    pub view: ViewId,
    /// The device that the order came from, told to the ended one.
    #[n(1)]
    pub by: Option<DeviceId>,
}

/// See [`AccountCommand::ImportHistory`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ImportHistory {
    /// 1 to [`IMPORT_PLAYS_MAX`] plays, in any order.
    #[n(0)]
    pub plays: Vec<ImportPlay>,
}

/// One past play. Two plays that are equal in every field are the same play.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ImportPlay {
    /// Who watched.
    #[n(0)]
    pub profile: ProfileId,
    /// What.
    #[n(1)]
    pub title: TitleId,
    /// What kind of thing it is.
    #[n(2)]
    pub title_type: TitleType,
    /// On what.
    #[n(3)]
    pub device: DeviceId,
    /// What kind of playback. Previews are counted and kept out.
    #[n(4)]
    pub kind: ViewKind,
    /// When it began.
    #[n(5)]
    pub start: WallMs,
    /// How long it took, in ms, 0 to [`MEDIA_MS_MAX`].
    #[n(6)]
    pub elapsed_ms: u64,
    /// Where the title was left, in ms; `None` when not known.
    #[n(7)]
    pub position_ms: Option<u64>,
    /// The title's runtime in ms; `None` when not known.
    #[n(8)]
    pub duration_ms: Option<u64>,
}

/// What an account may do at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StreamPolicy {
    /// The most views at the same time that take a stream: 1 to [`Self::STREAMS_MAX`].
    #[n(0)]
    pub max_streams: u16,
    /// While the shard has no leader views are refused, instead of being let in as degraded ones.
    #[cbor(n(1), skip_if = "is_off")]
    pub fail_closed: bool,
}

/// Whether a mark is not written: what was written before there was such a mark has none.
pub(super) fn is_off(mark: &bool) -> bool {
    !mark
}

impl StreamPolicy {
    /// The most that [`Self::max_streams`] may be.
    pub const STREAMS_MAX: u16 = 64;

    /// So many streams, and views are let in while the shard has no leader.
    pub const fn streams(max_streams: u16) -> Self {
        Self { max_streams, fail_closed: false }
    }
}
