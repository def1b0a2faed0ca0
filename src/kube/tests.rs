//! What a node's health means, and the client against a real API server on a real etcd.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, KeyPair};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::*;
use crate::election::{Bid, Campaign, LEASE_DURATION, LeaseRecord};

#[test]
fn a_learner_is_no_voter_and_silence_about_etcd_is_no_answer() {
    let node = |conditions: Value| health(&json!({ "status": { "conditions": conditions } }));
    let ready = json!({ "type": "Ready", "status": "True" });
    let learner = json!({ "type": "EtcdIsVoter", "status": "False" });
    assert_eq!(node(json!([ready])), NodeHealth { ready: true, votes: None });
    let joining = node(json!([ready, learner]));
    assert_eq!(joining, NodeHealth { ready: true, votes: Some(false) });
    assert_eq!(health(&Value::Null), NodeHealth { ready: false, votes: None });
}

/// etcd and kube-apiserver, ended with this value.
struct ApiServer {
    processes: Vec<Child>,
    kubeconfig: String,
    _directory: tempfile::TempDir,
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

/// A certificate for `name`, signed by the CA.
fn certificate(ca: &(Certificate, KeyPair), name: &str, group: &str) -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let mut params =
        CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("names");
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, group);
    let certificate = params.signed_by(&key, &ca.0, &ca.1).expect("a certificate");
    (certificate.pem(), key.serialize_pem())
}

impl ApiServer {
    /// As k3s has it: client certificates of its own CA, an administrator in `system:masters`.
    async fn start() -> Self {
        let program = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} names the program"));
        let (apiserver, etcd) = (program("C3OS_TEST_APISERVER"), program("C3OS_TEST_ETCD"));
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).expect("written");

        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "k3s-server-ca");
        let ca = (params.self_signed(&key).expect("a CA"), key);
        let (server, server_key) = certificate(&ca, "kube-apiserver", "test");
        let (client, client_key) = certificate(&ca, "system:admin", "system:masters");
        write("ca.crt", &ca.0.pem());
        write("server.crt", &server);
        write("server.key", &server_key);
        let accounts = KeyPair::generate().expect("a key");
        write("accounts.key", &accounts.serialize_pem());
        write("accounts.pub", &accounts.public_key_pem());

        let (peers, clients, port) = (free_port(), free_port(), free_port());
        let mut processes = vec![spawn(
            directory.path(),
            "etcd",
            &etcd,
            &[
                &format!("--data-dir={}", path("etcd")),
                &format!("--listen-client-urls=http://127.0.0.1:{clients}"),
                &format!("--advertise-client-urls=http://127.0.0.1:{clients}"),
                &format!("--listen-peer-urls=http://127.0.0.1:{peers}"),
            ],
        )];
        processes.push(spawn(
            directory.path(),
            "apiserver",
            &apiserver,
            &[
                &format!("--etcd-servers=http://127.0.0.1:{clients}"),
                "--bind-address=127.0.0.1",
                &format!("--secure-port={port}"),
                &format!("--client-ca-file={}", path("ca.crt")),
                &format!("--tls-cert-file={}", path("server.crt")),
                &format!("--tls-private-key-file={}", path("server.key")),
                &format!("--service-account-key-file={}", path("accounts.pub")),
                &format!("--service-account-signing-key-file={}", path("accounts.key")),
                "--service-account-issuer=https://kubernetes.default.svc",
                "--service-cluster-ip-range=10.43.0.0/16",
                "--authorization-mode=Node,RBAC",
                "--disable-admission-plugins=ServiceAccount",
            ],
        ));
        let data = |pem: &str| base64::Engine::encode(&base64::prelude::BASE64_STANDARD, pem);
        let kubeconfig = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: default\n\
             clusters:\n- name: default\n  cluster:\n    certificate-authority-data: {}\n    \
             server: https://127.0.0.1:{port}\n\
             users:\n- name: default\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n",
            data(&ca.0.pem()),
            data(&client),
            data(&client_key),
        );
        let server = Self { processes, kubeconfig, _directory: directory };
        let (api, end) = (server.connect(), Instant::now() + Duration::from_secs(120));
        // The namespace comes a moment after the first answer.
        while api.get("/api/v1/namespaces/kube-system").await.ok().flatten().is_none() {
            assert!(Instant::now() < end, "the API server does not come up");
            sleep(Duration::from_millis(200)).await;
        }
        server
    }

    fn connect(&self) -> Connection {
        Connection::new(&self.kubeconfig).expect("a kubeconfig as k3s writes it")
    }
}

