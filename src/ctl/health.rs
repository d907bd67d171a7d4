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

/// Asks every client endpoint that was named: well if all serve, unreachable if none answers.
pub(super) async fn run(context: &Context) -> Result<(), Failure> {
    let clients = context.client_of_each()?;
    let asking = clients.iter().map(|(_, client)| context.read(client.serves()));
    let answers = futures::future::join_all(asking).await;
    let mut silence = None;
    let told = clients.iter().zip(answers).map(|((endpoint, _), answer)| {
        let serves = answer.map_err(|failure| silence = Some(failure)).ok();
        Told { endpoint: endpoint.clone(), serves }
    });
    let told: Vec<Told> = told.collect();
    if let Some(failure) = silence.take_if(|_| told.iter().all(|told| told.serves.is_none())) {
        return Err(failure);
    }
    let complaint = |serves: Option<bool>, what: &str| {
        let of: Vec<&str> = told.iter().filter(|t| t.serves == serves).map(|t| t.endpoint.as_str()).collect();
        (!of.is_empty()).then(|| format!("{what}: {}", of.join(", ")))
    };
    let complaints = [complaint(None, "does not answer"), complaint(Some(false), "does not serve clients now")];
    let complaints: Vec<String> = complaints.into_iter().flatten().collect();
    let verdict = if complaints.is_empty() { Ok(()) } else { Err(Failure::Degraded(complaints.join("; "))) };
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
