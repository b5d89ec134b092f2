//! One connection: TCP, TLS 1.3, HTTP/2 agreed on, all within one time allowance.
//!
//! It refuses a server that does not agree on HTTP/2, and remembers with which alert a server broke a connection off: in
//! TLS 1.3 a server judges our certificate after our side of the handshake is done, and the layers above keep no trace of it.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::AlertDescription;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::endpoint::{ALPN, Parsed};
use crate::error::ConnectError;

/// Dials one vault, as often as it takes.
pub(crate) struct Dialler {
    host: String,
    port: u16,
    server_name: ServerName<'static>,
    tls: TlsConnector,
    timeout: Duration,
    farewell: Arc<Farewell>,
}

impl Dialler {
    pub(crate) fn new(endpoint: &Parsed) -> Self {
        Self {
            host: endpoint.host.clone(),
            port: endpoint.port,
            server_name: endpoint.server_name.clone(),
            tls: TlsConnector::from(Arc::clone(&endpoint.tls)),
            timeout: endpoint.connect_timeout,
            farewell: Arc::default(),
        }
    }

    /// Where the alert is kept that ended the last connection, if one did.
    pub(crate) fn farewell(&self) -> Arc<Farewell> {
        Arc::clone(&self.farewell)
    }

    pub(crate) async fn dial(&self) -> Result<TokioIo<Watched>, ConnectError> {
        match tokio::time::timeout(self.timeout, self.shake_hands()).await {
            Ok(done) => done.map(TokioIo::new),
            Err(_) => Err(ConnectError::TimedOut { address: self.address() }),
        }
    }

    async fn shake_hands(&self) -> Result<Watched, ConnectError> {
        let unreachable =
            |why: io::Error| ConnectError::Unreachable { address: self.address(), why: why.to_string() };
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(unreachable)?;
        // A request is one small write that must not wait for the next.
        tcp.set_nodelay(true).map_err(unreachable)?;
        let tls = self
            .tls
            .connect(self.server_name.clone(), tcp)
            .await
            .map_err(|why| ConnectError::from_handshake(&why, &self.server_name.to_str()))?;
        if tls.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err(ConnectError::NotVault);
        }
        self.farewell.take();
        Ok(Watched { tls, farewell: self.farewell() })
    }

    fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// The alert that ended the last connection, if one did.
#[derive(Default)]
pub(crate) struct Farewell(Mutex<Option<AlertDescription>>);

impl Farewell {
    pub(crate) fn take(&self) -> Option<AlertDescription> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn note(&self, error: &io::Error) {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::AlertReceived(alert)) = inner {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(*alert);
        }
    }
}

/// A TLS connection whose last words are noted.
pub(crate) struct Watched {
    tls: TlsStream<TcpStream>,
    farewell: Arc<Farewell>,
}

impl Watched {
    fn noted<T>(&self, step: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &step {
            self.farewell.note(error);
        }
        step
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let step = Pin::new(&mut self.tls).poll_read(cx, buf);
        self.noted(step)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let step = Pin::new(&mut self.tls).poll_write(cx, buf);
        self.noted(step)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let step = Pin::new(&mut self.tls).poll_write_vectored(cx, bufs);
        self.noted(step)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let step = Pin::new(&mut self.tls).poll_flush(cx);
        self.noted(step)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let step = Pin::new(&mut self.tls).poll_shutdown(cx);
        self.noted(step)
    }
}
