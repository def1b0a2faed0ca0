//! One file: bytes to the part of its tree that is ours, with everything that keeps it from being read.

use super::{
    AtBoot, MAX_FILE_BYTES, Severity, Source,
    block::Setting,
    document::Document,
    old_keys,
    reader::Reader,
    suggest::very_close,
    tree::{self, Entry, Node, Place, Value},
};

/// Blocks of ours.
pub(super) const BLOCKS: [&str; 7] = ["c3os", "vpn", "p2p", "k3s", "k3s-agent", "kubevip", "install"];
/// Blocks of ours that are older spellings. The others count over them, wherever they stand in the file.
const OLD_BLOCKS: [&str; 2] = ["vpn", "p2p"];
/// Blocks of others whose names are one letter from ours.
const OTHERS: [&str; 4] = ["k0s", "k0s-worker", "k8s", "kubevirt"];
/// Keys that only make sense one level down, where a forgotten indentation leaves them.
const STRAYS: [&str; 4] = ["network_token", "network_token_file", "network_id", "minimum_nodes"];

/// Reads one file over what `document` has from earlier ones.
pub(super) fn read(source: &Source, document: &mut Option<Document>, reader: &mut Reader) {
    let Some(text) = text(source, reader) else { return };
    // A script or a template of cloud-init is nobody's YAML.
    if text.starts_with("#!") {
        return;
    }
    let tree = tree::parse(&text);
    if let Some(broken) = tree.broken {
        let at_boot = if mentions_us(&text) { AtBoot::Frozen } else { AtBoot::Ignored };
        reader.report(broken.place, Severity::Error, at_boot, broken.message, Some(broken.hint.to_owned()));
        rescue_token(&text, document, reader);
    }
    if let Some(second) = tree.second {
        let hint = Some("a file of its own for each".to_owned());
        let message = "a second document starts here, and only the first of a file is read".to_owned();
        reader.report(second, Severity::Error, AtBoot::Ignored, message, hint);
    }
    if let Some(root) = tree.root {
        if matches!(root.value, Value::Scalar(_) | Value::List(_)) {
            let hint = Some("blocks such as `c3os:` at the start of a line".to_owned());
            let message = "expected a map at the top of the file".to_owned();
            reader.report(root.place, Severity::Error, AtBoot::Ignored, message, hint);
        }
        read_root(&root, document, reader);
    }
}

/// Reads a whole document: older spellings first.
pub(super) fn read_root(root: &Node, document: &mut Option<Document>, reader: &mut Reader) {
    for entry in root.entries().iter().filter(|entry| STRAYS.contains(&entry.key.as_str())) {
        let hint = Some(format!("did you mean `c3os.{}`? It has to be indented under `c3os:`", entry.key));
        let message = format!("`{}` has no effect at the top of the file", entry.key);
        reader.report(entry.place, Severity::Error, AtBoot::Ignored, message, hint);
    }
    let ours = |entry: &&Entry| {
        let key = entry.key.as_str();
        BLOCKS.contains(&key) || (!OTHERS.contains(&key) && very_close(key, BLOCKS).is_some())
    };
    let (old, new): (Vec<Entry>, Vec<Entry>) = root
        .entries()
        .iter()
        .filter(ours)
        .cloned()
        .partition(|entry| OLD_BLOCKS.contains(&entry.key.as_str()));
    for blocks in [old, new] {
        Setting::read(document, &Node::map(root.place, blocks), reader);
        let document = document.get_or_insert_default();
        if let Some(variables) = document.vpn.take() {
            old_keys::adopt_environment("vpn", variables, &mut document.c3os, reader);
        }
        if let Some(p2p) = document.p2p.take() {
            old_keys::adopt_p2p(p2p, &mut document.c3os, reader);
        }
    }
}

/// The text of a file, whatever bytes it has, unless there are too many.
fn text(source: &Source, reader: &mut Reader) -> Option<String> {
    let bytes = &source.text;
    let refuse = |reader: &mut Reader, place, at_boot, message: &str, hint: &str| {
        reader.report(place, Severity::Error, at_boot, message.to_owned(), Some(hint.to_owned()));
    };
    if bytes.len() > MAX_FILE_BYTES {
        let ours = mentions_us(&String::from_utf8_lossy(&bytes[..MAX_FILE_BYTES]));
        let at_boot = if ours { AtBoot::Frozen } else { AtBoot::Ignored };
        let hint = "a configuration is a page or two: put files and images elsewhere";
        refuse(reader, Place::START, at_boot, "larger than 1 MB, so nothing of it is read", hint);
        return None;
    }
    let (pairs, _) = bytes.as_chunks();
    let utf16 = |of: fn([u8; 2]) -> u16| {
        String::from_utf16_lossy(&pairs.iter().map(|b| of(*b)).collect::<Vec<u16>>())
    };
    let decoded = match bytes.as_slice() {
        [0xff, 0xfe, ..] => Some(utf16(u16::from_le_bytes)),
        [0xfe, 0xff, ..] => Some(utf16(u16::from_be_bytes)),
        _ => None,
    };
    if decoded.is_some() {
        refuse(reader, Place::START, AtBoot::Ignored, "the text is UTF-16", "save the file as UTF-8");
        return decoded;
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text.to_owned()),
        Err(error) => {
            let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            let place = Place { line: number(line), column: number(column) };
            refuse(reader, place, AtBoot::Ignored, "a byte that is not UTF-8", "save the file as UTF-8");
            Some(String::from_utf8_lossy(bytes).into_owned())
        }
    }
}

fn mentions_us(text: &str) -> bool {
    text.lines().any(|line| {
        BLOCKS.iter().any(|block| {
            line.trim_start_matches(['\u{feff}', '"', '\''])
                .strip_prefix(block)
                .is_some_and(|rest| rest.starts_with([':', '"', '\'']))
        })
    })
}

/// Finds the token of a broken file, so that the machine can be reached and mended: what comes before the break
/// counts as usual, and this is for a break that comes first.
fn rescue_token(text: &str, document: &mut Option<Document>, reader: &mut Reader) {
    let c3os = document.get_or_insert_default().c3os.get_or_insert_default();
    for (index, line) in text.lines().enumerate() {
        let Some(value) = line.trim_start().strip_prefix("network_token:") else { continue };
        let value = value.split(" #").next().unwrap_or_default().trim().trim_matches(['"', '\'']);
        if !value.is_empty()
            && value.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '-' | '_'))
        {
            let place = Place { line: u32::try_from(index).unwrap_or(u32::MAX).saturating_add(1), column: 1 };
            let path = "c3os.network_token";
            reader.spelled(path, path, |reader| {
                Setting::read(&mut c3os.network_token, &Node::scalar(place, value.to_owned()), reader);
            });
        }
    }
}
