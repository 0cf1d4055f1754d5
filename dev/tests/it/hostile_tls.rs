//! Receivers that break TLS. No request is sent to a receiver that does not prove who it is, and a handshake that fails
//! or hangs gets the right kind. The worker trusts an authority of the test, named by `POSTRIDER_CA_FILE`.

use std::{
    convert::Infallible,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use hyper::{Response, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use rustls::{ServerConfig, pki_types::PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use uuid::Uuid;

use crate::{
    hostile_receivers::{
        A_SECOND, PATIENT, RawServer, Then, attempt_at, goes_on, only_attempt, owe, read_request, told,
    },
    world::World,
};

/// An attempt keeps at most this many characters of its error, whatever a certificate says.
const ERROR_CHARACTERS_MAX: usize = 4096;

/// A certificate authority of the test, which signs certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = params(&[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority of the tests");
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A world whose worker trusts this authority, and the file from which the worker has read its certificate.
    pub(crate) async fn world(&self) -> (World, CaFile) {
        let file = CaFile(std::env::temp_dir().join(format!("postrider-ca-{}.pem", Uuid::now_v7())));
        std::fs::write(&file.0, &self.pem).unwrap();
        let world = World::with(&[("POSTRIDER_CA_FILE", file.0.to_str().unwrap())]).await;
        (world, file)
    }

    /// A TLS server with a certificate for these names, signed by this authority; `change` may alter the certificate
    /// first.
    pub(crate) fn certifies(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let mut params = params(names);
        change(&mut params);
        acceptor(&params.signed_by(&key, &self.issuer).unwrap(), &key)
    }
}

/// A file that is removed when this is dropped.
pub(crate) struct CaFile(PathBuf);

impl Drop for CaFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    CertificateParams::new(names).unwrap()
}

fn acceptor(certificate: &Certificate, key: &KeyPair) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// A receiver that makes the handshake, reads one request, and then hands the connection to `behave`.
pub(crate) fn secured<F, Fut>(acceptor: TlsAcceptor, behave: F) -> RawServer
where
    F: Fn(TlsStream<TcpStream>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let behave = Arc::new(behave);
    RawServer::listen(move |stream| {
        let (acceptor, behave) = (acceptor.clone(), Arc::clone(&behave));
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            if read_request(&mut stream).await.is_ok() {
                behave(stream).await;
            }
        }
    })
}

async fn send(stream: &mut TlsStream<TcpStream>, answer: &[u8]) {
    let _ = stream.write_all(answer).await;
    let _ = stream.flush().await;
}

pub(crate) fn https(server: &RawServer) -> String {
    server.url.replacen("http:", "https:", 1)
}

#[tokio::test]
async fn only_who_proves_to_be_that_host_is_sent_anything() {
    let authority = Authority::new();
    let (world, _file) = authority.world().await;
    let here = ["127.0.0.1"];
    let key = KeyPair::generate().unwrap();
    let self_signed = acceptor(&params(&here).self_signed(&key).unwrap(), &key);
    let long_ago = |params: &mut CertificateParams| {
        (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(2001, 1, 1));
    };
    let not_yet = |params: &mut CertificateParams| params.not_before = date_time_ymd(3000, 1, 1);
    let for_clients = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    };
    let cases = [
        ("valid, so the others fail for their own reasons", authority.certifies(&here, |_| {}), "success"),
        ("signed by itself", self_signed, "tls"),
        ("signed by a stranger", Authority::new().certifies(&here, |_| {}), "tls"),
        ("expired", authority.certifies(&here, long_ago), "tls"),
        ("not yet valid", authority.certifies(&here, not_yet), "tls"),
        ("of another host", authority.certifies(&["example.org", "127.0.0.2"], |_| {}), "tls"),
        ("of no host", authority.certifies(&[], |_| {}), "tls"),
        ("not of a server", authority.certifies(&here, for_clients), "tls"),
    ];
    let requests = Arc::<AtomicUsize>::default();
    let mut owed = Vec::new();
    for (name, acceptor, expected) in cases {
        let counted = Arc::clone(&requests);
        let server = secured(acceptor, move |mut stream| {
            counted.fetch_add(1, Ordering::Relaxed);
            async move {
                send(&mut stream, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                let _ = stream.shutdown().await;
            }
        });
        owed.push((name, owe(&world, &https(&server), PATIENT, "x").await, expected));
    }
    assert_eq!(world.drain().await, owed.len());
    for (name, delivery, expected) in owed {
        let attempt = only_attempt(&world, &delivery).await;
        assert_eq!(told(&attempt), (expected, (expected == "success").then_some(200)), "{name}: {attempt}");
    }
    assert_eq!(requests.load(Ordering::Relaxed), 1, "the others were not sent anything");
    goes_on(world).await;
}

