//! The kubeconfig that k3s writes on a server, made fit for somebody else's laptop.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Map, Value};

/// What is wrong with a kubeconfig.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KubeconfigError {
    /// It does not parse; the parser's words, without content.
    #[error("cannot read the {which} kubeconfig: it is not YAML of that form (line {line})")]
    Unreadable {
        /// `new` or `existing`.
        which: &'static str,
        /// First line that does not fit, from 1; 0 if it is about the whole file.
        line: u64,
    },
    /// Parts are missing.
    #[error("the {which} kubeconfig has no {part}")]
    Lacks {
        /// `new` or `existing`.
        which: &'static str,
        /// The part.
        part: &'static str,
    },
    /// It could not be written as text again.
    #[error("cannot write the kubeconfig as YAML")]
    Unwritable,
}

/// The lists of a kubeconfig that hold named things.
const LISTS: [&str; 3] = ["clusters", "users", "contexts"];

/// Takes k3s' own kubeconfig (`k3s.yaml`, whose server is 127.0.0.1 and whose names are all `default`) and returns one
/// whose server is `host` (an address or a name, on k3s' own port) and whose cluster, user and context are called
/// `name`.
///
/// # Errors
/// [`KubeconfigError`] if it is not a kubeconfig with a cluster and a user.
pub fn rewrite(text: &str, host: &str, name: &str) -> Result<String, KubeconfigError> {
    let mut config = parse(text, "new")?;
    let server = first(&mut config, "clusters", "new")?
        .get_mut("cluster")
        .and_then(|cluster| cluster.get_mut("server"))
        .ok_or(KubeconfigError::Lacks { which: "new", part: "server" })?;
    let port =
        server.as_str().and_then(|url| url.rsplit_once(':')).map_or("6443", |(_, port)| port).to_owned();
    let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    *server = Value::from(format!("https://{bracketed}:{}", port.trim_end_matches('/')));

    for list in LISTS {
        first(&mut config, list, "new")?.insert("name".to_owned(), Value::from(name));
    }
    let context = first(&mut config, "contexts", "new")?
        .get_mut("context")
        .and_then(Value::as_object_mut)
        .ok_or(KubeconfigError::Lacks { which: "new", part: "context" })?;
    context.insert("cluster".to_owned(), Value::from(name));
    context.insert("user".to_owned(), Value::from(name));
    config.insert("current-context".to_owned(), Value::from(name));
    write(config)
}

/// Puts another client certificate and key, both as PEM, in the place of the first user's.
///
/// # Errors
/// [`KubeconfigError`] if it is not a kubeconfig with a user.
pub fn with_certificate(text: &str, certificate: &str, key: &str) -> Result<String, KubeconfigError> {
    let mut config = parse(text, "new")?;
    let user = serde_json::json!({
        "client-certificate-data": BASE64_STANDARD.encode(certificate),
        "client-key-data": BASE64_STANDARD.encode(key),
    });
    first(&mut config, "users", "new")?.insert("user".to_owned(), user);
    write(config)
}

/// Adds the clusters, users and contexts of `new` to `existing`, replacing those of the same name, and makes `new`'s
/// context the current one. Everything else in `existing` stays.
///
/// # Errors
/// [`KubeconfigError`] if one of them is not a kubeconfig; then nothing is lost, because nothing was returned.
pub fn merge(existing: &str, new: &str) -> Result<String, KubeconfigError> {
    let new = parse(new, "new")?;
    let mut merged = if existing.trim().is_empty() { Map::new() } else { parse(existing, "existing")? };
    for list in LISTS {
        let old = match merged.remove(list) {
            Some(Value::Array(old)) => old,
            // kubectl writes `clusters: null` into an empty file.
            Some(Value::Null) | None => Vec::new(),
            Some(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => {
                return Err(KubeconfigError::Lacks { which: "existing", part: list });
            }
        };
        let added = new.get(list).and_then(Value::as_array).cloned().unwrap_or_default();
        let replaced = |entry: &Value| added.iter().any(|new| new.get("name") == entry.get("name"));
        let mut all: Vec<Value> = old.into_iter().filter(|entry| !replaced(entry)).collect();
        all.extend(added);
        merged.insert(list.to_owned(), Value::Array(all));
    }
    for (key, value) in new {
        if key == "current-context" || !merged.contains_key(&key) {
            merged.insert(key, value);
        }
    }
    write(merged)
}

fn parse(text: &str, which: &'static str) -> Result<Map<String, Value>, KubeconfigError> {
    let line = |error: &serde_yaml::Error| error.location().map_or(0, |place| place.line());
    match serde_yaml::from_str::<Value>(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
            Err(KubeconfigError::Unreadable { which, line: 0 })
        }
        Err(error) => Err(KubeconfigError::Unreadable { which, line: line(&error) }),
    }
}

