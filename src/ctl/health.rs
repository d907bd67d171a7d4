//! `clusterctl health`: for load balancers and containers.

use serde::Serialize;

use super::context::Context;
use super::exit::Failure;
use super::output::{judged, table, text};

/// What a node says.
#[derive(Debug, Serialize)]
struct Told {
    endpoint: String,
    /// `null`: it does not answer.
    serves: Option<bool>,
}

/// Asks every client endpoint that was named: well if all serve.
pub(super) async fn run(context: &Context) -> Result<(), Failure> {
    let clients = context.client_of_each()?;
    let asking = clients.iter().map(|(_, client)| context.read(client.serves()));
    let answers = futures::future::join_all(asking).await;
    let mut silent = None;
    let told = clients.iter().zip(answers).map(|((endpoint, _), answer)| {
        let serves = answer.map_err(|failure| silent = Some(failure)).ok();
        Told { endpoint: endpoint.clone(), serves }
    });
    let told: Vec<Told> = told.collect();
    if let Some(failure) = silent.take_if(|_| told.iter().all(|told| told.serves.is_none())) {
        return Err(failure);
    }
    let not_serving: Vec<&str> =
        told.iter().filter(|told| told.serves == Some(false)).map(|told| told.endpoint.as_str()).collect();
    let verdict = match (silent, not_serving.is_empty()) {
        (Some(failure), _) => Err(failure),
        (None, false) => Err(Failure::Degraded(format!("does not serve clients now: {}", not_serving.join(", ")))),
        (None, true) => Ok(()),
    };
    let rows = || {
        let mut rows = table(["CLIENTS", "SAYS"]);
        for Told { endpoint, serves } in &told {
            let says = serves.map_or("nothing", |serves| if serves { "serves" } else { "does not serve" });
            rows.add_row([endpoint.into(), judged(says, *serves == Some(true))]);
        }
        text(&mut rows)
    };
    context.show(context.screen(&told, rows, verdict)?)
}
