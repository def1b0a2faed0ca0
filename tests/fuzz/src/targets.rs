//! The readers, each as a plain function of bytes.

use std::{
    collections::BTreeSet,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use c3os::{
    config::{self, Config, NetworkId, Source},
    election::{Acceptor, Assignment, Ballot, Certificate, ClusterId, Proposer, Register, Role},
    identity::{Identity, NodeId},
    k3s::kubeconfig,
    ledger::{Ledger, decode, encode},
    node::{Kept, Node, Settings},
    token::{
        MeshId, NetworkToken,
        admission::{AdmissionKeys, Initiator, Responder, Session, VERSION},
    },
};

use crate::data_plane;

/// A reader under test.
pub struct Target {
    pub name: &'static str,
    /// Directories of the tree with inputs of its kind.
    pub fixtures: &'static [&'static str],
    /// Inputs that it takes.
    pub good: fn() -> Vec<Vec<u8>>,
    pub run: fn(&[u8]),
}

pub const TARGETS: &[Target] = &[
    Target {
        name: "config",
        fixtures: &["tests/fixture/config/bad", "cloud-config-schema"],
        good: Vec::new,
        run: read_config,
    },
    Target { name: "token", fixtures: &["tests/fixture/token"], good: Vec::new, run: read_token },
    Target { name: "admission", fixtures: &[], good: admissions, run: admit },
    Target { name: "ledger", fixtures: &[], good: messages, run: take_message },
    Target { name: "disk", fixtures: &[], good: disks, run: restore },
    Target { name: "facts", fixtures: &[], good: facts, run: believe },
    Target { name: "certificate", fixtures: &[], good: facts, run: read_certificate },
    Target { name: "kubeconfig", fixtures: &[], good: kubeconfigs, run: read_kubeconfig },
    Target { name: "datagram", fixtures: &[], good: data_plane::datagrams, run: data_plane::take_datagram },
    Target { name: "frame", fixtures: &[], good: data_plane::frames, run: data_plane::take_frame },
];

fn read_config(bytes: &[u8]) {
    let source = |text: &[u8]| Source { path: "config.yaml".to_owned(), text: text.to_vec() };
    let parsed = config::parse(&[source(bytes)], "");
    // Whatever is wrong is told with its place, and never twice the same.
    for mistake in &parsed.mistakes {
        assert!(!mistake.message.is_empty());
    }
    // Merged with itself it means the same: later wins.
    let twice = config::parse(&[source(bytes), source(bytes)], "");
    assert_eq!(parsed.config.role, twice.config.role);
    let words = String::from_utf8_lossy(bytes);
    config::parse(&[], &words);
}

fn read_token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match NetworkToken::parse(text) {
        Ok(token) => {
            // What we write we read, and it is the same network.
            let again = NetworkToken::parse(&token.encode()).expect("our own form");
            assert_eq!(token.keys().mesh_id, again.keys().mesh_id);
        }
        Err(error) => {
            let words = error.to_string();
            // No piece of a token that is long enough to matter is in a message.
            let leaks = bytes.windows(24).any(|piece| words.as_bytes().windows(24).any(|said| said == piece));
            assert!(!leaks, "{words}");
        }
    }
}

fn session() -> Session {
    Session {
        initiator: NodeId::from_bytes([1; 32]),
        responder: NodeId::from_bytes([2; 32]),
        version: VERSION,
    }
}

fn admissions() -> Vec<Vec<u8>> {
    let keys = || AdmissionKeys::one(&[9; 32]);
    let (_, challenge) = Responder::new(keys(), session(), [3; 32]);
    let initiator = Initiator::new(keys(), session(), [4; 32]);
    let (_, proof) = initiator.handle_challenge(&challenge).expect("our own challenge");
    vec![challenge, proof]
}

