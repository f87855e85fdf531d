//! Finding and running the tools of a language.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::BuildError;

/// A program in `folders`, else in PATH.
pub fn find(name: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all = folders.iter().cloned().chain(std::env::split_paths(&path));
    all.find_map(|folder| {
        let file = folder.join(name);
        is_program(&file).then_some(file)
    })
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// As [`find`], or what to install.
pub fn need(
    tool: &'static str,
    names: &[&str],
    folders: &[PathBuf],
    remedy: &str,
) -> Result<PathBuf, BuildError> {
    names
        .iter()
        .find_map(|name| find(name, folders))
        .ok_or_else(|| BuildError::Missing { tool, remedy: remedy.into() })
}

/// Runs a command. What it prints goes to standard error, so that ours stays ours.
pub fn run(command: &mut Command) -> Result<(), BuildError> {
    let shown = shown(command);
    let failed = |how: String| BuildError::Failed { command: shown.clone(), how };
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::from(std::io::stderr()))
        .status()
        .map_err(|e| failed(format!("can't be started ({e})")))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => Err(failed(format!("ended with status {code}"))),
        None => Err(failed("was killed".into())),
    }
}

/// What a command prints on standard output; `None` where it fails.
pub fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
}

fn shown(command: &Command) -> String {
    let name = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words: Vec<_> =
        std::iter::once(name).chain(command.get_args()).map(OsStr::to_string_lossy).collect();
    crate::error::excerpt(&words.join(" "))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_comes_with_its_remedy() {
        let fault = need("frob", &["frob-of-nowhere"], &[], "pip install frob").unwrap_err();
        assert_eq!(fault.to_string(), "frob is not installed; pip install frob");
        assert!(find("sh", &[]).is_some());
    }

    #[test]
    fn a_failing_tool_is_named_with_its_status() {
        let fault = run(Command::new("sh").args(["-c", "exit 3"])).unwrap_err();
        assert_eq!(fault.to_string(), "`sh -c exit 3` ended with status 3; its messages are above");
        let fault = run(&mut Command::new("/nowhere/frob")).unwrap_err().to_string();
        assert!(fault.starts_with("`frob` can't be started"), "{fault}");
    }
}
