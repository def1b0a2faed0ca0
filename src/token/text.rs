//! The outer layer: what somebody pasted, to the text that its base64 holds.
//!
//! What cannot be misread is forgiven: blanks and line breaks of any system (a re-wrapped token), one pair of quotes
//! around it, a byte order mark, missing padding. The original's decoder forgives line feeds only.

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use zeroize::Zeroizing;

use super::TokenError;

/// The longest text that is looked at. The original's tokens have 500 to 700 characters, ours with every peer 12,000.
pub(super) const MAXIMUM_TEXT: usize = 16 * 1024;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// The text inside, and how many base64 characters it came from.
pub(super) fn decode(written: &str) -> Result<(Zeroizing<String>, usize), TokenError> {
    if written.len() > MAXIMUM_TEXT {
        return Err(TokenError::TooLong { length: written.len(), limit: MAXIMUM_TEXT });
    }
    let digits = digits(written)?;
    let cut = TokenError::Cut { length: digits.len() };
    // Bits left over at the end that are not zero belong to a character that is gone.
    let bytes = Zeroizing::new(BASE64.decode(digits.as_bytes()).map_err(|_| cut)?);
    let text = std::str::from_utf8(&bytes).map_err(|_| TokenError::NotText)?;
    Ok((Zeroizing::new(text.to_owned()), digits.len()))
}

pub(super) fn encode(text: &str) -> Zeroizing<String> {
    Zeroizing::new(BASE64.encode(text))
}

/// The base64 characters alone: no blanks, quotes or padding.
fn digits(written: &str) -> Result<Zeroizing<String>, TokenError> {
    let blank = |c: char| c.is_whitespace() || c == '\u{feff}';
    let outside = written.trim_matches(blank);
    let unquoted = ['"', '\'']
        .into_iter()
        .find_map(|quote| outside.strip_prefix(quote)?.strip_suffix(quote))
        .unwrap_or(outside)
        .trim_matches(blank);
    let skipped = outside.find(unquoted).unwrap_or(0);
    if unquoted.is_empty() {
        return Err(TokenError::Empty);
    }
    if unquoted.chars().all(|c| matches!(c, '.' | '…')) {
        return Err(TokenError::Placeholder);
    }
    if unquoted.starts_with("otp:") || unquoted.starts_with("c3os:") {
        return Err(TokenError::NotEncoded);
    }
    let mut digits = Zeroizing::new(String::with_capacity(unquoted.len()));
    let mut padding = 0;
    for (index, c) in unquoted.char_indices() {
        let position = outside[..skipped + index].chars().count() + 1;
        match c {
            ' ' | '\t' | '\r' | '\n' => {}
            '=' if padding < 2 && !digits.is_empty() => padding += 1,
            '"' | '\'' => return Err(TokenError::Quote { position }),
            '\\' => return Err(TokenError::Escaped { position }),
            '-' | '_' => return Err(TokenError::UrlSafe),
            'A'..='Z' | 'a'..='z' | '0'..='9' | '+' | '/' if padding == 0 => digits.push(c),
            'A'..='Z' | 'a'..='z' | '0'..='9' | '+' | '/' | '=' => {
                return Err(TokenError::AfterEnd { position });
            }
            _ => return Err(TokenError::Character { position }),
        }
    }
    Ok(digits)
}
