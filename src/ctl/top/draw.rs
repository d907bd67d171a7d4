//! How it is drawn: from 80 by 24 on; what doesn't fit is left out from the bottom, and said.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::super::output::{bytes, number};
use super::super::text::{plain as harmless, short};
use super::model::{NodeRow, ShardRow, Top};

/// From this width on what is moving stands beside the hottest shards.
const WIDE: u16 = 120;
/// The hottest shards that are named, at most.
const HOTTEST: usize = 20;
/// How much hotter than the mean is warm, and hot.
const WARM: f64 = 1.3;
const HOT: f64 = 2.0;
/// What a node's row takes beside its name.
const REST: usize = 73;
/// The label before a row of heat.
const LABEL: usize = 6;

/// The whole screen.
pub(super) fn screen(top: &Top, area: Rect, buffer: &mut Buffer, hint: &str) {
    let width = usize::from(area.width);
    let mut lines = head(top, width, hint);
    lines.push(Line::default());
    let room = usize::from(area.height).saturating_sub(lines.len());
    lines.extend(nodes(&top.nodes, width, (room / 2).max(2)));
    lines.push(Line::default());
    let room = usize::from(area.height).saturating_sub(lines.len());
    lines.extend(heat(&top.heat, width, (room / 3).max(1)));
    lines.push(Line::default());
    let room = usize::from(area.height).saturating_sub(lines.len());
    let hottest = hottest(&top.heat);
    let beside = area.width >= WIDE;
    let left = if beside { width / 2 - 2 } else { width };
    let shown = if beside { room } else { hottest.len().min(room / 3).max(2) };
    let at = u16::try_from(lines.len()).unwrap_or(u16::MAX);
    lines.extend(hottest.into_iter().take(shown));
    if beside {
        let right = news(top, width - left - 2, room);
        write(&right, area, u16::try_from(left + 2).unwrap_or(u16::MAX), at, buffer);
    } else {
        lines.push(Line::default());
        let room = usize::from(area.height).saturating_sub(lines.len());
        lines.extend(news(top, width, room));
    }
    write(&lines, area, 0, 0, buffer);
}

/// The same for who has no terminal: without colours, and as long as it is.
pub(super) fn plain(top: &Top, (width, height): (u16, u16)) -> String {
    let area = Rect::new(0, 0, width, height);
    let mut buffer = Buffer::empty(area);
    screen(top, area, &mut buffer, "");
    text_of(&buffer)
}

/// A buffer's text, without blanks at the ends of lines and without empty lines at its own.
pub(super) fn text_of(buffer: &Buffer) -> String {
    let row = |y: u16| -> String {
        let cells = (0..buffer.area.width).filter_map(|x| buffer.cell((x, y)));
        cells.map(|cell| cell.symbol()).collect::<String>().trim_end().to_string()
    };
    let rows: Vec<String> = (0..buffer.area.height).map(row).collect();
    rows.join("\n").trim_end().to_string()
}

fn write(lines: &[Line<'_>], area: Rect, x: u16, y: u16, buffer: &mut Buffer) {
    for (line, row) in lines.iter().zip(y..area.height) {
        buffer.set_line(area.x + x, area.y + row, line, area.width.saturating_sub(x));
    }
}

fn styled(text: impl Into<String>, colour: Color) -> Span<'static> {
    Span::styled(text.into(), Style::new().fg(colour))
}

fn judged(text: impl Into<String>, well: bool) -> Span<'static> {
    styled(text, if well { Color::Green } else { Color::Red })
}

fn title(text: impl Into<String>) -> Line<'static> {
    Line::from(Span::styled(text.into(), Style::new().add_modifier(Modifier::BOLD)))
}

fn rate(rate: Option<f64>) -> String {
    match rate {
        None => "-".into(),
        Some(rate) if rate > 0.0 && rate < 10.0 => format!("{rate:.1}"),
        // Far below 2^53.
        Some(rate) => number(rate.round() as u64),
    }
}

fn ms(us: u64) -> String {
    match us {
        0 => "-".into(),
        us if us < 10_000 => format!("{:.1} ms", us as f64 / 1_000.0),
        us => format!("{} ms", number(us / 1_000)),
    }
}

