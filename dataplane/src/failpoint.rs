//! Named points at which a debug build kills itself, for crash tests. A release build has none.

/// Every point, in the order in which `create` passes them.
pub const CREATE_POINTS: [&str; 7] = [
    "create.accepted",
    "create.sealed",
    "create.document-stored",
    "create.key-stored",
    "create.read-back",
    "create.activated",
    "create.verified",
];

/// Every point of an unlock that makes a DEK, in order.
pub const UNLOCK_POINTS: [&str; 6] = [
    "unlock.begun",
    "unlock.generated",
    "unlock.row-stored",
    "unlock.elected",
    "unlock.read-back",
    "unlock.installed",
];

/// Kills this process with SIGKILL if `SIGIL_FAILPOINT` names this point. Does nothing in a release
/// build.
pub(crate) fn hit(point: &'static str) {
    #[cfg(debug_assertions)]
    {
        use std::sync::OnceLock;
        static ARMED: OnceLock<Option<String>> = OnceLock::new();
        let armed = ARMED.get_or_init(|| std::env::var("SIGIL_FAILPOINT").ok());
        if armed.as_deref() == Some(point) {
            let _ = rustix::process::kill_process(
                rustix::process::getpid(),
                rustix::process::Signal::KILL,
            );
        }
    }
    #[cfg(not(debug_assertions))]
    let _ = point;
}