/// No bytes admit somebody who does not know the key.
fn admit(bytes: &[u8]) {
    let keys = || AdmissionKeys::one(&[8; 32]);
    let (responder, _) = Responder::new(keys(), session(), [3; 32]);
    assert!(responder.handle_proof(bytes).is_err());
    let initiator = Initiator::new(keys(), session(), [4; 32]);
    if let Ok((proved, _)) = initiator.handle_challenge(bytes) {
        assert!(proved.handle_answer(bytes).is_err());
    }
}

/// One real instant for all: time does not pass while bytes are read.
static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);

fn identity(seed: u8) -> Arc<Identity> {
    Arc::new(Identity::from_seed(&[seed; 32]))
}

/// A ledger with some entries of its own, all on disk, and the bytes of that disk.
fn ledger(seed: u8) -> (Ledger, Vec<u8>) {
    let mut ledger = Ledger::new(identity(seed), [seed; 32], *NOW);
    for number in 0..4_u8 {
        let key = format!("note/{number}").parse().expect("a key");
        let ttl = (number == 3).then_some(Duration::from_secs(60));
        ledger.put(key, vec![number; 20 * usize::from(number)], ttl, *NOW).expect("it fits");
    }
    let mut disk = Vec::new();
    while let Some(write) = ledger.poll_write() {
        disk.extend(write.bytes);
        ledger.handle_written(*NOW);
    }
    (ledger, disk)
}

/// Everything that two ledgers say to each other until they are equal.
fn messages() -> Vec<Vec<u8>> {
    let (mut a, mut b) = (ledger(1).0, ledger(2).0);
    let (from, to) = (a.id(), b.id());
    a.handle_neighbour_up(to, *NOW);
    b.handle_neighbour_up(from, *NOW);
    let mut said = Vec::new();
    let mut now = *NOW;
    for _ in 0..200 {
        while let Some((_, bytes)) = a.poll_message() {
            b.handle_message(from, &bytes, now).expect("an honest message");
            said.push(bytes);
        }
        while let Some((_, bytes)) = b.poll_message() {
            a.handle_message(to, &bytes, now).expect("an honest message");
            said.push(bytes);
        }
        now += Duration::from_millis(500);
        a.handle_timeout(now);
        b.handle_timeout(now);
    }
    said
}

fn take_message(bytes: &[u8]) {
    let (mut ledger, _) = ledger(1);
    let neighbour = identity(2).id();
    ledger.handle_neighbour_up(neighbour, *NOW);
    // A fault is the neighbour's; here it is enough that it is one.
    let _ = ledger.handle_message(neighbour, bytes, *NOW);
    while ledger.poll_message().is_some() {}
    ledger.handle_timeout(*NOW + Duration::from_secs(120));
    // Nothing that another says changes what we said.
    assert_eq!(ledger.latest("note/2"), Some([2; 40].as_slice()));
}

fn disks() -> Vec<Vec<u8>> {
    vec![ledger(1).1, ledger(3).1]
}

fn restore(bytes: &[u8]) {
    let (ledger, damage) = Ledger::restore(identity(1), [7; 32], bytes, *NOW);
    let whole = ledger.of_author(ledger.id()).count() == 4;
    assert!(whole || !damage.is_empty(), "something is missing and nothing is said");
    // What is wrong is said in words.
    assert!(damage.iter().all(|damage| !damage.to_string().is_empty()));
}

const NETWORK: &str = "c3os";

fn keys() -> Vec<String> {
    let victim = identity(1).id();
    let plain = ["machine", "neighbours", "address"].map(str::to_owned);
    let in_network =
        ["acceptor", "proposer", "certificate", "applied", "server"].map(|what| format!("{what}/{NETWORK}"));
    let about = ["assignment", "secret", "request"].map(|what| format!("{what}/{NETWORK}/{victim}"));
    plain.into_iter().chain(in_network).chain(about).collect()
}

