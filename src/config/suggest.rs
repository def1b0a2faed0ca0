//! "Did you mean".

/// The candidate that `word` is most likely a slip of, if any is near enough.
pub(super) fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    within(3, word, candidates)
}

/// As [`closest`], for words among which those of others are expected: one slip at most.
pub(super) fn very_close<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    within(1, word, candidates)
}

fn within<'a>(slips: usize, word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Nobody misspells a name of a few letters into a hundred, and the comparison is quadratic.
    if word.is_empty() || word.len() > 64 {
        return None;
    }
    let plain = |text: &str| text.to_lowercase().replace(['-', '_', ' ', '.'], "");
    let plain_word = plain(word);
    let allowed = (plain_word.chars().count() / 3).clamp(1, slips);
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&plain_word, &plain(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= allowed && *distance < candidate.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Some text out of a file as a message may show it: short, on one line, and never long enough to be a secret.
pub(super) fn shown(text: &str) -> String {
    let length = text.chars().count();
    if length > 24 { format!("a text of {length} characters") } else { format!("`{}`", text.escape_debug()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_hand_are_recognized_and_other_words_are_not() {
        let keys = ["network_token", "network_id", "role", "dns", "k3s-agent", "minimum_nodes"];
        let closest = |word| closest(word, keys);
        assert_eq!(closest("network_tokn"), Some("network_token"));
        assert_eq!(closest("networkToken"), Some("network_token"));
        assert_eq!(closest("network-id"), Some("network_id"));
        assert_eq!(closest("rloe"), Some("role"));
        assert_eq!(closest("k3s_agent"), Some("k3s-agent"));
        assert_eq!(closest("min_nodes"), None, "too far to be a slip");
        assert_eq!(closest("stages"), None);
        assert_eq!(closest(""), None);
        assert_eq!(closest(&"x".repeat(100_000)), None);
    }

    #[test]
    fn what_may_be_a_secret_is_not_shown() {
        assert_eq!(shown("wroker\n"), "`wroker\\n`");
        assert_eq!(shown(&"b3RwOgogIGRo".repeat(4)), "a text of 48 characters");
    }
}
