//! kube-vip: one address on the LAN that always leads to a living API server. k3s applies what lies in its manifests
//! directory; kube-vip then runs on the servers and announces the address by ARP.

use super::{Content, MARK, PlannedFile};
use crate::{config::Config, election::Role};

/// Where k3s looks for manifests.
pub(super) const PATH: &str = "/var/lib/rancher/k3s/server/manifests/c3os-kubevip.yaml";
/// The image; its tag is the version that Kairos pins too.
const IMAGE: &str = "ghcr.io/kube-vip/kube-vip:v1.2.3";

/// The manifest, if `kubevip.eip` is set and this is a server.
pub(super) fn manifest(config: &Config, role: Role) -> Option<PlannedFile> {
    let (Role::Server, Some(address)) = (role, &config.kubevip.eip) else {
        return None;
    };
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let interface = match &config.kubevip.interface {
        Some(interface) => format!("            - {{ name: vip_interface, value: {} }}\n", quoted(interface)),
        None => String::new(),
    };
    let text = format!(
        r#"{MARK}apiVersion: v1
kind: ServiceAccount
metadata: {{ name: kube-vip, namespace: kube-system }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{ name: system:kube-vip-role }}
rules:
  - {{ apiGroups: [""], resources: [services, services/status, nodes, endpoints], verbs: [list, get, watch, update] }}
  - {{ apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, get, watch, update] }}
  - {{ apiGroups: [coordination.k8s.io], resources: [leases], verbs: [list, get, watch, update, create] }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{ name: system:kube-vip-binding }}
roleRef: {{ apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:kube-vip-role }}
subjects: [{{ kind: ServiceAccount, name: kube-vip, namespace: kube-system }}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {{ name: kube-vip, namespace: kube-system }}
spec:
  selector: {{ matchLabels: {{ name: kube-vip }} }}
  template:
    metadata: {{ labels: {{ name: kube-vip }} }}
    spec:
      serviceAccountName: kube-vip
      hostNetwork: true
      nodeSelector: {{ node-role.kubernetes.io/control-plane: "true" }}
      tolerations:
        - {{ effect: NoSchedule, operator: Exists }}
        - {{ effect: NoExecute, operator: Exists }}
      containers:
        - name: kube-vip
          image: {IMAGE}
          args: [manager]
          env:
            - {{ name: vip_arp, value: "true" }}
            - {{ name: port, value: "6443" }}
{interface}            - {{ name: vip_subnet, value: "{prefix}" }}
            - {{ name: cp_enable, value: "true" }}
            - {{ name: cp_namespace, value: kube-system }}
            - {{ name: vip_leaderelection, value: "true" }}
            - {{ name: address, value: {address} }}
          securityContext:
            capabilities: {{ add: [NET_ADMIN, NET_RAW] }}
"#,
        prefix = if address.contains(':') { 128 } else { 32 },
        address = quoted(address),
    );
    Some(PlannedFile { path: PATH, mode: 0o600, content: Content::Public(text) })
}
