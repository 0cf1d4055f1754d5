//! A TCP proxy between one process and Postgres, which can cut, delay, hold up and swallow connections, and lose
//! notifications. It reads of the protocol only where a message ends.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// What happens to connections at the moment.
#[derive(Clone, Copy, Debug, Default)]
struct Control {
    /// Connections of an earlier generation than this are closed.
    cut_before: u64,
    /// Connections of an earlier generation than this carry nothing any more.
    swallowed_before: u64,
    /// How much later everything arrives.
    delay: Duration,
    /// Whether nothing passes at the moment.
    is_held: bool,
    /// Whether notifications are lost.
    is_deaf: bool,
}

/// A running proxy. Dropping it closes all its connections.
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    control: Arc<watch::Sender<Control>>,
    serving: JoinHandle<()>,
}

impl Proxy {
    /// Starts a proxy to the server at this address.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let control = Arc::new(watch::Sender::new(Control::default()));
        let serving = tokio::spawn(serve(listener, server, Arc::clone(&control)));
        Ok(Self { address, control, serving })
    }

    /// Closes all present connections.
    pub fn cut(&self) {
        self.control.send_modify(|control| control.cut_before += 1);
    }

    /// Lets nothing pass any more on the present connections, without closing them.
    pub fn swallow(&self) {
        self.control.send_modify(|control| control.swallowed_before += 1);
    }

    /// Makes everything arrive later by this much; zero ends that.
    pub fn delay(&self, delay: Duration) {
        self.control.send_modify(|control| control.delay = delay);
    }

    /// Holds everything up, until [`Self::let_go`].
    pub fn hold(&self) {
        self.control.send_modify(|control| control.is_held = true);
    }

    /// Lets everything pass that was held up.
    pub fn let_go(&self) {
        self.control.send_modify(|control| control.is_held = false);
    }

    /// Loses all notifications, until [`Self::hear`].
    pub fn be_deaf(&self) {
        self.control.send_modify(|control| control.is_deaf = true);
    }

    /// Lets notifications pass again.
    pub fn hear(&self) {
        self.control.send_modify(|control| control.is_deaf = false);
    }

    /// Ends everything that disturbs connections. Those that were swallowed stay so until their process gives them up.
    pub fn calm(&self) {
        self.control.send_modify(|control| {
            (control.delay, control.is_held, control.is_deaf) = (Duration::ZERO, false, false);
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, server: SocketAddr, control: Arc<watch::Sender<Control>>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        connections.spawn(carry(client, server, control.subscribe()));
        while connections.try_join_next().is_some() {}
    }
}

/// Carries one connection until an end closes it or it is cut.
async fn carry(client: TcpStream, server: SocketAddr, control: watch::Receiver<Control>) {
    let begun = *control.borrow();
    let Ok(server) = TcpStream::connect(server).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut ending = control.clone();
    tokio::select! {
        _ = ending.wait_for(|now| now.cut_before > begun.cut_before) => {}
        () = pump(from_client, to_server, control.clone(), begun.swallowed_before, Messages::None) => {}
        () = pump(from_server, to_client, control, begun.swallowed_before, Messages::Any(Framing::default())) => {}
    }
}

/// Whether a direction has messages whose frames are read.
enum Messages {
    /// What a client sends begins with a message without a type, and has no notifications.
    None,
    /// Each message of the server has a type and a length.
    Any(Framing),
}

/// Moves bytes in one direction until an end is closed.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut control: watch::Receiver<Control>,
    generation: u64,
    mut messages: Messages,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        let delay = control.borrow().delay;
        tokio::time::sleep(delay).await;
        let passes = |now: &Control| !now.is_held || now.swallowed_before > generation;
        let Ok(now) = control.wait_for(passes).await.map(|now| *now) else { return };
        if now.swallowed_before > generation {
            continue;
        }
        let chunk = &buffer[..read];
        let written = match &mut messages {
            Messages::None => to.write_all(chunk).await,
            Messages::Any(framing) => to.write_all(&framing.without_notifications(chunk, now.is_deaf)).await,
        };
        if written.is_err() {
            return;
        }
    }
}

/// Where a stream of messages stands: each has a byte that tells its type, and its length in four bytes, which count
/// themselves.
#[derive(Debug, Default)]
struct Framing {
    /// The beginning of a head that has not arrived whole.
    head: Vec<u8>,
    /// Bytes of the present message that are still to come.
    left: usize,
    /// Whether the present message is lost.
    is_lost: bool,
}

impl Framing {
    const HEAD_BYTES: usize = 5;
    const NOTIFICATION: u8 = b'A';

    /// Takes a part of the stream, and returns what of it goes on.
    fn without_notifications(&mut self, mut bytes: &[u8], is_deaf: bool) -> Vec<u8> {
        let mut passed = Vec::with_capacity(bytes.len() + self.head.len());
        while !bytes.is_empty() {
            if self.left > 0 {
                let (now, later) = bytes.split_at(self.left.min(bytes.len()));
                if !self.is_lost {
                    passed.extend_from_slice(now);
                }
                self.left -= now.len();
                bytes = later;
                continue;
            }
            let (now, later) = bytes.split_at((Self::HEAD_BYTES - self.head.len()).min(bytes.len()));
            self.head.extend_from_slice(now);
            bytes = later;
            if let &[kind, a, b, c, d] = self.head.as_slice() {
                self.left = (u32::from_be_bytes([a, b, c, d]) as usize).saturating_sub(4);
                self.is_lost = is_deaf && kind == Self::NOTIFICATION;
                if !self.is_lost {
                    passed.extend_from_slice(&self.head);
                }
                self.head.clear();
            }
        }
        passed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).expect("it is short");
        [&[kind][..], &length.to_be_bytes(), body].concat()
    }

    #[test]
    fn only_notifications_are_lost_however_the_stream_is_cut() {
        let (row, notification, ready) = (message(b'D', b"a row"), message(b'A', b"a notice"), message(b'Z', b"I"));
        let stream = [&row[..], &notification, &notification, &ready, &message(b'1', b"")].concat();
        let kept = [&row[..], &ready, &message(b'1', b"")].concat();
        for size in 1..stream.len() {
            let mut deaf = Framing::default();
            let passed: Vec<u8> =
                stream.chunks(size).flat_map(|chunk| deaf.without_notifications(chunk, true)).collect();
            assert_eq!(passed, kept, "in pieces of {size} bytes");
            let mut hearing = Framing::default();
            let passed: Vec<u8> =
                stream.chunks(size).flat_map(|chunk| hearing.without_notifications(chunk, false)).collect();
            assert_eq!(passed, stream);
        }
    }
}
