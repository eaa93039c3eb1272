//! The connection to the API server.

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use std::{path::Path, time::Duration};

/// A request that takes longer than this has failed; watches are renewed within it.
const READ: Duration = Duration::from_secs(295);
const CONNECT: Duration = Duration::from_secs(5);

/// By a kubeconfig file, or as the pod's service account.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, String> {
    let mut config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)
                .map_err(|error| format!("kubeconfig {} cannot be used: {error}", path.display()))?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(|error| format!("kubeconfig {} cannot be used: {error}", path.display()))?
        }
        None => Config::incluster().map_err(|error| {
            format!("this is no pod with a service account ({error}): give --kubeconfig FILE")
        })?,
    };
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(READ);
    Client::try_from(config)
        .map_err(|error| format!("the API server's address or certificates cannot be used: {error}"))
}
