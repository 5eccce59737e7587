//! TLS by rustls at the server's end: what passes there, only the other end can tell.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use anyhow::Result;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use xtask::shell;

use crate::wire::message;

/// A certificate of nobody, and its key.
pub struct Certificate {
    /// PEM.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

impl Certificate {
    /// Makes one in a directory.
    pub fn new(directory: &Path) -> Result<Self> {
        let (certificate, key) = (directory.join("sealed.crt"), directory.join("sealed.key"));
        let mut openssl = std::process::Command::new("openssl");
        openssl.args(["req", "-new", "-x509", "-nodes", "-days", "2", "-subj", "/CN=weir-test"]);
        openssl.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
        shell::output(openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate))?;
        Ok(Self { certificate, key })
    }
}

fn configured(certificate: &Certificate) -> Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_file(&certificate.certificate)?],
            PrivateKeyDer::from_pem_file(&certificate.key)?,
        )?;
    Ok(Arc::new(config))
}

/// Listens on a free port, takes the TLS off and hands on what is in it to a PostgreSQL here, until the process ends.
pub fn unwrap(certificate: &Certificate, server: u16) -> Result<u16> {
    let acceptor = tokio_rustls::TlsAcceptor::from(configured(certificate)?);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::spawn(move || {
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            loop {
                let (stream, _) = listener.accept().await?;
                tokio::spawn(pass(stream, acceptor.clone(), server));
            }
            #[expect(unreachable_code, reason = "it says what the block's errors are")]
            Ok::<(), std::io::Error>(())
        })
    });
    Ok(port)
}

async fn pass(
    mut stream: tokio::net::TcpStream,
    acceptor: tokio_rustls::TlsAcceptor,
    server: u16,
) -> std::io::Result<()> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    stream.set_nodelay(true)?;
    // A request for TLS, and for nothing else.
    stream.read_exact(&mut [0; 8]).await?;
    stream.write_all(b"S").await?;
    let mut near = acceptor.accept(stream).await?;
    let mut far = tokio::net::TcpStream::connect(("127.0.0.1", server)).await?;
    far.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut near, &mut far).await.map(drop)
}

/// A stand-in for a PostgreSQL: listens on a free port and answers every query of every connection with one row, until the
/// process ends.
pub fn serve(certificate: &Certificate) -> Result<u16> {
    let config = configured(certificate)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let config = Arc::clone(&config);
            thread::spawn(move || session(stream, config));
        }
    });
    Ok(port)
}

fn session(mut stream: TcpStream, config: Arc<ServerConfig>) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.read_exact(&mut [0; 8])?;
    stream.write_all(b"S")?;
    let mut stream = StreamOwned::new(ServerConnection::new(config)?, stream);
    skip(&mut stream)?;
    stream.write_all(&[message(b'R', &[0; 4]), message(b'Z', b"I")].concat())?;
    let row = b"\0\x01n\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0";
    let answer = [
        message(b'T', row),
        message(b'D', b"\0\x01\0\0\0\x011"),
        message(b'C', b"SELECT 1\0"),
        message(b'Z', b"I"),
    ];
    loop {
        let mut kind = [0];
        stream.read_exact(&mut kind)?;
        skip(&mut stream)?;
        match kind[0] {
            b'Q' => stream.write_all(&answer.concat())?,
            b'X' => return Ok(()),
            _ => {}
        }
    }
}

/// Passes over a message without its type byte.
fn skip(stream: &mut impl Read) -> Result<()> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let body = u64::from(u32::from_be_bytes(length).saturating_sub(4));
    std::io::copy(&mut stream.take(body), &mut std::io::sink())?;
    Ok(())
}
