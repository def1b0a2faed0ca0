//! The command line: a verb, flags with or without a value, words, and what comes after `--`.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

/// A command line, taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Args {
    flags: BTreeMap<String, String>,
    words: Vec<String>,
    rest: Vec<String>,
}

impl Args {
    /// Takes `words` apart; `valued` and `plain` name the flags that this verb has.
    pub fn parse(words: &[String], valued: &[&str], plain: &[&str]) -> Result<Self> {
        let mut args = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if word == "--" {
                args.rest = words.cloned().collect();
                break;
            }
            let Some(flag) = word.strip_prefix("--") else {
                args.words.push(word.clone());
                continue;
            };
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            if valued.contains(&name) {
                let value = value
                    .or_else(|| words.next().cloned())
                    .with_context(|| format!("--{name} needs a value"))?;
                args.flags.insert(name.to_owned(), value);
            } else if plain.contains(&name) && value.is_none() {
                args.flags.insert(name.to_owned(), String::new());
            } else {
                let all: Vec<_> = valued.iter().chain(plain).map(|flag| format!("--{flag}")).collect();
                bail!("--{name} is not known here; there are {}", all.join(" "));
            }
        }
        Ok(args)
    }

    pub fn has(&self, flag: &str) -> bool {
        self.flags.contains_key(flag)
    }

    pub fn text(&self, flag: &str) -> Option<&str> {
        self.flags.get(flag).map(String::as_str)
    }

    pub fn number(&self, flag: &str) -> Result<Option<u64>> {
        let number = |text: &str| text.parse().with_context(|| format!("--{flag} {text}: expected a number"));
        self.text(flag).map(number).transpose()
    }

    /// The words that are not flags; exactly as many as `names`.
    pub fn words<const N: usize>(&self, names: [&str; N]) -> Result<[&str; N]> {
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        let given = words.len();
        words.try_into().ok().with_context(|| {
            format!(
                "expected {} ({given} words given)",
                if N == 0 { "no word".to_owned() } else { names.join(" ") }
            )
        })
    }

    /// Any number of words.
    pub fn all_words(&self) -> &[String] {
        &self.words
    }

    /// What comes after `--`.
    pub fn rest(&self) -> &[String] {
        &self.rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Args::parse(&words, &["nodes", "dir"], &["bare"])
    }

    #[test]
    fn flags_words_and_a_command_are_told_apart() {
        let args = parse("n1 --nodes 3 --dir=x --bare -- sh -c --nodes").unwrap();
        assert_eq!(args.words(["NODE"]).unwrap(), ["n1"]);
        assert_eq!(args.number("nodes").unwrap(), Some(3));
        assert_eq!(args.text("dir"), Some("x"));
        assert!(args.has("bare"));
        assert_eq!(args.rest(), ["sh", "-c", "--nodes"]);
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(
            parse("--node 3").unwrap_err().to_string(),
            "--node is not known here; there are --nodes --dir --bare"
        );
        assert_eq!(parse("--dir").unwrap_err().to_string(), "--dir needs a value");
        assert_eq!(
            parse("a b").unwrap().words(["NODE"]).unwrap_err().to_string(),
            "expected NODE (2 words given)"
        );
        assert!(parse("--nodes x").unwrap().number("nodes").is_err());
    }
}