fn head(top: &Top, width: usize, hint: &str) -> Vec<Line<'static>> {
    let name = format!("Playhead as {} sees it", short(&top.answered_by, 20));
    let right = format!("{} UTC  {hint}", top.time);
    let gap = width.saturating_sub(name.chars().count() + right.trim_end().chars().count()).max(2);
    let led = judged(format!("{} of {}", top.shards_led, top.shards), top.shards_led == top.shards);
    let follow = top.replicas_current == top.replicas_wanted;
    let follow = judged(format!("{} of {}", top.replicas_current, top.replicas_wanted), follow);
    let leader = if top.meta_leader.is_empty() { "nobody".to_string() } else { short(&top.meta_leader, 20) };
    let meta = judged(leader, !top.meta_leader.is_empty());
    let state = match (&top.missed, &top.complaints[..]) {
        (Some(why), _) => styled(short(&format!("what follows is older: {why}"), width), Color::Red),
        (None, []) => styled("all is well", Color::Green),
        (None, some) => styled(short(&some.join("; "), width), Color::Red),
    };
    let most = if top.rates_partial && top.reports_per_second.is_some() { "≥" } else { "" };
    vec![
        Line::from(vec![
            Span::styled(name, Style::new().add_modifier(Modifier::BOLD)),
            Span::raw(format!("{}{}", " ".repeat(gap), right.trim_end())),
        ]),
        Line::from(vec![
            Span::raw("shards led "),
            led,
            Span::raw("   replicas following "),
            follow,
            Span::raw("   meta "),
            meta,
            Span::raw(format!("   epoch {}", top.epoch)),
        ]),
        Line::from(format!(
            "reports/s {most}{}   commands/s {most}{}   p50 {}   p99 {}   active views {}",
            rate(top.reports_per_second),
            rate(top.commands_per_second),
            ms(top.p50_us),
            ms(top.p99_us),
            number(top.active_views)
        )),
        Line::from(state),
    ]
}

fn nodes(nodes: &[NodeRow], width: usize, room: usize) -> Vec<Line<'static>> {
    let name = nodes
        .iter()
        .map(|node| node.node.chars().count())
        .max()
        .unwrap_or(4)
        .clamp(4, width.saturating_sub(REST).max(4));
    let header = format!(
        "{:<name$}  {:<9} {:>5} {:>8} {:>9} {:>8} {:>8}  {:>7} {:>9}",
        "NODE", "SEEN", "LEADS", "REPLICAS", "REPORTS/S", "P50", "P99", "VIEWS", "DISK"
    );
    let mut lines = vec![title(header)];
    // Those in trouble first where not all can be shown.
    let mut order: Vec<&NodeRow> = nodes.iter().collect();
    let room = room.saturating_sub(1).max(1);
    if order.len() > room {
        order.sort_by_key(|node| node.well);
    }
    let fits = if order.len() > room { room.saturating_sub(1) } else { order.len() };
    for node in &order[..fits] {
        let replicas = format!("{}/{}", node.replicas, node.replicas_wanted);
        lines.push(Line::from(vec![
            Span::raw(format!("{:<name$}  ", short(&node.node, name))),
            judged(format!("{:<9}", node.seen), node.well),
            Span::raw(format!(" {:>5} {replicas:>8}", node.shards_led)),
            Span::raw(format!(" {:>9} {:>8} {:>8}", rate(node.reports_per_second), ms(node.p50_us), ms(node.p99_us))),
            Span::raw(format!("  {:>7} {:>9}", number(node.active_views), bytes(node.disk_bytes))),
        ]));
    }
    if fits < order.len() {
        lines.push(Line::from(format!("and {} more: `clusterctl node list`", order.len() - fits)));
    }
    lines
}

