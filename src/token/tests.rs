use base64::{Engine, engine::general_purpose::STANDARD};
use proptest::prelude::*;

use super::{MeshId, NetworkToken, TokenError, keys::hex};

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

fn yaml_of(token: &str) -> String {
    String::from_utf8(STANDARD.decode(token.trim()).unwrap()).unwrap()
}

fn parse_yaml(yaml: &str) -> Result<NetworkToken, TokenError> {
    NetworkToken::parse(&STANDARD.encode(yaml))
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

#[test]
fn blanks_line_ends_quotes_and_missing_padding_do_no_harm() {
    let plain = NetworkToken::parse(GENERATION_C).unwrap();
    let line = GENERATION_C.trim();
    let wrapped = |end: &str| {
        line.as_bytes()
            .chunks(64)
            .map(|part| std::str::from_utf8(part).unwrap())
            .collect::<Vec<_>>()
            .join(end)
    };
    let forms = [
        format!("\n\t {line} \r\n"),
        format!("\"{line}\""),
        format!(" '{line}\n' "),
        format!("\u{feff}{line}"),
        line.trim_end_matches('=').to_owned(),
        wrapped("\n"),
        wrapped("\r\n"),
        wrapped(" "),
        wrapped("\n      "),
    ];
    for form in forms {
        assert_eq!(outcome(&NetworkToken::parse(&form).unwrap()), outcome(&plain));
    }
}

#[test]
fn what_is_wrong_with_a_text_is_said() {
    let line = GENERATION_C.trim();
    let with = |position: usize, what: &str| format!("{}{what}{}", &line[..position], &line[position..]);
    let yaml = yaml_of(line);
    let binary = STANDARD.encode([0xff; 90]);
    let cases = [
        ("", TokenError::Empty),
        (" \n", TokenError::Empty),
        ("\"\"", TokenError::Empty),
        ("....", TokenError::Placeholder),
        ("\"....\"", TokenError::Placeholder),
        (&with(100, "\""), TokenError::Quote { position: 101 }),
        (&format!("\"{line}"), TokenError::Quote { position: 1 }),
        (&with(64, "\\n"), TokenError::Escaped { position: 65 }),
        (&format!("'{}'", with(64, "\\n")), TokenError::Escaped { position: 66 }),
        (&with(10, "_"), TokenError::UrlSafe),
        (&with(10, "-"), TokenError::UrlSafe),
        (&with(0, "network_token: "), TokenError::UrlSafe),
        (&with(0, "token: "), TokenError::Character { position: 6 }),
        (&with(20, "ü"), TokenError::Character { position: 21 }),
        (&with(20, "\u{200b}"), TokenError::Character { position: 21 }),
        (&format!("{line}{line}"), TokenError::AfterEnd { position: line.len() + 1 }),
        (&yaml, TokenError::NotEncoded),
        (&binary, TokenError::NotText),
        (&"A".repeat(20_000), TokenError::TooLong { length: 20_000, limit: 16_384 }),
        (&line[..line.len() - 7], TokenError::Cut { length: 541 }),
        (&line[..300], TokenError::Cut { length: 300 }),
    ];
    for (text, error) in cases {
        assert_eq!(NetworkToken::parse(text).unwrap_err(), error, "{}", &text[..text.len().min(30)]);
    }
}

#[test]
fn what_is_wrong_with_the_document_is_said() {
    let good = yaml_of(GENERATION_C);
    let without = |line: &str| {
        good.lines().filter(|l| !l.starts_with(line)).map(|l| format!("{l}\n")).collect::<String>()
    };
    let missing = |field| TokenError::Missing { field };
    let long = good.replace("room: ", &format!("room: {}", "r".repeat(600)));
    let short = "otp: {dht: {interval: 1, key: a, length: 1}, crypto: {interval: 1, key: b, length: 1}}\n\
                 room: c\nrendezvous: d\nmdns: e\nmax_message_size: 1\n";
    let cases = [
        (without("room"), missing("room")),
        (without("rendezvous"), missing("rendezvous")),
        (without("mdns"), missing("mdns")),
        (without("max_message_size"), missing("max_message_size")),
        (without("    key"), missing("otp.dht.key")),
        (without("    length"), missing("otp.dht.length")),
        (without("    interval"), missing("otp.dht.interval")),
        (good.replace("  crypto:", "  krypto:"), missing("otp.crypto")),
        (good.replace("room:", "room: ~\nspare:"), missing("room")),
        (good.replace("interval: 9223372036854775807", "interval: soon"), TokenError::NotYaml { line: 3 }),
        (good.replace("room: ", "room: {} #"), TokenError::NotYaml { line: 10 }),
        (good.replace("\nroom: ", "\n\troom: "), TokenError::NotYaml { line: 9 }),
        (format!("{good}room: again\n"), TokenError::NotYaml { line: 14 }),
        ("a secret of another kind, say a password".to_owned(), TokenError::NotYaml { line: 1 }),
        ("name: value\n".to_owned(), TokenError::NotYaml { line: 0 }),
        ("[1, 2, 3]\n".to_owned(), TokenError::NotYaml { line: 1 }),
        (long, TokenError::FieldTooLong { field: "room", limit: 512 }),
        (short.to_owned(), TokenError::Guessable),
    ];
    for (yaml, error) in cases {
        assert_eq!(parse_yaml(&yaml).unwrap_err(), error, "{yaml}");
    }
}

#[test]
fn numbers_are_read_as_the_original_does_and_have_no_part_in_the_keys() {
    let good = yaml_of(GENERATION_C);
    let before = outcome(&NetworkToken::parse(GENERATION_C).unwrap());
    for number in ["0", "-1", "9000", "0x10", "0o17", "017", "1_000"] {
        let yaml = good.replace("9223372036854775807", number).replace("length: 43", "length: 32");
        assert_eq!(outcome(&parse_yaml(&yaml).unwrap()), before, "{number}");
    }
}

#[test]
fn a_key_that_looks_like_a_number_is_still_a_text() {
    let good = yaml_of(GENERATION_C);
    let key = "iK3ZWeqhFWCEPyYngFb62yBMWXaSCrUZoL9g6ubbbPI";
    for odd in
        ["1234567890123456789012345678901234567890123", "12e45678901234567890123456789012345678901", "yes"]
    {
        let (plain, quoted) = (good.replace(key, odd), good.replace(key, &format!("'{odd}'")));
        let (plain, quoted) = (parse_yaml(&plain).unwrap(), parse_yaml(&quoted).unwrap());
        assert_eq!(outcome(&plain), outcome(&quoted));
        assert_eq!(outcome(&NetworkToken::parse(&plain.encode()).unwrap()), outcome(&plain));
        assert!(yaml_of(&plain.encode()).contains(&format!("key: \"{odd}\"")));
    }
}

#[test]
fn unknown_fields_of_others_are_ignored() {
    let yaml = format!("{}colour: blue\nextra: {{ deep: [1, 2] }}\n", yaml_of(GENERATION_C));
    assert_eq!(outcome(&parse_yaml(&yaml).unwrap()), outcome(&NetworkToken::parse(GENERATION_C).unwrap()));
    let ours = ours();
    let yaml = yaml_of(&ours.encode()).replace("  peers:", "  later: true\n  peers:");
    assert_eq!(outcome(&parse_yaml(&yaml).unwrap()), outcome(&ours));
}

#[test]
fn a_document_that_wants_to_explode_is_refused() {
    let mut yaml = "a: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..30 {
        let reference = format!("*a{}", level - 1);
        yaml += &format!("a{level}: &a{level} [{}]\n", vec![reference; 9].join(", "));
    }
    yaml += &yaml_of(GENERATION_C);
    assert!(matches!(parse_yaml(&yaml), Err(TokenError::NotYaml { .. })));
    let deep = format!("otp: {}{}\n", "[".repeat(5000), "]".repeat(5000));
    assert!(matches!(parse_yaml(&deep), Err(TokenError::NotYaml { .. })));
}

