//! The stream of progress reports.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::bad_input::good_report;
use super::fake::{Served1, ended, progressed, serve};
use crate::ids::ShardId;
use crate::proto::v1;
use crate::proto::v1::ErrorReason as R;
use crate::proto::v1::collection_service_client::CollectionServiceClient;
use crate::rpc::{Failure, Limits};
use crate::view::{Answer, Directive, EndReason, Progressed, Rejection};

type Stream = (mpsc::Sender<v1::ReportProgressStreamRequest>, Streaming<v1::ReportProgressStreamResponse>);

async fn open(served: &Served1) -> Stream {
    let (messages, out) = mpsc::channel(8);
    let mut client = CollectionServiceClient::new(served.clients.clone());
    let answers = client.report_progress_stream(ReceiverStream::new(out)).await.unwrap().into_inner();
    (messages, answers)
}

fn batch(batch_id: u64, reports: Vec<v1::ProgressReport>) -> v1::ReportProgressStreamRequest {
    v1::ReportProgressStreamRequest { batch_id, reports }
}

#[tokio::test]
async fn each_report_has_its_own_result_and_a_bad_one_harms_no_other() {
    let served = serve(Limits::default()).await;
    let (messages, mut answers) = open(&served).await;
    let stop = Directive::Stop(ended("v", EndReason::EndedByOwner));
    served.fake.outcomes.lock().extend([
        Ok(Answer::Progressed(progressed())),
        Err(Failure::NoLeader { shard: ShardId(1), hint: None }),
        Ok(Answer::Rejected(Rejection::ViewExpired(ended("v", EndReason::Expired)))),
        Ok(Answer::Progressed(Progressed { directive: stop, ..progressed() })),
    ]);
    let bad = v1::ProgressReport { view_id: String::new(), position_ms: Some(-4), ..good_report() };
    messages.send(batch(7, vec![good_report(), bad, good_report(), good_report(), good_report()])).await.unwrap();
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!((answer.batch_id, answer.results.len(), answer.revisions.len()), (7, 5, 1));
    let reasons: Vec<R> =
        answer.results.iter().map(|r| r.error.as_ref().map_or(R::Unspecified, |e| e.reason())).collect();
    assert_eq!(reasons, [R::Unspecified, R::BadField, R::NoLeader, R::ViewExpired, R::Unspecified]);
    let message = &answer.results[1].error.as_ref().unwrap().message;
    assert!(message.contains("reports[1].view_id") && message.contains("reports[1].position_ms"), "{message}");
    assert!(answer.results[2].error.as_ref().unwrap().retry_after_ms > 0);
    assert_eq!(answer.results[4].directive(), v1::Directive::Stop);
    assert_eq!(answer.results[4].ended.as_ref().unwrap().reason(), v1::EndReason::EndedByOwner);
}

#[tokio::test]
async fn an_empty_or_oversized_batch_is_refused_and_the_stream_goes_on() {
    let served = serve(Limits::default()).await;
    let (messages, mut answers) = open(&served).await;
    for (id, reports) in [(1, vec![]), (2, vec![good_report(); 1_001])] {
        messages.send(batch(id, reports)).await.unwrap();
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!(answer.batch_id, id);
        assert_eq!(answer.error.unwrap().code, i32::from(Code::InvalidArgument));
    }
    messages.send(batch(3, vec![good_report(); 1_000])).await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().results.len(), 1_000);
}

#[tokio::test]
async fn reports_beyond_the_bound_are_refused_as_overload() {
    let served = serve(Limits { stream_reports: 2, ..Limits::default() }).await;
    let (messages, mut answers) = open(&served).await;
    messages.send(batch(1, vec![good_report(); 3])).await.unwrap();
    let error = answers.message().await.unwrap().unwrap().error.unwrap();
    assert_eq!(error.reason(), R::Overloaded);
    assert!(error.retry_after_ms > 0);
    messages.send(batch(2, vec![good_report(); 2])).await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().results.len(), 2);
}

#[tokio::test]
async fn streams_beyond_the_bound_are_refused_until_one_ends() {
    let served = serve(Limits { streams: 1, ..Limits::default() }).await;
    let (messages, mut answers) = open(&served).await;
    let mut client = CollectionServiceClient::new(served.clients.clone());
    let refused = client.report_progress_stream(tokio_stream::empty()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    drop(messages);
    assert!(answers.message().await.unwrap().is_none());
    // The place is given back when the server's own task ends, a moment after the answer.
    while client.report_progress_stream(tokio_stream::empty()).await.is_err() {
        tokio::task::yield_now().await;
    }
}