fn spawn(directory: &Path, name: &str, program: &str, arguments: &[&str]) -> Child {
    let log = fs::File::create(directory.join(format!("{name}.log"))).expect("a log");
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// One look and what follows from it, as the daemon does it.
async fn bid(campaign: &mut Campaign, api: &Connection, holder: &str, epoch: u64, ours: bool) -> Bid {
    let found = api.lease().await.expect("an answer");
    let (record, version) = found.map_or((None, None), |(record, version)| (Some(record), Some(version)));
    let bid = campaign.handle_seen(record, epoch, ours, Instant::now().into());
    if let Bid::Write { transitions } = bid {
        let written = api.write_lease(version.as_ref(), holder, transitions).await.expect("an answer");
        campaign.handle_written(written == Written::Done);
    }
    bid
}

#[tokio::test]
#[ignore = "needs kube-apiserver and etcd: cargo verify --full --part lease"]
async fn the_lease_names_one_holder_at_a_time_on_a_real_api_server() {
    let server = ApiServer::start().await;
    let api = server.connect();
    let now = || Instant::now().into();
    assert!(api.lease().await.expect("an answer").is_none());
    let (mut a, mut b) = (Campaign::new("a".to_owned()), Campaign::new("b".to_owned()));

    // Two that saw none: the API server takes one.
    assert_eq!(a.handle_seen(None, 1, true, now()), Bid::Write { transitions: 0 });
    assert_eq!(api.write_lease(None, "a", 0).await.expect("an answer"), Written::Done);
    a.handle_written(true);
    assert_eq!(api.write_lease(None, "b", 1).await.expect("an answer"), Written::Overtaken);
    assert_eq!(a.held(now()).map(|held| held.epoch), Some(1));

    // Renewed, and seen by the other.
    let (first, version) = api.lease().await.expect("an answer").expect("it was made");
    assert_eq!((first.holder.as_str(), first.transitions), ("a", 0));
    assert_eq!(bid(&mut b, &api, "b", 1, false).await, Bid::Watch);
    sleep(Duration::from_millis(5)).await;
    assert_eq!(bid(&mut a, &api, "a", 1, true).await, Bid::Write { transitions: 0 });
    let (renewed, _) = api.lease().await.expect("an answer").expect("it is there");
    assert_ne!(renewed.renewed, first.renewed);
    // A write over a version that is not the last one.
    assert_eq!(api.write_lease(Some(&version), "b", 1).await.expect("an answer"), Written::Overtaken);

    // a dies; b takes over after the whole time, not before.
    assert_eq!(bid(&mut b, &api, "b", 1, false).await, Bid::Watch);
    let began = Instant::now();
    while bid(&mut b, &api, "b", 1, false).await == Bid::Watch {
        sleep(Duration::from_secs(1)).await;
    }
    assert!(began.elapsed() + Duration::from_secs(1) >= LEASE_DURATION);
    assert_eq!(b.held(now()).map(|held| held.epoch), Some(2));
    let (taken, _) = api.lease().await.expect("an answer").expect("it is there");
    let LeaseRecord { holder, transitions, .. } = taken;
    assert_eq!((holder.as_str(), transitions), ("b", 1));
    assert_eq!(bid(&mut a, &api, "a", 1, true).await, Bid::Watch);
    assert_eq!(a.held(now()), None);
}

#[tokio::test]
#[ignore = "needs kube-apiserver and etcd: cargo verify --full --part lease"]
async fn nodes_and_workload_are_seen_and_a_node_is_let_go_of_on_a_real_api_server() {
    let server = ApiServer::start().await;
    let api = server.connect();
    assert_eq!(api.node("n1").await.expect("an answer"), None);
    let node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": "n1" },
        "status": { "conditions": [
            { "type": "Ready", "status": "True" },
            { "type": "EtcdIsVoter", "status": "True", "reason": "MemberNotLearner" },
        ] },
    });
    let post = axum::http::Method::POST;
    assert!(api.put(post.clone(), "/api/v1/nodes", &node).await.expect("taken"));
    let well = NodeHealth { ready: true, votes: Some(true) };
    assert_eq!(api.node("n1").await.expect("an answer"), Some(well));
    assert!(!api.put(post.clone(), "/api/v1/nodes", &node).await.expect("an answer"), "it is there already");

    assert!(api.is_idle().await.expect("an answer"));
    let pod = |namespace: &str| {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": "p", "namespace": namespace },
            "spec": { "containers": [{ "name": "c", "image": "i" }] },
        })
    };
    let pods = |namespace: &str| format!("/api/v1/namespaces/{namespace}/pods");
    assert!(api.put(post.clone(), &pods("kube-system"), &pod("kube-system")).await.expect("taken"));
    assert!(api.is_idle().await.expect("an answer"), "what k3s brings along is no workload");
    while api.get("/api/v1/namespaces/default").await.ok().flatten().is_none() {
        sleep(Duration::from_millis(100)).await;
    }
    assert!(api.put(post, &pods("default"), &pod("default")).await.expect("taken"));
    assert!(!api.is_idle().await.expect("an answer"));

    api.remove_node("n1").await.expect("it lets go");
    assert_eq!(api.node("n1").await.expect("an answer"), None);
    api.remove_node("n1").await.expect("what is gone is let go of");

    // Somebody without the right, and a server of another CA.
    let other = ApiServer::start().await;
    let (ours, theirs) = (&server.kubeconfig, &other.kubeconfig);
    let users = |config: &str| config[config.find("users:").expect("users")..].to_owned();
    let stranger = ours[..ours.find("users:").expect("users")].to_owned() + &users(theirs);
    let refused = Connection::new(&stranger).expect("a kubeconfig").lease().await;
    assert!(refused.is_err());
    drop(server);
    let gone = api.lease().await.map(drop).unwrap_err().to_string();
    assert!(gone.contains("cannot be reached") || gone.contains("does not answer"), "{gone}");
}