#[test]
fn what_a_generated_token_holds_is_what_the_original_looks_for() {
    let yaml = yaml_of(&ours().encode());
    let lines: Vec<&str> = yaml.lines().collect();
    assert_eq!(lines[..2], ["c3os:", "  version: 1"]);
    assert_eq!(lines[4], "  peers: [\"/ip4/192.0.2.1/tcp/4001\",\"/dnsaddr/boot.example.org\"]");
    let names: Vec<&str> = lines[5..].iter().map(|line| line.split(':').next().unwrap()).collect();
    let section = |name| [name, "    interval", "    key", "    length"];
    assert_eq!(names[..9], [&["otp"], &section("  dht")[..], &section("  crypto")[..]].concat());
    assert_eq!(names[9..], ["room", "rendezvous", "mdns", "max_message_size"]);
    assert_eq!(lines[7], "    interval: 9223372036854775807");
    for secret in ours().fields.secrets() {
        assert_eq!(secret.len(), 43);
        assert!(secret.bytes().all(|b| b.is_ascii_alphanumeric()));
    }
}

#[test]
fn every_part_of_the_randomness_counts() {
    let first = NetworkToken::generate(&random(0), vec![]).unwrap();
    for index in [0, 31, 32, 63, 64, 95, 96, 127, 128, 159] {
        let mut other = random(0);
        other[index] ^= 1;
        let other = NetworkToken::generate(&other, vec![]).unwrap();
        assert_ne!(other.keys().admission, first.keys().admission);
        let same =
            other.fields.secrets().into_iter().zip(first.fields.secrets()).filter(|(a, b)| a == b).count();
        assert_eq!(same, 4, "each key has its own 32 bytes");
    }
}

