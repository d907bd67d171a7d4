//! The link's listener.

use std::time::Duration;

use tonic::transport::Server;

use crate::net::Listener;
use crate::proto::link::v1::link_service_server::{LinkService, LinkServiceServer};

use super::TlsFiles;
use super::transport::{STREAM_WINDOW_BYTES, server_tls};

/// Streams of one connection. A node opens one a lane, each on its own connection.
const STREAMS_MAX: u32 = 64;

/// Serves the link on `listener` for as long as what is returned is awaited. Fails at once only on what is wrong with `tls`.
pub(crate) fn listen<S: LinkService>(
    listener: Listener,
    service: LinkServiceServer<S>,
    tls: Option<&TlsFiles>,
) -> std::io::Result<impl Future<Output = Result<(), tonic::transport::Error>> + use<S>> {
    let mut server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(2 * STREAM_WINDOW_BYTES)
        .http2_keepalive_interval(Some(Duration::from_secs(1)))
        .http2_keepalive_timeout(Some(Duration::from_secs(3)))
        .max_concurrent_streams(STREAMS_MAX);
    if let Some(files) = tls {
        server = server.tls_config(server_tls(files)?).map_err(std::io::Error::other)?;
    }
    Ok(server.add_service(service).serve_with_incoming(listener.incoming()))
}
