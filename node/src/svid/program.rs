//! Is this certificate what a program may be given? X509-SVID, sections 2 to 5: one name, which is a program's; no right to sign
//! certificates; the key that was asked for; and a CA of the bundle that signed it.

use model::spiffe::SpiffeId;
use x509_parser::prelude::{FromDer as _, GeneralName, KeyUsage, X509Certificate};

/// Why it is not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProgramError {
    /// No certificate, or more than one.
    #[error("it is not one certificate")]
    Form,
    /// Another name, none, or several.
    #[error("its names are not just the program's SPIFFE id")]
    Name,
    /// It could sign others.
    #[error("it is a CA certificate")]
    Authority,
    /// Its key is for something else.
    #[error("its key usage is not critical, does not have digitalSignature, or has keyCertSign or cRLSign")]
    Usage,
    /// Its extended usage leaves out what programs do.
    #[error("its extended key usage is not for TLS servers and clients")]
    Extended,
    /// Another key.
    #[error("it is over another key")]
    Key,
    /// What is to sign it may not, or is called otherwise.
    #[error("the bundle holds what is no CA of this trust domain")]
    Bundle,
    /// Nothing of the bundle signed it.
    #[error("no CA of the bundle signed it")]
    Signature,
}

fn usage<'c>(certificate: &'c X509Certificate<'_>) -> Option<(bool, &'c KeyUsage)> {
    let found = certificate.key_usage().ok()??;
    Some((found.critical, found.value))
}

/// All names of a certificate, if each is a URI.
fn names<'c>(certificate: &'c X509Certificate<'_>) -> Option<Vec<&'c str>> {
    let found = certificate.subject_alternative_name().ok()??;
    let uri = |name: &'c GeneralName<'_>| if let GeneralName::URI(uri) = name { Some(*uri) } else { None };
    found.value.general_names.iter().map(uri).collect()
}

/// The CAs of a bundle: DER, one behind the other.
fn authorities<'b>(mut bundle: &'b [u8], domain: &str) -> Result<Vec<X509Certificate<'b>>, ProgramError> {
    let mut all = Vec::new();
    while !bundle.is_empty() {
        let (rest, one) = X509Certificate::from_der(bundle).map_err(|_| ProgramError::Bundle)?;
        let signs = one.is_ca() && usage(&one).is_some_and(|(critical, usage)| critical && usage.key_cert_sign());
        if !signs || names(&one) != Some(vec![format!("spiffe://{domain}").as_str()]) {
            return Err(ProgramError::Bundle);
        }
        all.push(one);
        bundle = rest;
    }
    Ok(all)
}

