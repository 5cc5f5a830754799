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
pub const UNLOCK_POINTS: [&str; 7] = [
    "unlock.begun",
    "unlock.generated",
    "unlock.row-stored",
    "unlock.proved",
    "unlock.elected",
    "unlock.read-back",
    "unlock.installed",
];

/// Every point of a key that is sealed again, in order.
pub const RESEAL_POINTS: [&str; 3] = ["reseal.sealed", "reseal.swapped", "reseal.read-back"];

/// Kills this process with SIGKILL if `SIGIL_FAILPOINT` names this point. Does nothing in a release
/// build.
pub(crate) fn hit(point: &'static str) {
    #[cfg(test)]
    stop::hit(point);
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

/// Unit tests race many tasks in one process, so there a point stops its task alone: at that very
/// place, and not at the next await as an abort would.
#[cfg(test)]
pub(crate) mod stop {
    tokio::task_local! {
        static AT: Option<&'static str>;
    }

    /// What the panic of a stopped task carries.
    #[derive(Debug)]
    pub(crate) struct Stopped(pub(crate) &'static str);

    /// Runs `work` until it is done or passes `point`. The panic that stops it is a silent one.
    pub(crate) async fn at<T>(point: Option<&'static str>, work: impl Future<Output = T>) -> T {
        AT.scope(point, work).await
    }

    pub(super) fn hit(point: &'static str) {
        if AT.try_with(|at| *at == Some(point)) == Ok(true) {
            std::panic::resume_unwind(Box::new(Stopped(point)));
        }
    }
}
