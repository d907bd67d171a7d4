//! A device reports where it is, and anybody reads where the member left off.

use std::{error::Error, sync::Arc, time::Duration};

use playhead::{ambient, client::Client, proto::v1};

/// Reports a position of the view that the first commands have started, and reads the resume point.
pub(crate) async fn run(endpoint: String) -> Result<(), Box<dyn Error>> {
    let client = Client::builder(Arc::new(ambient::SystemClock::new()), ambient::random_u64())
        .endpoints([endpoint])
        .deadline(Duration::from_secs(3))
        .build()?;
    let report = v1::ProgressReport {
        account_id: "ann".into(),
        view_id: "tv-1".into(),
        sequence: 2,
        position_ms: Some(660_000),
        ..Default::default()
    };
    client.report_progress(v1::ReportProgressRequest { report: Some(report) }).await?;
    let question = v1::GetResumePointRequest {
        account_id: "ann".into(),
        profile_id: "kids".into(),
        title_id: "film-17".into(),
        ..Default::default()
    };
    let answer = client.get_resume_point(question).await?;
    println!("{answer:?}");
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    run(std::env::args().nth(1).unwrap_or("http://127.0.0.1:7400".into())).await
}