#[tokio::test]
async fn a_handshake_that_fails_or_hangs_is_told_by_kind() {
    let (world, _file) = Authority::new().world().await;
    // When a connection breaks during the handshake, nobody can tell whether the handshake or the network failed.
    let broken: &[&str] = &["connect", "tls"];
    let (tls, timeout): (&[&str], &[&str]) = (&["tls"], &["timeout"]);
    let hello = "\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03";
    for (name, answer, then, kinds) in [
        ("plain HTTP", "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", Then::Holds, tls),
        ("nonsense", "SSH-2.0-OpenSSH_9.2\r\n", Then::Holds, tls),
        ("an alert", "\x15\x03\x03\x00\x02\x02\x28", Then::Closes, tls),
        ("nothing, then the end", "", Then::Closes, broken),
        ("half a hello, then the end", hello, Then::Closes, broken),
        ("half a hello, then a reset", hello, Then::Resets, broken),
        ("nothing, for ever", "", Then::Holds, timeout),
        ("a hello that drips", hello, Then::Drips("y"), timeout),
    ] {
        let server = RawServer::listen(move |mut stream| {
            let then = then.clone();
            async move {
                // Reads the first message of the client's handshake.
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
                then.happens(stream).await;
            }
        });
        let timeout_ms = if kinds == timeout { A_SECOND } else { PATIENT };
        let delivery = owe(&world, &https(&server), timeout_ms, "x").await;
        assert_eq!(world.drain().await, 1);
        let attempt = only_attempt(&world, &delivery).await;
        let (kind, status) = told(&attempt);
        assert!(kinds.contains(&kind) && status.is_none(), "{name}: {attempt}");
    }
    goes_on(world).await;
}

#[tokio::test]
async fn what_breaks_after_the_handshake_is_no_success() {
    let authority = Authority::new();
    let (world, _file) = authority.world().await;
    // The answer has no length and TLS was not closed properly, so nobody can tell whether it is complete.
    let cut_off = secured(authority.certifies(&["127.0.0.1"], |_| {}), |mut stream| async move {
        send(&mut stream, b"HTTP/1.1 200 OK\r\n\r\nhalf of").await;
    });
    let attempt = attempt_at(&world, &https(&cut_off)).await;
    assert_eq!(told(&attempt), ("protocol", Some(200)), "{attempt}");

    let farewell = secured(authority.certifies(&["127.0.0.1"], |_| {}), |mut stream| async move {
        send(&mut stream, b"HTTP/1.1 200 OK\r\n\r\nall of it").await;
        let _ = stream.shutdown().await;
    });
    let attempt = attempt_at(&world, &https(&farewell)).await;
    assert_eq!(told(&attempt), ("success", Some(200)), "{attempt}");

    let forged = secured(authority.certifies(&["127.0.0.1"], |_| {}), |mut stream| async move {
        let record = [&b"\x17\x03\x03\x00\x20"[..], &[b'y'; 32][..]].concat();
        let _ = stream.get_mut().0.write_all(&record).await;
        Then::Holds.happens(stream.into_inner().0).await;
    });
    let attempt = attempt_at(&world, &https(&forged)).await;
    assert_eq!(told(&attempt), ("tls", None), "{attempt}");
    goes_on(world).await;
}

#[tokio::test]
async fn what_a_certificate_says_is_not_kept_at_any_length() {
    let authority = Authority::new();
    let (world, _file) = authority.world().await;
    let names: Vec<_> = (0..1000).map(|number| format!("host-{number}.example.org")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let server = secured(authority.certifies(&names, |_| {}), |_| async {});
    let attempt = attempt_at(&world, &https(&server)).await;
    assert_eq!(told(&attempt), ("tls", None), "{attempt}");
    let length = attempt["error"].as_str().unwrap().chars().count();
    assert!(length <= ERROR_CHARACTERS_MAX, "{length}");
    goes_on(world).await;
}

/// A receiver that speaks HTTP/2, and closes each connection without a word when its second request has come.
fn ends_http2_at_the_second(acceptor: &TlsAcceptor) -> RawServer {
    let mut config = ServerConfig::clone(acceptor.config());
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    RawServer::listen(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let (requests, second) = (Arc::<AtomicUsize>::default(), Arc::new(Notify::new()));
            let ends = Arc::clone(&second);
            let answer = service_fn(move |_| {
                let is_first = requests.fetch_add(1, Ordering::SeqCst) == 0;
                let ends = Arc::clone(&ends);
                async move {
                    if !is_first {
                        ends.notify_one();
                        std::future::pending::<()>().await;
                    }
                    Ok::<_, Infallible>(Response::new(String::from("ok")))
                }
            });
            let serving = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer);
            tokio::select! {
                _ = serving => {}
                () = second.notified() => {}
            }
        }
    })
}

#[tokio::test]
async fn a_kept_http2_connection_that_ends_unanswered_costs_the_receiver_nothing() {
    let authority = Authority::new();
    let (world, _file) = authority.world().await;
    let server = ends_http2_at_the_second(&authority.certifies(&["127.0.0.1"], |_| {}));
    for connections in 1..=3 {
        let attempt = attempt_at(&world, &https(&server)).await;
        assert_eq!(told(&attempt), ("success", Some(200)), "{attempt}");
        assert_eq!(server.accepted.load(Ordering::Relaxed), connections);
    }
    goes_on(world).await;
}
