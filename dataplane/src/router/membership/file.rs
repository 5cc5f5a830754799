//! Follows a membership file by what it holds: a ConfigMap's files are replaced, an editor's renamed,
//! and times of files say little of either.

use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::{MissedTickBehavior, interval};

use super::{MEMBERSHIP_BYTES_MAX, Membership, Memberships};

/// How often the file is read: a person who saves it need not wait, and the file is small.
const READ_EVERY: Duration = Duration::from_secs(1);

/// Offers what the file holds, at once and whenever that changes, for ever. What cannot be read or is
/// wrong is said once in the log, and the last good membership stays.
pub(crate) async fn follow(path: &Path, memberships: &Memberships) {
    let mut ticks = interval(READ_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = None;
    loop {
        ticks.tick().await;
        let found = read(path).await;
        if last.as_ref() == Some(&found) {
            continue;
        }
        let checked = found
            .clone()
            .and_then(|text| Membership::parse(&text).map_err(|errors| errors.to_string()));
        match checked {
            Ok(membership) => drop(memberships.offer(membership, "file")),
            Err(error) => {
                let path = path.display();
                tracing::warn!(%path, error, "membership file refused; the last good one is kept");
            }
        }
        last = Some(found);
    }
}

async fn read(path: &Path) -> Result<String, String> {
    let read = async {
        let mut text = String::new();
        let most = u64::try_from(MEMBERSHIP_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
        tokio::fs::File::open(path).await?.take(most).read_to_string(&mut text).await?;
        Ok::<_, std::io::Error>(text)
    };
    read.await.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::tests::ring;
    use super::*;
    use tokio::time::timeout;

    #[tokio::test]
    async fn a_file_is_followed_and_its_last_good_content_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ring.yaml");
        let memberships = Memberships::new(Some("demo"));
        let mut taken = memberships.subscribe();
        let follower = memberships.clone();
        let followed = path.clone();
        let task = tokio::spawn(async move { follow(&followed, &follower).await });
        let replace = |text: &str| {
            let new = folder.path().join("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(&new, &path).unwrap();
        };
        // Longer than any machine takes; the follower looks once a second.
        let patience = Duration::from_mins(1);
        for (good, wrong) in [(3, ring(2, 1)), (5, "kind: Pod".to_owned()), (9, String::new())] {
            // Whichever of these the follower sees, the good one comes out of it.
            replace(&wrong);
            replace(&ring(good, 2));
            let is_good = |taken: &Option<std::sync::Arc<Membership>>| {
                taken.as_ref().is_some_and(|taken| taken.epoch == good)
            };
            timeout(patience, taken.wait_for(is_good)).await.unwrap().unwrap();
        }
        std::fs::remove_file(&path).unwrap();
        assert!(read(&path).await.is_err());
        replace(&ring(10, 0));
        timeout(patience, taken.changed()).await.unwrap().unwrap();
        task.abort();
    }
}