/// A cell a shard; where there are more shards than room, a cell is the hottest of several.
fn heat(shards: &[ShardRow], width: usize, room: usize) -> Vec<Line<'static>> {
    let rates = || shards.iter().filter_map(|shard| shard.commands_per_second);
    let most = rates().fold(0.0, f64::max);
    let mean = if rates().count() > 0 { rates().sum::<f64>() / rates().count() as f64 } else { 0.0 };
    let cells = (width.saturating_sub(LABEL) / 8 * 8).max(8);
    let group = shards.len().div_ceil(cells * room).max(1);
    let of = if group > 1 { format!(", {group} shards a cell") } else { String::new() };
    let legend = format!("mean {}, most {}; · none, ! no leader{of}", rate(Some(mean)), rate(Some(most)));
    let mut lines = vec![title(format!("HEAT, commands/s by shard: {legend}"))];
    let groups: Vec<&[ShardRow]> = shards.chunks(group).collect();
    for row in groups.chunks(cells) {
        let first = row.first().and_then(|group| group.first()).map_or(0, |shard| shard.shard);
        let mut spans = vec![Span::raw(format!("{first:>width$}  ", width = LABEL - 2))];
        spans.extend(row.iter().map(|group| cell(group, most, mean)));
        lines.push(Line::from(spans));
    }
    lines
}

fn cell(shards: &[ShardRow], most: f64, mean: f64) -> Span<'static> {
    if shards.iter().any(|shard| shard.leader.is_none()) {
        return styled("!", Color::Red);
    }
    let hottest = shards.iter().filter_map(|shard| shard.commands_per_second).fold(0.0, f64::max);
    if hottest <= 0.0 {
        return Span::raw("·");
    }
    const LEVELS: [&str; 8] = ["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];
    let level = (hottest / most * 8.0).ceil().clamp(1.0, 8.0) as usize;
    let colour = match hottest / mean {
        hot if hot >= HOT => Color::Red,
        warm if warm >= WARM => Color::Yellow,
        _ => Color::Green,
    };
    styled(LEVELS[level - 1], colour)
}

fn hottest(shards: &[ShardRow]) -> Vec<Line<'static>> {
    let mut rated: Vec<(f64, &ShardRow)> = shards
        .iter()
        .filter_map(|shard| Some((shard.commands_per_second.filter(|rate| *rate > 0.0)?, shard)))
        .collect();
    let mean = rated.iter().map(|(rate, _)| rate).sum::<f64>() / shards.len().max(1) as f64;
    rated.sort_by(|(a, x), (b, y)| b.total_cmp(a).then(x.shard.cmp(&y.shard)));
    let mut lines = vec![title(format!(
        "{:<7} {:<12} {:>10} {:>8} {:>7} {:>6}",
        "HOTTEST", "LEADER", "COMMANDS/S", "OF MEAN", "VIEWS", "LAG"
    ))];
    for (heat, shard) in rated.into_iter().take(HOTTEST) {
        let leader = short(shard.leader.as_deref().unwrap_or("none"), 12);
        lines.push(Line::from(format!(
            "{:<7} {leader:<12} {:>10} {:>7.1}x {:>7} {:>6}",
            shard.shard,
            rate(Some(heat)),
            heat / mean,
            number(shard.active_views),
            number(shard.lag)
        )));
    }
    if lines.len() == 1 {
        lines.push(Line::from("no commands"));
    }
    lines
}

/// What is moving, and what has happened, the newest first.
fn news(top: &Top, width: usize, room: usize) -> Vec<Line<'static>> {
    let mut lines = vec![title("MOVING")];
    let room_for_moving = (room / 2).max(3) - 1;
    let fits = if top.moving.len() > room_for_moving { room_for_moving.saturating_sub(1) } else { top.moving.len() };
    lines.extend(top.moving[..fits].iter().map(|what| Line::from(short(what, width))));
    match top.moving.len() - fits {
        0 if fits == 0 => lines.push(Line::from("nothing")),
        0 => {}
        more => lines.push(Line::from(format!("and {more} more: `clusterctl shard list --troubled`"))),
    }
    if !top.happened.is_empty() && lines.len() + 3 <= room {
        lines.extend([Line::default(), title("HAPPENED")]);
        let rest = room.saturating_sub(lines.len());
        let news = top.happened.iter().take(rest);
        lines.extend(news.map(|news| Line::from(short(&harmless(&format!("{}  {}", news.time, news.what)), width))));
    }
    lines
}
