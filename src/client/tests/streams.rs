//! Progress streams.

use tonic::{Code, Status};

use super::fake::{Script, StreamReply, hasty, nobody, patient, serve};
use crate::client::{Error, StreamOptions};
use crate::proto::v1;
use crate::proto::v1::ErrorReason as R;

fn reports(views: &[&str]) -> Vec<v1::ProgressReport> {
    let report = |view: &&str| v1::ProgressReport {
        account_id: "alice".into(),
        view_id: (*view).into(),
        sequence: 1,
        ..Default::default()
    };
    views.iter().map(report).collect()
}

/// Every report applied, its interval telling the length of its view's id.
fn echo(message: &v1::ReportProgressStreamRequest) -> v1::ReportProgressStreamResponse {
    let result = |r: &v1::ProgressReport| v1::ProgressResult {
        applied: true,
        progress_interval_ms: i64::try_from(r.view_id.len()).unwrap(),
        ..Default::default()
    };
    let results = message.reports.iter().map(result).collect();
    v1::ReportProgressStreamResponse { batch_id: message.batch_id, results, ..Default::default() }
}

fn lengths(outcomes: &[crate::client::ReportOutcome]) -> Vec<i64> {
    outcomes.iter().map(|o| o.as_ref().unwrap().progress_interval_ms).collect()
}

#[tokio::test]
async fn answers_find_their_batches_in_whatever_order_they_come() {
    let mut held = Vec::new();
    let script = Script::on_message(move |message| {
        held.push(echo(&message));
        if held.len() < 3 {
            StreamReply::Answer(Vec::new())
        } else {
            StreamReply::Answer(held.drain(..).rev().collect())
        }
    });
    let (endpoint, _guard) = serve(&script).await;
    let stream = patient(&[&endpoint]).progress_stream(StreamOptions { window: 4 });
    let mut pending = Vec::new();
    for views in [&["a", "bb"][..], &["ccc"], &["dddd", "e"]] {
        pending.push(stream.send(reports(views)).await.unwrap());
    }
    let mut got = Vec::new();
    for pending in pending {
        got.push(lengths(&pending.await.unwrap()));
    }
    assert_eq!(got, [vec![1, 2], vec![3], vec![4, 1]]);
    stream.close().await;
}

#[tokio::test]
async fn what_was_not_answered_is_sent_again_when_the_stream_breaks() {
    for broken in [true, false] {
        let mut seen = 0;
        let script = Script::on_message(move |message| {
            seen += 1;
            match seen {
                1 if broken => StreamReply::Break(Status::unavailable("gone")),
                1 => StreamReply::End,
                _ => StreamReply::Answer(vec![echo(&message)]),
            }
        });
        let (endpoint, _guard) = serve(&script).await;
        let stream = patient(&[&endpoint, &nobody().await]).progress_stream(StreamOptions::default());
        let outcomes = stream.send(reports(&["a", "bb"])).await.unwrap().await.unwrap();
        assert_eq!(lengths(&outcomes), [1, 2]);
        // The first message may have been taken before the stream broke.
        assert!(outcomes.iter().all(|o| o.as_ref().unwrap().repeated));
        assert_eq!(script.streams(), 2);
        stream.close().await;
    }
}

#[tokio::test]
async fn only_the_reports_that_could_not_be_taken_are_sent_again() {
    let mut rounds = 0;
    let script = Script::on_message(move |message| {
        rounds += 1;
        let mut answer = echo(&message);
        if rounds == 1 {
            let error = |code: Code, reason: R| {
                Some(v1::ItemError {
                    code: code.into(),
                    reason: reason.into(),
                    retry_after_ms: 1,
                    ..Default::default()
                })
            };
            answer.results[1].error = error(Code::Unavailable, R::NoLeader);
            answer.results[2].error = error(Code::NotFound, R::ViewExpired);
        } else {
            assert_eq!(message.reports.len(), 1);
            assert_eq!(message.reports[0].view_id, "bb");
        }
        StreamReply::Answer(vec![answer])
    });
    let (endpoint, _guard) = serve(&script).await;
    let stream = patient(&[&endpoint]).progress_stream(StreamOptions::default());
    let outcomes = stream.send(reports(&["a", "bb", "ccc"])).await.unwrap().await.unwrap();
    assert_eq!(lengths(&outcomes[..2]), [1, 2]);
    assert!(outcomes[..2].iter().all(|o| !o.as_ref().unwrap().repeated));
    assert_eq!(outcomes[2].as_ref().unwrap_err().reason(), Some(R::ViewExpired));
    stream.close().await;
}

#[tokio::test]
async fn at_its_deadline_a_batch_without_an_answer_is_unknown() {
    let script = Script::on_message(|_| StreamReply::Answer(Vec::new()));
    let (endpoint, _guard) = serve(&script).await;
    let stream = hasty(&[&endpoint]).progress_stream(StreamOptions::default());
    let outcomes = stream.send(reports(&["a"])).await.unwrap().await.unwrap();
    assert!(matches!(outcomes[0], Err(Error::Unknown { .. })), "{outcomes:?}");
    stream.close().await;
}

#[tokio::test]
async fn a_batch_that_never_went_out_is_unavailable() {
    let stream = hasty(&[&nobody().await]).progress_stream(StreamOptions::default());
    let outcomes = stream.send(reports(&["a"])).await.unwrap().await.unwrap();
    assert!(matches!(outcomes[0], Err(Error::Unavailable { .. })), "{outcomes:?}");
    stream.close().await;
}

#[tokio::test]
async fn a_full_window_holds_back_the_sender() {
    let script = Script::on_message(|_| StreamReply::Answer(Vec::new()));
    let (endpoint, _guard) = serve(&script).await;
    let stream = patient(&[&endpoint]).progress_stream(StreamOptions { window: 2 });
    let _first = stream.send(reports(&["a"])).await.unwrap();
    let _second = stream.send(reports(&["b"])).await.unwrap();
    let mut third = std::pin::pin!(stream.send(reports(&["c"])));
    assert!(futures::poll!(third.as_mut()).is_pending());
}

#[tokio::test]
async fn an_empty_or_oversized_batch_is_refused_before_it_is_sent() {
    let stream = hasty(&[&nobody().await]).progress_stream(StreamOptions::default());
    for batch in [reports(&[]), reports(&vec!["v"; 1_001])] {
        assert_eq!(stream.send(batch).await.unwrap_err().reason(), Some(R::BadField));
    }
}
