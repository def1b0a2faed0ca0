//! Whatever bytes a file holds: an answer, in bounded time and memory.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::{Source, files, one, parse, printed};
use crate::config::{MAX_FILE_BYTES, Parsed};

fn bytes(text: Vec<u8>) -> Parsed {
    parse(&[Source { path: "x".to_owned(), text }], "")
}

fn holds(parsed: &Parsed, lines: usize) {
    assert!(parsed.mistakes.len() <= 101);
    for mistake in &parsed.mistakes {
        assert!(mistake.line >= 1 && mistake.line as usize <= lines + 1, "{mistake}");
        assert!(mistake.column >= 1 && !mistake.message.is_empty());
        assert!(mistake.hint.is_some() || mistake.key.is_empty(), "{mistake}");
        assert!(mistake.to_string().lines().count() <= 2, "{mistake}");
    }
    // Whatever was wrong, what is left makes sense.
    let config = &parsed.config;
    assert!((8..=26).contains(&config.vpn.subnet.prefix_len()));
    assert!(config.vpn.address.is_none_or(|address| config.vpn.subnet.contains(&address)));
    assert!((1..=15).contains(&config.vpn.interface.len()));
    assert_ne!(config.kubevip.interface.as_ref(), Some(&config.vpn.interface));
    assert!(config.vpn.mtu.is_none_or(|mtu| mtu >= 1280));
}

/// Files that people wrote, and files that are wrong.
static CORPUS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let mut corpus = files("cloud-config-schema", ".yaml");
    corpus.extend(files("tests/fixture/config/bad", ".yaml"));
    corpus.into_iter().map(|(_, text)| text).filter(|text| text.len() < 4000).collect()
});

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_get_an_answer(text in proptest::collection::vec(any::<u8>(), 0..400)) {
        let lines = String::from_utf8_lossy(&text).split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).count();
        holds(&bytes(text), lines);
    }

    #[test]
    fn any_yaml_like_text_gets_an_answer(
        text in "((c3os|p2p|vpn|k3s|auto|ha|role|<<|a|- |: |\\? |[\\[\\]{}&*!|>'\"%@`,#~\n\r\t -]|network_token: x\n|\n  )){0,60}",
    ) {
        let lines = text.split(['\n', '\r']).count();
        holds(&one(&text), lines);
    }

    #[test]
    fn any_kernel_command_line_gets_an_answer(
        text in "((c3os|p2p|vpn|k3s)\\.|role|=|[\\[\\]\" a.]|network_token|\\PC){0,40}",
    ) {
        holds(&parse(&[], &text), 1);
    }

    /// Cut, doubled and stirred.
    #[test]
    fn damaged_files_get_an_answer(
        which in any::<prop::sample::Index>(),
        damage in proptest::collection::vec((0_u8..5, any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut text = CORPUS[which.index(CORPUS.len())].clone();
        for (kind, from, to, byte) in damage {
            if text.is_empty() {
                break;
            }
            let (a, b) = (from.index(text.len()), to.index(text.len()));
            let (a, b) = (a.min(b), a.max(b));
            match kind {
                0 => text[a] = byte,
                1 => text.truncate(a.max(1)),
                2 => drop(text.drain(a..b)),
                3 => text = [&text[..b], &text[a..]].concat(),
                _ => text.insert(a, b" \t\n:-{}[]&*\"'"[usize::from(byte) % 13]),
            }
        }
        let lines = String::from_utf8_lossy(&text).split(['\n', '\r']).count();
        let parsed = bytes(text);
        holds(&parsed, lines);
        let printed = printed(&parsed) + &parsed.origins.to_string();
        prop_assert!(!printed.contains("place-for-one-from-c3os-generate-token"), "{printed}");
    }
}

/// A megabyte of each of the shapes that parsers are known to choke on. None may take more than a moment.
#[test]
fn a_megabyte_of_anything_is_only_a_megabyte() {
    let repeat = |unit: &str| unit.repeat(MAX_FILE_BYTES / unit.len());
    let numbered = |unit: &str| {
        let mut text = String::from("c3os:\n");
        let mut n = 0;
        while text.len() < MAX_FILE_BYTES - 100 {
            text += &unit.replace('#', &n.to_string());
            n += 1;
        }
        text
    };
    let shapes = [
        repeat("["),
        repeat("{a: "),
        repeat("- "),
        repeat("? "),
        repeat("a: "),
        repeat("&a "),
        repeat("*a "),
        repeat("!!a "),
        repeat("\n"),
        repeat("---\n"),
        repeat("c3os: {a: b}\n"),
        repeat("c3os: [a]\n"),
        repeat("\""),
        repeat("# x\n"),
        repeat("%TAG ! x\n"),
        repeat("a\n\n"),
        format!("c3os: {{network_token: \"{}", repeat("\\n")),
        format!("c3os: [{}", repeat("a,")),
        format!("c3os: {{args: [{}", repeat("a,")),
        format!("k3s: {{args: [{}]}}", "a,".repeat(400_000)),
        numbered("  unknown#: 1\n"),
        numbered("  role: x#\n"),
        numbered("  a#: &a# [x]\n").replace("c3os", "others"),
        format!("k3s:\n  env:\n{}", numbered("    A#: 1\n").replace("c3os:\n", "")),
        format!("install:\n{}", numbered("  a#: 1\n").replace("c3os:\n", "")),
        format!(
            "a: &a {{{}}}\nb:\n{}",
            (0..1000).map(|n| format!("k{n}: 1,")).collect::<String>(),
            "  - {<<: *a}\n".repeat(60_000)
        ),
        (0..40_000)
            .map(|n| format!("a{}: &a{} [*a{n}]\n", n + 1, n + 1))
            .fold("a0: &a0 [x]\n".to_owned(), |text, line| text + &line),
    ];
    for shape in shapes {
        let mut text = shape.into_bytes();
        text.truncate(MAX_FILE_BYTES);
        let lines = text.iter().filter(|byte| **byte == b'\n').count() + 1;
        holds(&bytes(text), lines);
    }
}
