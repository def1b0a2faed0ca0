//! HTTPS to one API server with a client certificate.

use std::{io, sync::Arc, time::Duration};

use axum::http::{Method, Request, StatusCode, header};
use base64::{Engine, prelude::BASE64_STANDARD};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, time};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};

/// An API server that does not answer for so long is taken for one that never will.
const TIMEOUT: Duration = Duration::from_secs(5);
/// No answer to a question of ours is longer: a node with all its images.
const ANSWER: usize = 1024 * 1024;

/// Why an API server could not be asked, or did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum KubeError {
    /// The kubeconfig is not one of k3s'.
    #[error("k3s' kubeconfig {0}")]
    Kubeconfig(&'static str),
    /// It was not reached.
    #[error("the API server at {server} cannot be reached: {source}")]
    Unreachable {
        /// Host and port.
        server: String,
        /// What went wrong.
        source: io::Error,
    },
    /// It did not answer in time.
    #[error("the API server at {0} does not answer")]
    Silent(String),
    /// It said no.
    #[error("the API server refuses {method} {path}: {status}")]
    Refused {
        /// What was asked.
        method: Method,
        /// Of what.
        path: String,
        /// Its answer.
        status: StatusCode,
    },
    /// It said something else.
    #[error("the API server answers {0}")]
    Answer(&'static str),
}

/// The way to one API server. It has no `Debug`: it holds the administrator's key.
#[derive(Clone)]
pub struct Connection {
    tls: TlsConnector,
    host: String,
    port: u16,
}

impl Connection {
    /// The server of a kubeconfig as k3s writes it: one cluster, one user, certificates and key inline.
    ///
    /// # Errors
    /// [`KubeError::Kubeconfig`] says what is wrong with it, without its content.
    pub fn new(kubeconfig: &str) -> Result<Self, KubeError> {
        let config: Value =
            serde_yaml::from_str(kubeconfig).map_err(|_| KubeError::Kubeconfig("is not YAML"))?;
        let text = |pointer: &str| config.pointer(pointer).and_then(Value::as_str);
        let data = |pointer: &str, lacks: &'static str| {
            let bytes = text(pointer).and_then(|text| BASE64_STANDARD.decode(text).ok());
            bytes.map(zeroize::Zeroizing::new).ok_or(KubeError::Kubeconfig(lacks))
        };
        let server = text("/clusters/0/cluster/server").and_then(|url| url.strip_prefix("https://"));
        let (host, port) = server
            .map(|server| server.trim_end_matches('/'))
            .and_then(|server| server.rsplit_once(':'))
            .and_then(|(host, port)| Some((host.trim_matches(['[', ']']), port.parse().ok()?)))
            .ok_or(KubeError::Kubeconfig("names no server of the form https://HOST:PORT"))?;
        let ca = data("/clusters/0/cluster/certificate-authority-data", "has no CA")?;
        let certificate = data("/users/0/user/client-certificate-data", "has no client certificate")?;
        let key = data("/users/0/user/client-key-data", "has no client key")?;

        let mut roots = RootCertStore::empty();
        for root in chain(&ca)? {
            roots.add(root).map_err(|_| KubeError::Kubeconfig("has a CA that is no certificate"))?;
        }
        let key = PrivateKeyDer::from_pem_slice(&key)
            .map_err(|_| KubeError::Kubeconfig("has a client key that cannot be read"))?;
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|_| KubeError::Kubeconfig("needs a TLS version that there is not"))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain(&certificate)?, key)
            .map_err(|_| KubeError::Kubeconfig("has a client key that does not fit its certificate"))?;
        Ok(Self { tls: TlsConnector::from(Arc::new(tls)), host: host.to_owned(), port })
    }

    /// What is at `path`; none if nothing is.
    pub(super) async fn get(&self, path: &str) -> Result<Option<Value>, KubeError> {
        match self.ask(Method::GET, path, None).await? {
            (StatusCode::OK, answer) => Ok(Some(answer)),
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (status, _) => Err(refused(Method::GET, path, status)),
        }
    }

    /// Sends an object; whether it was taken. One that somebody else made or changed meanwhile is not.
    pub(super) async fn put(&self, method: Method, path: &str, object: &Value) -> Result<bool, KubeError> {
        match self.ask(method.clone(), path, Some(object)).await?.0 {
            StatusCode::OK | StatusCode::CREATED => Ok(true),
            StatusCode::CONFLICT => Ok(false),
            status => Err(refused(method, path, status)),
        }
    }

    pub(super) async fn delete(&self, path: &str) -> Result<(), KubeError> {
        match self.ask(Method::DELETE, path, None).await?.0 {
            StatusCode::OK | StatusCode::ACCEPTED | StatusCode::NOT_FOUND => Ok(()),
            status => Err(refused(Method::DELETE, path, status)),
        }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value), KubeError> {
        let server = format!("{}:{}", self.host, self.port);
        let exchange = self.exchange(&server, method, path, body);
        time::timeout(TIMEOUT, exchange).await.map_err(|_| KubeError::Silent(server.clone()))?
    }

    async fn exchange(
        &self,
        server: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value), KubeError> {
        let unreachable = |source| KubeError::Unreachable { server: server.to_owned(), source };
        let broken = |error: hyper::Error| unreachable(io::Error::other(error));
        let name = ServerName::try_from(self.host.clone())
            .map_err(|_| KubeError::Kubeconfig("names a server that is no host"))?;
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(unreachable)?;
        let tls = self.tls.connect(name, tcp).await.map_err(unreachable)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.map_err(broken)?;
        // It ends with the answer; what goes wrong in it is told there.
        let connection = tokio::spawn(connection);
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, server)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|_| KubeError::Answer("nothing: the path is none"))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let answer = Limited::new(response.into_body(), ANSWER).collect().await;
        connection.abort();
        let answer = answer.map_err(|_| KubeError::Answer("more than can be read, or only a part of it"))?;
        Ok((status, serde_json::from_slice(&answer.to_bytes()).unwrap_or_default()))
    }
}

fn refused(method: Method, path: &str, status: StatusCode) -> KubeError {
    let path = path.split('?').next().unwrap_or(path).to_owned();
    KubeError::Refused { method, path, status }
}

fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, KubeError> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| KubeError::Kubeconfig("has a certificate that cannot be read"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_that_is_none_is_refused_without_being_quoted() {
        let sample = "clusters: [{ cluster: { server: 'https://127.0.0.1:6443', certificate-authority-data: c2FtcGxl } }]\n\
                      users: [{ user: { client-certificate-data: c2FtcGxl, client-key-data: c2VjcmV0 } }]";
        for bad in ["", "[", "clusters: []", sample, &sample.replace("https", "http")] {
            let Err(error) = Connection::new(bad) else { panic!("{bad} was taken") };
            assert!(error.to_string().starts_with("k3s' kubeconfig ") && !error.to_string().contains("c2Vj"));
        }
    }
}