#[test]
fn every_character_is_equally_likely() {
    let mut counts = std::collections::BTreeMap::new();
    for seed in 0..1000_u32 {
        let random: [u8; 32] = std::array::from_fn(|index| seed.to_be_bytes()[index % 4]);
        for c in super::keys::key_text(&random, 43).chars() {
            *counts.entry(c).or_insert(0_u32) += 1;
        }
    }
    assert_eq!(counts.len(), 62);
    // 693.5 expected, standard deviation 26; dropping the rejection would give the first 8 letters 25 % more.
    assert!(counts.values().all(|count| (560..830).contains(count)), "{counts:?}");
}

#[test]
fn peers_that_are_none_are_refused() {
    let one =
        |peer: &str| NetworkToken::generate(&random(0), vec!["/ip4/192.0.2.1".to_owned(), peer.to_owned()]);
    for peer in [
        "192.0.2.1:4001",
        "",
        "/ip4/192.0.2.1 /tcp",
        "/dns/ü",
        "/dns/\"a\"",
        &format!("/{}", "a".repeat(300)),
    ] {
        assert_eq!(one(peer).unwrap_err(), TokenError::Peer { position: 2 });
    }
    let many = vec!["/ip4/192.0.2.1".to_owned(); 33];
    assert_eq!(NetworkToken::generate(&random(0), many).unwrap_err(), TokenError::TooManyPeers { limit: 32 });
}

#[test]
fn the_longest_token_of_ours_can_be_read_again() {
    let peers = vec![format!("/{}", "x".repeat(255)); 32];
    let token = NetworkToken::generate(&random(0), peers).unwrap();
    let again = NetworkToken::parse(&token.encode());
    assert_eq!(outcome(&again.unwrap()), outcome(&token));
}

#[test]
fn a_successor_has_new_keys_for_the_same_mesh() {
    for first in [ours(), NetworkToken::parse(GENERATION_A).unwrap()] {
        let second = NetworkToken::parse(&first.successor(&[50; 32]).encode()).unwrap();
        let third = second.successor(&[100; 32]);
        for next in [&second, &third] {
            assert!(!next.is_weak());
            assert_eq!(next.keys().mesh_id, first.keys().mesh_id);
            assert_eq!(next.peers(), first.peers());
            assert_ne!(next.keys().admission, first.keys().admission);
            assert_ne!(next.keys().token_id, first.keys().token_id);
        }
    }
}

#[test]
fn the_same_secrets_in_another_mesh_give_other_keys() {
    let token = ours();
    let mut other = ours();
    other.extension.as_mut().unwrap().mesh_id = MeshId::from_bytes([9; 32]);
    assert_ne!(token.keys().admission, other.keys().admission);
    assert_ne!(token.keys().data_psk, other.keys().data_psk);
    assert_ne!(token.keys().mdns_name(1), other.keys().mdns_name(1));
}

#[test]
fn peers_do_not_change_the_keys() {
    let with = ours();
    let without = NetworkToken::generate(&random(0), vec![]).unwrap();
    assert_eq!(with.keys().admission, without.keys().admission);
    assert_eq!(with.keys().mesh_id, without.keys().mesh_id);
}

#[test]
fn names_of_the_day_are_labels_that_cannot_be_linked() {
    let keys = ours().keys();
    let names: std::collections::BTreeSet<String> = (20_000..20_100).map(|day| keys.mdns_name(day)).collect();
    assert_eq!(names.len(), 100);
    assert!(names.iter().all(|name| name.len() == 32 && name.bytes().all(|b| b.is_ascii_hexdigit())));
    assert_ne!(keys.rendezvous(20_000), keys.rendezvous(20_001));
    assert_ne!(hex(&keys.rendezvous(20_000)[..16]), keys.mdns_name(20_000));
}

