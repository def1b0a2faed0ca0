//! What can be wrong with a token. No message carries a part of the token.

/// Why a text is no network token. The message says what is wrong and what to do; it never shows the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Nothing but blanks, or only quotes.
    #[error("the network token is empty: make one with `c3os generate-token`")]
    Empty,
    /// The dots of the documentation's example.
    #[error("the network token is still the example's placeholder: make one with `c3os generate-token`")]
    Placeholder,
    /// More text than any token has.
    #[error("the network token is too long ({length} bytes, at most {limit}): is it pasted more than once?")]
    TooLong {
        /// What was given.
        length: usize,
        /// What is taken.
        limit: usize,
    },
    /// A quotation mark without its partner, or in the middle.
    #[error(
        "the network token has a stray quotation mark at character {position}: remove it, or quote both ends"
    )]
    Quote {
        /// Counted from 1, in the text without blanks around it.
        position: usize,
    },
    /// A backslash: the text went through something that escapes.
    #[error(
        "the network token has a backslash at character {position}: it was escaped on the way, paste it as it is"
    )]
    Escaped {
        /// Counted from 1, in the text without blanks around it.
        position: usize,
    },
    /// `-` or `_`: the other base64 alphabet.
    #[error("the network token is in url-safe base64: write + for every - and / for every _")]
    UrlSafe,
    /// The YAML document itself instead of its base64.
    #[error("this is the YAML inside a network token: encode it with `base64 -w0`")]
    NotEncoded,
    /// A character that no base64 has.
    #[error("character {position} of the network token is not base64: is something else pasted with it?")]
    Character {
        /// Counted from 1, in the text without blanks around it.
        position: usize,
    },
    /// Something goes on after the padding.
    #[error(
        "the network token goes on after its end at character {position}: are two tokens pasted together?"
    )]
    AfterEnd {
        /// Counted from 1, in the text without blanks around it.
        position: usize,
    },
    /// The end, or a line of a wrapped token, is missing.
    #[error("the network token is cut ({length} characters are here): copy the whole line")]
    Cut {
        /// How many base64 characters there are.
        length: usize,
    },
    /// Base64, but of something else.
    #[error(
        "the network token is base64 of something that is not text: it is damaged, or it is another secret"
    )]
    NotText,
    /// Base64 of text, but not of a token.
    #[error(
        "the network token does not hold the YAML of a token (line {line} of what it encodes): it is damaged, or it is another secret"
    )]
    NotYaml {
        /// Counted from 1; 0 where the parser names none.
        line: u64,
    },
    /// A field that every generation writes is absent.
    #[error("the network token lacks the field `{field}`: it is cut, or it was not made by `generate-token`")]
    Missing {
        /// Path of the field.
        field: &'static str,
    },
    /// A field is longer than any generator makes it.
    #[error("the field `{field}` of the network token is too long (at most {limit} bytes)")]
    FieldTooLong {
        /// Path of the field.
        field: &'static str,
        /// Bytes.
        limit: usize,
    },
    /// Fewer secret characters than anybody could not guess.
    #[error(
        "the keys inside the network token are too short to be secret: make one with `c3os generate-token`"
    )]
    Guessable,
    /// Made by a later c3os.
    #[error(
        "the network token has format version {version}, this c3os reads up to {known}: upgrade this machine"
    )]
    Version {
        /// What the token says.
        version: u32,
        /// The newest we read.
        known: u32,
    },
    /// The check that ours carry does not fit: a character was changed.
    #[error("the network token is damaged (its check does not fit): a character was changed, copy it again")]
    Damaged,
    /// More bootstrap peers than a token takes.
    #[error("a network token takes at most {limit} peers")]
    TooManyPeers {
        /// The most.
        limit: usize,
    },
    /// A bootstrap peer that is no multiaddress.
    #[error("peer {position} is not a multiaddress such as /ip4/192.0.2.1/tcp/4001/p2p/12D3KooW...")]
    Peer {
        /// Counted from 1.
        position: usize,
    },
}
