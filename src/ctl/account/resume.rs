//! `clusterctl account resume`.

use prost_types::Timestamp;
use serde::Serialize;

use super::super::context::Context;
use super::super::exit::Failure;
use super::super::output::{ago, clock, rfc3339, right, room, table, text};
use super::super::text::{plain, short};
use super::{ResumeOptions, Source, profile_of};
use crate::client::{Client, Error};
use crate::proto::v1;

/// The most items of a page of the row.
const PAGE_MAX: i32 = 200;
/// The most items of the row that are shown.
const ITEMS_MAX: usize = 10_000;

#[derive(Debug, Serialize)]
struct Resume {
    account_id: String,
    profile_id: String,
    /// What was asked for, or what can be gone on with, the latest first.
    titles: Vec<Point>,
    read: Source,
}

#[derive(Debug, Serialize)]
struct Point {
    title_id: String,
    /// Where to go on; null: at the start.
    position_ms: Option<i64>,
    /// Where it was left in any case; null: not told in this list, or never played.
    last_position_ms: Option<i64>,
    duration_ms: Option<i64>,
    /// It was watched to its end; null: not told in this list.
    watched: Option<bool>,
    device_id: String,
    #[serde(serialize_with = "rfc3339")]
    activity_time: Option<Timestamp>,
    /// A view of it runs now; null: not told in this list.
    active: Option<bool>,
}

impl From<v1::ResumePoint> for Point {
    fn from(point: v1::ResumePoint) -> Self {
        Self {
            title_id: plain(&point.title_id),
            position_ms: point.position_ms,
            last_position_ms: point.last_position_ms,
            duration_ms: point.duration_ms,
            watched: Some(point.watched),
            device_id: plain(&point.device_id),
            activity_time: point.activity_time,
            active: None,
        }
    }
}

impl From<v1::ContinueWatchingItem> for Point {
    fn from(item: v1::ContinueWatchingItem) -> Self {
        Self {
            title_id: plain(&item.title_id),
            position_ms: Some(item.position_ms),
            last_position_ms: None,
            duration_ms: item.duration_ms,
            watched: None,
            device_id: plain(&item.device_id),
            activity_time: item.activity_time,
            active: Some(item.active),
        }
    }
}

pub(super) async fn run(context: &Context, options: ResumeOptions) -> Result<(), Failure> {
    let client = context.asking()?;
    let profile = profile_of(context, &client, &options.account, options.profile, &options.reading).await?;
    let (account_id, read_options) = (options.account.to_string(), options.reading.options()?);
    let (titles, read) = if options.titles.is_empty() {
        let request = v1::ListContinueWatchingRequest {
            account_id,
            profile_id: profile.clone(),
            page_size: PAGE_MAX,
            read_options,
            ..Default::default()
        };
        context.read(row(&client, request)).await?
    } else {
        let title_ids = options.titles.iter().map(ToString::to_string).collect();
        let profile_id = profile.clone();
        let request = v1::BatchGetResumePointsRequest { account_id, profile_id, title_ids, read_options };
        let answer = context.read(client.batch_get_resume_points(request)).await?;
        (answer.resume_points.into_iter().map(Point::from).collect(), Source::from(answer.read_info))
    };
    let (account_id, profile_id) = (options.account.to_string(), plain(&profile));
    let resume = Resume { account_id, profile_id, titles, read };
    let verdict = resume.read.verdict();
    context.show(context.screen(&resume, || resume.text(context), verdict)?)
}

/// The whole row of what can be gone on with.
async fn row(client: &Client, mut request: v1::ListContinueWatchingRequest) -> Result<(Vec<Point>, Source), Error> {
    let (mut points, mut source): (_, Option<Source>) = (Vec::new(), None);
    loop {
        let page = client.list_continue_watching(request.clone()).await?;
        let read = match source {
            Some(before) => before.and(page.read_info),
            None => Source::from(page.read_info),
        };
        points.extend(page.items.into_iter().map(Point::from));
        if page.next_page_token.is_empty() || points.len() >= ITEMS_MAX {
            return Ok((points, read));
        }
        source = Some(read);
        request.page_token = page.next_page_token;
    }
}

impl Resume {
    fn text(&self, context: &Context) -> String {
        let now = context.clock.wall();
        let mut rows = table(["TITLE", "GO ON AT", "OF", "LEFT AT", "SEEN", "ON", "LAST"]);
        right(&mut rows, &[1, 2, 3]);
        let at = |ms: Option<i64>, none: &str| ms.map_or_else(|| none.to_string(), clock);
        for point in &self.titles {
            let seen = match (point.active, point.watched) {
                (Some(true), _) => "now",
                (_, Some(true)) => "yes",
                (_, Some(false)) => "no",
                _ => "-",
            };
            rows.add_row([
                short(&point.title_id, room(20, 70)),
                at(point.position_ms, "start"),
                at(point.duration_ms, "-"),
                at(point.last_position_ms, "-"),
                seen.to_string(),
                short(&point.device_id, room(8, 30)),
                ago(point.activity_time.as_ref(), now),
            ]);
        }
        let what = if self.titles.is_empty() { "nothing to go on with".to_string() } else { text(&mut rows) };
        let who = format!("account {}, profile {}", short(&self.account_id, 40), short(&self.profile_id, 24));
        format!("{who}\n\n{what}\n\n{}", self.read.text(now))
    }
}
