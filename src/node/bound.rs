//! Where a node listens, and what others are told of it.

use std::net::SocketAddr;

use crate::net::{Listener, Net};

use super::config::{Address, Config};
use super::core::StartError;
use super::link::Endpoints;

/// The node's listeners, and where they are.
pub(super) struct Bound {
    pub(super) client: Listener,
    pub(super) link: Listener,
    pub(super) admin: Listener,
    pub(super) metrics: Listener,
    pub(super) endpoints: Endpoints,
    pub(super) metrics_address: SocketAddr,
}

async fn listen(net: &Net, what: &'static str, address: &Address) -> Result<(Listener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { what, address: address.to_string(), source };
    let listener = net.listen(address.host(), address.port()).await.map_err(failed)?;
    let real = listener.local_addr().map_err(failed)?;
    Ok((listener, real))
}

/// What others are told: the advertised address, else the real port at the host that was given.
fn told(advertise: Option<&Address>, listen: &Address, real: SocketAddr) -> String {
    match advertise {
        Some(address) if address.port() == 0 => address.with_port(real.port()).to_string(),
        Some(address) => address.to_string(),
        None => listen.with_port(real.port()).to_string(),
    }
}

impl Bound {
    /// Listens on all of them.
    pub(super) async fn new(net: &Net, config: &Config) -> Result<Self, StartError> {
        let (client, client_at) = listen(net, "listen.client", &config.listen_client).await?;
        let (link, link_at) = listen(net, "listen.link", &config.listen_link).await?;
        let (admin, admin_at) = listen(net, "listen.admin", &config.listen_admin).await?;
        let (metrics, metrics_address) = listen(net, "listen.metrics", &config.listen_metrics).await?;
        let endpoints = Endpoints {
            link: told(config.advertise_link.as_ref(), &config.listen_link, link_at),
            client: told(config.advertise_client.as_ref(), &config.listen_client, client_at),
            admin: told(config.advertise_admin.as_ref(), &config.listen_admin, admin_at),
        };
        Ok(Self { client, link, admin, metrics, endpoints, metrics_address })
    }
}
