//! PostgreSQL refuses to run as root, so root's servers run as somebody else.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::Error;

/// Who has no name on this machine.
const NOBODY: (u32, u32) = (65_534, 65_534);

/// Whom the server's programs run as.
pub struct Account(Option<(u32, u32)>);

// === impl Account ===

impl Account {
    /// The caller, or for root the user `postgres` of Debian's package, or nobody.
    ///
    /// # Errors
    /// The list of users cannot be read.
    pub fn find() -> Result<Self, Error> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self(None));
        }
        let users = std::fs::read_to_string("/etc/passwd")?;
        let named = users.lines().find_map(|line| {
            let mut fields = line.strip_prefix("postgres:")?.split(':').skip(1);
            Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        });
        Ok(Self(Some(named.unwrap_or(NOBODY))))
    }

    /// Gives a file to the account.
    ///
    /// # Errors
    /// The kernel's.
    pub fn own(&self, path: &Path) -> Result<(), Error> {
        match self.0 {
            Some((user, group)) => Ok(chown(path, Some(user), Some(group))?),
            None => Ok(()),
        }
    }

    pub(crate) fn apply(&self, command: &mut Command) {
        if let Some((user, group)) = self.0 {
            command.uid(user).gid(group);
        }
    }
}
