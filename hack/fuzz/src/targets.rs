//! The targets, one file each.

pub(crate) mod attestation;
pub(crate) mod blob;
pub(crate) mod cms;
pub(crate) mod config;
pub(crate) mod contract;
pub(crate) mod eif;
pub(crate) mod handshake;
pub(crate) mod kms_answer;
pub(crate) mod measurements;
pub(crate) mod membership;
pub(crate) mod pins;
pub(crate) mod protocol;
pub(crate) mod statement;
pub(crate) mod text;
pub(crate) mod token;
