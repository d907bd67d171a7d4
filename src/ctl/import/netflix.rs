//! `clusterctl import netflix`.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::super::context::Context;
use super::super::exit::Failure;
use super::super::output::{judged, number, right, table, text};
use super::send::{Refusal, Summary, plays};
use super::verify::{Verification, verify};
use super::{Expected, send};
use crate::formats::netflix::{Export, Reader, Row};
use crate::ids::AccountId;

/// The most refused rows that are shown; the rest is counted.
const REFUSED_SHOWN: usize = 50;

#[derive(Debug, Args)]
pub(in super::super) struct Options {
    /// The file: ViewingActivity.csv
    file: PathBuf,
    /// The account that takes the history
    #[arg(long, value_name = "ID")]
    account: AccountId,
    /// Only read the file and say what it has
    #[arg(long)]
    dry_run: bool,
    /// End with 0 though rows of the file, or plays, were refused
    #[arg(long)]
    allow_refused: bool,
    /// Compare everything by strong reads through each node given in --endpoints, then import once more, which must add
    /// nothing. For an account that had nothing else
    #[arg(long, conflicts_with = "dry_run")]
    verify: bool,
}

/// What came of an import.
#[derive(Debug, Serialize)]
pub(in super::super) struct Imported {
    file: PathBuf,
    account_id: String,
    lines: u64,
    pub(in super::super) added: u64,
    pub(in super::super) unchanged: u64,
    /// Rows of the file that were not understood, and plays that the cluster refused.
    pub(in super::super) refused: u64,
    pub(in super::super) previews: u64,
    dry_run: bool,
    refusals: Vec<Refusal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    second_import_added: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verification: Option<Verification>,
}

pub(super) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    let (export, lines) = read_file(context, &options.file)?;
    let summary = match options.dry_run {
        true => Summary {
            previews: export.plays.iter().filter(|p| p.kind == crate::formats::netflix::Kind::Preview).count() as u64,
            ..Summary::default()
        },
        false => import_file(context, &options.account, &export).await?,
    };
    let mut imported = Imported::new(&options.file, &options.account, lines, &export, summary);
    imported.dry_run = options.dry_run;
    if options.verify {
        let expected = Expected::of(&export.plays);
        imported.verification = Some(verify(&context.client_of_each()?, &options.account, &expected).await?);
        let again = plays(&context.client()?, &options.account, &export.plays, |_, _| {}).await?;
        imported.second_import_added = Some(again.added);
    }
    context.answer(&imported, || imported.text(export.plays.len() as u64))?;
    imported.judge(options.allow_refused)
}

impl Imported {
    fn new(file: &Path, account: &AccountId, lines: u64, export: &Export, summary: Summary) -> Self {
        let rows = export.refused.iter().map(|r| Refusal { line: r.line, reason: r.reason.to_string() });
        let mut refusals: Vec<Refusal> = rows.chain(summary.refusals).collect();
        refusals.sort_by_key(|refusal| refusal.line);
        Self {
            file: file.to_path_buf(),
            account_id: account.to_string(),
            lines,
            added: summary.added,
            unchanged: summary.unchanged,
            refused: export.refused.len() as u64 + summary.refused,
            previews: summary.previews,
            dry_run: false,
            refusals,
            second_import_added: None,
            verification: None,
        }
    }

    fn text(&self, understood: u64) -> String {
        let mut out = String::new();
        for refusal in self.refusals.iter().take(REFUSED_SHOWN) {
            out.push_str(&format!("refused: line {}: {}\n", refusal.line, refusal.reason));
        }
        if self.refusals.len() > REFUSED_SHOWN {
            out.push_str(&format!("refused: and {} more\n", self.refusals.len() - REFUSED_SHOWN));
        }
        if self.dry_run {
            let real = understood - self.previews;
            out.push_str(&format!(
                "{}: {} lines; {} plays, {} previews, {} refused; nothing was sent",
                self.file.display(),
                number(self.lines),
                number(real),
                number(self.previews),
                number(self.refused)
            ));
            return out;
        }
        out.push_str(&format!(
            "{} added, {} unchanged, {} refused; {} previews left out",
            number(self.added),
            number(self.unchanged),
            number(self.refused),
            number(self.previews)
        ));
        if let (Some(verification), Some(added)) = (&self.verification, self.second_import_added) {
            out.push_str(&format!("\n\n{}", verification_text(verification, added)));
        }
        out
    }

