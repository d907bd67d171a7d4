//! Connections, and the two calls that need no membership.

use std::collections::BTreeMap;
use std::time::Duration;

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, ServerTlsConfig};

use crate::ids::NodeId;
use crate::node::config::TlsFiles;
use crate::node::folder::{Charter, ClusterId};
use crate::proto::link::v1 as wire;
use crate::proto::link::v1::link_service_client::LinkServiceClient;
use crate::ring::{Weight, Zone};
use crate::versions::Spoken;

use super::handshake::endpoints;
use super::{Dialling, Endpoints, WIRE_VERSION};

/// How long connecting may take, TLS included.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long being let in may take: the other node asks back, has it taken down, and tells.
const JOIN_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a silent connection is believed.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// The name that every node's certificate carries.
const TLS_NAME: &str = "playhead-link";
/// The most bytes of one message: a message is at most about 1 MiB unless it is a single frame, and frames are bounded by
/// whoever makes them.
pub(super) const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// HTTP/2 windows: a lane carries megabytes in flight.
pub(super) const STREAM_WINDOW_BYTES: u32 = 4 << 20;

fn read(path: &std::path::Path) -> std::io::Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| std::io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

/// The dialling side's TLS.
pub(super) fn client_tls(files: &TlsFiles) -> std::io::Result<ClientTlsConfig> {
    Ok(ClientTlsConfig::new()
        .domain_name(TLS_NAME)
        .identity(Identity::from_pem(read(&files.certificate)?, read(&files.key)?))
        .ca_certificate(Certificate::from_pem(read(&files.authority)?)))
}

/// The listening side's TLS: callers must show a certificate of the same authority.
pub(super) fn server_tls(files: &TlsFiles) -> std::io::Result<ServerTlsConfig> {
    // Whoever connects and says nothing must not be waited for.
    Ok(ServerTlsConfig::new()
        .timeout(CONNECT_TIMEOUT)
        .identity(Identity::from_pem(read(&files.certificate)?, read(&files.key)?))
        .client_ca_root(Certificate::from_pem(read(&files.authority)?)))
}

/// Connects to `address` (`host:port`).
pub(super) async fn connect(address: &str, dialling: &Dialling) -> Result<LinkServiceClient<Channel>, String> {
    let Dialling { net, tls } = dialling;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let endpoint = Endpoint::from_shared(format!("{scheme}://{address}")).map_err(|e| format!("{address}: {e}"))?;
    let mut endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(2 * STREAM_WINDOW_BYTES)
        .http2_keep_alive_interval(Duration::from_secs(1))
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    if let Some(files) = tls {
        let tls = client_tls(files).map_err(|e| e.to_string())?;
        endpoint = endpoint.tls_config(tls).map_err(|e| chain(&e))?;
    }
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, net.connect(&endpoint)).await;
    let channel = connected.map_err(|_| format!("{address} didn't answer in time"))?.map_err(|e| chain(&e))?;
    let client = LinkServiceClient::new(channel);
    Ok(client.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX))
}

/// An error with all that caused it.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

/// What a node said of itself.
#[derive(Clone, Debug)]
pub struct Introduction {
    /// The node.
    pub node: NodeId,
    /// Its process.
    pub generation: crate::ids::Generation,
    /// What people call it.
    pub name: String,
    /// What it fails together with.
    pub zone: Zone,
    /// Its share.
    pub weight: Weight,
    /// Where it listens.
    pub endpoints: Endpoints,
    /// Its cluster, if any.
    pub cluster: Option<ClusterId>,
    /// The founding record that it holds, if any; without a `cluster` it was only offered.
    pub founding: Option<Charter>,
    /// The cluster versions that it speaks.
    pub spoken: Spoken,
}