fn first<'a>(
    config: &'a mut Map<String, Value>,
    list: &'static str,
    which: &'static str,
) -> Result<&'a mut Map<String, Value>, KubeconfigError> {
    config
        .get_mut(list)
        .and_then(|list| list.get_mut(0))
        .and_then(Value::as_object_mut)
        .ok_or(KubeconfigError::Lacks { which, part: list })
}

fn write(config: Map<String, Value>) -> Result<String, KubeconfigError> {
    serde_yaml::to_string(&Value::Object(config)).map_err(|_| KubeconfigError::Unwritable)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As k3s 1.33 writes it, with short data.
    const K3S: &str = "\
apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: Q0E=
    server: https://127.0.0.1:6443
  name: default
contexts:
- context:
    cluster: default
    user: default
  name: default
current-context: default
kind: Config
preferences: {}
users:
- name: default
  user:
    client-certificate-data: Q0VSVA==
    client-key-data: S0VZ
";

    fn value(text: &str) -> Value {
        serde_yaml::from_str(text).unwrap()
    }

    #[test]
    fn the_server_becomes_the_mesh_address_and_every_name_the_clusters() {
        let text = rewrite(K3S, "10.1.22.7", "c3os").unwrap();
        let config = value(&text);
        assert_eq!(config["clusters"][0]["cluster"]["server"], "https://10.1.22.7:6443");
        assert_eq!(config["clusters"][0]["cluster"]["certificate-authority-data"], "Q0E=");
        assert_eq!(config["contexts"][0]["context"], serde_json::json!({"cluster": "c3os", "user": "c3os"}));
        assert_eq!(config["users"][0]["user"]["client-key-data"], "S0VZ");
        assert_eq!(config["current-context"], "c3os");
        assert!(!text.contains("127.0.0.1") && !text.contains("default"));
    }

    #[test]
    fn a_certificate_of_its_own_takes_the_place_of_the_administrators() {
        let config = value(&with_certificate(K3S, "CERTIFICATE", "KEY").unwrap());
        let user = serde_json::json!({
            "client-certificate-data": "Q0VSVElGSUNBVEU=",
            "client-key-data": "S0VZ",
        });
        assert_eq!(config["users"][0], serde_json::json!({ "name": "default", "user": user }));
        assert_eq!(config["clusters"], value(K3S)["clusters"]);
    }

    #[test]
    fn an_ipv6_host_is_bracketed() {
        let config = value(&rewrite(K3S, "fd00::7", "x").unwrap());
        assert_eq!(config["clusters"][0]["cluster"]["server"], "https://[fd00::7]:6443");
    }

    #[test]
    fn merging_keeps_other_clusters_and_replaces_ours() {
        let ours = rewrite(K3S, "10.1.0.9", "c3os").unwrap();
        let other = rewrite(K3S, "192.0.2.1", "home").unwrap() + "extensions: [1]\n";
        let once = merge(&other, &ours).unwrap();
        let newer = rewrite(K3S, "10.1.0.10", "c3os").unwrap();
        let twice = value(&merge(&once, &newer).unwrap());
        let servers: Vec<_> =
            twice["clusters"].as_array().unwrap().iter().map(|c| &c["cluster"]["server"]).collect();
        assert_eq!(servers, ["https://192.0.2.1:6443", "https://10.1.0.10:6443"]);
        assert_eq!(twice["current-context"], "c3os");
        assert_eq!(twice["extensions"], serde_json::json!([1]));
        assert_eq!(merge(&once, &ours).unwrap(), once, "merging again changes nothing");
    }

    #[test]
    fn an_empty_file_and_one_that_kubectl_emptied_are_both_merged_into() {
        for empty in ["", "\n", "apiVersion: v1\nclusters: null\ncontexts: null\nusers: null\nkind: Config\n"]
        {
            let merged = value(&merge(empty, K3S).unwrap());
            assert_eq!(merged["clusters"].as_array().unwrap().len(), 1);
        }
    }

    #[test]
    fn what_is_not_a_kubeconfig_is_refused_without_being_quoted() {
        for bad in ["", "[]", "a: b", "clusters: []", "clusters: [{name: x}]", "client-key-data: [S0VZ"] {
            let error = rewrite(bad, "10.1.0.1", "c3os").unwrap_err().to_string();
            assert!(error.contains("kubeconfig") && !error.contains("S0VZ"), "{error}");
        }
        assert!(merge("clusters: 7", K3S).is_err());
    }
}
