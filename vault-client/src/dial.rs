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

#[cfg(test)]
mod tests {
    use rustls::SupportedProtocolVersion;
    use rustls::version::{TLS12, TLS13};
    use tokio::io::AsyncWriteExt as _;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::rig::{Papers, Rig, other_server};
    use crate::{ClientError, Endpoint, Pem, VaultClient};

    async fn fault(endpoint: Endpoint) -> ConnectError {
        match VaultClient::connect(endpoint).await {
            Err(ClientError::Connect(fault)) => fault,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("connected"),
        }
    }

    async fn with_tls(
        papers: &Papers,
        version: &'static SupportedProtocolVersion,
        alpn: &[&[u8]],
    ) -> Endpoint {
        let tls = TlsAcceptor::from(Arc::new(papers.server(version, alpn)));
        let (address, _serving) = other_server(move |tcp| {
            let tls = tls.clone();
            async move { drop(tls.accept(tcp).await) }
        })
        .await;
        Endpoint::new(&address, papers.authority(), papers.client())
    }

    #[tokio::test]
    async fn a_server_of_another_authority_is_refused_at_once() {
        let (rig, other) = (Rig::start(vec![]).await, Papers::new("another"));
        let found = fault(Endpoint::new(&rig.address(), other.authority(), rig.papers.client())).await;
        assert!(matches!(&found, ConnectError::Untrusted { name, .. } if name == "localhost"), "{found:?}");
        assert!(found.to_string().contains("another authority signed it"), "{found}");
        assert_eq!(rig.dialled(), 1, "trying again cannot help");
    }

    #[tokio::test]
    async fn a_server_is_held_to_the_name_that_was_asked_for() {
        let rig = Rig::start(vec![]).await;
        let found = fault(rig.endpoint().server_name("vault.example")).await;
        assert!(
            matches!(&found, ConnectError::Untrusted { name, .. } if name == "vault.example"),
            "{found:?}"
        );
        let by_number = rig.address().replace("localhost", "127.0.0.1");
        let endpoint = || Endpoint::new(&by_number, rig.papers.authority(), rig.papers.client());
        assert!(matches!(fault(endpoint()).await, ConnectError::Untrusted { .. }));
        assert!(VaultClient::connect(endpoint().server_name("localhost")).await.is_ok());
    }

    #[tokio::test]
    async fn below_tls_1_3_nothing_is_said() {
        let papers = Papers::new("ours");
        assert_eq!(fault(with_tls(&papers, &TLS12, &[b"h2"]).await).await, ConnectError::OldTls);
    }

    #[tokio::test]
    async fn whatever_is_not_a_vault_is_named_as_such() {
        let papers = Papers::new("ours");
        assert_eq!(fault(with_tls(&papers, &TLS13, &[]).await).await, ConnectError::NotVault);
        assert_eq!(fault(with_tls(&papers, &TLS13, &[b"http/1.1"]).await).await, ConnectError::NotVault);
        let plain = other_server(|mut tcp| async move {
            let _ = tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        });
        let endpoint = Endpoint::new(&plain.await.0, papers.authority(), papers.client());
        assert_eq!(fault(endpoint).await, ConnectError::NotVault);
    }

    #[tokio::test]
    async fn a_client_certificate_that_the_server_does_not_take_is_told_as_that() {
        let (rig, other) = (Rig::start(vec![]).await, Papers::new("another"));
        let found = fault(Endpoint::new(&rig.address(), rig.papers.authority(), other.client())).await;
        assert!(matches!(found, ConnectError::CertificateRefused(_)), "{found:?}");
    }

    #[tokio::test]
    async fn where_nobody_is_or_nobody_speaks_it_says_so_in_time() {
        let papers = Papers::new("ours");
        let (address, silent) = other_server(|tcp| async move {
            tokio::time::sleep(Duration::from_mins(1)).await;
            drop(tcp);
        })
        .await;
        let endpoint = || {
            Endpoint::new(&address, papers.authority(), papers.client())
                .connect_timeout(Duration::from_millis(50))
                .attempts(2)
        };
        let dialled = address.trim_start_matches("https://").to_owned();
        assert_eq!(fault(endpoint()).await, ConnectError::TimedOut { address: dialled.clone() });
        silent.abort();
        let _ = silent.await;
        let gone = fault(endpoint()).await;
        assert!(
            matches!(&gone, ConnectError::Unreachable { address, .. } if *address == dialled),
            "{gone:?}"
        );
    }

    #[tokio::test]
    async fn certificates_may_lie_in_files() {
        let rig = Rig::start(vec![]).await;
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = rig.papers.client_pem();
        let file = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).unwrap();
            Pem::file(folder.path().join(name))
        };
        let client = (file("shop.pem", &certificate), file("shop.key", &key));
        let endpoint = Endpoint::new(&rig.address(), file("ca.pem", &rig.papers.authority_pem()), client);
        assert_eq!(VaultClient::connect(endpoint).await.unwrap().capabilities().principal, "shop");
    }
}
