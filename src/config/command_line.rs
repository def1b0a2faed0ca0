//! The kernel command line: `c3os.role=master`.
//!
//! It comes after all files. Every program on the machine can read it, so it has no place for a secret.

use std::rc::Rc;

use super::{
    AtBoot, Severity,
    file::BLOCKS,
    reader::Reader,
    tree::{self, Node, Place, Value},
};

/// Words of the original that are no settings.
const FLAGS: [&str; 2] = ["c3os.remote_recovery_mode", "c3os.reset"];
/// What the name of a secret has in it.
const SECRETS: [&str; 4] = ["token", "password", "secret", "external_db"];

/// Each word of `text` that is a setting of ours, as a document of its own.
pub(super) fn documents(text: &str, reader: &mut Reader) -> Vec<Node> {
    let mut documents = Vec::new();
    for (start, word) in words(text) {
        let (path, value) = word.split_once('=').unwrap_or((&word, "true"));
        let ours = path.split_once('.').is_some_and(|(block, _)| BLOCKS.contains(&block));
        if !ours || FLAGS.contains(&path) {
            continue;
        }
        let column = u32::try_from(text[..start].chars().count()).unwrap_or(u32::MAX).saturating_add(1);
        let place = Place { line: 1, column };
        if is_secret(path) {
            reader.spelled(path, path, |reader| {
                let message =
                    "a secret on the kernel command line, where every program can read it".to_owned();
                let hint = Some("write it into a file under /oem; this one has no effect".to_owned());
                reader.report(place, Severity::Error, AtBoot::Ignored, message, hint);
            });
            continue;
        }
        let node = match value_of(value, place) {
            Ok(node) => node,
            Err(message) => {
                reader.spelled(path, path, |reader| {
                    reader.error(place, message, Some("a list is written as in YAML: [a,b]".to_owned()))
                });
                continue;
            }
        };
        let path: Vec<&str> = path.split('.').take(16).collect();
        documents.push(path.iter().rev().fold(node, |node, key| Node::map_of(key, Rc::new(node))));
    }
    documents
}

fn is_secret(path: &str) -> bool {
    let name = path.rsplit('.').next().unwrap_or_default().to_lowercase();
    name != "network_token_file" && SECRETS.iter().any(|secret| name.contains(secret))
}

/// A list is written as in YAML, `[a,b]`; anything else is taken as it stands.
fn value_of(text: &str, place: Place) -> Result<Node, String> {
    if !text.starts_with('[') {
        return Ok(Node::scalar(place, text.to_owned()));
    }
    let tree = tree::parse(text);
    match (tree.broken, tree.root) {
        (None, Some(list)) => {
            Ok(Node::list(place, list.items().iter().map(|item| at(place, item)).collect()))
        }
        (Some(broken), _) => Err(broken.message),
        (None, None) => Err("not a list".to_owned()),
    }
}

fn at(place: Place, item: &Rc<Node>) -> Rc<Node> {
    match &item.value {
        Value::Scalar(text) => Rc::new(Node::scalar(place, text.clone())),
        Value::Null | Value::List(_) | Value::Map(_) => Rc::clone(item),
    }
}

/// Words with their byte offsets; quotes keep blanks inside a word and are taken away, as the kernel does.
fn words(text: &str) -> Vec<(usize, String)> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut start = None;
    let mut quoted = false;
    for (offset, character) in text.char_indices() {
        if character.is_whitespace() && !quoted {
            words.extend(start.take().map(|start| (start, std::mem::take(&mut word))));
            continue;
        }
        start.get_or_insert(offset);
        if character == '"' {
            quoted = !quoted;
        } else {
            word.push(character);
        }
    }
    words.extend(start.map(|start| (start, word)));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_the_kernel_splits_them() {
        let text = "quiet c3os.role=\"master\"  \"c3os.x=a b\"\tlast";
        let words: Vec<String> = words(text).into_iter().map(|(_, word)| word).collect();
        assert_eq!(words, ["quiet", "c3os.role=master", "c3os.x=a b", "last"]);
    }
}
