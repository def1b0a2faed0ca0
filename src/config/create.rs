//! A first config.yaml.

use std::fmt::Write as _;

use super::MOST_VOTES;

/// The text of a configuration with `token` in it, as the original printed it.
///
/// `nodes`: how many machines there will be in all; the file then asks for a majority of them. `join`: the id of a
/// cluster that the machines join, never founding one.
pub fn create_config(token: &str, nodes: Option<u16>, join: Option<&str>) -> String {
    let mut text = format!("c3os:\n  network_token: {token}\n");
    if let Some(nodes) = nodes {
        let minimum = (nodes / 2 + 1).min(MOST_VOTES);
        let nodes = nodes.min(2 * MOST_VOTES - 1);
        let _ = write!(
            text,
            "  # {minimum} of {nodes} machines have to agree before a cluster is founded. Two groups of {minimum} would take {}\n  \
             # machines, so there is never a second cluster while no more than {nodes} start with this file.\n  \
             minimum_nodes: {minimum}\n",
            2 * u32::from(minimum),
        );
    }
    if let Some(cluster) = join {
        let _ = write!(text, "  # Join this cluster, and never found one.\n  join: {cluster}\n");
    }
    text
}
