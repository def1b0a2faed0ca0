//! A client certificate of k3s' own CA for one member: it has a name of its own in Kubernetes' audit log, and ends by
//! itself.

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use time::{Duration, OffsetDateTime};
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use zeroize::Zeroizing;

use super::{HostError, Root};

/// Where k3s keeps the CA that its API server believes about clients.
const CA: &str = "/var/lib/rancher/k3s/server/tls/client-ca.crt";
const CA_KEY: &str = "/var/lib/rancher/k3s/server/tls/client-ca.key";
/// The group that may do everything, as in k3s' own kubeconfig.
const ADMINISTRATORS: &str = "system:masters";
const GOOD_FOR: Duration = Duration::days(30);
/// Clocks of clients differ from ours.
const EARLIER: Duration = Duration::hours(1);

/// A certificate and its key, as PEM. It has no `Debug`.
pub struct ClientCertificate {
    /// Public.
    pub certificate: String,
    /// Opens the cluster.
    pub key: Zeroizing<String>,
}

/// Makes an administrator's certificate for `user`, good for 30 days; none: k3s has no CA here yet.
///
/// # Errors
/// [`HostError::File`] if the CA cannot be read or is not of the kind that k3s makes.
pub fn client_certificate(root: &Root, user: &str) -> Result<Option<ClientCertificate>, HostError> {
    let (Some(ca), Some(key)) =
        (root.read(&root.path(CA))?, root.read(&root.path(CA_KEY))?.map(Zeroizing::new))
    else {
        return Ok(None);
    };
    let failed = |why: &'static str| HostError::File {
        operation: "make a client certificate with",
        path: root.path(CA),
        source: std::io::Error::other(why),
    };
    issue(&ca, &key, user, OffsetDateTime::now_utc()).map(Some).map_err(failed)
}

fn issue(
    ca: &[u8],
    ca_key: &[u8],
    user: &str,
    now: OffsetDateTime,
) -> Result<ClientCertificate, &'static str> {
    let (_, ca) = x509_parser::pem::parse_x509_pem(ca).map_err(|_| "it is not PEM")?;
    let ca = ca.parse_x509().map_err(|_| "it is no certificate")?;
    let ca_name = ca.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    let ca_key = key_pair(ca_key).ok_or("its key is not of the kind that k3s makes")?;
    let mut issuer = CertificateParams::default();
    issuer.distinguished_name = DistinguishedName::new();
    issuer.distinguished_name.push(DnType::CommonName, ca_name.ok_or("it has no name")?);
    let issuer = issuer.self_signed(&ca_key).map_err(|_| "its key does not sign")?;

    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, ADMINISTRATORS);
    params.distinguished_name.push(DnType::CommonName, user);
    params.not_before = now - EARLIER;
    params.not_after = now + GOOD_FOR;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().map_err(|_| "no key can be made")?;
    let made = params.signed_by(&key, &issuer, &ca_key).map_err(|_| "its key does not sign")?;

    // A CA of somebody's own may have another key, or a name that is written otherwise: the API server would refuse it.
    let (_, seen) = x509_parser::parse_x509_certificate(made.der()).map_err(|_| "what it signs is broken")?;
    if seen.issuer().as_raw() != ca.subject().as_raw()
        || seen.verify_signature(Some(ca.public_key())).is_err()
    {
        return Err("it is not of the kind that k3s makes");
    }
    Ok(ClientCertificate { certificate: made.pem(), key: Zeroizing::new(key.serialize_pem()) })
}

/// k3s writes a key of the curve P-256 in the form of SEC 1; ring takes the same wrapped in PKCS#8 (RFC 5958).
fn key_pair(pem: &[u8]) -> Option<KeyPair> {
    let pkcs8 = match PrivateKeyDer::from_pem_slice(pem).ok()? {
        PrivateKeyDer::Pkcs8(key) => Zeroizing::new(key.secret_pkcs8_der().to_vec()),
        PrivateKeyDer::Sec1(key) => wrap(key.secret_sec1_der())?,
        PrivateKeyDer::Pkcs1(_) | _ => return None,
    };
    let pkcs8 = PrivatePkcs8KeyDer::from(pkcs8.as_slice());
    KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &PKCS_ECDSA_P256_SHA256).ok()
}

fn wrap(sec1: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    /// version 0; the algorithm: an elliptic curve's public key, P-256.
    const HEAD: &[u8] =
        b"\x02\x01\x00\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
    let length = u8::try_from(sec1.len()).ok()?;
    let octets = if length < 0x80 { vec![0x04, length] } else { vec![0x04, 0x81, length] };
    let inside = u8::try_from(HEAD.len() + octets.len() + sec1.len()).ok()?;
    let mut pkcs8 = Zeroizing::new(Vec::with_capacity(256));
    pkcs8.push(0x30);
    if inside >= 0x80 {
        pkcs8.push(0x81);
    }
    pkcs8.push(inside);
    pkcs8.extend_from_slice(HEAD);
    pkcs8.extend_from_slice(&octets);
    pkcs8.extend_from_slice(sec1);
    Some(pkcs8)
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::{ASN1Time, X509Name};

    use super::*;

    const K3S_CA: &[u8] = include_bytes!("../../tests/fixture/k3s-client-ca/client-ca.crt");
    const K3S_KEY: &[u8] = include_bytes!("../../tests/fixture/k3s-client-ca/client-ca.key");

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_790_000_000).unwrap()
    }

    fn first<'a>(name: &'a X509Name<'_>, organization: bool) -> &'a str {
        let text = if organization {
            name.iter_organization().next().unwrap().as_str()
        } else {
            name.iter_common_name().next().unwrap().as_str()
        };
        text.unwrap()
    }

    #[test]
    fn k3s_ca_believes_it_for_thirty_days_and_it_names_the_member() {
        let made = issue(K3S_CA, K3S_KEY, "c3os:12D3KooW", now()).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(made.certificate.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        let (_, ca) = x509_parser::pem::parse_x509_pem(K3S_CA).unwrap();
        let ca = ca.parse_x509().unwrap();
        certificate.verify_signature(Some(ca.public_key())).unwrap();
        assert_eq!(certificate.issuer().as_raw(), ca.subject().as_raw());
        assert_eq!(first(certificate.subject(), false), "c3os:12D3KooW");
        assert_eq!(first(certificate.subject(), true), "system:masters");
        let at = |days: i64| ASN1Time::from(now() + Duration::days(days));
        assert!(certificate.validity().is_valid_at(at(29)) && !certificate.validity().is_valid_at(at(31)));
        assert!(certificate.extended_key_usage().unwrap().unwrap().value.client_auth);
        assert!(made.key.contains("PRIVATE KEY") && !certificate.is_ca());
    }

    #[test]
    fn a_ca_of_another_kind_is_said_to_be_one() {
        let other = KeyPair::generate().unwrap().serialize_pem();
        let wrong = issue(K3S_CA, other.as_bytes(), "x", now()).map(|_| ()).unwrap_err();
        assert!(wrong.contains("kind"), "{wrong}");
        for (ca, key) in [(&b""[..], K3S_KEY), (K3S_CA, &b""[..]), (K3S_KEY, K3S_CA), (K3S_CA, b"\xff\xfe")] {
            assert!(issue(ca, key, "x", now()).is_err());
        }
    }

    #[test]
    fn a_machine_without_k3s_has_none() {
        let directory = tempfile::tempdir().unwrap();
        assert!(client_certificate(&Root::at(directory.path()), "x").unwrap().is_none());
    }
}