/// The number of a key, and a value that belongs under one.
fn facts() -> Vec<Vec<u8>> {
    let me = identity(2).id();
    let ballot = Ballot { round: 3, node: me };
    let assignment = Assignment {
        node: identity(1).id(),
        role: Role::Server,
        cluster_id: ClusterId::from_bytes([5; 16]),
        address: [10, 1, 0, 66].into(),
        name: "mine".to_owned(),
        epoch: 3,
    };
    let network_id = NetworkId::default();
    let values = [
        Acceptor { promised: Some(ballot), ..Acceptor::fresh(1) }.encode(),
        Proposer { ballot, minimum_nodes: 2, value: None }.encode(),
        encode(&assignment).expect("an assignment"),
        encode(&Role::Server).expect("a role"),
        encode(&BTreeSet::from([me])).expect("ids"),
        encode(&("name", "uuid", network_id.to_string())).expect("words"),
    ];
    let numbered = |value: &Vec<u8>| {
        (0..keys().len() as u8).map(|key| [vec![key], value.clone()].concat()).collect::<Vec<_>>()
    };
    values.iter().flat_map(numbered).collect()
}

/// An admitted member says something of its own choice under its own name, and a whole node has to live with it.
fn believe(bytes: &[u8]) {
    let Some((number, value)) = bytes.split_first() else { return };
    let keys = keys();
    let key = &keys[usize::from(*number) % keys.len()];
    let mut liar = Ledger::new(identity(2), [2; 32], *NOW);
    if liar.put(key.parse().expect("a key"), value.to_vec(), None, *NOW).is_err() {
        return;
    }
    let config = Config { minimum_nodes: Some(2), ..Config::default() };
    let settings = Settings {
        config,
        mesh_id: MeshId::from_bytes([7; 32]),
        name: "n1".to_owned(),
        uuid: "1".to_owned(),
        version: "0".to_owned(),
        platform: "linux/x86_64".to_owned(),
        visitor: false,
    };
    let kept = Kept { new_identity: true, ..Kept::default() };
    let (mut node, _) = Node::new(settings, identity(1), kept, [1; 32], *NOW).expect("a usual subnet");
    let (me, them) = (node.id(), liar.id());
    node.handle_peer_up(them, *NOW);
    liar.handle_neighbour_up(me, *NOW);
    let mut now = *NOW;
    for _ in 0..8 {
        while liar.poll_write().is_some() {
            liar.handle_written(now);
        }
        while let Some((_, bytes)) = liar.poll_message() {
            node.handle_message(them, &bytes, now).expect("the ledger's form is kept");
        }
        while node.poll_write().is_some() {
            node.handle_written(now);
        }
        while let Some((_, bytes)) = node.poll_transmit() {
            liar.handle_message(me, &bytes, now).expect("the node is honest");
        }
        while node.poll_event().is_some() {}
        now += Duration::from_secs(1);
        node.handle_timeout(now);
        liar.handle_timeout(now);
    }
    let snapshot = node.snapshot();
    assert_eq!(snapshot.node.id, me);
    assert_eq!(snapshot.role.assigned, None, "the word of one liar gave a role");
}

fn read_certificate(bytes: &[u8]) {
    // No bytes are a certificate without the signatures of those who voted.
    assert!(Certificate::parse(bytes).is_err());
    let _ = decode::<Acceptor>(bytes);
    let _ = decode::<Proposer>(bytes);
    let _ = decode::<Assignment>(bytes);
}

const KUBECONFIG: &str = "apiVersion: v1\nkind: Config\nclusters:\n- name: default\n  cluster:\n    server: https://127.0.0.1:6443\n    \
    certificate-authority-data: QQ==\ncontexts:\n- name: default\n  context: {cluster: default, user: default}\n\
    current-context: default\nusers:\n- name: default\n  user: {token: x}\n";

fn kubeconfigs() -> Vec<Vec<u8>> {
    vec![KUBECONFIG.as_bytes().to_vec()]
}

fn read_kubeconfig(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(rewritten) = kubeconfig::rewrite(text, "10.1.0.1", NETWORK) {
        kubeconfig::merge(KUBECONFIG, &rewritten).expect("what was rewritten can be merged");
    }
    let _ = kubeconfig::merge(text, KUBECONFIG);
}