#[test]
fn a_changed_character_in_a_token_of_ours_is_seen() {
    let written = ours().encode();
    let yaml = yaml_of(&written);
    let before = outcome(&ours());
    for (index, c) in yaml.char_indices() {
        let changed = if c == 'Q' { 'R' } else { 'Q' };
        let changed = format!("{}{changed}{}", &yaml[..index], &yaml[index + c.len_utf8()..]);
        // A change of a name that nobody reads, or of nothing that counts, may pass; it must not lead elsewhere.
        if let Ok(token) = parse_yaml(&changed) {
            assert!(token.is_weak() || outcome(&token) == before, "{changed}");
            assert!(!token.is_weak() || !changed.contains("\nc3os:") && !changed.starts_with("c3os:"));
        }
    }
}

#[test]
fn a_token_of_a_later_format_asks_for_an_upgrade() {
    let yaml = yaml_of(&ours().encode());
    for (version, error) in [
        ("2", TokenError::Version { version: 2, known: 1 }),
        ("0", TokenError::Version { version: 0, known: 1 }),
        ("~", TokenError::Missing { field: "c3os.version" }),
    ] {
        let yaml = yaml.replace("version: 1", &format!("version: {version}"));
        assert_eq!(parse_yaml(&yaml).unwrap_err(), error);
    }
}

#[test]
fn nothing_that_prints_shows_a_part_of_a_token() {
    let token = ours();
    assert_eq!(format!("{token:?}"), "NetworkToken(***)");
    let yaml = yaml_of(GENERATION_C);
    let secret = "UTG80BG27QmtsL5F39GzL3cEpVZzAQlxJ5SXRVxfCQG";
    let broken = [
        yaml.replace("room: ", "room: *"),
        yaml.replace("room: ", "room: !!int "),
        yaml.replace("interval: 9223372036854775807", secret),
        yaml.replace("length: 43", &format!("length: {secret}")),
        yaml.replace("room: ", "room: \""),
    ];
    for yaml in broken {
        let error = parse_yaml(&yaml).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!((0..secret.len() - 6).all(|at| !shown.contains(&secret[at..at + 6])), "{shown}");
    }
}

proptest! {
    #[test]
    fn any_text_is_taken_or_refused_without_panic(text in ".{0,300}") {
        let _ = NetworkToken::parse(&text);
    }

    #[test]
    fn any_document_is_taken_or_refused_without_panic(text in "[a-z:{}\\[\\]&*!|>'\"\n 0-9.-]{0,300}") {
        let _ = parse_yaml(&text);
        let _ = parse_yaml(&format!("otp:\n  dht: {text}"));
        let _ = parse_yaml(&format!("c3os: {text}\n{}", yaml_of(GENERATION_C)));
    }

    #[test]
    fn a_generated_token_comes_back(random in prop::collection::vec(any::<u8>(), 160), peers in 0_usize..4) {
        let random: [u8; 160] = random.try_into().unwrap();
        let token = NetworkToken::generate(&random, vec!["/ip4/192.0.2.1/tcp/4001".to_owned(); peers]).unwrap();
        let written = token.encode();
        let again = NetworkToken::parse(&written).unwrap();
        prop_assert_eq!(outcome(&again), outcome(&token));
        prop_assert_eq!(again.encode(), written);
    }

    #[test]
    fn no_beginning_of_a_token_leads_into_another_mesh(keep in 0.0_f64..1.0, which in 0_usize..4) {
        let tokens = [GENERATION_A.trim(), GENERATION_B.trim(), GENERATION_C.trim(), &ours().encode()];
        let whole = tokens[which];
        let cut = &whole[..(whole.len() as f64 * keep) as usize];
        if let Ok(token) = NetworkToken::parse(cut) {
            prop_assert_eq!(outcome(&token), outcome(&NetworkToken::parse(whole).unwrap()));
        }
    }
}

#[test]
fn a_token_of_ours_of_every_format_version_leads_to_the_same_keys_for_ever() {
    let token = NetworkToken::parse(include_str!("../../tests/fixture/token/ours-1.token")).unwrap();
    assert!(!token.is_weak());
    assert_eq!(outcome(&token), outcome(&ours()));
    assert_eq!(
        hex(&token.keys().admission),
        "b50f917d74ce94785677dca1f08b100f2c67bdcb1add55370c45752da126982d"
    );
}
