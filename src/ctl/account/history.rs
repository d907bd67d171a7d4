//! `clusterctl account history`.

use prost_types::Timestamp;
use serde::Serialize;

use super::super::context::Context;
use super::super::exit::Failure;
use super::super::output::{clock, date, rfc3339, right, room, table, text};
use super::super::text::{plain, short};
use super::{HistoryOptions, Source, profile_of};
use crate::client::{Client, Error};
use crate::proto::v1;

/// The most entries that one call gives.
const PAGE_MAX: u32 = 1_000;

#[derive(Debug, Serialize)]
struct History {
    account_id: String,
    profile_id: String,
    entries: Vec<Entry>,
    /// There are more than were asked for.
    more: bool,
    read: Source,
}

#[derive(Debug, Serialize)]
struct Entry {
    title_id: String,
    device_id: String,
    status: &'static str,
    #[serde(serialize_with = "rfc3339")]
    start_time: Option<Timestamp>,
    #[serde(serialize_with = "rfc3339")]
    end_time: Option<Timestamp>,
    position_ms: Option<i64>,
    duration_ms: Option<i64>,
    watched_ms: i64,
    play_count: u32,
}

impl From<v1::HistoryEntry> for Entry {
    fn from(entry: v1::HistoryEntry) -> Self {
        let status = match entry.status() {
            v1::HistoryStatus::Unspecified => "unknown",
            v1::HistoryStatus::Sampled => "sampled",
            v1::HistoryStatus::InProgress => "in progress",
            v1::HistoryStatus::Watched => "watched",
            v1::HistoryStatus::CompletedBySeek => "sought to end",
        };
        Self {
            title_id: plain(&entry.title_id),
            device_id: plain(&entry.device_id),
            status,
            start_time: entry.start_time,
            end_time: entry.end_time,
            position_ms: entry.position_ms,
            duration_ms: entry.duration_ms,
            watched_ms: entry.watched_ms,
            play_count: entry.play_count,
        }
    }
}

pub(super) async fn run(context: &Context, options: HistoryOptions) -> Result<(), Failure> {
    let client = context.asking()?;
    let profile = profile_of(context, &client, &options.account, options.profile, &options.reading).await?;
    let request = v1::ListHistoryRequest {
        account_id: options.account.to_string(),
        profile_id: profile.clone(),
        title_id: options.title.map(|title| title.to_string()).unwrap_or_default(),
        read_options: options.reading.options()?,
        ..Default::default()
    };
    let (entries, more, read) = context.read(pages(&client, request, options.limit)).await?;
    let (account_id, profile_id) = (options.account.to_string(), plain(&profile));
    let history = History { account_id, profile_id, entries, more, read };
    let verdict = history.read.verdict();
    context.show(context.screen(&history, || history.text(context), verdict)?)
}

/// So many entries, page after page; whether there are more, and who answered last.
async fn pages(
    client: &Client,
    mut request: v1::ListHistoryRequest,
    limit: u32,
) -> Result<(Vec<Entry>, bool, Source), Error> {
    let (mut entries, mut source): (Vec<Entry>, Option<Source>) = (Vec::new(), None);
    loop {
        let missing = limit.saturating_sub(u32::try_from(entries.len()).unwrap_or(u32::MAX));
        request.page_size = i32::try_from(missing.min(PAGE_MAX)).unwrap_or(1);
        let page = client.list_history(request.clone()).await?;
        let read = match source {
            Some(before) => before.and(page.read_info),
            None => Source::from(page.read_info),
        };
        entries.extend(page.entries.into_iter().map(Entry::from));
        entries.truncate(limit as usize);
        let more = !page.next_page_token.is_empty();
        if !more || entries.len() >= limit as usize {
            return Ok((entries, more, read));
        }
        source = Some(read);
        request.page_token = page.next_page_token;
    }
}

impl History {
    fn text(&self, context: &Context) -> String {
        let mut rows = table(["STARTED (UTC)", "TITLE", "ON", "WATCHED", "LEFT AT", "STATUS"]);
        right(&mut rows, &[3, 4]);
        for entry in &self.entries {
            rows.add_row([
                date(entry.start_time.as_ref()),
                short(&entry.title_id, room(18, 70)),
                short(&entry.device_id, room(10, 30)),
                clock(entry.watched_ms),
                entry.position_ms.map_or_else(|| "-".to_string(), clock),
                entry.status.to_string(),
            ]);
        }
        let what = match self.entries.len() {
            0 => "nothing was watched".to_string(),
            _ => text(&mut rows),
        };
        let more = if self.more { "\nthere is more: ask with a higher --limit" } else { "" };
        let who = format!("account {}, profile {}", short(&self.account_id, 40), short(&self.profile_id, 24));
        format!("{who}\n\n{what}\n{more}\n{}", self.read.text(context.clock.wall()))
    }
}
