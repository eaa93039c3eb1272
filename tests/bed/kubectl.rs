//! The command line, for manifests and for what people type.

use super::{Bed, plane::program};
use std::{
    io::{Seek, Write},
    path::Path,
    process::{Command, Stdio},
};

/// For one command, in seconds.
const LIMIT: &str = "60";

impl Bed {
    /// Runs kubectl as the administrator and gives what it prints; panics with what it says when it fails.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments, "").unwrap_or_else(|e| panic!("kubectl {}: {e}", arguments.join(" ")))
    }

    /// As [`Bed::kubectl`], with `input`; a failure is what it says.
    pub fn try_kubectl(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let kubectl = program("kubectl");
        let mut command = Command::new("timeout");
        command.arg(LIMIT).arg(kubectl.get_program()).arg("--kubeconfig").arg(self.kubeconfig());
        // Its cache of what the server knows would go into somebody's home.
        command.arg("--cache-dir").arg(self.directory().join("kubectl")).args(arguments);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(input.as_bytes()).unwrap();
        file.rewind().unwrap();
        let output = command.stdin(Stdio::from(file)).output().unwrap();
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        }
    }

    /// Applies objects, as YAML or JSON, as `kubectl apply --server-side` does.
    pub fn apply(&self, manifest: &str) {
        let arguments = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        self.try_kubectl(&arguments, manifest).unwrap_or_else(|e| panic!("{e}\n{manifest}"));
    }

    /// Makes the API server know the kinds that scripts/cluster/setup has from this module of e2e/tools. Gives the
    /// definitions' names.
    pub fn define(&self, module: &str) -> Vec<String> {
        let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("build/cluster/crds").join(module);
        let files = files.to_str().unwrap();
        let said = self.kubectl(&["apply", "--server-side", "--force-conflicts", "-o", "name", "-f", files]);
        let names: Vec<_> = said.lines().map(str::to_owned).collect();
        let wait = ["wait", "--for=condition=established", "--timeout=30s"];
        self.kubectl(&wait.into_iter().chain(names.iter().map(String::as_str)).collect::<Vec<_>>());
        names
    }
}

/// Runs a program; panics with what it says when it fails.
pub fn run_quietly(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
