//! Asking a node whether it serves.

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::call::{Call, Kind};
use super::{Client, Error};

impl Client {
    /// Whether a node serves clients, by its own word (gRPC health): it belongs to a cluster, knows it, and is not stopping. Ask a
    /// client that knows that node only.
    pub async fn serves(&self) -> Result<bool, Error> {
        let call = Call { account: None, kind: Kind::Read, deadline_ms: self.deadline_ms, age_ms: 0 };
        let asking = self.core.call(call, HealthCheckRequest::default(), |channel, request| async move {
            HealthClient::new(channel).check(request).await
        });
        Ok(asking.await?.status() == ServingStatus::Serving)
    }
}
