//! Runs every target over its seeds and its committed corpus, without the fuzzer.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};

use sigil_enclave::rpc::batch;
use sigil_enclave_protocol::bounds::MESSAGE_BYTES_MAX;
use sigil_fuzz::memory::peak_bytes;
use sigil_fuzz::{TARGETS, Target};

/// What all corpora together may weigh in the repository.
const CORPUS_BYTES_MAX: u64 = 300 * 1024;

/// Bytes that a message of many items may become in memory while it is read.
const READ_BYTES_MAX: usize = 8 * 1024;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// The files of a target's corpus, by name.
fn files(target: &Target) -> Vec<PathBuf> {
    let folder = corpus().join(target.name);
    let entries =
        fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn replay(name: &str) {
    let target = Target::named(name).unwrap();
    for seed in (target.seeds)() {
        target.run(&seed);
        assert!(seed.len() <= target.input_bytes_max);
        // A cut and a changed byte each, so that a seed shows both sides of the property.
        target.run(&seed[..seed.len() / 2]);
        for at in (0..seed.len()).step_by(97) {
            let mut changed = seed.clone();
            changed[at] ^= 1;
            target.run(&changed);
        }
    }
    let files = files(target);
    assert!(!files.is_empty(), "{name}: no corpus");
    for file in files {
        eprintln!("{}", file.display());
        target.run(&fs::read(&file).unwrap());
    }
}

#[test]
fn requests_over_http_mean_the_same_over_grpc() {
    replay("contract-http");
}

#[test]
fn requests_over_grpc_mean_the_same_over_http() {
    replay("contract-grpc");
}

#[test]
fn attestation_documents() {
    replay("attestation");
}

#[test]
fn attestation_documents_with_a_right_signature() {
    replay("attestation-signed");
}

#[test]
fn key_blobs() {
    replay("blob");
}

#[test]
fn files_of_settings() {
    replay("config");
}

#[test]
fn envelopes() {
    replay("cms");
}

#[test]
fn image_files_and_ramdisks() {
    replay("eif");
}

#[test]
fn handshake_frames_of_both_sides() {
    replay("handshake");
}

#[test]
fn answers_of_kms() {
    replay("kms-answer");
}

#[test]
fn measurement_files() {
    replay("measurements");
}

#[test]
fn membership_files() {
    replay("membership");
}

#[test]
fn pins() {
    replay("pins");
}

#[test]
fn messages_of_the_contract() {
    replay("protocol");
}

#[test]
fn statements_and_user_data() {
    replay("statement");
}

#[test]
fn addresses_key_ids_and_names() {
    replay("text");
}

#[test]
fn tokens_and_their_keys() {
    replay("token");
}

#[test]
fn every_target_is_replayed_and_every_corpus_has_a_target() {
    let targets: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
    for name in &targets {
        assert!(include_str!("replay.rs").contains(&format!("replay(\"{name}\");")), "{name}");
    }
    let folders = fs::read_dir(corpus()).unwrap();
    let mut folders: Vec<_> =
        folders.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    folders.sort();
    assert_eq!(folders, targets);
}

#[test]
fn the_corpora_stay_small() {
    let files = TARGETS.iter().flat_map(files);
    let bytes: u64 = files.map(|file| fs::metadata(file).unwrap().len()).sum();
    assert!(bytes <= CORPUS_BYTES_MAX, "{bytes} bytes, at most {CORPUS_BYTES_MAX}");
}

/// Two bytes of a message are an item, of which a batch has a few: all others cost nothing.
#[test]
fn a_message_of_many_items_costs_bounded_memory() {
    let message = [0x0a, 0].repeat(MESSAGE_BYTES_MAX / 2);
    let bytes = peak_bytes(|| assert!(batch::read(&message).is_none()));
    assert!(bytes > 0 && bytes <= READ_BYTES_MAX, "{bytes} bytes, at most {READ_BYTES_MAX}");
    let target = Target::named("protocol").unwrap();
    let input = [&[0], message.as_slice()].concat();
    assert_eq!(input.len(), target.input_bytes_max, "the fuzzer tries messages of every length");
    target.run(&input);
}
