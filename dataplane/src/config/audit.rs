//! Settings of the audit.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where the audit goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Audit {
    /// `stdout`, `off`, or the absolute path of a file or a pipe.
    pub output: AuditOutput,
}

/// `stdout`, `off`, or a path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum AuditOutput {
    /// Lines among those of the log, told apart by `"stream":"audit"`.
    #[default]
    Stdout,
    /// None is kept.
    Off,
    /// Lines are appended; the file is made with mode 0600, and opened again when it was rotated away.
    File(PathBuf),
}

// === impl AuditOutput ===

impl TryFrom<String> for AuditOutput {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "stdout" => Ok(Self::Stdout),
            "off" => Ok(Self::Off),
            path if path.starts_with('/') => Ok(Self::File(path.into())),
            other => Err(format!("`{other}`: expected stdout, off or an absolute path")),
        }
    }
}

impl From<AuditOutput> for String {
    fn from(output: AuditOutput) -> Self {
        match output {
            AuditOutput::Stdout => "stdout".to_owned(),
            AuditOutput::Off => "off".to_owned(),
            AuditOutput::File(path) => path.display().to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_is_stdout_off_or_a_path() {
        for text in ["stdout", "off", "/var/log/sigil/audit.log"] {
            let output = AuditOutput::try_from(text.to_owned()).unwrap();
            assert_eq!(String::from(output), text);
        }
        for bad in ["", "syslog", "audit.log", "./a"] {
            assert!(AuditOutput::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
