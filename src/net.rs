//! The network seam: where listeners and connections come from.
//!
//! A node listens and dials through a [`Net`]. It is the machine's TCP unless another is handed in: a simulation's [`Wires`]
//! delay, cut and lose what goes over them. Everything above (HTTP/2, gRPC, handshakes, deadlines) is the same code on both.
//!
//! **Caveats.** TLS is for TCP only.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::server::{Connected, TcpConnectInfo, TcpIncoming};
use tonic::transport::{Channel, Endpoint, Error, Uri};

/// Where listeners and connections come from.
#[derive(Clone, Debug, Default)]
pub enum Net {
    /// The machine.
    #[default]
    Tcp,
    /// Somebody else.
    Other(Arc<dyn Wires>),
}

/// A network that is not the machine's.
pub trait Wires: Send + Sync + fmt::Debug {
    /// Listens; port 0 is any that is free.
    fn listen(&self, host: &str, port: u16) -> io::Result<Box<dyn Accept>>;

    /// Connects to `host:port`.
    fn dial(&self, to: &str) -> BoxFuture<'static, io::Result<Box<dyn Wire>>>;
}

/// One connection of [`Wires`].
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// A listener of [`Wires`].
pub trait Accept: Send + Sync {
    /// Where it listens.
    fn address(&self) -> SocketAddr;

    /// The next connection.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Box<dyn Wire>>>;
}

/// Something that listens.
pub enum Listener {
    /// On the machine.
    Tcp(TcpListener),
    /// On another network.
    Other(Box<dyn Accept>),
}

/// A connection that was accepted.
pub enum Socket {
    /// Of the machine.
    Tcp(TcpStream),
    /// Of another network.
    Other(Box<dyn Wire>),
}

impl Net {
    /// Listens; port 0 is any that is free.
    pub async fn listen(&self, host: &str, port: u16) -> io::Result<Listener> {
        match self {
            Self::Tcp => Ok(Listener::Tcp(TcpListener::bind((host, port)).await?)),
            Self::Other(wires) => wires.listen(host, port).map(Listener::Other),
        }
    }

    /// Connects now.
    pub async fn connect(&self, to: &Endpoint) -> Result<Channel, Error> {
        match self {
            Self::Tcp => to.connect().await,
            Self::Other(wires) => to.connect_with_connector(dialler(wires.clone())).await,
        }
    }

    /// Whether nothing listens at `host:port`, by the word of its machine. Connects, if something does.
    pub async fn is_refused(&self, to: &str) -> bool {
        let dialled = match self {
            Self::Tcp => TcpStream::connect(to).await.map(drop),
            Self::Other(wires) => wires.dial(to).await.map(drop),
        };
        dialled.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    }

    /// Connects when first used.
    pub fn connect_lazy(&self, to: &Endpoint) -> Channel {
        match self {
            Self::Tcp => to.connect_lazy(),
            Self::Other(wires) => to.connect_with_connector_lazy(dialler(wires.clone())),
        }
    }
}

type Dialled = BoxFuture<'static, io::Result<TokioIo<Box<dyn Wire>>>>;

/// The network as tonic calls it.
fn dialler(
    wires: Arc<dyn Wires>,
) -> impl tower::Service<Uri, Response = TokioIo<Box<dyn Wire>>, Error = io::Error, Future = Dialled> + Clone {
    tower::service_fn(move |to: Uri| -> Dialled {
        let dialled = wires.dial(to.authority().map_or("", |authority| authority.as_str()));
        Box::pin(async move { dialled.await.map(TokioIo::new) })
    })
}

impl Listener {
    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Other(listener) => Ok(listener.address()),
        }
    }

    /// All who connect, without delay of small messages.
    pub fn incoming(self) -> BoxStream<'static, io::Result<Socket>> {
        match self {
            Self::Tcp(listener) => TcpIncoming::from(listener).with_nodelay(Some(true)).map_ok(Socket::Tcp).boxed(),
            Self::Other(listener) => stream::unfold(listener, |mut listener| async move {
                let accepted = listener.accept().await.map(Socket::Other);
                Some((accepted, listener))
            })
            .boxed(),
        }
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

/// Over plain HTTP.
impl axum::serve::Listener for Listener {
    type Io = Socket;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Socket, SocketAddr) {
        match self {
            Self::Tcp(listener) => {
                let (stream, from) = axum::serve::Listener::accept(listener).await;
                (Socket::Tcp(stream), from)
            }
            Self::Other(listener) => match listener.accept().await {
                Ok(wire) => (Socket::Other(wire), SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))),
                // It is gone, and its owner ends with it.
                Err(_) => std::future::pending().await,
            },
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }
}

impl Connected for Socket {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        match self {
            Self::Tcp(stream) => stream.connect_info(),
            Self::Other(_) => TcpConnectInfo { local_addr: None, remote_addr: None },
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Other(wire) => Pin::new(wire).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Other(wire) => Pin::new(wire).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Other(wire) => Pin::new(wire).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Other(wire) => Pin::new(wire).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Other(wire) => Pin::new(wire).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Other(wire) => wire.is_write_vectored(),
        }
    }
}
