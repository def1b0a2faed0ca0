//! Every file of `tests/fixture/config/bad` beside what `validate` has to print for it.

use super::{Source, files, in_repository, parse, printed};

#[test]
fn every_bad_file_gets_the_reviewed_words() {
    let bad = files("tests/fixture/config/bad", ".yaml");
    assert!(bad.len() >= 30, "{} files", bad.len());
    let mut wrong = String::new();
    for (name, text) in bad {
        let wanted_path = format!("tests/fixture/config/bad/{}", name.replace(".yaml", ".txt"));
        let wanted = std::fs::read_to_string(in_repository(&wanted_path)).unwrap_or_default();
        let got = printed(&parse(&[Source { path: name, text }], ""));
        if got.is_empty() || got != wanted {
            wrong += &format!("=== {wanted_path}\n{got}");
        }
    }
    assert!(wrong.is_empty(), "these differ from their reviewed words; got:\n{wrong}");
}
