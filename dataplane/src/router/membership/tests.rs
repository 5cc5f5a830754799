use super::*;

/// A SignerRing of `demo` with that many members.
pub(crate) fn ring(epoch: i64, members: u16) -> String {
    let member = |slot| {
        format!(
            "  - {{slot: {slot}, node: node-{slot}, address: 'node-{slot}:8443', \
             state: Active, weight: 100, rampSeconds: 60}}\n"
        )
    };
    let members = (0..members).map(member).collect::<Vec<_>>().concat();
    let members = if members.is_empty() { " []\n".to_owned() } else { format!("\n{members}") };
    format!(
        "apiVersion: sigil.dev/v1alpha1\nkind: SignerRing\nmetadata: {{name: demo}}\n\
         spec:\n  pool: demo\n  epoch: {epoch}\n  members:{members}"
    )
}

fn parse(text: &str) -> Membership {
    Membership::parse(text).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

#[test]
fn what_kubectl_prints_is_read() {
    let text = ring(7, 2)
        .replace("metadata: {name: demo}", "metadata: {name: demo, uid: 1-2, labels: {a: b}}")
        + "status: {}\n";
    let membership = parse(&text);
    assert_eq!((membership.epoch, membership.pool.as_str()), (7, "demo"));
    let member = membership.member(1).unwrap();
    assert_eq!(member.address, Some("node-1:8443".parse().unwrap()));
    assert_eq!((member.state, member.weight), (MemberState::Active, 100));
    assert_eq!(member.ramp, Duration::from_mins(1));
    assert!(membership.member(2).is_none());
    let json = serde_yaml_ng::from_str::<serde_json::Value>(&text).unwrap().to_string();
    assert_eq!(parse(&json), membership, "JSON is YAML");
}

#[test]
fn members_are_kept_by_slot_and_may_lack_an_address() {
    let text = ring(1, 3).replace("slot: 0", "slot: 9").replace("address: 'node-1:8443', ", "");
    let membership = parse(&text);
    let slots: Vec<_> = membership.members.iter().map(|member| member.slot).collect();
    assert_eq!(slots, [1, 2, 9]);
    assert_eq!(membership.member(1).unwrap().address, None);
}

#[test]
fn every_wrong_field_is_named() {
    let good = ring(1, 2);
    for (from, to, field) in [
        ("kind: SignerRing", "kind: Pod", "kind"),
        ("v1alpha1", "v2", "apiVersion"),
        ("epoch: 1", "epoch: 0", "spec.epoch"),
        ("epoch: 1", "epoch: -9223372036854775808", "spec.epoch"),
        ("epoch: 1", "epoch: x", "spec"),
        ("pool: demo", "pool: ''", "spec.pool"),
        ("pool: demo", "pol: demo", "spec.pol"),
        ("slot: 1", "slot: 512", "spec.members[1].slot"),
        ("slot: 1", "slot: -1", "spec.members[1].slot"),
        ("slot: 1", "slot: 0", "spec.members: slot 0 is there twice"),
        ("'node-1:8443'", "node-1", "spec.members[1].address"),
        (
            "weight: 100, rampSeconds: 60}\n  - {slot: 1",
            "weight: 1001}\n  - {slot: 1",
            "spec.members[0].weight",
        ),
        ("rampSeconds: 60", "rampSeconds: 86401", "spec.members[0].rampSeconds"),
        ("rampSeconds: 60", "rampSecond: 60", "spec.members[0].rampSecond"),
        ("rampSeconds: 60", "measurements: 0", "spec.members[0].measurements"),
        ("state: Active", "state: Gone", "spec"),
    ] {
        let text = good.replacen(from, to, 1);
        assert_ne!(text, good, "{from}");
        let errors = Membership::parse(&text).unwrap_err();
        assert!(errors.0.iter().any(|error| error.starts_with(field)), "{field}: {errors}");
    }
    let errors = Membership::parse(&good.replace("weight: 100", "weight: -1")).unwrap_err();
    assert_eq!(errors.0.len(), 2, "all at once: {errors}");
}

#[test]
fn a_membership_is_bounded() {
    assert_eq!(parse(&ring(1, 512)).members.len(), 512);
    let errors = Membership::parse(&ring(1, 513)).unwrap_err();
    assert!(errors.to_string().contains("513 entries, at most 512"), "{errors}");
    let bomb =
        ring(1, 2).replacen("node-1", "&a node-1", 1).replacen("node: node-0", "node: *a", 1);
    let errors = Membership::parse(&bomb).unwrap_err();
    assert!(errors.to_string().contains("aliases"), "{errors}");
    let long = ring(1, 1) + &"#".repeat(MEMBERSHIP_BYTES_MAX);
    assert!(Membership::parse(&long).is_err());
}

#[test]
fn epochs_never_go_back_whatever_the_source() {
    let memberships = Memberships::new(Some("demo"));
    let watch = memberships.subscribe();
    let offer = |text: &str, source: &str| memberships.offer(parse(text), source);
    assert_eq!(offer(&ring(3, 1), "file"), Taken::Newest);
    assert_eq!(offer(&ring(3, 1), "cluster"), Taken::Same);
    assert_eq!(offer(&ring(3, 2), "cluster"), Taken::Conflict);
    assert_eq!(offer(&ring(2, 2), "cluster"), Taken::Older);
    assert_eq!(offer(&ring(9, 2).replace("pool: demo", "pool: other"), "file"), Taken::OtherPool);
    assert_eq!(watch.borrow().as_ref().unwrap().members.len(), 1);
    assert_eq!(offer(&ring(4, 2), "cluster"), Taken::Newest);
    assert_eq!(offer(&ring(3, 1), "file"), Taken::Older);
    assert_eq!(watch.borrow().as_ref().unwrap().epoch, 4);
}
