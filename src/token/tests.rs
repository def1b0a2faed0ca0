use super::{MeshId, NetworkToken, keys::hex};

const GENERATION_A: &str = include_str!("../../tests/fixture/token/generation-a.token");
const GENERATION_B: &str = include_str!("../../tests/fixture/token/generation-b.token");
const GENERATION_C: &str = include_str!("../../tests/fixture/token/generation-c.token");

fn random(first: u8) -> [u8; 160] {
    std::array::from_fn(|index| first.wrapping_add(index as u8))
}

fn ours() -> NetworkToken {
    let peers = vec!["/ip4/192.0.2.1/tcp/4001".to_owned(), "/dnsaddr/boot.example.org".to_owned()];
    NetworkToken::generate(&random(0), peers).unwrap()
}

/// All that a token leads to, comparable.
fn outcome(token: &NetworkToken) -> (MeshId, [u8; 32], [u8; 32], [u8; 32], String, Vec<String>) {
    let keys = token.keys();
    let day = keys.rendezvous(20_000);
    (keys.mesh_id, keys.admission, keys.data_psk, day, keys.mdns_name(20_000), token.peers().to_vec())
}

#[test]
fn every_generation_of_the_original_is_taken_and_called_weak() {
    for written in [GENERATION_A, GENERATION_B, GENERATION_C] {
        let token = NetworkToken::parse(written).unwrap();
        assert!(token.is_weak());
        assert!(token.peers().is_empty());
        assert_eq!(*token.encode(), written.trim(), "what tools look at is the same to the byte");
    }
}

#[test]
fn keys_of_a_known_token_never_change() {
    // Computed by another HKDF (Python's hmac and hashlib).
    let keys = NetworkToken::parse(GENERATION_C).unwrap().keys();
    assert_eq!(keys.mesh_id.to_string(), "a4accb3d97b2c065d4f94c6072c10887377b6de9a96a7e7637b8be20379ba913");
    assert_eq!(hex(&keys.admission), "9d92ef2d8c7c74d7533078bdf0fb60cdc57d520760ad4e89d72ca99e91287058");
    assert_eq!(hex(&keys.data_psk), "2f6c4afe214c4a70ed9f4e0cd88a21ac398636784663121ba97b00c63ab55e6d");
    assert_eq!(
        hex(&keys.rendezvous(20_000)),
        "b505f1146a01baf50a3dd75634236807189c1c0134a8c6109dadb16c62dd81e0"
    );
    assert_eq!(keys.mdns_name(20_000), "7e2663812a4522363a78debe6948ea25");
}

#[test]
fn a_token_of_ours_comes_back_as_it_was() {
    let token = ours();
    let written = token.encode();
    let again = NetworkToken::parse(&written).unwrap();
    assert!(!again.is_weak());
    assert_eq!(again.encode(), written);
    assert_eq!(outcome(&again), outcome(&token));
    assert!(!written.contains(['\n', ' ']), "one line");
}
