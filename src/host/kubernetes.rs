//! What Kubernetes knows of a node, taken away on a server of the cluster.

use super::{HostError, Root, machine, observe, process};

/// kubectl waits no longer for the API server.
const PATIENCE: &str = "--request-timeout=5s";

/// Where kubectl may be, besides inside of k3s.
const KUBECTL: [&str; 3] = ["/usr/bin/kubectl", "/usr/local/bin/kubectl", "/opt/bin/kubectl"];

/// Deletes a node and the secret that holds its password, so that a machine of the same name may join again. Gives what
/// is left to do, in a sentence; none: all is done.
///
/// # Errors
/// [`HostError::Command`] if kubectl says no, or does not answer.
pub fn delete_node(root: &Root, name: &str) -> Result<Option<String>, HostError> {
    let secret = format!("{name}.node-password.k3s");
    let by_hand = || {
        format!("run on a server: kubectl delete node {name}; kubectl -n kube-system delete secret {secret}")
    };
    if root.read(&root.path(observe::KUBECONFIG))?.is_none() {
        return Ok(Some(format!(
            "Kubernetes may still list {name}: k3s has written no kubeconfig on the lead; once it has, {}",
            by_hand()
        )));
    }
    let Some(kubectl) = kubectl(root) else {
        return Ok(Some(format!("Kubernetes still lists {name}: the lead has no kubectl; {}", by_hand())));
    };
    let kubeconfig = root.path(observe::KUBECONFIG).to_string_lossy().into_owned();
    let (program, first) = (kubectl[0].as_str(), &kubectl[1..]);
    for what in [
        ["delete", "node", name, "--wait=false"].as_slice(),
        ["delete", "secret", &secret, "--namespace=kube-system"].as_slice(),
    ] {
        let mut arguments: Vec<&str> = first.iter().map(String::as_str).collect();
        arguments.extend(["--kubeconfig", &kubeconfig, PATIENCE]);
        arguments.extend(what);
        arguments.push("--ignore-not-found");
        process::run(program, &arguments)?;
    }
    Ok(None)
}

/// The program, and the word that makes it kubectl.
fn kubectl(root: &Root) -> Option<Vec<String>> {
    let on_machine = |path: &str| root.path(path).to_string_lossy().into_owned();
    if let Some(k3s) = machine::k3s_binary(root) {
        return Some(vec![on_machine(&k3s), "kubectl".to_owned()]);
    }
    KUBECTL.into_iter().find(|path| root.path(path).is_file()).map(|path| vec![on_machine(path)])
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn machine() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::at(directory.path());
        for directory in ["/etc/rancher/k3s", "/usr/bin"] {
            fs::create_dir_all(root.path(directory)).unwrap();
        }
        (directory, root)
    }

    /// A k3s that writes down what it is asked, and ends with `code`.
    fn k3s(root: &Root, code: u8) {
        let said = root.path("/said");
        let script = format!("#!/bin/sh\necho \"$@\" >>{}\necho refused >&2\nexit {code}\n", said.display());
        fs::write(root.path("/usr/bin/k3s"), script).unwrap();
        fs::set_permissions(root.path("/usr/bin/k3s"), fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn the_node_and_its_password_go_so_that_its_name_can_come_back() {
        let (_directory, root) = machine();
        fs::write(root.path("/etc/rancher/k3s/k3s.yaml"), "x").unwrap();
        k3s(&root, 0);
        assert_eq!(delete_node(&root, "shelf-3").unwrap(), None);
        let said = fs::read_to_string(root.path("/said")).unwrap();
        assert!(said.contains("delete node shelf-3"), "{said}");
        assert!(said.contains("delete secret shelf-3.node-password.k3s --namespace=kube-system"), "{said}");
    }

    #[test]
    fn where_there_is_no_k3s_the_commands_to_run_are_named() {
        let (_directory, root) = machine();
        let words = delete_node(&root, "shelf-3").unwrap().unwrap();
        assert!(words.contains("no kubeconfig") && words.contains("kubectl delete node shelf-3"), "{words}");
        fs::write(root.path("/etc/rancher/k3s/k3s.yaml"), "x").unwrap();
        assert!(delete_node(&root, "shelf-3").unwrap().unwrap().contains("no kubectl"));
    }

    #[test]
    fn what_kubectl_says_against_it_comes_back() {
        let (_directory, root) = machine();
        fs::write(root.path("/etc/rancher/k3s/k3s.yaml"), "x").unwrap();
        k3s(&root, 1);
        let error = delete_node(&root, "shelf-3").unwrap_err().to_string();
        assert!(error.contains("refused"), "{error}");
    }
}
