//! The key policy of a pool: what production puts, for measured images.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{Context, SHA384};
use serde::Deserialize;

use super::{
    AwsPrincipals, Effect, OneOrMany, Operator, Policy, Principal, Statement, VERSION,
    administration,
};

const DECRYPT_AND_GENERATE: [&str; 2] = ["kms:Decrypt", "kms:GenerateDataKey"];
/// Actions that know no attestation: each would let its caller make, move or learn a DEK, or let
/// others do so.
const NEVER: [&str; 6] = [
    "kms:Encrypt",
    "kms:ReEncrypt*",
    "kms:GenerateDataKeyPair*",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:CreateGrant",
    "kms:ImportKeyMaterial",
];
const PCR0: &str = "kms:RecipientAttestation:PCR0";
const PCR3: &str = "kms:RecipientAttestation:PCR3";
const APP: &str = "kms:EncryptionContext:app";

/// What of `measurements.json` a policy needs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Measured {
    format_version: u32,
    app: String,
    pcr0: String,
    /// Process mode only.
    pcr3: Option<String>,
    kms: Vec<MeasuredKms>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MeasuredKms {
    key_arns: Vec<String>,
}

/// Why no policy is rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// There is nothing to allow.
    #[error("measurements: name at least one file")]
    Empty,
    /// Written by a newer tool.
    #[error("measurements: formatVersion {0} is not known, only 1")]
    FormatVersion(u32),
    /// Two images of different deployments.
    #[error("measurements: the files are of different apps, {0:?} and {1:?}")]
    Apps(String, String),
    /// A PCR in another spelling would never match.
    #[error("measurements: {0:?} is not 96 lower-case hex digits")]
    Pcr(String),
    /// An EIF says nothing about its parent.
    #[error("measurements: there is no pcr3; give the ARN of the parent instance's role (--role)")]
    NoRole,
    /// The images would never ask this key.
    #[error("measurements: the pins name {pinned:?} but the key is {key_arn}")]
    OtherKey {
        /// Keys that the pins name.
        pinned: Vec<String>,
        /// The key of this policy.
        key_arn: String,
    },
}

/// PCR3 of an enclave whose parent instance has this role: SHA-384 of 48 zero bytes and the ARN.
pub fn pcr3_of_role(role_arn: &str) -> String {
    let mut register = Context::new(&SHA384);
    register.update(&[0; 48]);
    register.update(role_arn.as_bytes());
    const_hex::encode(register.finish().as_ref())
}

/// Decrypt and GenerateDataKey for `user` alone, for these images on parents of `role` (or, in
/// process mode, with the PCR3 that the measurements name), in the encryption context of their app;
/// explicit Denies for everything else; administration for `administrator`.
///
/// # Errors
/// See [`RenderError`].
pub fn attested_use(
    images: &[Measured],
    role: Option<&str>,
    key_arn: &str,
    user: &str,
    administrator: &str,
) -> Result<Policy, RenderError> {
    let app = &images.first().ok_or(RenderError::Empty)?.app;
    let (mut pcr0s, mut pcr3s) = (Vec::new(), Vec::new());
    for image in images {
        image.check(app, key_arn)?;
        let pcr3 = role.map(pcr3_of_role).or_else(|| image.pcr3.clone());
        push_new(&mut pcr0s, image.pcr0.clone())?;
        push_new(&mut pcr3s, pcr3.ok_or(RenderError::NoRole)?)?;
    }
    let attested = |operator, key: &str, values: &[String]| {
        (operator, BTreeMap::from([(key.to_owned(), OneOrMany::Many(values.to_vec()))]))
    };
    let apps = [app.clone()];
    let deny = |sid, condition| {
        let anybody = Principal::Any("*".to_owned());
        statement(sid, Effect::Deny, anybody, &DECRYPT_AND_GENERATE, [condition].into())
    };
    let not_equals = Operator::StringNotEqualsIgnoreCase;
    let user = Principal::Aws(AwsPrincipals { aws: OneOrMany::One(user.to_owned()) });
    let nobody = Principal::Any("*".to_owned());
    let pcrs = BTreeMap::from([
        (PCR0.to_owned(), OneOrMany::Many(pcr0s.clone())),
        (PCR3.to_owned(), OneOrMany::Many(pcr3s.clone())),
    ]);
    let allowed = BTreeMap::from([
        (Operator::StringEqualsIgnoreCase, pcrs),
        attested(Operator::StringEquals, APP, &apps),
    ]);
    let statements = vec![
        administration(administrator),
        statement("AttestedUse", Effect::Allow, user, &DECRYPT_AND_GENERATE, allowed),
        deny("DenyOtherImages", attested(not_equals, PCR0, &pcr0s)),
        deny("DenyOtherParents", attested(not_equals, PCR3, &pcr3s)),
        deny("DenyOtherApps", attested(Operator::StringNotEquals, APP, &apps)),
        statement("DenyUnattestedUse", Effect::Deny, nobody, &NEVER, BTreeMap::new()),
    ];
    Ok(Policy { version: VERSION.to_owned(), id: None, statement: statements })
}

impl Measured {
    fn check(&self, app: &str, key_arn: &str) -> Result<(), RenderError> {
        if self.format_version != 1 {
            return Err(RenderError::FormatVersion(self.format_version));
        }
        if self.app != app {
            return Err(RenderError::Apps(app.to_owned(), self.app.clone()));
        }
        let pinned: Vec<_> = self.kms.iter().flat_map(|rule| rule.key_arns.clone()).collect();
        if pinned.iter().any(|arn| arn == key_arn) {
            return Ok(());
        }
        Err(RenderError::OtherKey { pinned, key_arn: key_arn.to_owned() })
    }
}

fn push_new(pcrs: &mut Vec<String>, pcr: String) -> Result<(), RenderError> {
    let hex = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if pcr.len() != 96 || !pcr.bytes().all(hex) {
        return Err(RenderError::Pcr(pcr));
    }
    if !pcrs.contains(&pcr) {
        pcrs.push(pcr);
    }
    Ok(())
}

fn statement(
    sid: &str,
    effect: Effect,
    principal: Principal,
    actions: &[&str],
    condition: BTreeMap<Operator, BTreeMap<String, OneOrMany>>,
) -> Statement {
    Statement {
        sid: Some(sid.to_owned()),
        effect,
        principal,
        action: OneOrMany::Many(actions.iter().map(|action| (*action).to_owned()).collect()),
        resource: OneOrMany::One("*".to_owned()),
        condition,
    }
}
