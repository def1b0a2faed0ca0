//! A bare libp2p node that speaks multistream-select by hand, and the link protocol if it must.

use std::{future::poll_fn, net::SocketAddr, task::Poll};

use c3os::{
    identity::{Identity, NodeId},
    token::{
        NetworkKeys,
        admission::{AdmissionKeys, Initiator, Session, VERSION},
    },
};
use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::{
    Multiaddr, Transport as _,
    core::{
        Endpoint,
        muxing::{StreamMuxerBox, StreamMuxerExt as _, SubstreamBox},
        transport::{DialOpts, PortUse},
        upgrade,
    },
    identity::Keypair,
    multiaddr::Protocol,
    noise, tcp, yamux,
};
use tokio::sync::{mpsc, oneshot};

pub(crate) struct Stranger {
    me: NodeId,
    peer: NodeId,
    open: mpsc::Sender<oneshot::Sender<SubstreamBox>>,
}

impl Stranger {
    /// Connects by TCP, Noise and yamux as any libp2p node would.
    pub(crate) async fn connect(identity: &Identity, to: SocketAddr) -> Self {
        let keypair = Keypair::ed25519_from_bytes(identity.seed().to_vec()).expect("a key");
        let mut transport = tcp::tokio::Transport::new(tcp::Config::new())
            .upgrade(upgrade::Version::V1)
            .authenticate(noise::Config::new(&keypair).expect("a key"))
            .multiplex(yamux::Config::default())
            .boxed();
        let address = Multiaddr::from(to.ip()).with(Protocol::Tcp(to.port()));
        let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
        let (peer, muxer) = transport.dial(address, options).expect("an address").await.expect("connected");
        let (open, orders) = mpsc::channel(4);
        tokio::spawn(drive(muxer, orders));
        Self { me: identity.id(), peer: peer.to_base58().parse().expect("an Ed25519 key"), open }
    }

    /// Opens a stream and says that it speaks multistream-select.
    pub(crate) async fn stream(&self) -> SubstreamBox {
        let (reply, stream) = oneshot::channel();
        self.open.send(reply).await.expect("the connection lives");
        let mut stream = stream.await.expect("a stream");
        write_line(&mut stream, "/multistream/1.0.0").await;
        assert_eq!(read_line(&mut stream).await.expect("an answer"), "/multistream/1.0.0");
        stream
    }

    /// What the other side answers to a request for `protocol` (its name, or `na`).
    pub(crate) async fn ask(&self, protocol: &str) -> String {
        let mut stream = self.stream().await;
        write_line(&mut stream, protocol).await;
        read_line(&mut stream).await.expect("an answer")
    }

    /// What the other side answers to multistream-select's `ls`.
    pub(crate) async fn list(&self) -> Vec<String> {
        let mut stream = self.stream().await;
        write_line(&mut stream, "ls").await;
        let mut list = read_message(&mut stream).await.expect("a list");
        let mut names = Vec::new();
        while list.len() > 1 {
            let length = usize::from(list.remove(0));
            let name = list.drain(..length).collect::<Vec<_>>();
            names.push(String::from_utf8(name).expect("a name").trim_end().to_owned());
        }
        names
    }

    /// Opens the link stream.
    pub(crate) async fn link(&self) -> SubstreamBox {
        let mut stream = self.stream().await;
        write_line(&mut stream, "/link/1").await;
        assert_eq!(read_line(&mut stream).await.expect("an answer"), "/link/1");
        stream
    }

    /// Goes through admission as a member and becomes a neighbour. Its id must be the lower one.
    pub(crate) async fn become_neighbour(&self, keys: &NetworkKeys) -> SubstreamBox {
        assert!(self.me < self.peer, "the lower id chooses");
        let mut stream = self.link().await;
        let session = Session { initiator: self.me, responder: self.peer, version: VERSION };
        let initiator = Initiator::new(AdmissionKeys::one(&keys.admission), session, [7; 32]);
        let challenge = read_message(&mut stream).await.expect("a challenge");
        let (proved, proof) = initiator.handle_challenge(&challenge).expect("a challenge");
        write_message(&mut stream, &proof).await;
        let answer = read_message(&mut stream).await.expect("an answer");
        let _ = proved.handle_answer(&answer).expect("the same token");
        // Hello: version 1, port 4001, not full; then stay.
        stream.write_all(&[2, 0, 0, 5, 0, 1, 0x0f, 0xa1, 0]).await.expect("hello goes out");
        let mut hello = [0; 9];
        stream.read_exact(&mut hello).await.expect("hello comes");
        stream.write_all(&[3, 0, 0, 0]).await.expect("stay goes out");
        stream.flush().await.expect("it goes out");
        stream
    }
}

async fn drive(mut muxer: StreamMuxerBox, mut orders: mpsc::Receiver<oneshot::Sender<SubstreamBox>>) {
    let mut wanted = Vec::new();
    poll_fn(|cx| {
        while let Poll::Ready(order) = orders.poll_recv(cx) {
            match order {
                Some(order) => wanted.push(order),
                None => return Poll::Ready(()),
            }
        }
        while !wanted.is_empty()
            && let Poll::Ready(Ok(stream)) = muxer.poll_outbound_unpin(cx)
        {
            let _ = wanted.remove(0).send(stream);
        }
        match muxer.poll_unpin(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(()),
            Poll::Ready(Ok(_)) | Poll::Pending => Poll::Pending,
        }
    })
    .await;
}

async fn write_line(stream: &mut SubstreamBox, line: &str) {
    write_message(stream, format!("{line}\n").as_bytes()).await;
}

async fn read_line(stream: &mut SubstreamBox) -> Option<String> {
    let line = String::from_utf8(read_message(stream).await?).expect("text");
    Some(line.trim_end().to_owned())
}

/// A length below 128 is one byte, in multistream-select as in admission.
pub(crate) async fn write_message(stream: &mut SubstreamBox, message: &[u8]) {
    let mut bytes = vec![u8::try_from(message.len()).expect("a short message")];
    bytes.extend_from_slice(message);
    stream.write_all(&bytes).await.expect("it goes out");
    stream.flush().await.expect("it goes out");
}

/// None at the end of the stream.
pub(crate) async fn read_message(stream: &mut SubstreamBox) -> Option<Vec<u8>> {
    let mut length = [0];
    stream.read_exact(&mut length).await.ok()?;
    let mut message = vec![0; usize::from(length[0])];
    stream.read_exact(&mut message).await.ok()?;
    Some(message)
}