/// Checks a certificate for this program over this key (SubjectPublicKeyInfo, DER). Time is not looked at: lives count from the request.
pub fn check(id: &SpiffeId, key: &[u8], certificate: &[u8], bundle: &[u8]) -> Result<(), ProgramError> {
    let (rest, leaf) = X509Certificate::from_der(certificate).map_err(|_| ProgramError::Form)?;
    if !rest.is_empty() {
        return Err(ProgramError::Form);
    }
    if names(&leaf) != Some(vec![id.as_str()]) {
        return Err(ProgramError::Name);
    }
    if leaf.is_ca() || leaf.basic_constraints().is_err() {
        return Err(ProgramError::Authority);
    }
    let fits = |(critical, usage): (bool, &KeyUsage)| {
        critical && usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign()
    };
    if !usage(&leaf).is_some_and(fits) {
        return Err(ProgramError::Usage);
    }
    match leaf.extended_key_usage() {
        Ok(None) => {}
        Ok(Some(extended)) if extended.value.server_auth && extended.value.client_auth => {}
        _ => return Err(ProgramError::Extended),
    }
    if leaf.public_key().raw != key {
        return Err(ProgramError::Key);
    }
    let signed = |one: &X509Certificate<'_>| leaf.verify_signature(Some(one.public_key())).is_ok();
    if authorities(bundle, id.domain())?.iter().any(signed) { Ok(()) } else { Err(ProgramError::Signature) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
        KeyUsagePurpose, SanType,
    };

    const ID: &str = "spiffe://corp.example/workload/deploy/web";

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    struct Made {
        key: Vec<u8>,
        leaf: Vec<u8>,
        bundle: Vec<u8>,
    }

    /// A good pair of certificates, with what is changed in them.
    fn make(leaf: impl Fn(&mut CertificateParams), authority: impl Fn(&mut CertificateParams)) -> Made {
        let (authority_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut above = CertificateParams::default();
        above.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        above.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        above.subject_alt_names = vec![uri("spiffe://corp.example")];
        authority(&mut above);
        let mut below = CertificateParams::default();
        below.is_ca = IsCa::ExplicitNoCa;
        below.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        below.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        below.subject_alt_names = vec![uri(ID)];
        leaf(&mut below);
        let bundle = above.self_signed(&authority_key).unwrap().der().to_vec();
        let leaf = below.signed_by(&key, &Issuer::new(above, authority_key)).unwrap().der().to_vec();
        let key = rcgen::PublicKeyData::subject_public_key_info(&key);
        Made { key, leaf, bundle }
    }

    fn read(made: &Made) -> Result<(), ProgramError> {
        check(&ID.parse().unwrap(), &made.key, &made.leaf, &made.bundle)
    }

    #[test]
    fn a_certificate_is_given_only_if_every_clause_of_the_standard_holds() {
        let leaf = |change: &dyn Fn(&mut CertificateParams)| read(&make(change, |_| {}));
        assert_eq!(leaf(&|_| {}), Ok(()));
        assert_eq!(leaf(&|p| p.extended_key_usages.clear()), Ok(()), "it may be for anything");
        let names = |names: &[SanType]| {
            let names = names.to_vec();
            leaf(&move |p| p.subject_alt_names.clone_from(&names))
        };
        for (bad, why) in [
            (vec![], "none"),
            (vec![uri(ID), uri(ID)], "twice"),
            (vec![uri(ID), uri("https://corp.example/web")], "another"),
            (vec![uri(ID), SanType::DnsName("web.corp.example".try_into().unwrap())], "a host's, too"),
            (vec![SanType::DnsName("web.corp.example".try_into().unwrap())], "a host's alone"),
            (vec![uri("spiffe://corp.example")], "no path"),
            (vec![uri("spiffe://corp.example/workload/deploy/mail")], "another program"),
            (vec![uri("spiffe://other.example/workload/deploy/web")], "another trust domain"),
            (vec![uri("spiffe://Corp.example/workload/deploy/web")], "capital letters"),
            (vec![uri("https://corp.example/workload/deploy/web")], "another scheme"),
        ] {
            assert_eq!(names(&bad), Err(ProgramError::Name), "{why}");
        }
        for bad in [IsCa::Ca(BasicConstraints::Unconstrained), IsCa::Ca(BasicConstraints::Constrained(0))] {
            assert_eq!(leaf(&|p| p.is_ca = bad), Err(ProgramError::Authority));
        }
        for bad in [
            vec![],
            vec![KeyUsagePurpose::KeyEncipherment],
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign],
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign],
        ] {
            assert_eq!(leaf(&|p| p.key_usages.clone_from(&bad)), Err(ProgramError::Usage), "{bad:?}");
        }
        // digitalSignature in an extension that is not critical (RFC 5280, section 4.2.1.3).
        let loose = || CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![3, 2, 7, 0x80]);
        let loosen = |p: &mut CertificateParams| {
            p.key_usages.clear();
            p.custom_extensions.push(loose());
        };
        assert_eq!(leaf(&loosen), Err(ProgramError::Usage));
        for bad in [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::CodeSigning] {
            assert_eq!(leaf(&|p| p.extended_key_usages = vec![bad.clone()]), Err(ProgramError::Extended));
        }
    }

    #[test]
    fn only_a_ca_of_the_trust_domain_signs() {
        let above = |change: &dyn Fn(&mut CertificateParams)| read(&make(|_| {}, change));
        assert_eq!(above(&|p| p.is_ca = IsCa::ExplicitNoCa), Err(ProgramError::Bundle));
        assert_eq!(above(&|p| p.key_usages = vec![KeyUsagePurpose::CrlSign]), Err(ProgramError::Bundle));
        assert_eq!(above(&|p| p.key_usages.clear()), Err(ProgramError::Bundle));
        for bad in ["spiffe://corp.example/authority", "spiffe://other.example", "https://corp.example"] {
            assert_eq!(above(&|p| p.subject_alt_names = vec![uri(bad)]), Err(ProgramError::Bundle), "{bad}");
        }
        let (first, second) = (make(|_| {}, |_| {}), make(|_| {}, |_| {}));
        let with = |bundle: &[u8]| check(&ID.parse().unwrap(), &first.key, &first.leaf, bundle);
        assert_eq!(with(&second.bundle), Err(ProgramError::Signature));
        assert_eq!(with(&[second.bundle.clone(), first.bundle.clone()].concat()), Ok(()), "one of two");
        assert_eq!(with(&[]), Err(ProgramError::Signature));
        assert_eq!(with(&[first.bundle.clone(), vec![1]].concat()), Err(ProgramError::Bundle));
    }

    #[test]
    fn what_is_altered_cut_or_over_another_key_is_not_given() {
        let made = make(|_| {}, |_| {});
        let with = |leaf: &[u8]| check(&ID.parse().unwrap(), &made.key, leaf, &made.bundle);
        let signed = X509Certificate::from_der(&made.leaf).unwrap().1.tbs_certificate.as_ref().to_vec();
        let begin = made.leaf.windows(signed.len()).position(|part| part == signed).unwrap();
        for at in 0..made.leaf.len() {
            assert!(with(&made.leaf[..at]).is_err(), "cut at {at}");
            if !(begin..begin + signed.len()).contains(&at) {
                continue;
            }
            let mut altered = made.leaf.clone();
            altered[at] ^= 1;
            assert!(with(&altered).is_err(), "byte {at}");
        }
        assert_eq!(with(&[made.leaf.clone(), made.leaf.clone()].concat()), Err(ProgramError::Form));
        let other = Made { key: make(|_| {}, |_| {}).key, ..made };
        assert_eq!(read(&other), Err(ProgramError::Key));
    }
}