    fn judge(&self, allow_refused: bool) -> Result<(), Failure> {
        if let Some(verification) = self.verification.as_ref().filter(|v| !v.is_right()) {
            return Err(Failure::error(format!("{} mismatches", number(verification.mismatch_count as u64))));
        }
        if let Some(added) = self.second_import_added.filter(|added| *added > 0) {
            return Err(Failure::error(format!("the second import added {} plays", number(added))));
        }
        if self.refused > 0 && !allow_refused {
            let taken = if self.dry_run { "would be" } else { "were" };
            let refused = number(self.refused);
            return Err(Failure::error(format!(
                "{refused} rows were refused, the others {taken} taken; --allow-refused makes this no failure"
            )));
        }
        Ok(())
    }
}

/// What was asked of each node, what the file says, and what each node answered.
pub(in super::super) fn verification_text(verification: &Verification, second_import_added: u64) -> String {
    let mut rows = table(["STRONG READS THROUGH", "PLAYS", "ENTRIES", "STRANGERS", "LAST POSITIONS", "RESUME POINTS"]);
    right(&mut rows, &[1, 2, 3, 4, 5]);
    let n = |n: usize| number(n as u64);
    let (plays, entries, pairs) = (verification.plays, verification.entries, verification.pairs);
    rows.add_row(["the file".to_string(), n(plays), n(entries), n(0), n(pairs), n(pairs)]);
    for node in &verification.nodes {
        rows.add_row([
            node.endpoint.strip_prefix("http://").unwrap_or(&node.endpoint).into(),
            judged(n(node.plays), node.plays == plays),
            judged(n(node.entries), node.entries == entries),
            judged(n(node.strangers), node.strangers == 0),
            judged(n(node.last_positions_right), node.last_positions_right == pairs),
            judged(n(node.resume_points_right), node.resume_points_right == pairs),
        ]);
    }
    let mut out = text(&mut rows);
    out.push_str(&format!("\n\n{} of {} pairs have a resume point by the rules", n(verification.resumable), n(pairs)));
    out.push_str(&format!("\nsecond import: {} added", number(second_import_added)));
    out.push_str(&format!("\nmismatches: {}", n(verification.mismatch_count)));
    for mismatch in &verification.mismatches {
        out.push_str(&format!("\n  {mismatch}"));
    }
    out
}

/// Reads a file, with a progress bar on standard error; also tells how many lines it has.
pub(in super::super) fn read_file(context: &Context, path: &Path) -> Result<(Export, u64), Failure> {
    let named = || path.display().to_string();
    let file = File::open(path).with_context(named)?;
    let metadata = file.metadata().with_context(named)?;
    if !metadata.is_file() {
        return Err(Failure::Usage(format!("{}: is not a file", path.display())));
    }
    let bar = bar(context, metadata.len(), "reading  {wide_bar:.cyan} {bytes}/{total_bytes}");
    let mut reader = Reader::new(BufReader::with_capacity(256 * 1024, file)).with_context(named)?;
    let mut export = Export::default();
    while let Some(row) = reader.next() {
        match row.with_context(named)? {
            Row::Play(play) => export.plays.push(play),
            Row::Refused(refused) => export.refused.push(refused),
        }
        if (export.plays.len() + export.refused.len()).is_multiple_of(1_000) {
            bar.set_position(reader.bytes_read());
        }
    }
    bar.finish_and_clear();
    Ok((export, reader.lines_read()))
}

/// Takes a file's plays into an account, with a progress bar on standard error.
pub(in super::super) async fn import_file(
    context: &Context,
    account: &AccountId,
    export: &Export,
) -> Result<Summary, Failure> {
    let client = context.client()?;
    let real = export.plays.iter().filter(|p| p.kind == crate::formats::netflix::Kind::Title).count();
    let bar = bar(context, real as u64, "importing {wide_bar:.cyan} {pos}/{len}  {msg}");
    let summary = send::plays(&client, account, &export.plays, |summary, done| {
        bar.set_message(format!(
            "{} added, {} unchanged, {} refused",
            summary.added, summary.unchanged, summary.refused
        ));
        bar.set_position(done as u64);
    })
    .await;
    bar.finish_and_clear();
    Ok(summary?)
}

/// A progress bar on standard error; nothing where that is no terminal.
fn bar(_context: &Context, length: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr()).with_style(style)
}