/// Asks who listens at `address`. An error says what is wrong, for people.
pub async fn introduce(address: &str, dialling: &Dialling) -> Result<Introduction, String> {
    let mut client = connect(address, dialling).await?;
    let call = client.introduce(wire::IntroduceRequest { wire_version: WIRE_VERSION });
    let answer =
        tokio::time::timeout(CONNECT_TIMEOUT, call).await.map_err(|_| format!("{address} didn't answer in time"))?;
    let answer = answer.map_err(|status| format!("{address}: {}", status.message()))?.into_inner();
    if answer.wire_version != WIRE_VERSION {
        return Err(format!("{address} speaks wire version {}, this node {WIRE_VERSION}", answer.wire_version));
    }
    let card = answer.node.ok_or_else(|| format!("{address} didn't say who it is"))?;
    let founding = match answer.founding.as_ref() {
        [] => None,
        bytes => Some(minicbor::decode(bytes).map_err(|e| format!("{address}: its founding record: {e}"))?),
    };
    Ok(Introduction {
        node: NodeId(card.node_id),
        generation: crate::ids::Generation(card.generation),
        name: card.name,
        zone: Zone::new(card.zone).map_err(|e| format!("{address}: its zone {e}"))?,
        weight: Weight::new(card.weight).map_err(|e| format!("{address}: its {e}"))?,
        endpoints: endpoints(card.addresses),
        cluster: ClusterId::parse(&answer.cluster_id),
        founding,
        spoken: Spoken::told(card.cluster_version_oldest, card.cluster_version_newest),
    })
}

/// Offers a founding record to the node that was met; answers the one that it holds then. An error says what is wrong, for
/// people.
pub async fn offer(to: &Introduction, founding: &Charter, dialling: &Dialling) -> Result<Charter, String> {
    let address = &to.endpoints.link;
    let mut client = connect(address, dialling).await?;
    let founding = minicbor::to_vec(founding).expect("writing to a vector doesn't fail").into();
    let call = client.offer(wire::OfferRequest { wire_version: WIRE_VERSION, node_id: to.node.0, founding });
    let answer = tokio::time::timeout(2 * CONNECT_TIMEOUT, call).await;
    let answer = answer.map_err(|_| format!("{address} didn't answer in time"))?;
    let answer = answer.map_err(|status| format!("{address}: {}", status.message()))?.into_inner();
    minicbor::decode(&answer.founding).map_err(|e| format!("{address}: its founding record: {e}"))
}

/// Tells the node that was met that it is let into a cluster that has begun, and where its nodes are. An error says what is wrong,
/// for people.
pub async fn tell_to_join(
    to: &Introduction,
    founding: &Charter,
    members: BTreeMap<NodeId, String>,
    dialling: &Dialling,
) -> Result<(), String> {
    let founding = minicbor::to_vec(founding).expect("writing to a vector doesn't fail").into();
    let members = members.into_iter().map(|(node, link)| wire::Member { node_id: node.0, link }).collect();
    let (wire_version, node_id) = (WIRE_VERSION, to.node.0);
    tell_found(to, wire::FoundRequest { wire_version, node_id, founding, members }, dialling).await
}

/// Asks a member to let this node in, and waits until it has.
pub async fn ask_to_join(address: &str, card: wire::NodeCard, dialling: &Dialling) -> Result<(), String> {
    let mut client = connect(address, dialling).await?;
    let call = client.join(wire::JoinRequest { wire_version: WIRE_VERSION, node: Some(card) });
    let answer = tokio::time::timeout(JOIN_TIMEOUT, call).await;
    let answer = answer.map_err(|_| format!("{address} didn't answer in time"))?;
    answer.map(|_| ()).map_err(|status| format!("{address}: {}", status.message()))
}

/// Tells the node that was met that every founder holds the record. An error says what is wrong, for people.
pub async fn tell_to_begin(to: &Introduction, founding: &Charter, dialling: &Dialling) -> Result<(), String> {
    let founding = minicbor::to_vec(founding).expect("writing to a vector doesn't fail").into();
    let (wire_version, node_id, members) = (WIRE_VERSION, to.node.0, Vec::new());
    tell_found(to, wire::FoundRequest { wire_version, node_id, founding, members }, dialling).await
}

async fn tell_found(to: &Introduction, request: wire::FoundRequest, dialling: &Dialling) -> Result<(), String> {
    let address = &to.endpoints.link;
    let mut client = connect(address, dialling).await?;
    let call = client.found(request);
    let answer = tokio::time::timeout(2 * CONNECT_TIMEOUT, call).await;
    let answer = answer.map_err(|_| format!("{address} didn't answer in time"))?;
    answer.map(|_| ()).map_err(|status| format!("{address}: {}", status.message()))
}
