//! What `init` leaves on disk, and what its certificates say.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::*;
use crate::pki::request;

#[test]
fn init_makes_files_that_only_their_owner_can_read_and_refuses_to_replace_them() {
    let directory = Scratch::new();
    let path = directory.0.join("ca");
    init(&path, &domain(), now()).unwrap();
    let mode = |name: &str| fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("."), 0o700);
    assert_eq!((mode(ROOT_KEY), mode(CA_KEY)), (0o600, 0o600));
    let key = fs::read(path.join(CA_KEY)).unwrap();

    let error = init(&path, &domain(), now()).unwrap_err();
    assert!(matches!(error, PkiError::Exists { .. }), "{error}");
    assert_eq!(fs::read(path.join(CA_KEY)).unwrap(), key);
    Authority::load(&path).unwrap();
}

#[test]
fn a_directory_or_key_that_others_can_use_is_refused() {
    let directory = Scratch::new();
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&directory.0, open).unwrap();
    let error = init(&directory.0, &domain(), now()).unwrap_err();
    assert!(matches!(error, PkiError::Exposed { mode: 0o755, .. }), "{error}");

    fs::set_permissions(&directory.0, fs::Permissions::from_mode(0o700)).unwrap();
    init(&directory.0, &domain(), now()).unwrap();
    let key = directory.0.join(CA_KEY);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let error = Authority::load(&directory.0).unwrap_err();
    assert!(matches!(error, PkiError::Exposed { mode: 0o640, .. }), "{error}");
}

#[test]
fn a_key_of_another_ca_is_refused() {
    let [one, other] = [Scratch::new(), Scratch::new()];
    init(&one.0, &domain(), now()).unwrap();
    init(&other.0, &domain(), now()).unwrap();
    fs::copy(other.0.join(CA_KEY), one.0.join(CA_KEY)).unwrap();
    let error = Authority::load(&one.0).unwrap_err().to_string();
    assert!(error.contains("not the key of the certificate"), "{error}");
}

#[test]
fn root_and_intermediate_may_sign_as_far_as_their_place_allows() {
    let authority = authority();
    let root = authority.roots().certificates()[0].clone();
    let intermediate = authority.intermediates[0].clone();
    assert_eq!(authority.intermediates.len(), 1);
    let cases = [(root, Some(1), 3650), (intermediate, Some(0), 365)];
    for (der, path_len, days) in cases {
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        let constraints = certificate.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, path_len);
        let usage = certificate.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.key_cert_sign());
        assert!(!usage.value.digital_signature());
        let life = certificate.validity().not_after.timestamp() - unix(now());
        assert_eq!(life, days * 24 * 3600);
    }
}

#[test]
fn a_workload_certificate_is_an_x509_svid() {
    let issued = issue(Duration::from_secs(3600));
    let (_, leaf) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical, "the subject is empty");
    let uri = id().to_string();
    assert_eq!(names.value.general_names, [GeneralName::URI(&uri)]);
    let constraints = leaf.basic_constraints().unwrap();
    assert!(constraints.is_none_or(|constraints| !constraints.value.ca));
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature());
    assert!(!usage.value.key_cert_sign() && !usage.value.crl_sign());
    let purposes = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.client_auth && purposes.server_auth && !purposes.any);
    assert_eq!(leaf.validity().not_before.timestamp(), unix(now()) - 60);
    assert_eq!(leaf.validity().not_after.timestamp(), unix(now()) + 3600);
    assert_eq!(Facts::read(&issued.chain[0]).unwrap().serial, issued.serial);
}

#[test]
fn a_workload_certificate_lives_for_a_day_at_most_and_has_its_own_serial() {
    let [one, other] = [1000, 1000].map(|hours| issue(Duration::from_secs(hours * 3600)));
    assert_eq!(one.not_after, now() + MAX_LIFETIME);
    assert_ne!(one.serial, other.serial);
    assert_eq!(one.serial.len(), 32);
}

#[test]
fn nothing_outlives_the_issuer() {
    let authority = authority();
    let (_key, pem) = request(&id()).unwrap();
    let csr = Csr::parse(&pem).unwrap();
    let late = authority.not_after() - Duration::from_secs(600);
    let issued = authority.issue(&csr, &id(), MAX_LIFETIME, late).unwrap();
    assert_eq!(issued.not_after, authority.not_after());
    for at in [authority.not_after(), now() - 2 * DAY] {
        let error = authority.issue(&csr, &id(), MAX_LIFETIME, at).unwrap_err();
        assert!(matches!(error, PkiError::IssuerNotValid), "{error}");
    }
}

#[test]
fn a_server_certificate_has_the_names_given_and_no_identity() {
    let names = ["adit-ca".to_owned(), "10.0.0.1".to_owned(), "::1".to_owned()];
    let (_key, issued) = authority().issue_server(&names, DAY, now()).unwrap();
    let (_, leaf) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    let mut v6 = [0u8; 16];
    v6[15] = 1;
    assert_eq!(
        names.value.general_names,
        [
            GeneralName::DNSName("adit-ca"),
            GeneralName::IPAddress(&[10, 0, 0, 1]),
            GeneralName::IPAddress(&v6)
        ]
    );
    let purposes = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.server_auth && !purposes.client_auth);
}

pub(in crate::pki) fn authority() -> Authority {
    let directory = Scratch::new();
    init(&directory.0, &domain(), now()).unwrap();
    Authority::load(&directory.0).unwrap()
}

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let name = format!("adit-pki-{}-{:x}", std::process::id(), rand::random::<u64>());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn issue(lifetime: Duration) -> Issued {
    let (_key, pem) = request(&id()).unwrap();
    let csr = Csr::parse(&pem).unwrap();
    authority().issue(&csr, &id(), lifetime, now()).unwrap()
}

fn id() -> SpiffeId {
    SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap()
}

fn domain() -> TrustDomain {
    TrustDomain::parse("cluster.local").unwrap()
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn unix(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}
