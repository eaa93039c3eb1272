//! A CSI client over a unix socket, for `wharf probe` and `wharf demo`.

use super::csi::{
    controller_client::ControllerClient, identity_client::IdentityClient, node_client::NodeClient,
};
use std::path::Path;
use tonic::transport::{Channel, Endpoint};

/// One connection, three services.
#[derive(Clone, Debug)]
pub struct Client {
    /// Identity.
    pub identity: IdentityClient<Channel>,
    /// Controller.
    pub controller: ControllerClient<Channel>,
    /// Node.
    pub node: NodeClient<Channel>,
}

impl Client {
    /// Connects to a driver's socket.
    pub async fn connect(socket: &Path) -> Result<Self, tonic::transport::Error> {
        let channel = Endpoint::try_from(format!("unix://{}", socket.display()))?.connect().await?;
        Ok(Self {
            identity: IdentityClient::new(channel.clone()),
            controller: ControllerClient::new(channel.clone()),
            node: NodeClient::new(channel),
        })
    }
}
